//! Feature groups: what a record may hold, where it is kept, and since when.

use std::collections::BTreeMap;

use crate::{Error, ErrorKind, FeatureGroupId, FeatureOrdinal, SchemaVersion, Ttl};

/// The longest name of a feature group or a feature, in characters.
pub const NAME_LEN_MAX: usize = 64;
/// The most features of a group (contract 2.1).
pub const FEATURE_COUNT_MAX: usize = 2_500;
/// The most features that one change adds to a group (contract 2.3).
pub const ADDITION_COUNT_MAX: usize = 100;
/// The most tags of a group (contract 2.1).
pub const TAG_COUNT_MAX: usize = 50;
/// The most parameters of a feature (contract 2.6).
pub const PARAMETER_COUNT_MAX: usize = 25;
/// The longest key or value of a parameter, and the longest description of a feature, in characters (contract 2.6).
pub const PARAMETER_LEN_MAX: usize = 255;
/// Columns the offline store adds to every table; no feature may be called so.
pub const RESERVED_FEATURE_NAMES: [&str; 3] = ["is_deleted", "write_time", "api_invocation_time"];
/// Prefix of the offline store's columns of provenance; no feature name may start with it.
pub const RESERVED_FEATURE_PREFIX: &str = "granary_";

/// The type of a feature, or of the elements of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeatureType {
    /// UTF-8 text.
    String,
    /// 64-bit signed integer.
    Integral,
    /// IEEE double.
    Fractional,
}

/// The kind of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CollectionType {
    /// Ordered, with duplicates.
    List,
    /// Without duplicates.
    Set,
    /// Of a fixed dimension.
    Vector {
        /// How many elements, 1 to 8192.
        dimension: u32,
    },
}

impl CollectionType {
    /// Checks the rule of the collection on its elements.
    ///
    /// # Errors
    /// `Invalid`, naming the feature.
    pub fn check(self, feature: &str, texts: &[String]) -> Result<(), Error> {
        match self {
            Self::List => Ok(()),
            Self::Set => {
                let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
                if distinct.len() == texts.len() {
                    Ok(())
                } else {
                    Err(Error::invalid(format!("feature {feature:?} is a Set and holds an element twice")))
                }
            }
            Self::Vector { dimension } if texts.len() == dimension as usize => Ok(()),
            Self::Vector { dimension } => Err(Error::invalid(format!(
                "feature {feature:?} is a Vector of dimension {dimension}, got {} elements",
                texts.len()
            ))),
        }
    }
}

/// One feature of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its stable place.
    pub ordinal: FeatureOrdinal,
    /// Its name, unique in the group without regard to case.
    pub name: String,
    /// Its type, or its elements' type.
    pub kind: FeatureType,
    /// Set for collections.
    pub collection: Option<CollectionType>,
    /// For people.
    pub description: Option<String>,
    /// Keys and values, for people and for search.
    pub parameters: BTreeMap<String, String>,
    /// When it was defined: milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When description or parameters last changed; rises with every change.
    pub updated_at_ms: u64,
}

impl Feature {
    /// A feature of which nothing more is said.
    pub fn new(ordinal: FeatureOrdinal, name: impl Into<String>, kind: FeatureType) -> Self {
        Self {
            ordinal,
            name: name.into(),
            kind,
            collection: None,
            description: None,
            parameters: BTreeMap::new(),
            created_at_ms: 0,
            updated_at_ms: 0,
        }
    }

