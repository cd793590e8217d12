//! CreateFeatureGroup.

use bytes::Bytes;
use granary_proto::convert::ttl_to_wire;
use granary_proto::v1;
use granary_types::feature_group::FEATURE_COUNT_MAX;
use granary_types::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::constraints::{ROLE_ARN, S3_URI, Violations};
use super::fault::{Fault, Plane};
use super::shapes::{
    DataCatalogConfig, FeatureDefinition, OfflineStoreConfig, OnlineStoreConfig, STORAGE_TYPES, ThroughputConfig,
    check_kms_key,
};
use super::tags::Tag;
use super::{Call, Rest, body_of, definitions, names, tags};

const TABLE_FORMATS: [&str; 3] = ["Default", "Glue", "Iceberg"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    feature_group_name: Option<String>,
    record_identifier_feature_name: Option<String>,
    event_time_feature_name: Option<String>,
    feature_definitions: Option<Vec<FeatureDefinition>>,
    online_store_config: Option<OnlineStoreConfig>,
    offline_store_config: Option<OfflineStoreConfig>,
    throughput_config: Option<ThroughputConfig>,
    role_arn: Option<String>,
    description: Option<String>,
    tags: Option<Vec<Tag>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    feature_group_arn: String,
}

impl Rest {
    pub(super) async fn create_feature_group(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        request.check_constraints()?;
        request.check_rules().map_err(|message| Fault::invalid(Plane::Control, message))?;
        let name = request.feature_group_name.clone().unwrap_or_default();
        let created = self.router.create_feature_group(request.into_wire()).await;
        let group = created.map_err(|error| refused(&name, error))?;
        body_of(&Response { feature_group_arn: names::arn_of(&self.settings, &group.name) })
    }
}

/// A name that is taken is told in the words seen on AWS, of which the catalog says the first line.
fn refused(name: &str, mut error: Error) -> Fault {
    if error.kind == ErrorKind::InUse && error.message.starts_with("Resource Already Exists") {
        error.message.push_str(&format!("\nInfo: Feature Group '{name}' already exists."));
    }
    Fault::of(Plane::Control, error)
}

impl Request {
    /// What the service model says of each member on its own.
    fn check_constraints(&self) -> Result<(), Fault> {
        let mut violations = Violations::default();
        for (field, name) in [
            ("featureGroupName", &self.feature_group_name),
            ("recordIdentifierFeatureName", &self.record_identifier_feature_name),
            ("eventTimeFeatureName", &self.event_time_feature_name),
        ] {
            if let Some(name) = violations.required(field, name) {
                violations.name(field, name);
            }
        }
        if let Some(definitions) = violations.required("featureDefinitions", &self.feature_definitions) {
            definitions::check("featureDefinitions", definitions, FEATURE_COUNT_MAX, &mut violations);
        }
        if let Some(online) = &self.online_store_config {
            check_online(online, &mut violations);
        }
        if let Some(offline) = &self.offline_store_config {
            check_offline(offline, &mut violations);
        }
        if let Some(throughput) = &self.throughput_config {
            violations.required("throughputConfig.throughputMode", &throughput.throughput_mode);
            throughput.check("throughputConfig", &mut violations);
        }
        if let Some(role) = &self.role_arn {
            violations.length("roleArn", role, 20, 2_048);
            violations.pattern("roleArn", role, ROLE_ARN);
        }
        if let Some(description) = &self.description {
            violations.length("description", description, 0, 128);
        }
        tags::check(self.tags.as_deref().unwrap_or_default(), &mut violations);
        violations.finish(Plane::Control)
    }

    /// The rules that span members (contract 2.1) and are SageMaker's own; those that are Granary's too are checked
    /// where every group is checked.
    fn check_rules(&self) -> Result<(), String> {
        let online = self.online();
        let storage = online.and_then(|online| online.storage_type.as_deref()).unwrap_or("Standard");
        if online.is_none() && self.offline_store_config.is_none() {
            return Err("at least one of OnlineStoreConfig and OfflineStoreConfig must be enabled".into());
        }
        if self.offline_store_config.is_some() && self.role_arn.is_none() {
            return Err("RoleArn is required with an OfflineStoreConfig".into());
        }
        let definitions = self.feature_definitions.as_deref().unwrap_or_default();
        definitions::check_collections(definitions, storage, false)?;
        if storage == "InMemory" {
            self.check_in_memory()?;
        }
        tags::check_keys(self.tags.as_deref().unwrap_or_default())
    }

