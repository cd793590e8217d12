//! The properties that can be searched by, and their values.

use std::borrow::Cow;
use std::collections::BTreeMap;

use granary_types::{CollectionType, Error, Feature, FeatureGroup, FeatureType, TtlUnit};

use super::{Candidate, Resource};

/// A value of a property. Numbers come before texts, which never meet in one property.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value<'a> {
    /// Also times, as milliseconds since the Unix epoch.
    Number(i64),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    fn flag(flag: bool) -> Self {
        Self::text(if flag { "true" } else { "false" })
    }

    fn time(ms: u64) -> Self {
        Self::Number(i64::try_from(ms).unwrap_or(i64::MAX))
    }

    pub(super) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
        }
    }
}

/// What a property holds, which decides what operators it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Time,
}

type OfGroup = for<'a> fn(&'a FeatureGroup) -> Option<Value<'a>>;
pub(super) type OfFeature = for<'a> fn(&'a Feature) -> Option<Value<'a>>;

/// A property of a candidate.
#[derive(Debug, Clone)]
pub(super) enum Property {
    /// Its group's ARN.
    Arn,
    /// A member of the group's description.
    Group(Kind, OfGroup),
    /// A member of the feature's.
    Feature(Kind, OfFeature),
    /// A member of any feature of the group.
    AnyDefinition(OfFeature),
    /// The value of a tag of the group, or of a parameter of the feature.
    Entry(String),
    /// Keys and values of all of them.
    AllEntries,
}

const GROUP_PROPERTIES: &[(&str, Kind, OfGroup)] = &[
    ("FeatureGroupName", Kind::Text, |group| Some(Value::text(&group.name))),
    ("RecordIdentifierFeatureName", Kind::Text, |group| Some(Value::text(&group.record_identifier_feature().name))),
    ("EventTimeFeatureName", Kind::Text, |group| Some(Value::text(&group.event_time_feature().name))),
    ("CreationTime", Kind::Time, |group| Some(Value::time(group.created_at_ms))),
    ("LastModifiedTime", Kind::Time, |group| Some(Value::time(group.updated_at_ms))),
    // Others are never seen: a group that is being made or deleted is not in the catalog.
    ("FeatureGroupStatus", Kind::Text, |_| Some(Value::text("Created"))),
    ("OfflineStoreStatus.Status", Kind::Text, |group| group.offline.as_ref().map(|_| Value::text("Active"))),
    ("LastUpdateStatus.Status", Kind::Text, |group| group.last_update_ms().map(|_| Value::text("Successful"))),
    ("Description", Kind::Text, |group| group.description.as_deref().map(Value::text)),
    ("RoleArn", Kind::Text, |group| group.role_arn.as_deref().map(Value::text)),
    ("OnlineStoreConfig.EnableOnlineStore", Kind::Text, |group| Some(Value::flag(group.online.is_some()))),
    ("OnlineStoreConfig.StorageType", Kind::Text, |group| {
        group.online.as_ref()?.storage_type.as_deref().map(Value::text)
    }),
    ("OnlineStoreConfig.SecurityConfig.KmsKeyId", Kind::Text, |group| {
        group.online.as_ref()?.kms_key_id.as_deref().map(Value::text)
    }),
    ("OnlineStoreConfig.TtlDuration.Unit", Kind::Text, |group| {
        Some(Value::text(unit_name(group.online.as_ref()?.ttl?.unit)))
    }),
    ("OnlineStoreConfig.TtlDuration.Value", Kind::Number, |group| {
        Some(Value::Number(i64::from(group.online.as_ref()?.ttl?.value)))
    }),
    ("OfflineStoreConfig.S3StorageConfig.S3Uri", Kind::Text, |group| {
        Some(Value::text(&group.offline.as_ref()?.s3_uri))
    }),
    ("OfflineStoreConfig.S3StorageConfig.ResolvedOutputS3Uri", Kind::Text, |group| {
        Some(Value::text(&group.offline.as_ref()?.resolved_uri))
    }),
    ("OfflineStoreConfig.S3StorageConfig.KmsKeyId", Kind::Text, |group| {
        group.offline.as_ref()?.kms_key_id.as_deref().map(Value::text)
    }),
    ("OfflineStoreConfig.DisableGlueTableCreation", Kind::Text, |group| {
        Some(Value::flag(group.offline.as_ref()?.disable_glue_table_creation))
    }),
    ("OfflineStoreConfig.DataCatalogConfig.TableName", Kind::Text, |group| {
        Some(Value::text(&group.offline.as_ref()?.data_catalog.as_ref()?.table))
    }),
    ("OfflineStoreConfig.DataCatalogConfig.Catalog", Kind::Text, |group| {
        Some(Value::text(&group.offline.as_ref()?.data_catalog.as_ref()?.catalog))
    }),
    ("OfflineStoreConfig.DataCatalogConfig.Database", Kind::Text, |group| {
        Some(Value::text(&group.offline.as_ref()?.data_catalog.as_ref()?.database))
    }),
    ("OfflineStoreConfig.TableFormat", Kind::Text, |group| {
        group.offline.as_ref()?.table_format.as_deref().map(Value::text)
    }),
];

