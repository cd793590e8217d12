//! DescribeFeatureGroup: as AWS was seen to answer (contract 2.2). One page holds every definition.

use bytes::Bytes;
use granary_types::{FeatureGroup, OfflineConfig, OnlineConfig};
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Plane};
use super::shapes::{
    DataCatalogConfig, FeatureDefinition, OfflineStoreConfig, OnlineStoreConfig, S3StorageConfig, SecurityConfig,
    ThroughputConfig, TtlDuration, epoch_seconds, offline_status,
};
use super::tags::Tag;
use super::{Call, Rest, body_of, definitions, names, tags};
use crate::Settings;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    feature_group_name: Option<String>,
    next_token: Option<String>,
}

/// A feature group as it is described, here and in the results of a search.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described<'a> {
    feature_group_arn: String,
    feature_group_name: &'a str,
    record_identifier_feature_name: &'a str,
    event_time_feature_name: &'a str,
    feature_definitions: Vec<FeatureDefinition>,
    creation_time: f64,
    last_modified_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    online_store_config: Option<OnlineStoreConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline_store_config: Option<OfflineStoreConfig>,
    /// Not in results of a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput_config: Option<ThroughputConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role_arn: Option<&'a str>,
    feature_group_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline_store_status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update_status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// In results of a search only.
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<Tag>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    status: &'static str,
}

impl Rest {
    pub(super) fn describe_feature_group(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        let name = names::required(&request.feature_group_name)?;
        if request.next_token.is_some_and(|token| !token.is_empty()) {
            // A group has no more definitions than a page, so that none is given out.
            return Err(Fault::invalid(Plane::Control, "NextToken is not one that was returned"));
        }
        let group = self.router.describe(&name).map_err(|error| Fault::of(Plane::Control, error))?;
        body_of(&Described { throughput_config: Some(throughput(&group)), ..described(&self.settings, &group) })
    }
}

/// What descriptions and results of a search have in common.
fn described<'a>(settings: &Settings, group: &'a FeatureGroup) -> Described<'a> {
    Described {
        feature_group_arn: names::arn_of(settings, &group.name),
        feature_group_name: &group.name,
        record_identifier_feature_name: &group.record_identifier_feature().name,
        event_time_feature_name: &group.event_time_feature().name,
        feature_definitions: group.schema.features().iter().map(definitions::described).collect(),
        creation_time: epoch_seconds(group.created_at_ms),
        last_modified_time: epoch_seconds(group.updated_at_ms),
        online_store_config: group.online.as_ref().map(online),
        offline_store_config: group.offline.as_ref().map(offline),
        throughput_config: None,
        role_arn: group.role_arn.as_deref(),
        // Creation is over when it is acknowledged, and a deleted group is not found: no other state is seen.
        feature_group_status: "Created",
        offline_store_status: offline_status(group).map(|status| Status { status }),
        // One entry of the meta group's log, and checked before: an update that is known has succeeded.
        last_update_status: group.last_update_ms().map(|_| Status { status: "Successful" }),
        description: group.description.as_deref(),
        tags: None,
    }
}

/// A group as a result of a search.
pub(super) fn found<'a>(settings: &Settings, group: &'a FeatureGroup) -> Described<'a> {
    let tags = tags::listed(&group.tags);
    Described { tags: (!tags.is_empty()).then_some(tags), ..described(settings, group) }
}

fn online(online: &OnlineConfig) -> OnlineStoreConfig {
    OnlineStoreConfig {
        security_config: online.kms_key_id.clone().map(|key| SecurityConfig { kms_key_id: Some(key) }),
        enable_online_store: Some(true),
        ttl_duration: online.ttl.map(TtlDuration::of),
        storage_type: online.storage_type.clone(),
    }
}