    /// Checks the limits of what is said about the feature: its description and its parameters.
    ///
    /// # Errors
    /// `Invalid`, naming the feature and the limit.
    pub fn check_described(&self) -> Result<(), Error> {
        let name = &self.name;
        let length = |text: &String| text.chars().count();
        if self.description.as_ref().is_some_and(|text| length(text) > PARAMETER_LEN_MAX) {
            return Err(Error::invalid(format!(
                "the description of feature {name:?} has more than {PARAMETER_LEN_MAX} characters"
            )));
        }
        let fits = |text: &String| (1..=PARAMETER_LEN_MAX).contains(&length(text));
        if let Some((key, _)) = self.parameters.iter().find(|(key, value)| !fits(key) || !fits(value)) {
            return Err(Error::invalid(format!(
                "parameter {key:?} of feature {name:?}: key and value have 1 to {PARAMETER_LEN_MAX} characters"
            )));
        }
        if self.parameters.len() > PARAMETER_COUNT_MAX {
            return Err(Error::invalid(format!("feature {name:?} has more than {PARAMETER_COUNT_MAX} parameters")));
        }
        Ok(())
    }
}

/// The online store's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnlineConfig {
    /// The default time to live of records put from now on.
    pub ttl: Option<Ttl>,
    /// As given: `Standard`, `Standard_V2` or `InMemory`.
    pub storage_type: Option<String>,
    /// As given; described, not yet used.
    pub kms_key_id: Option<String>,
}

/// How long an interval of event time one directory of the offline store covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// `year=/month=/day=/hour=`, as SageMaker lays its files.
    #[default]
    Hour,
    /// `year=/month=/day=`: for sparse groups and long backfills, which would make many small files by the hour.
    Day,
}

/// The offline store's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfflineConfig {
    /// Where the caller wanted the data: `s3://bucket/prefix`.
    pub s3_uri: String,
    /// Where it is: the directory of the Delta table, by the rule of contract 4.1.
    pub resolved_uri: String,
    /// How its directories divide event time. Those of Iceberg tables are of a day each, whatever this says.
    pub granularity: Granularity,
    /// As given; described, not yet used.
    pub kms_key_id: Option<String>,
    /// As given.
    pub disable_glue_table_creation: bool,
    /// Catalog, database and table that describe the data to SQL clients.
    pub data_catalog: Option<DataCatalog>,
    /// As given: `Default`, `Glue` or `Iceberg`.
    pub table_format: Option<String>,
}

/// Where SQL clients find a group's history (SageMaker's DataCatalogConfig).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataCatalog {
    /// `AwsDataCatalog` unless given.
    pub catalog: String,
    /// `sagemaker_featurestore` unless given.
    pub database: String,
    /// The table.
    pub table: String,
}

/// SageMaker's throughput settings, described as given; Granary has no capacity to buy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThroughputConfig {
    /// `OnDemand` or `Provisioned`.
    pub mode: String,
    /// Read capacity units.
    pub read_units: Option<u32>,
    /// Write capacity units.
    pub write_units: Option<u32>,
}

impl ThroughputConfig {
    /// On-demand groups have no capacity, provisioned ones need both units (contract 2.1).
    ///
    /// # Errors
    /// `Invalid`, naming what is missing or too much.
    pub fn check(&self) -> Result<(), Error> {
        let units = [self.read_units, self.write_units];
        match self.mode.as_str() {
            "OnDemand" if units.iter().any(Option::is_some) => {
                Err(Error::invalid("ThroughputMode OnDemand takes no capacity units"))
            }
            "Provisioned" if units.iter().any(Option::is_none) => {
                Err(Error::invalid("ThroughputMode Provisioned needs read and write capacity units"))
            }
            "OnDemand" | "Provisioned" => Ok(()),
            mode => Err(Error::invalid(format!("ThroughputMode {mode:?} is neither OnDemand nor Provisioned"))),
        }
    }
}

/// Where a feature group is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeatureGroupStatus {
    /// Serving.
    Created,
    /// Deleted: refuses reads and writes; its name may be taken again. Kept for the events still on their way to
    /// the offline store.
    Deleted,
}

/// The features of a group at one schema version, with look-up by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Raised when features are added.
    pub version: SchemaVersion,
    /// In order of definition; the index is the ordinal.
    features: Vec<Feature>,
    by_name: BTreeMap<String, FeatureOrdinal>,
}

