//! Shapes that several operations share, with their constraints.
//!
//! Every member is optional here, so that a missing one is told as a broken constraint and not as broken JSON.

use granary_proto::v1;
use granary_router::OnlineRecord;
use granary_types::record::RawValue;
use granary_types::{Error, FeatureGroup, Targets, Ttl, TtlUnit};
use serde::{Deserialize, Serialize};

use super::constraints::{KMS_KEY, Violations};

/// The longest value, in characters, and the longest list of values.
const VALUE_LEN_MAX: usize = 358_400;
const CAPACITY_UNITS_MAX: i64 = 10_000_000;
pub(super) const STORAGE_TYPES: [&str; 3] = ["Standard", "Standard_V2", "InMemory"];
const TTL_UNITS: [(&str, TtlUnit); 5] = [
    ("Seconds", TtlUnit::Seconds),
    ("Minutes", TtlUnit::Minutes),
    ("Hours", TtlUnit::Hours),
    ("Days", TtlUnit::Days),
    ("Weeks", TtlUnit::Weeks),
];

/// `TtlDuration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TtlDuration {
    pub(super) unit: Option<String>,
    pub(super) value: Option<i64>,
}

impl TtlDuration {
    /// Checks it, and returns it where it is whole.
    pub(super) fn check(&self, field: &str, violations: &mut Violations) -> Option<Ttl> {
        let unit = violations.required(&format!("{field}.unit"), &self.unit);
        let value = violations.required(&format!("{field}.value"), &self.value);
        if let Some(unit) = unit {
            violations.one_of(&format!("{field}.unit"), unit, &TTL_UNITS.map(|(name, _)| name));
        }
        if let Some(value) = value {
            violations.range(&format!("{field}.value"), *value, 1, i64::from(i32::MAX));
        }
        let (_, unit) = TTL_UNITS.into_iter().find(|(name, _)| Some(*name) == self.unit.as_deref())?;
        Ttl::new(unit, u32::try_from(self.value?).ok()?).ok()
    }

    pub(super) fn of(ttl: Ttl) -> Self {
        let name = TTL_UNITS.into_iter().find(|(_, unit)| *unit == ttl.unit).map(|(name, _)| name.to_owned());
        Self { unit: name, value: Some(i64::from(ttl.value)) }
    }
}

/// `FeatureValue` in a put.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FeatureValue {
    feature_name: Option<String>,
    value_as_string: Option<String>,
    value_as_string_list: Option<Vec<String>>,
}

impl FeatureValue {
    /// Checks it; `field` is its place in the request.
    fn check(&self, field: &str, violations: &mut Violations) {
        if let Some(name) = violations.required(&format!("{field}.featureName"), &self.feature_name) {
            violations.name(&format!("{field}.featureName"), name);
        }
        if let Some(text) = &self.value_as_string {
            violations.length(&format!("{field}.valueAsString"), text, 0, VALUE_LEN_MAX);
        }
        if let Some(texts) = &self.value_as_string_list {
            violations.count(&format!("{field}.valueAsStringList"), texts.len(), 0, VALUE_LEN_MAX);
        }
    }

    /// Name and value of one that passed its check; the name alone where it has no value or two.
    fn into_named(self) -> Result<(String, RawValue), String> {
        let name = self.feature_name.unwrap_or_default();
        match (self.value_as_string, self.value_as_string_list) {
            (Some(text), None) => Ok((name, RawValue::Text(text))),
            (None, Some(texts)) => Ok((name, RawValue::List(texts))),
            (None, None) | (Some(_), Some(_)) => Err(name),
        }
    }
}

/// `Record`, and `Features` of an update: at least one value.
pub(super) fn check_values(field: &str, values: Option<&[FeatureValue]>, violations: &mut Violations) {
    if let Some(values) = violations.required(field, &values) {
        violations.count(field, values.len(), 1, usize::MAX);
        for (index, value) in values.iter().enumerate() {
            value.check(&format!("{field}.{}.member", index + 1), violations);
        }
    }
}

/// Names and values of those that passed their check.
///
/// # Errors
/// `Invalid` for one with no value or two, naming the feature.
pub(super) fn named_values(values: Vec<FeatureValue>) -> Result<Vec<(String, RawValue)>, Error> {
    let named = values.into_iter().map(|value| {
        value.into_named().map_err(|name| {
            Error::invalid(format!("feature {name:?} takes one of ValueAsString and ValueAsStringList"))
        })
    });
    named.collect()
}

/// `FeatureValue` in an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FeatureValueOut<'a> {
    feature_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_as_string: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_as_string_list: Option<&'a [String]>,
}

/// The values of a record, in order of definition.
pub(super) fn record_out(record: &OnlineRecord) -> Vec<FeatureValueOut<'_>> {
    record.named().map(|(name, value)| value_out(name, value)).collect()
}