fn offline(offline: &OfflineConfig) -> OfflineStoreConfig {
    OfflineStoreConfig {
        s3_storage_config: Some(S3StorageConfig {
            s3_uri: Some(offline.s3_uri.clone()),
            kms_key_id: offline.kms_key_id.clone(),
            resolved_output_s3_uri: Some(offline.resolved_uri.clone()),
        }),
        disable_glue_table_creation: Some(offline.disable_glue_table_creation),
        data_catalog_config: offline.data_catalog.as_ref().map(|catalog| DataCatalogConfig {
            table_name: Some(catalog.table.clone()),
            catalog: Some(catalog.catalog.clone()),
            database: Some(catalog.database.clone()),
        }),
        table_format: offline.table_format.clone(),
    }
}

fn throughput(group: &FeatureGroup) -> ThroughputConfig {
    let given = group.throughput.as_ref();
    ThroughputConfig {
        throughput_mode: Some(given.map_or_else(|| "OnDemand".to_owned(), |given| given.mode.clone())),
        provisioned_read_capacity_units: given.and_then(|given| given.read_units).map(i64::from),
        provisioned_write_capacity_units: given.and_then(|given| given.write_units).map(i64::from),
    }
}

#[cfg(test)]
mod tests {
    use granary_proto::convert::feature_group_from_wire;
    use granary_proto::v1;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_looks_like_the_recorded_ones() {
        let feature = |name: &str, kind: v1::FeatureType| v1::Feature {
            name: name.into(),
            r#type: kind.into(),
            ..v1::Feature::default()
        };
        let group = feature_group_from_wire(&v1::FeatureGroup {
            name: "FG-a".into(),
            features: vec![feature("id", v1::FeatureType::Integral), feature("at", v1::FeatureType::String)],
            record_identifier_feature: "id".into(),
            event_time_feature: "at".into(),
            online: Some(v1::OnlineConfig::default()),
            offline: Some(v1::OfflineConfig {
                s3_uri: "s3://b/p".into(),
                resolved_uri: "s3://b/p/000000000000/sagemaker/us-east-1/offline-store/FG-a-1/data".into(),
                data_catalog: Some(v1::DataCatalog {
                    catalog: "AwsDataCatalog".into(),
                    database: "sagemaker_featurestore".into(),
                    table: "fg_a_1".into(),
                }),
                ..v1::OfflineConfig::default()
            }),
            role_arn: "arn:aws:iam::123456789012:role/x".into(),
            created_at_ms: 1_704_164_645_678,
            updated_at_ms: 1_704_164_645_678,
            ..v1::FeatureGroup::default()
        });
        let group = group.expect("a valid group");
        let answer = serde_json::to_value(Described {
            throughput_config: Some(throughput(&group)),
            ..described(&Settings::default(), &group)
        })
        .expect("JSON");
        let expected = json!({
            "FeatureGroupArn": "arn:aws:sagemaker:us-east-1:000000000000:feature-group/FG-a",
            "FeatureGroupName": "FG-a",
            "RecordIdentifierFeatureName": "id",
            "EventTimeFeatureName": "at",
            "FeatureDefinitions": [
                {"FeatureName": "id", "FeatureType": "Integral"},
                {"FeatureName": "at", "FeatureType": "String"},
            ],
            "CreationTime": 1_704_164_645.678,
            "LastModifiedTime": 1_704_164_645.678,
            "OnlineStoreConfig": {"EnableOnlineStore": true},
            "OfflineStoreConfig": {
                "S3StorageConfig": {
                    "S3Uri": "s3://b/p",
                    "ResolvedOutputS3Uri": "s3://b/p/000000000000/sagemaker/us-east-1/offline-store/FG-a-1/data",
                },
                "DisableGlueTableCreation": false,
                "DataCatalogConfig":
                    {"TableName": "fg_a_1", "Catalog": "AwsDataCatalog", "Database": "sagemaker_featurestore"},
            },
            "ThroughputConfig": {"ThroughputMode": "OnDemand"},
            "RoleArn": "arn:aws:iam::123456789012:role/x",
            "FeatureGroupStatus": "Created",
            "OfflineStoreStatus": {"Status": "Active"},
        });
        assert_eq!(answer, expected);
    }
}