impl Schema {
    /// A schema of features in definition order, whose ordinals are their indexes.
    ///
    /// # Errors
    /// `Invalid` for no features, too many, a name that breaks the rules or that stands twice.
    pub fn new(version: SchemaVersion, features: Vec<Feature>) -> Result<Self, Error> {
        if features.is_empty() || features.len() > FEATURE_COUNT_MAX {
            return Err(Error::invalid(format!(
                "a feature group has 1 to {FEATURE_COUNT_MAX} features, got {}",
                features.len()
            )));
        }
        let mut by_name = BTreeMap::new();
        let mut folded = std::collections::BTreeSet::new();
        for (index, feature) in features.iter().enumerate() {
            check_feature_name(&feature.name)?;
            debug_assert_eq!(usize::from(feature.ordinal.0), index, "ordinals are indexes");
            if !folded.insert(feature.name.to_ascii_lowercase()) {
                return Err(Error::invalid(format!("feature {:?} is defined twice", feature.name)));
            }
            by_name.insert(feature.name.clone(), feature.ordinal);
        }
        Ok(Self { version, features, by_name })
    }

    /// The next version of this schema: with these features after those it has, whose ordinals stay what they are.
    ///
    /// # Errors
    /// As [`Schema::new`]; `LimitExceeded` when the group would have too many features.
    pub fn with_added(&self, added: Vec<Feature>) -> Result<Self, Error> {
        if self.features.len() + added.len() > FEATURE_COUNT_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!(
                    "a feature group has at most {FEATURE_COUNT_MAX} features, it has {} and {} more were given",
                    self.features.len(),
                    added.len()
                ),
            ));
        }
        let version = self.version.0.checked_add(1).map(SchemaVersion);
        let version = version.ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "schema versions are used up"))?;
        Self::new(version, self.features.iter().cloned().chain(added).collect())
    }

    /// The same schema with another description of one of its features.
    ///
    /// # Errors
    /// `Invalid` when it has no feature of this name, ordinal and type.
    pub fn with_described(&self, feature: Feature) -> Result<Self, Error> {
        let mut changed = self.clone();
        let place = changed.features.get_mut(usize::from(feature.ordinal.0)).filter(|place| {
            (&place.name, place.kind, place.collection) == (&feature.name, feature.kind, feature.collection)
        });
        match place {
            Some(place) => *place = feature,
            None => return Err(Error::invalid(format!("feature {:?} is not in the schema", feature.name))),
        }
        Ok(changed)
    }

    /// The features in definition order.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The feature called `name`, case and all.
    pub fn by_name(&self, name: &str) -> Option<&Feature> {
        self.by_name.get(name).map(|ordinal| &self.features[usize::from(ordinal.0)])
    }

    /// The feature at `ordinal`, if this version has it.
    pub fn by_ordinal(&self, ordinal: FeatureOrdinal) -> Option<&Feature> {
        self.features.get(usize::from(ordinal.0))
    }
}

/// A feature group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGroup {
    /// Given by the meta group, never reused.
    pub id: FeatureGroupId,
    /// Unique among the groups that are not deleted.
    pub name: String,
    /// Its features.
    pub schema: Schema,
    /// The feature that identifies a record.
    pub record_identifier: FeatureOrdinal,
    /// The feature that holds the event time; may be the same one.
    pub event_time: FeatureOrdinal,
    /// Set when the latest values are kept.
    pub online: Option<OnlineConfig>,
    /// Set when the history is kept.
    pub offline: Option<OfflineConfig>,
    /// As given.
    pub throughput: Option<ThroughputConfig>,
    /// As given; needed by SageMaker with an offline store.
    pub role_arn: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Keys and values.
    pub tags: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When it was created, updated or deleted, whichever came last; rises with every update. Tags and the
    /// descriptions of features are no update. Milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
    /// Where it is in its life.
    pub status: FeatureGroupStatus,
}

impl FeatureGroup {
    /// The feature that identifies a record.
    pub fn record_identifier_feature(&self) -> &Feature {
        &self.schema.features()[usize::from(self.record_identifier.0)]
    }

