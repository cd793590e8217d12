//! PutRecord.

use bytes::Bytes;
use granary_router::PutCommand;
use serde::Deserialize;

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::shapes::{FeatureValue, TtlDuration, check_targets, check_values, named_values};
use super::{Call, Rest, names};

const PLANE: Plane = Plane::RuntimeWrite;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    record: Option<Vec<FeatureValue>>,
    target_stores: Option<Vec<String>>,
    ttl_duration: Option<TtlDuration>,
}

impl Rest {
    pub(super) async fn put_record(&self, segment: &str, call: &Call) -> Result<Bytes, Fault> {
        let command = command(segment, call)?;
        self.router.put(command).await.map_err(|error| Fault::of(PLANE, error))?;
        Ok(Bytes::new())
    }
}

fn command(segment: &str, call: &Call) -> Result<PutCommand, Fault> {
    let group = names::name_in_segment(PLANE, segment)?;
    let request: Request = call.shape()?;
    let mut violations = Violations::default();
    check_values("record", request.record.as_deref(), &mut violations);
    let targets = check_targets(request.target_stores.as_deref(), &mut violations);
    let ttl = request.ttl_duration.as_ref().and_then(|ttl| ttl.check("ttlDuration", &mut violations));
    violations.finish(PLANE)?;
    let values = named_values(request.record.unwrap_or_default()).map_err(|error| Fault::of(PLANE, error))?;
    Ok(PutCommand { group, values, targets, ttl, write_id: call.write_id(), timeout: None })
}

#[cfg(test)]
mod tests {
    use granary_types::record::RawValue;
    use granary_types::{Targets, Ttl, TtlUnit};
    use http::{HeaderMap, Method, Uri};
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: &Value) -> Result<PutCommand, Fault> {
        let body = Bytes::from(body.to_string());
        let call = Call { method: Method::PUT, uri: Uri::from_static("/"), headers: HeaderMap::new(), body };
        command("orders", &call)
    }

    #[test]
    fn a_put_is_read() {
        let put = parse(&json!({
            "Record": [
                {"FeatureName": "id", "ValueAsString": "007"},
                {"FeatureName": "tags", "ValueAsStringList": ["a", "b"], "ValueAsString": null},
            ],
            "TargetStores": ["OnlineStore"],
            "TtlDuration": {"Unit": "Days", "Value": 3},
        }));
        let put = put.expect("valid");
        assert_eq!(put.group, "orders");
        assert_eq!(put.values[0], ("id".into(), RawValue::Text("007".into())));
        assert_eq!(put.values[1], ("tags".into(), RawValue::List(vec!["a".into(), "b".into()])));
        assert_eq!(put.targets, Some(Targets { online: true, offline: false }));
        assert_eq!(put.ttl, Ttl::new(TtlUnit::Days, 3).ok());
    }

    #[test]
    fn faults_are_validation_errors() {
        let value = json!({"FeatureName": "id", "ValueAsString": "1"});
        let cases = [
            json!({}),
            json!({"Record": []}),
            json!({"Record": [{"FeatureName": "id"}]}),
            json!({"Record": [{"ValueAsString": "1"}]}),
            json!({"Record": [{"FeatureName": "i d", "ValueAsString": "1"}]}),
            json!({"Record": [{"FeatureName": "id", "ValueAsString": "1", "ValueAsStringList": []}]}),
            json!({"Record": [value], "TargetStores": []}),
            json!({"Record": [value], "TargetStores": ["Online"]}),
            json!({"Record": [value], "TtlDuration": {"Unit": "Days"}}),
        ];
        for case in cases {
            let fault = parse(&case).expect_err(&case.to_string());
            assert_eq!((fault.status.as_u16(), fault.code), (400, "ValidationError"), "{case}");
        }
        assert_eq!(parse(&json!({"Record": "no list"})).expect_err("a text").code, "SerializationException");
    }
}
