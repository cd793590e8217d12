//! BatchWriteRecord: up to 25 puts, each acknowledged or refused on its own.
//!
//! What breaks a constraint of the model fails the whole call, as on AWS; what a feature group does not take fails its
//! entry. An entry that failed comes back as it was sent, since SDKs find it by comparison.

use bytes::Bytes;
use granary_router::PutCommand;
use granary_types::{Error, ErrorKind, Ttl, WriteId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::shapes::{FeatureValue, TtlDuration, check_targets, check_values, named_values};
use super::{Call, Rest, body_of, names};

const PLANE: Plane = Plane::RuntimeRead;
const ENTRIES_MAX: usize = 25;
/// Odd, so that the ids of a call's entries differ, and far from small, so that calls with neighbouring ids do not meet.
const ID_STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    entries: Option<Vec<Value>>,
    ttl_duration: Option<TtlDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    feature_group_name: Option<String>,
    record: Option<Vec<FeatureValue>>,
    target_stores: Option<Vec<String>>,
    ttl_duration: Option<TtlDuration>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    errors: Vec<EntryError>,
    unprocessed_entries: Vec<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EntryError {
    entry: Value,
    error_code: &'static str,
    error_message: String,
}

impl Rest {
    pub(super) async fn batch_write_record(&self, call: &Call) -> Result<Bytes, Fault> {
        let (entries, commands) = parse(call)?;
        // Where an entry's result is to be found.
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(commands.len());
        let mut sent = Vec::with_capacity(commands.len());
        for command in commands {
            results.push(command.as_ref().map(|_| ()).map_err(Clone::clone));
            sent.extend(command.ok());
        }
        if !sent.is_empty() {
            let written = self.router.batch_write(sent).await.map_err(|error| Fault::of(PLANE, error))?;
            for (result, written) in results.iter_mut().filter(|result| result.is_ok()).zip(written) {
                *result = written.map(|_| ());
            }
        }
        body_of(&response(entries, results)?)
    }
}

/// The entries as they were sent, and the commands they make.
#[expect(clippy::type_complexity, reason = "two lists of the same length, taken apart at once")]
fn parse(call: &Call) -> Result<(Vec<Value>, Vec<Result<PutCommand, Error>>), Fault> {
    let request: Request = call.shape()?;
    let mut violations = Violations::default();
    if let Some(entries) = violations.required("entries", &request.entries) {
        violations.count("entries", entries.len(), 1, ENTRIES_MAX);
    }
    let ttl = request.ttl_duration.as_ref().and_then(|ttl| ttl.check("ttlDuration", &mut violations));
    let sent = request.entries.unwrap_or_default();
    let shapes = sent.iter().map(|entry| Entry::deserialize(entry).map_err(|error| Fault::serialization(&error)));
    let mut checked = Vec::with_capacity(sent.len());
    for (index, entry) in shapes.collect::<Result<Vec<_>, _>>()?.into_iter().enumerate() {
        checked.push(entry.check(&format!("entries.{}.member", index + 1), ttl, &mut violations));
    }
    violations.finish(PLANE)?;
    let commands = (1..).zip(checked).map(|(place, command)| {
        let id = call.write_id().map(|id| WriteId(id.0.wrapping_add(ID_STEP.wrapping_mul(place))));
        command.map(|command| PutCommand { write_id: id, ..command })
    });
    let commands = commands.collect();
    Ok((sent, commands))
}

impl Entry {
    fn check(self, field: &str, call_ttl: Option<Ttl>, violations: &mut Violations) -> Result<PutCommand, Error> {
        let named = violations.required(&format!("{field}.featureGroupName"), &self.feature_group_name);
        let group = named.and_then(|text| {
            names::check_runtime_name(&format!("{field}.featureGroupName"), text, violations);
            names::name_of(text).map(str::to_owned)
        });
        check_values(&format!("{field}.record"), self.record.as_deref(), violations);
        let targets = check_targets(self.target_stores.as_deref(), violations);
        let own_ttl = self.ttl_duration.as_ref().and_then(|ttl| ttl.check(&format!("{field}.ttlDuration"), violations));
        Ok(PutCommand {
            group: group.unwrap_or_default(),
            values: named_values(self.record.unwrap_or_default())?,
            targets,
            ttl: own_ttl.or(call_ttl),
            write_id: None,
            timeout: None,
        })
    }
}

/// What certainly changed nothing and may be sent again is unprocessed. One entry whose fate is unknown makes the whole
/// call fail as unavailable: SDKs then repeat it under the same invocation id, and what was written is not written twice.
/// So does a call of which nothing was processed.
fn response(entries: Vec<Value>, results: Vec<Result<(), Error>>) -> Result<Response, Fault> {
    let passing = |error: &Error| matches!(error.kind, ErrorKind::Overloaded | ErrorKind::Unavailable);
    if let Some(Err(error)) =
        results.iter().find(|result| matches!(result, Err(error) if error.kind == ErrorKind::Unknown))
    {
        return Err(Fault::of(PLANE, error.clone()));
    }
    if results.iter().all(|result| matches!(result, Err(error) if passing(error)))
        && let Some(Err(error)) = results.first()
    {
        return Err(Fault::of(PLANE, error.clone()));
    }
    let mut response = Response { errors: Vec::new(), unprocessed_entries: Vec::new() };
    for (entry, result) in entries.into_iter().zip(results) {
        match result {
            Ok(()) => {}
            Err(error) if passing(&error) => response.unprocessed_entries.push(entry),
            Err(error) => {
                let Fault { code, message, .. } = Fault::of(PLANE, error);
                response.errors.push(EntryError { entry, error_code: code, error_message: message });
            }
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use granary_types::TtlUnit;
    use http::{HeaderMap, HeaderValue, Method, Uri};
    use serde_json::json;

    use super::*;

    fn call(body: &Value) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert(super::super::INVOCATION_ID, HeaderValue::from_static("00000000-0000-0000-0000-00000000000a"));
        Call { method: Method::POST, uri: Uri::from_static("/"), headers, body: Bytes::from(body.to_string()) }
    }

    fn entry(group: &str) -> Value {
        json!({"FeatureGroupName": group, "Record": [{"FeatureName": "id", "ValueAsString": "1"}]})
    }

    #[test]
    fn an_entrys_time_to_live_goes_before_the_calls() {
        let mut own = entry("b");
        own["TtlDuration"] = json!({"Unit": "Days", "Value": 1});
        let body = json!({"Entries": [entry("a"), own], "TtlDuration": {"Unit": "Hours", "Value": 2}});
        let (sent, commands) = parse(&call(&body)).expect("valid");
        assert_eq!(sent, body["Entries"].as_array().expect("a list").clone());
        let commands: Vec<_> = commands.into_iter().map(|command| command.expect("valid")).collect();
        assert_eq!(commands[0].ttl, Ttl::new(TtlUnit::Hours, 2).ok());
        assert_eq!(commands[1].ttl, Ttl::new(TtlUnit::Days, 1).ok());
        let (_, again) = parse(&call(&body)).expect("valid");
        let ids: Vec<_> = commands.iter().map(|command| command.write_id).collect();
        assert!(ids[0].is_some() && ids[0] != ids[1]);
        assert_eq!(again[1].as_ref().expect("valid").write_id, ids[1], "a retry carries the same ids");
    }

    #[test]
    fn what_breaks_the_model_fails_the_call() {
        let cases = [
            json!({}),
            json!({"Entries": []}),
            json!({"Entries": vec![entry("a"); 26]}),
            json!({"Entries": [entry("-")]}),
            json!({"Entries": [{"FeatureGroupName": "a"}]}),
            json!({"Entries": [{"Record": [{"FeatureName": "id", "ValueAsString": "1"}]}]}),
            json!({"Entries": [{"FeatureGroupName": "a", "Record": []}]}),
            json!({"Entries": [entry("a")], "TtlDuration": {"Unit": "Days", "Value": 0}}),
            json!({"Entries": [entry("a")], "TtlDuration": {"Unit": "Fortnights", "Value": 1}}),
        ];
        for case in cases {
            assert_eq!(parse(&call(&case)).expect_err(&case.to_string()).code, "ValidationError", "{case}");
        }
        let wrong = json!({"Entries": ["a"]});
        assert_eq!(parse(&call(&wrong)).expect_err("no object").code, "SerializationException");
        let body = json!({"Entries": [{"FeatureGroupName": "a", "Record": [{"FeatureName": "id"}]}, entry("b")]});
        let (_, commands) = parse(&call(&body)).expect("one is valid");
        assert!(commands[0].is_err() && commands[1].is_ok());
    }

    #[test]
    fn entries_come_back_as_they_were_sent() {
        let failed = |kind| Err(Error::new(kind, "why"));
        let entries = vec![entry("a"), entry("b"), entry("c"), entry("d")];
        let results =
            vec![Ok(()), failed(ErrorKind::NotFound), failed(ErrorKind::Overloaded), failed(ErrorKind::Invalid)];
        let told = serde_json::to_value(response(entries, results).expect("partly written")).expect("JSON");
        let expected = json!({
            "Errors": [
                {"Entry": entry("b"), "ErrorCode": "ResourceNotFound", "ErrorMessage": "why"},
                {"Entry": entry("d"), "ErrorCode": "ValidationError", "ErrorMessage": "Validation Error: why"},
            ],
            "UnprocessedEntries": [entry("c")],
        });
        assert_eq!(told, expected);
        for results in [vec![Ok(()), failed(ErrorKind::Unknown)], vec![failed(ErrorKind::Unavailable)]] {
            let entries = vec![entry("a"); results.len()];
            assert_eq!(response(entries, results).expect_err("to be repeated").code, "ServiceUnavailable");
        }
    }
}
