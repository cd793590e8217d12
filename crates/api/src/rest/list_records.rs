//! ListRecords: the identifiers of a feature group's records, page by page.

use bytes::Bytes;
use granary_router::{ListAnswer, ListCommand, ListPlace};
use serde::{Deserialize, Serialize};

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::{Call, Rest, body_of, names};

const PLANE: Plane = Plane::RuntimeRead;
const RESULTS_MAX: u32 = 100;
const TOKEN_LEN_MAX: usize = 8_192;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    max_results: Option<i64>,
    next_token: Option<String>,
    include_soft_deleted_records: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    record_identifiers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

impl Rest {
    pub(super) async fn list_records(&self, segment: &str, call: &Call) -> Result<Bytes, Fault> {
        let command = command(segment, call)?;
        let answer = self.router.list_records(command).await.map_err(|error| Fault::of(PLANE, error))?;
        body_of(&response(answer))
    }
}

fn response(answer: ListAnswer) -> Response {
    Response {
        record_identifiers: answer.records.into_iter().map(|record| record.identifier).collect(),
        next_token: answer.next.map(|place| to_hex(&place.to_token())),
    }
}

fn command(segment: &str, call: &Call) -> Result<ListCommand, Fault> {
    let group = names::name_in_segment(PLANE, segment)?;
    let request: Request = call.shape()?;
    let mut violations = Violations::default();
    if let Some(results) = request.max_results {
        violations.range("maxResults", results, 1, i64::from(RESULTS_MAX));
    }
    if let Some(token) = &request.next_token {
        violations.length("nextToken", token, 1, TOKEN_LEN_MAX);
    }
    violations.finish(PLANE)?;
    let after = request.next_token.map(|token| {
        let bytes = from_hex(&token).ok_or_else(|| Fault::invalid(PLANE, "a NextToken is given as it was returned"));
        ListPlace::from_token(&bytes?).map_err(|error| Fault::of(PLANE, error))
    });
    let limit = request.max_results.and_then(|results| u32::try_from(results).ok()).unwrap_or(RESULTS_MAX);
    Ok(ListCommand {
        group,
        after: after.transpose()?,
        limit: limit as usize,
        soft_deleted: request.include_soft_deleted_records.unwrap_or(false),
        features: None,
        timeout: None,
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use granary_types::{FeatureGroupId, Slot};
    use http::{HeaderMap, Method, Uri};
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: &Value) -> Result<ListCommand, Fault> {
        let body = Bytes::from(body.to_string());
        let call = Call { method: Method::POST, uri: Uri::from_static("/"), headers: HeaderMap::new(), body };
        command("orders", &call)
    }

    #[test]
    fn a_listing_goes_on_from_its_token() {
        let first = parse(&json!({})).expect("valid");
        assert_eq!((first.limit, first.after, first.soft_deleted), (100, None, false));
        let record = Bytes::from("x".repeat(granary_types::record::RECORD_IDENTIFIER_LEN_MAX));
        let place = ListPlace { group: FeatureGroupId(7), slot: Slot(4_095), record };
        let token = response(ListAnswer { records: vec![], next: Some(place.clone()) }).next_token.expect("more");
        assert!(token.len() <= TOKEN_LEN_MAX);
        let next = json!({"NextToken": token, "MaxResults": 5, "IncludeSoftDeletedRecords": true});
        let next = parse(&next).expect("valid");
        assert_eq!((next.limit, next.after, next.soft_deleted), (5, Some(place), true));
    }

    #[test]
    fn faults_are_validation_errors() {
        for case in [
            json!({"MaxResults": 0}),
            json!({"MaxResults": 101}),
            json!({"NextToken": ""}),
            json!({"NextToken": "x".repeat(8_193)}),
            json!({"NextToken": "no token"}),
            json!({"NextToken": "é"}),
            json!({"NextToken": "012"}),
            json!({"NextToken": "0123"}),
        ] {
            let fault = parse(&case).expect_err(&case.to_string());
            assert_eq!((fault.status.as_u16(), fault.code), (400, "ValidationError"), "{case}");
        }
    }
}
