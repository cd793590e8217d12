//! UpdateRecord: some values of a record that exists.

use bytes::Bytes;
use granary_router::UpdateCommand;
use granary_types::FeatureGroup;
use serde::Deserialize;

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::shapes::{FeatureValue, TtlDuration, check_targets, check_values, named_values};
use super::{Call, Rest, names};

const PLANE: Plane = Plane::RuntimeRead;
/// Features in one call (contract 3.1).
const FEATURES_MAX: usize = 100;
/// The longest identifier that is read, in characters; what a record takes is less.
const IDENTIFIER_LEN_MAX: usize = 358_400;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    record_identifier_value_as_string: Option<String>,
    features: Option<Vec<FeatureValue>>,
    target_stores: Option<Vec<String>>,
    ttl_duration: Option<TtlDuration>,
}

impl Rest {
    pub(super) async fn update_record(&self, segment: &str, call: &Call) -> Result<Bytes, Fault> {
        let command = command(segment, call)?;
        let group = self.router.describe(&command.group).map_err(|error| Fault::of(PLANE, error))?;
        check_storage(&group)?;
        self.router.update_record(command).await.map_err(|error| Fault::of(PLANE, error))?;
        Ok(Bytes::new())
    }
}

/// The operation is there for `Standard_V2` and `InMemory` only (API reference).
fn check_storage(group: &FeatureGroup) -> Result<(), Fault> {
    let Some(online) = &group.online else {
        let message = format!("feature group {:?} has no online store, where the record is", group.name);
        return Err(Fault::invalid(PLANE, message));
    };
    let storage = online.storage_type.as_deref().unwrap_or("Standard");
    if !matches!(storage, "Standard_V2" | "InMemory") {
        let message = format!(
            "UpdateRecord needs an online store of StorageType Standard_V2 or InMemory; that of feature group {:?} is \
             {storage}",
            group.name
        );
        return Err(Fault::invalid(PLANE, message));
    }
    Ok(())
}

fn command(segment: &str, call: &Call) -> Result<UpdateCommand, Fault> {
    let group = names::name_in_segment(PLANE, segment)?;
    let request: Request = call.shape()?;
    let mut violations = Violations::default();
    let identifier = &request.record_identifier_value_as_string;
    if let Some(text) = violations.required("recordIdentifierValueAsString", identifier) {
        violations.length("recordIdentifierValueAsString", text, 0, IDENTIFIER_LEN_MAX);
    }
    check_values("features", request.features.as_deref(), &mut violations);
    let targets = check_targets(request.target_stores.as_deref(), &mut violations);
    let ttl = request.ttl_duration.as_ref().and_then(|ttl| ttl.check("ttlDuration", &mut violations));
    violations.finish(PLANE)?;
    let features = request.features.unwrap_or_default();
    if features.len() > FEATURES_MAX {
        let message = format!("an UpdateRecord call takes at most {FEATURES_MAX} features, got {}", features.len());
        return Err(Fault::invalid(PLANE, message));
    }
    if let Some([first, second]) = request.target_stores.as_deref()
        && first == second
    {
        return Err(Fault::invalid(PLANE, format!("target store {first} is given twice")));
    }
    let values = named_values(features).map_err(|error| Fault::of(PLANE, error))?;
    let identifier = request.record_identifier_value_as_string.unwrap_or_default();
    Ok(UpdateCommand { group, identifier, values, targets, ttl, write_id: call.write_id(), timeout: None })
}

#[cfg(test)]
mod tests {
    use granary_types::record::RawValue;
    use granary_types::{Targets, Ttl, TtlUnit};
    use http::{HeaderMap, Method, Uri};
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: &Value) -> Result<UpdateCommand, Fault> {
        let body = Bytes::from(body.to_string());
        let call = Call { method: Method::POST, uri: Uri::from_static("/"), headers: HeaderMap::new(), body };
        command("orders", &call)
    }

    #[test]
    fn an_update_is_read() {
        let update = parse(&json!({
            "RecordIdentifierValueAsString": "7",
            "Features": [
                {"FeatureName": "total", "ValueAsString": "15.20"},
                {"FeatureName": "at", "ValueAsString": "2024-01-01T00:00:00Z"},
            ],
            "TargetStores": ["OnlineStore"],
            "TtlDuration": {"Unit": "Hours", "Value": 2},
        }));
        let update = update.expect("valid");
        assert_eq!((update.group.as_str(), update.identifier.as_str()), ("orders", "7"));
        assert_eq!(update.values[0], ("total".into(), RawValue::Text("15.20".into())));
        assert_eq!(update.targets, Some(Targets { online: true, offline: false }));
        assert_eq!(update.ttl, Ttl::new(TtlUnit::Hours, 2).ok());
    }

    #[test]
    fn faults_are_validation_errors() {
        let value = |name: &str| json!({"FeatureName": name, "ValueAsString": "1"});
        let many: Vec<_> = (0..101).map(|number| value(&format!("f{number}"))).collect();
        let cases = [
            json!({}),
            json!({"Features": [value("a")]}),
            json!({"RecordIdentifierValueAsString": "1"}),
            json!({"RecordIdentifierValueAsString": "1", "Features": []}),
            json!({"RecordIdentifierValueAsString": "1", "Features": many}),
            json!({"RecordIdentifierValueAsString": "1", "Features": [{"FeatureName": "a"}]}),
            json!({"RecordIdentifierValueAsString": "1", "Features": [value("-")]}),
            json!({"RecordIdentifierValueAsString": "1", "Features": [value("a")], "TargetStores": ["Nowhere"]}),
            json!({"RecordIdentifierValueAsString": "1", "Features": [value("a")],
                   "TargetStores": ["OnlineStore", "OnlineStore"]}),
            json!({"RecordIdentifierValueAsString": "1", "Features": [value("a")], "TtlDuration": {"Unit": "Days"}}),
        ];
        for case in cases {
            let fault = parse(&case).expect_err(&case.to_string());
            assert_eq!((fault.status.as_u16(), fault.code), (400, "ValidationError"), "{case}");
        }
    }
}
