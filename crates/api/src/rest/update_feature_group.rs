//! UpdateFeatureGroup: adds features, or changes the online store or the throughput; one of them in a call.
//!
//! What an update may do to a group is decided by the catalog; here is what is SageMaker's alone.

use bytes::Bytes;
use granary_proto::convert::ttl_to_wire;
use granary_proto::v1;
use granary_proto::v1::update_feature_group_request::Change;
use granary_types::feature_group::ADDITION_COUNT_MAX;
use granary_types::{CollectionType, FeatureGroup};
use serde::{Deserialize, Deserializer, Serialize};

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::shapes::{FeatureDefinition, STORAGE_TYPES, ThroughputConfig, TtlDuration};
use super::{Call, Rest, body_of, definitions, names};

const TTL: &str = "onlineStoreConfig.ttlDuration";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    feature_group_name: Option<String>,
    feature_additions: Option<Vec<FeatureDefinition>>,
    online_store_config: Option<OnlineStoreConfigUpdate>,
    throughput_config: Option<ThroughputConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnlineStoreConfigUpdate {
    /// Present and null is not absent: it removes the default.
    #[serde(default, deserialize_with = "present")]
    ttl_duration: Option<Option<TtlDuration>>,
    storage_type: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    feature_group_arn: String,
}

/// Keeps a null that is there apart from a member that is not.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Rest {
    pub(super) async fn update_feature_group(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        let refused = |error| Fault::of(Plane::Control, error);
        let name = request.check()?;
        if let Some(additions) = &request.feature_additions {
            let group = self.router.describe(&name).map_err(refused)?;
            check_additions(&group, additions).map_err(|message| Fault::invalid(Plane::Control, message))?;
        }
        let change = request.into_change().map_err(|message| Fault::invalid(Plane::Control, message))?;
        let wire = v1::UpdateFeatureGroupRequest { name, change: Some(change) };
        let group = self.router.update_feature_group(wire).await.map_err(refused)?;
        body_of(&Response { feature_group_arn: names::arn_of(&self.settings, &group.name) })
    }
}

/// The rules of collections, which neither storage type nor time can change: InMemory is for ever.
fn check_additions(group: &FeatureGroup, additions: &[FeatureDefinition]) -> Result<(), String> {
    let storage = group.online.as_ref().and_then(|online| online.storage_type.as_deref()).unwrap_or("Standard");
    let mut collections = group.schema.features().iter().map(|feature| feature.collection);
    let has_vector = collections.any(|kind| matches!(kind, Some(CollectionType::Vector { .. })));
    definitions::check_collections(additions, storage, has_vector)
}

impl TtlDuration {
    /// Whether neither member is given, which is how SDKs say that there shall be none.
    fn is_empty(&self) -> bool {
        self.unit.is_none() && self.value.is_none()
    }
}

impl Request {
    /// Checks the constraints of the model, and returns the group's name.
    fn check(&self) -> Result<String, Fault> {
        let name = names::required(&self.feature_group_name)?;
        let mut violations = Violations::default();
        if let Some(additions) = &self.feature_additions {
            definitions::check("featureAdditions", additions, ADDITION_COUNT_MAX, &mut violations);
        }
        if let Some(online) = &self.online_store_config {
            if let Some(Some(ttl)) = online.ttl_duration.as_ref().filter(|ttl| !removes(ttl)) {
                ttl.check(TTL, &mut violations);
            }
            if let Some(storage) = &online.storage_type {
                violations.one_of("onlineStoreConfig.storageType", storage, &STORAGE_TYPES);
            }
        }
        if let Some(throughput) = &self.throughput_config {
            throughput.check("throughputConfig", &mut violations);
        }
        violations.finish(Plane::Control)?;
        Ok(name)
    }

    /// As the router takes it; every constraint holds.
    fn into_change(self) -> Result<Change, String> {
        match (self.feature_additions, self.online_store_config, self.throughput_config) {
            (Some(additions), None, None) => {
                let features = additions.into_iter().map(definitions::to_wire).collect();
                Ok(Change::Additions(v1::FeatureAdditions { features }))
            }
            (None, Some(online), None) => Ok(Change::Online(online.into_wire())),
            (None, None, Some(throughput)) => Ok(Change::Throughput(throughput.into_wire())),
            (None, None, None) => {
                Err("an update needs one of FeatureAdditions, OnlineStoreConfig and ThroughputConfig".into())
            }
            _ => {
                Err("an update takes one of FeatureAdditions, OnlineStoreConfig and ThroughputConfig at a time".into())
            }
        }
    }
}

fn removes(ttl: &Option<TtlDuration>) -> bool {
    ttl.as_ref().is_none_or(TtlDuration::is_empty)
}

impl OnlineStoreConfigUpdate {
    fn into_wire(self) -> v1::OnlineChange {
        let ttl = self.ttl_duration.map(|ttl| {
            let ttl = ttl.and_then(|ttl| ttl.check(TTL, &mut Violations::default()));
            v1::TtlChange { ttl: ttl.map(ttl_to_wire) }
        });
        v1::OnlineChange { ttl, storage_type: self.storage_type.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn change(body: Value) -> Result<Change, String> {
        let mut body = body;
        body["FeatureGroupName"] = "orders".into();
        let request: Request = serde_json::from_value(body).expect("the shape");
        request.check().map_err(|fault| fault.message)?;
        request.into_change()
    }

    #[test]
    fn a_time_to_live_is_set_kept_or_removed() {
        let ttl = |body: Value| match change(json!({ "OnlineStoreConfig": body })) {
            Ok(Change::Online(online)) => Ok(online.ttl.map(|change| change.ttl.map(|ttl| ttl.value))),
            Ok(other) => panic!("another change: {other:?}"),
            Err(message) => Err(message),
        };
        assert_eq!(ttl(json!({"TtlDuration": {"Unit": "Days", "Value": 3}})), Ok(Some(Some(3))));
        for removal in [json!({}), json!(null), json!({"Unit": null, "Value": null})] {
            assert_eq!(ttl(json!({ "TtlDuration": removal })), Ok(Some(None)));
        }
        assert_eq!(ttl(json!({"StorageType": "Standard_V2"})), Ok(None));
        for half in [json!({"Unit": "Days"}), json!({"Value": 3}), json!({"Unit": "Days", "Value": 0})] {
            assert!(ttl(json!({ "TtlDuration": half })).is_err());
        }
    }

    #[test]
    fn one_kind_of_change_is_taken() {
        let additions = json!([{"FeatureName": "a", "FeatureType": "String"}]);
        assert!(matches!(change(json!({ "FeatureAdditions": additions })), Ok(Change::Additions(_))));
        assert!(matches!(
            change(json!({"ThroughputConfig": {"ThroughputMode": "OnDemand"}})),
            Ok(Change::Throughput(_))
        ));
        assert!(change(json!({})).is_err());
        assert!(change(json!({"FeatureAdditions": additions, "ThroughputConfig": {}})).is_err());
    }
}