    /// Whether its offline table is kept as an Iceberg table too (`TableFormat` Iceberg), which is partitioned by the text
    /// of event times.
    pub fn is_iceberg(&self) -> bool {
        self.asks_for_iceberg() && self.event_time_feature().kind == FeatureType::String
    }

    fn asks_for_iceberg(&self) -> bool {
        self.offline.as_ref().is_some_and(|offline| offline.table_format.as_deref() == Some("Iceberg"))
    }

    /// The feature that holds the event time.
    pub fn event_time_feature(&self) -> &Feature {
        &self.schema.features()[usize::from(self.event_time.0)]
    }

    /// When it was last updated; `None` before the first update.
    pub fn last_update_ms(&self) -> Option<u64> {
        (self.updated_at_ms > self.created_at_ms).then_some(self.updated_at_ms)
    }

    /// Checks the rules that span several fields (contract 2.1, "rules beyond the model").
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn check(&self) -> Result<(), Error> {
        check_name("feature group", &self.name)?;
        if self.online.is_none() && self.offline.is_none() {
            return Err(Error::invalid("a feature group needs an online store, an offline store or both"));
        }
        let event_time = self.event_time_feature();
        if event_time.kind == FeatureType::Integral || event_time.collection.is_some() {
            return Err(Error::invalid(format!(
                "event time feature {:?} must be of type String or Fractional",
                event_time.name
            )));
        }
        if self.record_identifier_feature().collection.is_some() {
            return Err(Error::invalid("a record identifier feature is not a collection"));
        }
        Ok(())
    }

    /// Checks what a new group must keep to, beside [`Self::check`]. Groups that are there already may be older than a
    /// rule and are kept.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn check_new(&self) -> Result<(), Error> {
        let event_time = self.event_time_feature();
        if self.asks_for_iceberg() && event_time.kind != FeatureType::String {
            return Err(Error::invalid(format!(
                "TableFormat Iceberg requires an event time of type String, which it is partitioned by: feature {:?}",
                event_time.name
            )));
        }
        if self.tags.len() > TAG_COUNT_MAX {
            return Err(Error::invalid(format!("a feature group has at most {TAG_COUNT_MAX} tags")));
        }
        self.throughput.as_ref().map_or(Ok(()), ThroughputConfig::check)
    }
}

/// Checks a name against `[a-zA-Z0-9]([_-]*[a-zA-Z0-9]){0,63}` and at most 64 characters (contract 2).
///
/// # Errors
/// `Invalid`, naming what was checked.
pub fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let bytes = name.as_bytes();
    let fits = matches!(bytes, [first, .., last] if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        || matches!(bytes, [only] if only.is_ascii_alphanumeric());
    if !fits || bytes.len() > NAME_LEN_MAX || !bytes.iter().copied().all(inner) {
        return Err(Error::invalid(format!(
            "{what} name {name:?} must be 1 to {NAME_LEN_MAX} letters, digits, hyphens and underscores, with a letter or digit at both ends"
        )));
    }
    Ok(())
}

fn check_feature_name(name: &str) -> Result<(), Error> {
    check_name("feature", name)?;
    let folded = name.to_ascii_lowercase();
    if RESERVED_FEATURE_NAMES.contains(&folded.as_str()) || folded.starts_with(RESERVED_FEATURE_PREFIX) {
        return Err(Error::invalid(format!("feature name {name:?} is reserved for the offline store")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        for name in ["a", "A9", "a-b_c", &"x".repeat(64), "0--__1"] {
            assert!(check_name("feature", name).is_ok(), "{name:?}");
        }
        for name in ["", "-a", "a-", "_", "a b", "ä", &"x".repeat(65), "a.b"] {
            assert!(check_name("feature", name).is_err(), "{name:?}");
        }
        assert!(check_feature_name("Is_Deleted").is_err());
        assert!(check_feature_name("granary_stream").is_err());
    }
}