const FEATURE_PROPERTIES: &[(&str, Kind, OfFeature)] = &[
    ("FeatureName", Kind::Text, |feature| Some(Value::text(&feature.name))),
    ("FeatureType", Kind::Text, |feature| Some(Value::text(type_name(feature.kind)))),
    ("CreationTime", Kind::Time, |feature| Some(Value::time(feature.created_at_ms))),
    ("LastModifiedTime", Kind::Time, |feature| Some(Value::time(feature.updated_at_ms))),
    ("Description", Kind::Text, |feature| feature.description.as_deref().map(Value::text)),
];

/// Of each definition in a group's `FeatureDefinitions`.
const DEFINITION_PROPERTIES: &[(&str, OfFeature)] = &[
    ("FeatureName", |feature| Some(Value::text(&feature.name))),
    ("FeatureType", |feature| Some(Value::text(type_name(feature.kind)))),
    ("CollectionType", |feature| feature.collection.map(|kind| Value::text(collection_name(kind)))),
];

pub(super) const DEFINITIONS: &str = "FeatureDefinitions";

/// How the entries of a candidate are called: one of them, all of them.
fn entries_names(resource: Resource) -> (&'static str, &'static str) {
    match resource {
        Resource::FeatureGroup => ("Tags", "AllTags"),
        Resource::Feature => ("Parameters", "AllParameters"),
    }
}

impl Property {
    /// The property of `resource` called `name`.
    ///
    /// # Errors
    /// `Invalid` when there is none.
    pub(super) fn named(resource: Resource, name: &str) -> Result<Self, Error> {
        let (one, all) = entries_names(resource);
        let key = name.strip_prefix(one).and_then(|rest| rest.strip_prefix('.')).filter(|key| !key.is_empty());
        if let Some(key) = key {
            return Ok(Self::Entry(key.to_owned()));
        }
        if name == all {
            return Ok(Self::AllEntries);
        }
        if name == "FeatureGroupArn" {
            return Ok(Self::Arn);
        }
        let found = match resource {
            Resource::FeatureGroup => {
                let definition = name.strip_prefix(DEFINITIONS).and_then(|rest| rest.strip_prefix('.'));
                let definition = definition.and_then(of_definition).map(Self::AnyDefinition);
                definition.or_else(|| of_group(name))
            }
            Resource::Feature => {
                let of_feature = FEATURE_PROPERTIES.iter().find(|(known, ..)| *known == name);
                let of_feature = of_feature.map(|(_, kind, read)| Self::Feature(*kind, *read));
                of_feature.or_else(|| (name == "FeatureGroupName").then(|| of_group(name)).flatten())
            }
        };
        found.ok_or_else(|| Error::invalid(format!("unknown property {name:?}")))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Group(kind, _) | Self::Feature(kind, _) => *kind,
            Self::Arn | Self::AnyDefinition(_) | Self::Entry(_) | Self::AllEntries => Kind::Text,
        }
    }

    /// Whether it may have more than one value.
    pub(super) fn is_many(&self) -> bool {
        matches!(self, Self::AnyDefinition(_) | Self::AllEntries)
    }

    /// The candidate's values; none where it lacks the property.
    pub(super) fn values<'a>(&self, candidate: Candidate<'a>) -> Vec<Value<'a>> {
        let one = match self {
            Self::Arn => Some(Value::Text(format!("{}{}", candidate.arn_prefix, candidate.group.name).into())),
            Self::Group(_, read) => read(candidate.group),
            Self::Feature(_, read) => candidate.feature.and_then(read),
            Self::Entry(key) => entries(candidate).get(key).map(|value| Value::text(value)),
            Self::AnyDefinition(read) => {
                return candidate.group.schema.features().iter().filter_map(read).collect();
            }
            Self::AllEntries => {
                let texts = entries(candidate).iter().flat_map(|(key, value)| [key, value]);
                return texts.map(|text| Value::text(text)).collect();
            }
        };
        one.into_iter().collect()
    }
}

fn of_group(name: &str) -> Option<Property> {
    let (_, kind, read) = GROUP_PROPERTIES.iter().find(|(known, ..)| *known == name)?;
    Some(Property::Group(*kind, *read))
}

/// A member of a feature definition.
pub(super) fn of_definition(name: &str) -> Option<OfFeature> {
    DEFINITION_PROPERTIES.iter().find(|(known, _)| *known == name).map(|(_, read)| *read)
}

/// The group's tags or the feature's parameters.
pub(super) fn entries(candidate: Candidate<'_>) -> &BTreeMap<String, String> {
    match candidate.feature {
        None => &candidate.group.tags,
        Some(feature) => &feature.parameters,
    }
}

/// How the list of entries of a candidate is called.
pub(super) fn entries_name(resource: Resource) -> &'static str {
    entries_names(resource).0
}

fn type_name(kind: FeatureType) -> &'static str {
    match kind {
        FeatureType::String => "String",
        FeatureType::Integral => "Integral",
        FeatureType::Fractional => "Fractional",
    }
}

fn collection_name(kind: CollectionType) -> &'static str {
    match kind {
        CollectionType::List => "List",
        CollectionType::Set => "Set",
        CollectionType::Vector { .. } => "Vector",
    }
}

fn unit_name(unit: TtlUnit) -> &'static str {
    match unit {
        TtlUnit::Seconds => "Seconds",
        TtlUnit::Minutes => "Minutes",
        TtlUnit::Hours => "Hours",
        TtlUnit::Days => "Days",
        TtlUnit::Weeks => "Weeks",
    }
}