    fn check_in_memory(&self) -> Result<(), String> {
        if self.offline_store_config.is_some() {
            return Err("StorageType InMemory takes no OfflineStoreConfig".into());
        }
        let mode = self.throughput_config.as_ref().and_then(|throughput| throughput.throughput_mode.as_deref());
        if mode == Some("Provisioned") {
            return Err("StorageType InMemory takes ThroughputMode OnDemand only".into());
        }
        if self.online().is_some_and(|online| online.security_config.is_some()) {
            return Err("StorageType InMemory takes no SecurityConfig".into());
        }
        Ok(())
    }

    /// The online store's settings, where it is enabled.
    fn online(&self) -> Option<&OnlineStoreConfig> {
        self.online_store_config.as_ref().filter(|online| online.enable_online_store == Some(true))
    }

    /// As the router takes it; every constraint holds.
    fn into_wire(self) -> v1::CreateFeatureGroupRequest {
        let online = self.online().map(online_to_wire);
        let tags = self.tags.unwrap_or_default().into_iter();
        v1::CreateFeatureGroupRequest {
            name: self.feature_group_name.unwrap_or_default(),
            features: self.feature_definitions.unwrap_or_default().into_iter().map(definitions::to_wire).collect(),
            record_identifier_feature: self.record_identifier_feature_name.unwrap_or_default(),
            event_time_feature: self.event_time_feature_name.unwrap_or_default(),
            online,
            offline: self.offline_store_config.map(offline_to_wire),
            throughput: self.throughput_config.map(ThroughputConfig::into_wire),
            role_arn: self.role_arn.unwrap_or_default(),
            description: self.description.unwrap_or_default(),
            tags: tags.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect(),
        }
    }
}

fn check_online(online: &OnlineStoreConfig, violations: &mut Violations) {
    let key = online.security_config.as_ref().and_then(|security| security.kms_key_id.as_ref());
    check_kms_key("onlineStoreConfig.securityConfig.kmsKeyId", key, violations);
    if let Some(ttl) = &online.ttl_duration {
        ttl.check("onlineStoreConfig.ttlDuration", violations);
    }
    if let Some(storage) = &online.storage_type {
        violations.one_of("onlineStoreConfig.storageType", storage, &STORAGE_TYPES);
    }
}

fn check_offline(offline: &OfflineStoreConfig, violations: &mut Violations) {
    let field = "offlineStoreConfig.s3StorageConfig";
    if let Some(storage) = violations.required(field, &offline.s3_storage_config) {
        let uri = format!("{field}.s3Uri");
        if let Some(given) = violations.required(&uri, &storage.s3_uri) {
            violations.length(&uri, given, 0, 1_024);
            violations.pattern(&uri, given, S3_URI);
        }
        check_kms_key(&format!("{field}.kmsKeyId"), storage.kms_key_id.as_ref(), violations);
    }
    if let Some(catalog) = &offline.data_catalog_config {
        let field = "offlineStoreConfig.dataCatalogConfig";
        for (member, given) in
            [("tableName", &catalog.table_name), ("catalog", &catalog.catalog), ("database", &catalog.database)]
        {
            let field = format!("{field}.{member}");
            if let Some(given) = violations.required(&field, given) {
                violations.length(&field, given, 1, 255);
            }
        }
    }
    if let Some(format) = &offline.table_format {
        violations.one_of("offlineStoreConfig.tableFormat", format, &TABLE_FORMATS);
    }
}

fn online_to_wire(online: &OnlineStoreConfig) -> v1::OnlineConfig {
    let ttl = online.ttl_duration.as_ref().and_then(|ttl| ttl.check("", &mut Violations::default()));
    let key = online.security_config.as_ref().and_then(|security| security.kms_key_id.clone());
    v1::OnlineConfig {
        ttl: ttl.map(ttl_to_wire),
        storage_type: online.storage_type.clone().unwrap_or_default(),
        kms_key_id: key.unwrap_or_default(),
    }
}

