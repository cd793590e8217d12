//! BatchGetRecord: what was found, what failed and what to ask again for, apart. An identifier in none of the three
//! lists has no record.

use bytes::Bytes;
use granary_router::{BatchAnswer, BatchGetCommand, BatchKeys, Consistency};
use granary_types::ErrorKind;
use serde::{Deserialize, Serialize};

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::shapes::{FeatureValueOut, check_expiration, record_out};
use super::{Call, Rest, body_of, names};

const PLANE: Plane = Plane::RuntimeRead;
/// Records in one call, over all its groups (contract 3.1).
const RECORDS_MAX: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    identifiers: Option<Vec<Identifier>>,
    expiration_time_response: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Identifier {
    feature_group_name: Option<String>,
    record_identifiers_value_as_string: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_names: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response<'a> {
    records: Vec<Record<'a>>,
    errors: Vec<BatchError<'a>>,
    unprocessed_identifiers: Vec<Identifier>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Record<'a> {
    feature_group_name: &'a str,
    record_identifier_value_as_string: &'a str,
    record: Vec<FeatureValueOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BatchError<'a> {
    feature_group_name: &'a str,
    record_identifier_value_as_string: &'a str,
    error_code: &'static str,
    error_message: String,
}

impl Rest {
    pub(super) async fn batch_get_record(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        let (command, with_expiry) = request.check()?;
        let answer = self.router.batch_get(command).await.map_err(|error| Fault::of(PLANE, error))?;
        let identifiers = request.identifiers.unwrap_or_default();
        body_of(&response(&identifiers, &answer, with_expiry)?)
    }
}

impl Request {
    /// The command, and whether `ExpiresAt` is asked for.
    fn check(&self) -> Result<(BatchGetCommand, bool), Fault> {
        let mut violations = Violations::default();
        let mut keys = Vec::new();
        if let Some(identifiers) = violations.required("identifiers", &self.identifiers) {
            violations.count("identifiers", identifiers.len(), 1, 100);
            for (index, identifier) in identifiers.iter().enumerate() {
                keys.push(identifier.check(&format!("identifiers.{}.member", index + 1), &mut violations));
            }
        }
        let with_expiry = check_expiration(self.expiration_time_response.as_deref(), &mut violations);
        violations.finish(PLANE)?;
        let count = keys.iter().map(|entry| entry.identifiers.len()).sum::<usize>();
        if count > RECORDS_MAX {
            let message = format!("a BatchGetRecord call takes at most {RECORDS_MAX} record identifiers, got {count}");
            return Err(Fault::invalid(PLANE, message));
        }
        for entry in &mut keys {
            entry.group = names::checked_name(PLANE, "featureGroupName", &entry.group)?;
        }
        Ok((BatchGetCommand { keys, consistency: Consistency::Linearizable, timeout: None }, with_expiry))
    }
}

impl Identifier {
    fn check(&self, field: &str, violations: &mut Violations) -> BatchKeys {
        violations.required(&format!("{field}.featureGroupName"), &self.feature_group_name);
        let values = format!("{field}.recordIdentifiersValueAsString");
        if let Some(given) = violations.required(&values, &self.record_identifiers_value_as_string) {
            violations.count(&values, given.len(), 1, 100);
        }
        if let Some(names) = &self.feature_names {
            let field = format!("{field}.featureNames");
            violations.count(&field, names.len(), 1, usize::MAX);
            for (index, name) in names.iter().enumerate() {
                violations.name(&format!("{field}.{}.member", index + 1), name);
            }
        }
        BatchKeys {
            group: self.feature_group_name.clone().unwrap_or_default(),
            identifiers: self.record_identifiers_value_as_string.clone().unwrap_or_default(),
            features: self.feature_names.clone().unwrap_or_default(),
        }
    }

    /// Group and record identifier as they were sent.
    fn sent(&self, identifier: usize) -> (&str, &str) {
        let identifiers = self.record_identifiers_value_as_string.as_deref().unwrap_or_default();
        (self.feature_group_name.as_deref().unwrap_or_default(), identifiers.get(identifier).map_or("", String::as_str))
    }
}

