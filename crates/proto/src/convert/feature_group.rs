//! Feature groups.

use granary_types::feature_group::DataCatalog;
use granary_types::{
    CollectionType, Error, Feature, FeatureGroup, FeatureGroupId, FeatureGroupStatus, FeatureOrdinal, FeatureType,
    Granularity, OfflineConfig, OnlineConfig, Schema, SchemaVersion, ThroughputConfig, Ttl, TtlUnit,
};

use crate::v1 as wire;

/// A time to live as a message.
pub fn ttl_to_wire(ttl: Ttl) -> wire::Ttl {
    let unit = match ttl.unit {
        TtlUnit::Seconds => wire::TtlUnit::Seconds,
        TtlUnit::Minutes => wire::TtlUnit::Minutes,
        TtlUnit::Hours => wire::TtlUnit::Hours,
        TtlUnit::Days => wire::TtlUnit::Days,
        TtlUnit::Weeks => wire::TtlUnit::Weeks,
    };
    wire::Ttl { unit: unit.into(), value: ttl.value }
}

/// A time to live from a message.
///
/// # Errors
/// `Invalid` for an unknown unit or zero.
pub fn ttl_from_wire(ttl: &wire::Ttl) -> Result<Ttl, Error> {
    let unit = match wire::TtlUnit::try_from(ttl.unit) {
        Ok(wire::TtlUnit::Seconds) => TtlUnit::Seconds,
        Ok(wire::TtlUnit::Minutes) => TtlUnit::Minutes,
        Ok(wire::TtlUnit::Hours) => TtlUnit::Hours,
        Ok(wire::TtlUnit::Days) => TtlUnit::Days,
        Ok(wire::TtlUnit::Weeks) => TtlUnit::Weeks,
        Ok(wire::TtlUnit::Unspecified) | Err(_) => return Err(Error::invalid("a time to live needs a unit")),
    };
    Ttl::new(unit, ttl.value)
}

/// Feature definitions whose ordinals begin at `first`.
///
/// # Errors
/// `Invalid`, naming the feature.
pub fn features_from_wire(first: usize, features: &[wire::Feature]) -> Result<Vec<Feature>, Error> {
    features.iter().enumerate().map(|(index, feature)| feature_from_wire(first + index, feature)).collect()
}

/// A feature group as a message.
pub fn feature_group_to_wire(group: &FeatureGroup) -> wire::FeatureGroup {
    wire::FeatureGroup {
        id: group.id.0,
        name: group.name.clone(),
        features: group.schema.features().iter().map(feature_to_wire).collect(),
        record_identifier_feature: group.record_identifier_feature().name.clone(),
        event_time_feature: group.event_time_feature().name.clone(),
        online: group.online.as_ref().map(online_to_wire),
        offline: group.offline.as_ref().map(offline_to_wire),
        throughput: group.throughput.as_ref().map(|throughput| wire::Throughput {
            mode: throughput.mode.clone(),
            read_units: throughput.read_units,
            write_units: throughput.write_units,
        }),
        role_arn: group.role_arn.clone().unwrap_or_default(),
        description: group.description.clone().unwrap_or_default(),
        tags: group.tags.clone().into_iter().collect(),
        created_at_ms: group.created_at_ms,
        updated_at_ms: group.updated_at_ms,
        schema_version: group.schema.version.0,
        status: match group.status {
            FeatureGroupStatus::Created => wire::FeatureGroupStatus::Created,
            FeatureGroupStatus::Deleted => wire::FeatureGroupStatus::Deleted,
        }
        .into(),
    }
}

/// A feature group from a message.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn feature_group_from_wire(group: &wire::FeatureGroup) -> Result<FeatureGroup, Error> {
    let mut features = features_from_wire(0, &group.features)?;
    // Features of catalogs from before they had times of their own are as old as their group.
    for feature in &mut features {
        if feature.created_at_ms == 0 {
            feature.created_at_ms = group.created_at_ms;
        }
        if feature.updated_at_ms == 0 {
            feature.updated_at_ms = feature.created_at_ms;
        }
    }
    let schema = Schema::new(SchemaVersion(group.schema_version.max(1)), features)?;
    let ordinal_of = |role: &str, name: &str| {
        schema
            .by_name(name)
            .map(|feature| feature.ordinal)
            .ok_or_else(|| Error::invalid(format!("{role} feature {name:?} is not among the feature definitions")))
    };
    let record_identifier = ordinal_of("record identifier", &group.record_identifier_feature)?;
    let event_time = ordinal_of("event time", &group.event_time_feature)?;
    let group = FeatureGroup {
        id: FeatureGroupId(group.id),
        name: group.name.clone(),
        record_identifier,
        event_time,
        online: group.online.as_ref().map(online_from_wire).transpose()?,
        offline: group.offline.as_ref().map(offline_from_wire),
        throughput: group.throughput.as_ref().map(|throughput| ThroughputConfig {
            mode: throughput.mode.clone(),
            read_units: throughput.read_units,
            write_units: throughput.write_units,
        }),
        role_arn: non_empty(&group.role_arn),
        description: non_empty(&group.description),
        tags: group.tags.clone().into_iter().collect(),
        created_at_ms: group.created_at_ms,
        updated_at_ms: group.updated_at_ms,
        status: match group.status() {
            wire::FeatureGroupStatus::Deleted => FeatureGroupStatus::Deleted,
            _ => FeatureGroupStatus::Created,
        },
        schema,
    };
    group.check()?;
    Ok(group)
}

