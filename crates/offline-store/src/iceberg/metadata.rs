//! The table metadata: a JSON document of Iceberg's format v2 which says what the table is and which snapshots it has.

use std::collections::BTreeMap;

use granary_types::FeatureGroup;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::columns::{DAY_LEN, event_time_feature_id, last_column_id, name_mapping, partition_name, schema_json};
use super::manifest::{BY_DAY, OF_NO_DAY};
use crate::table::GROUP_PROPERTY;

/// The number of the partition field; Iceberg counts them from 1000.
pub(crate) const PARTITION_ID: i32 = 1_000;
/// The version of the Delta table that the metadata shows.
const DELTA_VERSION: &str = "granary.delta-version";
/// The CRC-32 of that version's commit, by which a log that was replaced is told.
const DELTA_COMMIT: &str = "granary.delta-commit-crc32";
/// How readers find columns in files without numbers.
const NAME_MAPPING: &str = "schema.name-mapping.default";
/// Granary's own properties begin so.
const GRANARYS: &str = "granary.";
const MAIN: &str = "main";

/// Whether a property is one that Granary says and nobody else.
pub(crate) fn is_granarys(property: &str) -> bool {
    property.starts_with(GRANARYS) || property == NAME_MAPPING
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Metadata {
    format_version: u8,
    table_uuid: String,
    location: String,
    last_sequence_number: i64,
    pub(crate) last_updated_ms: i64,
    last_column_id: i32,
    current_schema_id: u32,
    schemas: Vec<Value>,
    default_spec_id: i32,
    partition_specs: Vec<Value>,
    last_partition_id: i32,
    default_sort_order_id: i32,
    sort_orders: Vec<Value>,
    properties: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current_snapshot_id: Option<i64>,
    refs: BTreeMap<String, Value>,
    /// The oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    #[serde(default)]
    snapshot_log: Vec<SnapshotTime>,
    #[serde(default)]
    metadata_log: Vec<MetadataTime>,
    /// Granary writes none; another program's document may have some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    statistics: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    partition_statistics: Vec<Value>,
}

/// What the table held once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Snapshot {
    pub(crate) snapshot_id: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_snapshot_id: Option<i64>,
    sequence_number: i64,
    timestamp_ms: i64,
    pub(crate) manifest_list: String,
    pub(crate) summary: BTreeMap<String, String>,
    schema_id: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotTime {
    timestamp_ms: i64,
    snapshot_id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MetadataTime {
    timestamp_ms: i64,
    metadata_file: String,
}

/// A version of the Delta table's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) version: u64,
    /// CRC-32 of its commit's bytes.
    pub(crate) commit: u32,
}

/// What a new snapshot holds more, or instead.
#[derive(Debug, Clone)]
pub(crate) struct NewSnapshot {
    pub(crate) id: i64,
    pub(crate) manifest_list: String,
    /// Files, rows and bytes that it brings.
    pub(crate) added: Totals,
    /// All that it holds.
    pub(crate) total: Totals,
    /// Files that were there are not there any more.
    pub(crate) removes: bool,
}

/// Sums over files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) files: i64,
    pub(crate) rows: i64,
    pub(crate) bytes: i64,
}

impl Totals {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { files: self.files + other.files, rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }
}

impl Metadata {
    /// Of a table that has no snapshot yet. `uuid` is the Delta table's, `location` the directory above its files.
    pub(crate) fn new(group: &FeatureGroup, uuid: &str, location: String) -> Self {
        Self {
            format_version: 2,
            table_uuid: uuid.to_owned(),
            location,
            last_sequence_number: 0,
            last_updated_ms: 0,
            last_column_id: 0,
            current_schema_id: 0,
            schemas: Vec::new(),
            default_spec_id: BY_DAY,
            partition_specs: vec![partition_spec(group, BY_DAY)],
            last_partition_id: PARTITION_ID,
            default_sort_order_id: 0,
            sort_orders: vec![json!({ "order-id": 0, "fields": [] })],
            properties: BTreeMap::new(),
            current_snapshot_id: None,
            refs: BTreeMap::new(),
            snapshots: Vec::new(),
            snapshot_log: Vec::new(),
            metadata_log: Vec::new(),
            statistics: Vec::new(),
            partition_statistics: Vec::new(),
        }
    }