fn value_out<'a>(feature_name: &'a str, value: &'a RawValue) -> FeatureValueOut<'a> {
    let (value_as_string, value_as_string_list) = match value {
        RawValue::Text(text) => (Some(text.as_str()), None),
        RawValue::List(texts) => (None, Some(texts.as_slice())),
    };
    FeatureValueOut { feature_name, value_as_string, value_as_string_list }
}

/// `TargetStores`: none given takes all that the group has.
pub(super) fn check_targets(stores: Option<&[String]>, violations: &mut Violations) -> Option<Targets> {
    let stores = stores?;
    violations.count("targetStores", stores.len(), 1, 2);
    for (index, store) in stores.iter().enumerate() {
        violations.one_of(&format!("targetStores.{}.member", index + 1), store, &["OnlineStore", "OfflineStore"]);
    }
    let has = |name: &str| stores.iter().any(|store| store == name);
    Some(Targets { online: has("OnlineStore"), offline: has("OfflineStore") })
}

/// `ExpirationTimeResponse`: whether `ExpiresAt` is asked for.
pub(super) fn check_expiration(asked: Option<&str>, violations: &mut Violations) -> bool {
    if let Some(asked) = asked {
        violations.one_of("expirationTimeResponse", asked, &["Enabled", "Disabled"]);
    }
    asked == Some("Enabled")
}

/// `FeatureDefinition`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FeatureDefinition {
    pub(super) feature_name: Option<String>,
    pub(super) feature_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) collection_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) collection_config: Option<CollectionConfig>,
}

/// `CollectionConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CollectionConfig {
    pub(super) vector_config: Option<VectorConfig>,
}

/// `VectorConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VectorConfig {
    pub(super) dimension: Option<i64>,
}

/// `OnlineStoreConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OnlineStoreConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) security_config: Option<SecurityConfig>,
    pub(super) enable_online_store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl_duration: Option<TtlDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) storage_type: Option<String>,
}

/// `OnlineStoreSecurityConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SecurityConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kms_key_id: Option<String>,
}

/// `OfflineStoreConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfflineStoreConfig {
    pub(super) s3_storage_config: Option<S3StorageConfig>,
    pub(super) disable_glue_table_creation: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_catalog_config: Option<DataCatalogConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) table_format: Option<String>,
}

/// `S3StorageConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct S3StorageConfig {
    pub(super) s3_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kms_key_id: Option<String>,
    /// In answers; ignored in requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resolved_output_s3_uri: Option<String>,
}

/// `DataCatalogConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataCatalogConfig {
    pub(super) table_name: Option<String>,
    pub(super) catalog: Option<String>,
    pub(super) database: Option<String>,
}

/// `ThroughputConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ThroughputConfig {
    pub(super) throughput_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provisioned_read_capacity_units: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provisioned_write_capacity_units: Option<i64>,
}

impl ThroughputConfig {
    /// The constraints of what is given; `field` is its place in the request.
    pub(super) fn check(&self, field: &str, violations: &mut Violations) {
        if let Some(mode) = &self.throughput_mode {
            violations.one_of(&format!("{field}.throughputMode"), mode, &["OnDemand", "Provisioned"]);
        }
        for (member, units) in [
            ("provisionedReadCapacityUnits", self.provisioned_read_capacity_units),
            ("provisionedWriteCapacityUnits", self.provisioned_write_capacity_units),
        ] {
            if let Some(units) = units {
                violations.range(&format!("{field}.{member}"), units, 0, CAPACITY_UNITS_MAX);
            }
        }
    }

    /// As the router takes it; every constraint holds.
    pub(super) fn into_wire(self) -> v1::Throughput {
        let units = |given: Option<i64>| given.and_then(|given| u32::try_from(given).ok());
        v1::Throughput {
            mode: self.throughput_mode.unwrap_or_default(),
            read_units: units(self.provisioned_read_capacity_units),
            write_units: units(self.provisioned_write_capacity_units),
        }
    }
}

/// The constraints of a key of the key service.
pub(super) fn check_kms_key(field: &str, key: Option<&String>, violations: &mut Violations) {
    if let Some(key) = key {
        violations.length(field, key, 0, 2_048);
        violations.pattern(field, key, KMS_KEY);
    }
}

/// Epoch seconds with a fraction, as the control plane tells times.
pub(super) fn epoch_seconds(ms: u64) -> f64 {
    // Exact: a double holds milliseconds for the next 285,000 years.
    ms as f64 / 1_000.0
}

/// The state of a group's offline store; none for groups without.
pub(super) fn offline_status(group: &FeatureGroup) -> Option<&'static str> {
    group.offline.is_some().then_some("Active")
}