fn feature_from_wire(index: usize, feature: &wire::Feature) -> Result<Feature, Error> {
    let kind = match feature.r#type() {
        wire::FeatureType::String => FeatureType::String,
        wire::FeatureType::Integral => FeatureType::Integral,
        wire::FeatureType::Fractional => FeatureType::Fractional,
        wire::FeatureType::Unspecified => {
            return Err(Error::invalid(format!("feature {:?} has no type", feature.name)));
        }
    };
    let collection = match feature.collection() {
        wire::CollectionType::Unspecified => None,
        wire::CollectionType::List => Some(CollectionType::List),
        wire::CollectionType::Set => Some(CollectionType::Set),
        wire::CollectionType::Vector => match (feature.vector_dimension, kind) {
            (1..=8192, FeatureType::Fractional) => Some(CollectionType::Vector { dimension: feature.vector_dimension }),
            _ => {
                return Err(Error::invalid(format!(
                    "feature {:?}: a Vector is Fractional and has a dimension of 1 to 8192",
                    feature.name
                )));
            }
        },
    };
    let ordinal = u16::try_from(index).map(FeatureOrdinal).map_err(|_| Error::invalid("too many features"))?;
    Ok(Feature {
        ordinal,
        name: feature.name.clone(),
        kind,
        collection,
        description: non_empty(&feature.description),
        parameters: feature.parameters.clone().into_iter().collect(),
        created_at_ms: feature.created_at_ms,
        updated_at_ms: feature.updated_at_ms,
    })
}

fn feature_to_wire(feature: &Feature) -> wire::Feature {
    let (collection, vector_dimension) = match feature.collection {
        None => (wire::CollectionType::Unspecified, 0),
        Some(CollectionType::List) => (wire::CollectionType::List, 0),
        Some(CollectionType::Set) => (wire::CollectionType::Set, 0),
        Some(CollectionType::Vector { dimension }) => (wire::CollectionType::Vector, dimension),
    };
    wire::Feature {
        name: feature.name.clone(),
        r#type: match feature.kind {
            FeatureType::String => wire::FeatureType::String,
            FeatureType::Integral => wire::FeatureType::Integral,
            FeatureType::Fractional => wire::FeatureType::Fractional,
        }
        .into(),
        collection: collection.into(),
        vector_dimension,
        description: feature.description.clone().unwrap_or_default(),
        parameters: feature.parameters.clone().into_iter().collect(),
        created_at_ms: feature.created_at_ms,
        updated_at_ms: feature.updated_at_ms,
    }
}

fn online_to_wire(online: &OnlineConfig) -> wire::OnlineConfig {
    wire::OnlineConfig {
        ttl: online.ttl.map(ttl_to_wire),
        storage_type: online.storage_type.clone().unwrap_or_default(),
        kms_key_id: online.kms_key_id.clone().unwrap_or_default(),
    }
}

fn online_from_wire(online: &wire::OnlineConfig) -> Result<OnlineConfig, Error> {
    Ok(OnlineConfig {
        ttl: online.ttl.as_ref().map(ttl_from_wire).transpose()?,
        storage_type: non_empty(&online.storage_type),
        kms_key_id: non_empty(&online.kms_key_id),
    })
}

fn offline_to_wire(offline: &OfflineConfig) -> wire::OfflineConfig {
    wire::OfflineConfig {
        s3_uri: offline.s3_uri.clone(),
        granularity: match offline.granularity {
            Granularity::Hour => wire::Granularity::Hour,
            Granularity::Day => wire::Granularity::Day,
        }
        .into(),
        kms_key_id: offline.kms_key_id.clone().unwrap_or_default(),
        disable_glue_table_creation: offline.disable_glue_table_creation,
        data_catalog: offline.data_catalog.as_ref().map(|catalog| wire::DataCatalog {
            catalog: catalog.catalog.clone(),
            database: catalog.database.clone(),
            table: catalog.table.clone(),
        }),
        table_format: offline.table_format.clone().unwrap_or_default(),
        resolved_uri: offline.resolved_uri.clone(),
    }
}

fn offline_from_wire(offline: &wire::OfflineConfig) -> OfflineConfig {
    OfflineConfig {
        s3_uri: offline.s3_uri.clone(),
        resolved_uri: offline.resolved_uri.clone(),
        granularity: match offline.granularity() {
            wire::Granularity::Day => Granularity::Day,
            wire::Granularity::Hour | wire::Granularity::Unspecified => Granularity::Hour,
        },
        kms_key_id: non_empty(&offline.kms_key_id),
        disable_glue_table_creation: offline.disable_glue_table_creation,
        data_catalog: offline.data_catalog.as_ref().map(|catalog| DataCatalog {
            catalog: catalog.catalog.clone(),
            database: catalog.database.clone(),
            table: catalog.table.clone(),
        }),
        table_format: non_empty(&offline.table_format),
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
