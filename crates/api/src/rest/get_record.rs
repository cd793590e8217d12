//! GetRecord: no record, deleted or expired is an answer without `Record`, not an error.

use bytes::Bytes;
use granary_router::{Consistency, GetCommand};
use serde::Serialize;

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::query::Query;
use super::shapes::{FeatureValueOut, check_expiration, record_out};
use super::{Call, Rest, body_of, names};

const PLANE: Plane = Plane::RuntimeRead;

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Vec<FeatureValueOut<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl Rest {
    pub(super) async fn get_record(&self, segment: &str, call: &Call) -> Result<Bytes, Fault> {
        let (command, with_expiry) = command(segment, call)?;
        let found = self.router.get(command).await.map_err(|error| Fault::of(PLANE, error))?;
        let Some(record) = &found else { return body_of(&Response::default()) };
        let expires_at = record.expires_at.filter(|_| with_expiry).map(|time| time.to_string());
        body_of(&Response { record: Some(record_out(record)), expires_at })
    }
}

/// The command, and whether `ExpiresAt` is asked for.
fn command(segment: &str, call: &Call) -> Result<(GetCommand, bool), Fault> {
    let group = names::name_in_segment(PLANE, segment)?;
    let query = Query::parse(PLANE, call.uri.query())?;
    let mut violations = Violations::default();
    let identifier = query.one("RecordIdentifierValueAsString");
    if let Some(text) = violations.required("recordIdentifierValueAsString", &identifier) {
        violations.length("recordIdentifierValueAsString", text, 1, 358_400);
    }
    // The member is called FeatureNames and its key in the query FeatureName.
    let features = query.all("FeatureName");
    for (index, name) in features.iter().enumerate() {
        violations.name(&format!("featureNames.{}.member", index + 1), name);
    }
    let with_expiry = check_expiration(query.one("ExpirationTimeResponse").as_deref(), &mut violations);
    violations.finish(PLANE)?;
    let identifier = identifier.unwrap_or_default();
    let command = GetCommand { group, identifier, features, consistency: Consistency::Linearizable, timeout: None };
    Ok((command, with_expiry))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn parse(uri: &str) -> Result<(GetCommand, bool), Fault> {
        let uri = uri.parse().expect("a URI");
        command("orders", &Call { method: Method::GET, uri, headers: HeaderMap::new(), body: Bytes::new() })
    }

    #[test]
    fn a_get_is_read() {
        let uri =
            "/x?RecordIdentifierValueAsString=a%2Fb%20c&FeatureName=x&FeatureName=y&ExpirationTimeResponse=Enabled";
        let (get, with_expiry) = parse(uri).expect("valid");
        assert_eq!((get.identifier.as_str(), get.features.as_slice()), ("a/b c", &["x".into(), "y".into()][..]));
        assert!(with_expiry);
        let (all, with_expiry) = parse("/x?RecordIdentifierValueAsString=1").expect("valid");
        assert!(all.features.is_empty() && !with_expiry);
    }

    #[test]
    fn faults_are_validation_errors() {
        for uri in [
            "/x",
            "/x?RecordIdentifierValueAsString=",
            "/x?RecordIdentifierValueAsString=1&FeatureName=-",
            "/x?RecordIdentifierValueAsString=1&ExpirationTimeResponse=Yes",
        ] {
            assert_eq!(parse(uri).expect_err(uri).code, "ValidationError");
        }
    }
}