    /// The Delta version that it shows; `None` in a document that is not Granary's.
    pub(crate) fn shown(&self) -> Option<Shown> {
        let version = self.properties.get(DELTA_VERSION)?.parse().ok()?;
        Some(Shown { version, commit: self.properties.get(DELTA_COMMIT)?.parse().ok()? })
    }

    /// Whether it has the columns of `group`, or newer ones.
    pub(crate) fn has_columns_of(&self, group: &FeatureGroup) -> bool {
        !self.schemas.is_empty() && self.current_schema_id >= group.schema.version.0
    }

    pub(crate) fn current_snapshot(&self) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| Some(snapshot.snapshot_id) == self.current_snapshot_id)
    }

    /// What the newest snapshot holds.
    pub(crate) fn total(&self) -> Totals {
        let number = |key: &str| {
            let value = self.current_snapshot().and_then(|snapshot| snapshot.summary.get(key)?.parse().ok());
            value.unwrap_or(0)
        };
        Totals { files: number("total-data-files"), rows: number("total-records"), bytes: number("total-files-size") }
    }

    /// Says that this document follows the one at `uri`. Of its like the newest `kept` are remembered.
    pub(crate) fn follow(&mut self, uri: String, kept: usize) {
        self.metadata_log.push(MetadataTime { timestamp_ms: self.last_updated_ms, metadata_file: uri });
        keep_last(&mut self.metadata_log, kept);
    }

    /// The properties that users set.
    pub(crate) fn users_properties(&self) -> BTreeMap<String, String> {
        let users = self.properties.iter().filter(|(key, _)| !is_granarys(key));
        users.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The first member in which `other` says something else about the table than this document does, but for the properties
    /// that users set and for when it was written and after which one.
    pub(crate) fn differs_in(&self, other: &Self) -> Option<String> {
        let (this, other) = (self.said(), other.said());
        this.into_iter().find(|(member, value)| other.get(member) != Some(value)).map(|(member, _)| member)
    }

    /// What the document says, without what each program spells in its own way: of what has a number only that.
    fn said(&self) -> Map<String, Value> {
        let ids = |items: &[Value], id: &str| -> Value { items.iter().map(|item| item[id].clone()).collect() };
        let granarys: BTreeMap<_, _> = self.properties.iter().filter(|(key, _)| is_granarys(key)).collect();
        let refs: BTreeMap<_, _> = self.refs.iter().map(|(name, to)| (name, &to["snapshot-id"])).collect();
        let snapshots: Vec<_> = self.snapshots.iter().map(|of| (of.snapshot_id, &of.manifest_list)).collect();
        let said = json!({
            "format-version": self.format_version,
            "table-uuid": self.table_uuid,
            "location": self.location,
            "last-sequence-number": self.last_sequence_number,
            "current-schema-id": self.current_schema_id,
            "schemas": ids(&self.schemas, "schema-id"),
            "default-spec-id": self.default_spec_id,
            "partition-specs": ids(&self.partition_specs, "spec-id"),
            "default-sort-order-id": self.default_sort_order_id,
            "sort-orders": ids(&self.sort_orders, "order-id"),
            "current-snapshot-id": self.current_snapshot_id,
            "snapshots": snapshots,
            "refs": refs,
            "properties": granarys,
            "statistics": self.statistics,
            "partition-statistics": self.partition_statistics,
        });
        match said {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }

    /// Says which Delta version is shown, since when, with which columns, and which properties users set. Time and columns
    /// never go back.
    pub(crate) fn show(
        &mut self,
        group: &FeatureGroup,
        shown: Shown,
        committed_at_ms: i64,
        users_properties: BTreeMap<String, String>,
    ) {
        self.last_updated_ms = self.last_updated_ms.max(committed_at_ms);
        self.properties.retain(|key, _| is_granarys(key));
        self.properties.extend(users_properties);
        self.properties.insert(DELTA_VERSION.to_owned(), shown.version.to_string());
        self.properties.insert(DELTA_COMMIT.to_owned(), shown.commit.to_string());
        if self.has_columns_of(group) {
            return;
        }
        self.properties.insert(GROUP_PROPERTY.to_owned(), group.id.to_string());
        self.properties.insert(NAME_MAPPING.to_owned(), name_mapping(group));
        self.schemas.push(schema_json(group));
        self.current_schema_id = group.schema.version.0;
        self.last_column_id = self.last_column_id.max(last_column_id(group));
    }

    /// Makes `new` the newest snapshot and forgets all but the newest `kept`, with the schemas that only they had.
    pub(crate) fn add_snapshot(&mut self, group: &FeatureGroup, new: NewSnapshot, uses_no_day: bool, kept: usize) {
        let (id, timestamp_ms) = (new.id, self.last_updated_ms);
        let mut summary = BTreeMap::from([
            ("operation".to_owned(), if new.removes { "overwrite" } else { "append" }.to_owned()),
            (DELTA_VERSION.to_owned(), self.properties[DELTA_VERSION].clone()),
        ]);
        summary.extend(
            [
                ("added-data-files", new.added.files),
                ("added-records", new.added.rows),
                ("added-files-size", new.added.bytes),
                ("total-data-files", new.total.files),
                ("total-records", new.total.rows),
                ("total-files-size", new.total.bytes),
                ("total-delete-files", 0),
                ("total-position-deletes", 0),
                ("total-equality-deletes", 0),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_string())),
        );
        self.snapshots.push(Snapshot {
            snapshot_id: id,
            parent_snapshot_id: self.current_snapshot_id,
            sequence_number: id,
            timestamp_ms,
            manifest_list: new.manifest_list,
            summary,
            schema_id: self.current_schema_id,
        });
        self.snapshot_log.push(SnapshotTime { timestamp_ms, snapshot_id: id });
        self.current_snapshot_id = Some(id);
        self.last_sequence_number = id;
        self.refs.insert(MAIN.to_owned(), json!({ "snapshot-id": id, "type": "branch" }));
        if uses_no_day && self.partition_specs.len() == 1 {
            self.partition_specs.push(partition_spec(group, OF_NO_DAY));
        }
        self.forget(kept);
    }

    fn forget(&mut self, kept: usize) {
        keep_last(&mut self.snapshots, kept.max(1));
        keep_last(&mut self.snapshot_log, kept.max(1));
        let (snapshots, current) = (&self.snapshots, self.current_schema_id);
        self.schemas.retain(|schema| {
            let id = schema["schema-id"].as_u64();
            let used = |schema: u32| id == Some(u64::from(schema));
            used(current) || snapshots.iter().any(|snapshot| used(snapshot.schema_id))
        });
    }
}

fn keep_last<T>(items: &mut Vec<T>, kept: usize) {
    items.drain(..items.len().saturating_sub(kept));
}

/// How files are divided: by day, as the text of their event times begins, or not.
pub(crate) fn partition_spec(group: &FeatureGroup, spec: i32) -> Value {
    let fields = match spec {
        BY_DAY => json!([{
            "source-id": event_time_feature_id(group),
            "field-id": PARTITION_ID,
            "name": partition_name(group),
            "transform": format!("truncate[{DAY_LEN}]"),
        }]),
        _ => json!([]),
    };
    json!({ "spec-id": spec, "fields": fields })
}

/// As manifests say it.
pub(crate) fn partition_spec_fields(spec: &Value) -> &Value {
    &spec["fields"]
}