/// Failures that pass go to the unprocessed, so that SDKs ask again. When nothing at all could be read, the call
/// fails as a whole: an answer of nothing but unprocessed identifiers looks like success to who ignores them.
fn response<'a>(sent: &'a [Identifier], answer: &'a BatchAnswer, with_expiry: bool) -> Result<Response<'a>, Fault> {
    let count = |entry: &Identifier| entry.record_identifiers_value_as_string.as_ref().map_or(0, Vec::len);
    let asked = sent.iter().map(count).sum::<usize>();
    let passing = |kind| matches!(kind, ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown);
    let (again, failed): (Vec<_>, Vec<_>) = answer.failures.iter().partition(|failure| passing(failure.error.kind));
    if again.len() == asked
        && let Some(first) = again.first()
    {
        return Err(Fault::of(PLANE, first.error.clone()));
    }
    let records = answer.records.iter().map(|found| {
        let (feature_group_name, record_identifier_value_as_string) = sent[found.entry].sent(found.identifier);
        let expires_at = found.record.expires_at.filter(|_| with_expiry).map(|time| time.to_string());
        let record = record_out(&found.record);
        Record { feature_group_name, record_identifier_value_as_string, record, expires_at }
    });
    let errors = failed.into_iter().map(|failure| {
        let (feature_group_name, record_identifier_value_as_string) = sent[failure.entry].sent(failure.identifier);
        let Fault { code, message, .. } = Fault::of(PLANE, failure.error.clone());
        BatchError { feature_group_name, record_identifier_value_as_string, error_code: code, error_message: message }
    });
    let mut unprocessed: Vec<(usize, Identifier)> = Vec::new();
    for failure in again {
        let (name, text) = sent[failure.entry].sent(failure.identifier);
        if unprocessed.last().is_none_or(|(entry, _)| *entry != failure.entry) {
            let feature_names = sent[failure.entry].feature_names.clone();
            let identifier =
                Identifier { feature_group_name: Some(name.to_owned()), feature_names, ..Identifier::default() };
            unprocessed.push((failure.entry, identifier));
        }
        if let Some((_, last)) = unprocessed.last_mut() {
            last.record_identifiers_value_as_string.get_or_insert_default().push(text.to_owned());
        }
    }
    Ok(Response {
        records: records.collect(),
        errors: errors.collect(),
        unprocessed_identifiers: unprocessed.into_iter().map(|(_, identifier)| identifier).collect(),
    })
}

#[cfg(test)]
mod tests {
    use granary_router::BatchFailure;
    use granary_types::Error;
    use serde_json::{Value, json};

    use super::*;

    fn request(body: Value) -> Request {
        serde_json::from_value(body).expect("the shape")
    }

    fn identifiers(count: usize) -> Value {
        (0..count).map(|index| index.to_string()).collect::<Vec<_>>().into()
    }

    #[test]
    fn a_batch_is_read() {
        let arn = "arn:aws:sagemaker:us-east-1:123456789012:feature-group/a";
        let request = request(json!({
            "Identifiers": [
                {"FeatureGroupName": arn, "RecordIdentifiersValueAsString": ["1", "2"], "FeatureNames": ["x"]},
                {"FeatureGroupName": "b", "RecordIdentifiersValueAsString": ["1"]},
            ],
            "ExpirationTimeResponse": "Enabled",
        }));
        let (command, with_expiry) = request.check().expect("valid");
        assert!(with_expiry);
        assert_eq!((command.keys[0].group.as_str(), command.keys[1].group.as_str()), ("a", "b"));
        assert_eq!((command.keys[0].identifiers.len(), command.keys[0].features.len()), (2, 1));
    }

    #[test]
    fn whole_request_faults_are_validation_errors() {
        let entry = |count| json!({"FeatureGroupName": "a", "RecordIdentifiersValueAsString": identifiers(count)});
        let cases = [
            json!({}),
            json!({"Identifiers": []}),
            json!({"Identifiers": [entry(0)]}),
            json!({"Identifiers": [entry(101)]}),
            json!({"Identifiers": [entry(60), entry(41)]}),
            json!({"Identifiers": [{"FeatureGroupName": "-", "RecordIdentifiersValueAsString": ["1"]}]}),
            json!({"Identifiers": [entry(1)], "ExpirationTimeResponse": "No"}),
        ];
        for case in cases {
            assert_eq!(request(case.clone()).check().expect_err(&case.to_string()).code, "ValidationError");
        }
        assert!(request(json!({"Identifiers": [entry(60), entry(40)]})).check().is_ok());
    }

    #[test]
    fn passing_failures_are_unprocessed_and_the_rest_errors() {
        let sent = request(json!({"Identifiers": [
            {"FeatureGroupName": "a", "RecordIdentifiersValueAsString": ["1", "2", "3"], "FeatureNames": ["x"]},
        ]}));
        let sent = sent.identifiers.expect("given");
        let failure = |identifier, kind| BatchFailure { entry: 0, identifier, error: Error::new(kind, "why") };
        let failures = vec![failure(0, ErrorKind::NotFound), failure(2, ErrorKind::Unavailable)];
        let answer = BatchAnswer { records: Vec::new(), failures };
        let body = serde_json::to_value(response(&sent, &answer, false).expect("partly answered")).expect("JSON");
        let expected = json!({
            "Records": [],
            "Errors": [{
                "FeatureGroupName": "a",
                "RecordIdentifierValueAsString": "1",
                "ErrorCode": "ResourceNotFound",
                "ErrorMessage": "why",
            }],
            "UnprocessedIdentifiers":
                [{"FeatureGroupName": "a", "RecordIdentifiersValueAsString": ["3"], "FeatureNames": ["x"]}],
        });
        assert_eq!(body, expected);
        let failures = (0..3).map(|index| failure(index, ErrorKind::Unavailable)).collect();
        let fault = response(&sent, &BatchAnswer { records: Vec::new(), failures }, false).expect_err("nothing read");
        assert_eq!(fault.code, "ServiceUnavailable");
    }
}
