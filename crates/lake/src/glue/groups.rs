//! Feature groups as tables.

use std::sync::Arc;

use granary_catalog::CatalogView;
use granary_types::{Feature, FeatureGroup, FeatureType, OfflineConfig};
use serde_json::{Map, Value, json};

use super::Table;
use crate::athena::{PARQUET_INPUT, PARQUET_OUTPUT, PARQUET_SERDE};

fn offline(group: &FeatureGroup) -> Option<&OfflineConfig> {
    group.offline.as_ref().filter(|offline| !offline.disable_glue_table_creation)
}

/// Database and table of a group's history, lower-cased; none where its creation said that there should be no table.
pub(super) fn name(group: &FeatureGroup) -> Option<(String, String)> {
    let entry = offline(group)?.data_catalog.as_ref()?;
    Some((entry.database.to_lowercase(), entry.table.to_lowercase()))
}

pub(super) fn find(catalog: &CatalogView, database: &str, table: &str) -> Option<Arc<FeatureGroup>> {
    let is = |group: &&Arc<FeatureGroup>| name(group).is_some_and(|(of, named)| of == database && named == table);
    catalog.groups().find(is).cloned()
}

/// The version of a group's table: it changes with the columns.
pub(super) fn version(group: &FeatureGroup) -> u64 {
    u64::from(group.schema.version.0)
}

/// A group's table, as Glue has SageMaker's. With Iceberg metadata its location is the parent of the data (contract 4.1).
pub(super) fn table(group: &FeatureGroup, metadata_location: Option<String>) -> Table {
    let resolved = group.offline.as_ref().map(|offline| offline.resolved_uri.as_str());
    let mut parameters =
        json!({ "EXTERNAL": "TRUE", "classification": "parquet", "granary.feature_group": group.name });
    let location = match metadata_location {
        Some(metadata) => {
            parameters["table_type"] = "ICEBERG".into();
            parameters["metadata_location"] = metadata.into();
            resolved.map(|uri| uri.trim_end_matches('/').trim_end_matches("/data"))
        }
        None => resolved,
    };
    let features = group.schema.features().iter().map(|feature| (feature.name.to_lowercase(), hive(feature)));
    let added = [("write_time", "timestamp"), ("api_invocation_time", "timestamp"), ("is_deleted", "boolean")];
    let columns = features.chain(added.map(|(name, kind)| (name.to_owned(), kind)));
    let columns: Vec<Value> = columns.map(|(name, kind)| json!({ "Name": name, "Type": kind })).collect();
    let input = json!({
        "Name": name(group).map(|(_, table)| table),
        "Description": group.description,
        "Owner": "owner",
        "Retention": 0,
        "StorageDescriptor": {
            "Columns": columns,
            "Location": location,
            "InputFormat": PARQUET_INPUT,
            "OutputFormat": PARQUET_OUTPUT,
            "Compressed": false,
            "NumberOfBuckets": 0,
            "SerdeInfo": { "SerializationLibrary": PARQUET_SERDE, "Parameters": { "serialization.format": "1" } },
            "StoredAsSubDirectories": false,
        },
        "PartitionKeys": [],
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
    });
    let input = match input {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    Table { input, created_ms: group.created_at_ms, updated_ms: group.updated_at_ms, version: version(group) }
}

fn hive(feature: &Feature) -> &'static str {
    match (feature.collection, feature.kind) {
        (Some(_), _) => "array<string>",
        (None, FeatureType::String) => "string",
        (None, FeatureType::Integral) => "bigint",
        (None, FeatureType::Fractional) => "double",
    }
}