fn offline_to_wire(offline: OfflineStoreConfig) -> v1::OfflineConfig {
    let storage = offline.s3_storage_config.unwrap_or_default();
    let catalog = |catalog: DataCatalogConfig| v1::DataCatalog {
        catalog: catalog.catalog.unwrap_or_default(),
        database: catalog.database.unwrap_or_default(),
        table: catalog.table_name.unwrap_or_default(),
    };
    v1::OfflineConfig {
        s3_uri: storage.s3_uri.unwrap_or_default(),
        granularity: v1::Granularity::Hour.into(),
        kms_key_id: storage.kms_key_id.unwrap_or_default(),
        disable_glue_table_creation: offline.disable_glue_table_creation.unwrap_or(false),
        data_catalog: offline.data_catalog_config.map(catalog),
        table_format: offline.table_format.unwrap_or_default(),
        resolved_uri: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn valid() -> Value {
        json!({
            "FeatureGroupName": "orders",
            "RecordIdentifierFeatureName": "id",
            "EventTimeFeatureName": "at",
            "FeatureDefinitions": [
                {"FeatureName": "id", "FeatureType": "String"},
                {"FeatureName": "at", "FeatureType": "Fractional"},
            ],
            "OnlineStoreConfig": {"EnableOnlineStore": true, "TtlDuration": {"Unit": "Hours", "Value": 2}},
            "OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://bucket/prefix"}},
            "RoleArn": "arn:aws:iam::123456789012:role/features",
            "Tags": [{"Key": "team", "Value": "a"}],
            "SomethingOfNextYear": {"x": null},
        })
    }

    /// The request with the member at `path` (a JSON pointer's parent and key) set to `value`.
    fn with(path: &str, value: Value) -> Request {
        let mut request = valid();
        let (parent, key) = path.rsplit_once('/').expect("a pointer");
        let parent = request.pointer_mut(parent).expect("the parent is there");
        match parent {
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
            other => other[key] = value,
        }
        serde_json::from_value(request).expect("the shape")
    }

    #[test]
    fn a_whole_request_becomes_the_routers() {
        let request: Request = serde_json::from_value(valid()).expect("the shape");
        assert_eq!(request.check_constraints(), Ok(()));
        assert_eq!(request.check_rules(), Ok(()));
        let wire = request.into_wire();
        assert_eq!((wire.name.as_str(), wire.features.len()), ("orders", 2));
        let ttl = wire.online.expect("it is enabled").ttl.expect("given");
        assert_eq!((ttl.unit(), ttl.value), (v1::TtlUnit::Hours, 2));
        assert_eq!(wire.offline.expect("given").s3_uri, "s3://bucket/prefix");
    }

    #[test]
    fn constraints_of_the_model_are_checked() {
        let cases = [
            ("/FeatureGroupName", json!("orders-"), "featureGroupName"),
            ("/FeatureGroupName", Value::Null, "featureGroupName"),
            ("/FeatureDefinitions", json!([]), "featureDefinitions"),
            ("/FeatureDefinitions/0/FeatureType", json!("Integer"), "featureDefinitions.1.member.featureType"),
            (
                "/OnlineStoreConfig/TtlDuration",
                json!({"Unit": "Years", "Value": 1}),
                "onlineStoreConfig.ttlDuration.unit",
            ),
            ("/OnlineStoreConfig/TtlDuration/Value", json!(0), "onlineStoreConfig.ttlDuration.value"),
            ("/OnlineStoreConfig/StorageType", json!("Fast"), "onlineStoreConfig.storageType"),
            ("/OfflineStoreConfig/S3StorageConfig", Value::Null, "offlineStoreConfig.s3StorageConfig"),
            ("/OfflineStoreConfig/S3StorageConfig/S3Uri", json!("b"), "offlineStoreConfig.s3StorageConfig.s3Uri"),
            ("/OfflineStoreConfig/TableFormat", json!("Delta"), "offlineStoreConfig.tableFormat"),
            ("/RoleArn", json!("arn:aws:iam::1:role/xxxxxxxx"), "roleArn"),
            ("/Description", json!("x".repeat(129)), "description"),
            ("/Tags/0/Key", json!("a*"), "tags.1.member.key"),
        ];
        for (path, value, field) in cases {
            let fault = with(path, value).check_constraints().expect_err(path);
            assert_eq!(fault.code, "ValidationException");
            assert!(fault.message.contains(&format!("at '{field}'")), "{path}: {}", fault.message);
        }
    }

    #[test]
    fn rules_beyond_the_model_are_checked() {
        let vector = json!({"FeatureName": "v", "FeatureType": "Fractional", "CollectionType": "List"});
        let cases = [
            ("/RoleArn", Value::Null, "RoleArn"),
            ("/FeatureDefinitions/1", vector, "collection"),
            ("/OnlineStoreConfig/StorageType", json!("InMemory"), "InMemory"),
            ("/Tags", json!([{"Key": "a", "Value": ""}, {"Key": "a", "Value": ""}]), "twice"),
        ];
        for (path, value, word) in cases {
            let request = with(path, value);
            assert_eq!(request.check_constraints(), Ok(()), "{path}");
            let message = request.check_rules().expect_err(path);
            assert!(message.contains(word), "{path}: {message}");
        }
        let neither = json!({"OnlineStoreConfig": {"EnableOnlineStore": false}});
        let neither: Request = serde_json::from_value(neither).expect("the shape");
        assert!(neither.check_rules().is_err());
    }
}
