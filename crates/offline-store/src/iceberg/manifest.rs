//! Manifests, which name data files, and manifest lists, which name manifests: Avro files of Iceberg's format v2.
//!
//! Optional members that would say nothing are left out of the Avro schemas; readers go by the members' numbers.

use std::collections::HashMap;

use apache_avro::types::Value as Avro;
use apache_avro::{Codec, Reader, Schema, Writer};
use granary_types::FeatureGroup;
use serde_json::{Value, json};

use super::columns::{event_time_id, partition_name, schema_json};
use super::metadata::{partition_spec, partition_spec_fields};
use crate::Error;

/// The spec of files that hold rows of one day each.
pub(crate) const BY_DAY: i32 = 0;
/// The spec of files of which no day is known: files of other writers.
pub(crate) const OF_NO_DAY: i32 = 1;

/// A Parquet file as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFile {
    /// Where it is.
    pub(crate) uri: String,
    /// The first ten characters of all its event times, where they are known.
    pub(crate) day: Option<String>,
    pub(crate) rows: i64,
    /// In bytes.
    pub(crate) size: i64,
    /// What no event time in it is below and above, microseconds since the Unix epoch, where that is certain.
    pub(crate) event_times: Option<(i64, i64)>,
}

impl DataFile {
    pub(crate) fn spec(&self) -> i32 {
        if self.day.is_some() { BY_DAY } else { OF_NO_DAY }
    }
}

/// A file in a manifest, and the snapshot that brought it, whose number is also its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) snapshot: i64,
    pub(crate) file: DataFile,
}

/// A manifest as a manifest list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) uri: String,
    /// In bytes.
    pub(crate) size: i64,
    pub(crate) spec: i32,
    /// The snapshot it was written for, and its sequence number.
    pub(crate) snapshot: i64,
    /// The first snapshot that brought a file of it.
    pub(crate) first_snapshot: i64,
    /// Files and rows that the snapshot brought.
    pub(crate) added: (i64, i64),
    /// Files and rows that were there before.
    pub(crate) existing: (i64, i64),
    /// The first and the last day of its files.
    pub(crate) days: Option<(String, String)>,
}

impl Manifest {
    pub(crate) fn files(&self) -> i64 {
        self.added.0 + self.existing.0
    }

    /// What the list says of a manifest with these entries, of one spec, written for `snapshot`.
    pub(crate) fn of(entries: &[Entry], uri: String, size: usize, snapshot: i64) -> Self {
        let days = || entries.iter().filter_map(|entry| entry.file.day.clone());
        let count = |new: bool| {
            let counted = entries.iter().filter(|entry| (entry.snapshot == snapshot) == new);
            counted.fold((0, 0), |(files, rows), entry| (files + 1, rows + entry.file.rows))
        };
        Self {
            uri,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            spec: entries.first().map_or(BY_DAY, |entry| entry.file.spec()),
            snapshot,
            first_snapshot: entries.iter().map(|entry| entry.snapshot).min().unwrap_or(snapshot),
            added: count(true),
            existing: count(false),
            days: days().min().zip(days().max()),
        }
    }
}

/// A manifest of `entries`, which are of one spec, written for `snapshot`.
///
/// # Errors
/// [`Error::Avro`].
pub(crate) fn encode_manifest(group: &FeatureGroup, entries: &[Entry], snapshot: i64) -> Result<Vec<u8>, Error> {
    let spec = entries.first().map_or(BY_DAY, |entry| entry.file.spec());
    let schema = avro_schema(&manifest_schema(group, spec))?;
    let mut writer = writer(&schema);
    for (key, value) in [
        ("schema", schema_json(group).to_string()),
        ("schema-id", group.schema.version.0.to_string()),
        ("partition-spec", partition_spec_fields(&partition_spec(group, spec)).to_string()),
        ("partition-spec-id", spec.to_string()),
        ("format-version", "2".to_owned()),
        ("content", "data".to_owned()),
    ] {
        writer.add_user_metadata(key.to_owned(), value).map_err(avro)?;
    }
    let (partition, event_time) = (avro_name(&partition_name(group)), event_time_id(group));
    for entry in entries {
        writer.append(entry_value(entry, snapshot, &partition, event_time)).map_err(avro)?;
    }
    writer.into_inner().map_err(avro)
}

/// What [`encode_manifest`] made.
///
/// # Errors
/// [`Error::Avro`], [`Error::Iceberg`] for what it did not make.
pub(crate) fn decode_manifest(group: &FeatureGroup, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let column = event_time_id(group);
    Reader::new(bytes).map_err(avro)?.map(|value| Members::of(value.map_err(avro)?)?.entry(column)).collect()
}

/// The manifests of a snapshot.
///
/// # Errors
/// [`Error::Avro`].
pub(crate) fn encode_list(manifests: &[Manifest], snapshot: i64, parent: Option<i64>) -> Result<Vec<u8>, Error> {
    let schema = avro_schema(&list_schema())?;
    let mut writer = writer(&schema);
    let parent = parent.map_or("null".to_owned(), |parent| parent.to_string());
    for (key, value) in [
        ("snapshot-id", snapshot.to_string()),
        ("parent-snapshot-id", parent),
        ("sequence-number", snapshot.to_string()),
        ("format-version", "2".to_owned()),
    ] {
        writer.add_user_metadata(key.to_owned(), value).map_err(avro)?;
    }
    for manifest in manifests {
        writer.append(manifest_value(manifest)).map_err(avro)?;
    }
    writer.into_inner().map_err(avro)
}

/// What [`encode_list`] made.
///
/// # Errors
/// [`Error::Avro`], [`Error::Iceberg`] for what it did not make.
pub(crate) fn decode_list(bytes: &[u8]) -> Result<Vec<Manifest>, Error> {
    Reader::new(bytes).map_err(avro)?.map(|value| Members::of(value.map_err(avro)?)?.manifest()).collect()
}

fn writer(schema: &Schema) -> Writer<'_, Vec<u8>> {
    Writer::with_codec(schema, Vec::new(), Codec::Deflate(Default::default()))
}

fn avro(error: apache_avro::Error) -> Error {
    Error::Avro(error)
}

fn avro_schema(schema: &Value) -> Result<Schema, Error> {
    Schema::parse(schema).map_err(avro)
}

/// A name as Avro allows it, in the way of Iceberg's Java library.
fn avro_name(name: &str) -> String {
    let mut made = String::with_capacity(name.len());
    for (index, letter) in name.chars().enumerate() {
        match letter {
            '0'..='9' if index == 0 => made.extend(['_', letter]),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => made.push(letter),
            other => made.push_str(&format!("_x{:X}", u32::from(other))),
        }
    }
    made
}

fn field(name: &str, id: i32, kind: &Value) -> Value {
    json!({ "name": name, "type": kind, "field-id": id })
}

fn optional(name: &str, id: i32, kind: &Value) -> Value {
    json!({ "name": name, "type": ["null", kind], "default": null, "field-id": id })
}

fn record(name: &str, fields: Vec<Value>) -> Value {
    json!({ "type": "record", "name": name, "fields": fields })
}

/// A map from column numbers, which Avro keeps as an array of pairs.
fn by_column(key: i32, value: i32, kind: &str) -> Value {
    let pair = record(
        &format!("k{key}_v{value}"),
        vec![field("key", key, &json!("int")), field("value", value, &json!(kind))],
    );
    json!({ "type": "array", "logicalType": "map", "items": pair })
}

fn manifest_schema(group: &FeatureGroup, spec: i32) -> Value {
    let (int, long, string) = (json!("int"), json!("long"), json!("string"));
    let partition = match spec {
        BY_DAY => vec![optional(&avro_name(&partition_name(group)), super::metadata::PARTITION_ID, &string)],
        _ => Vec::new(),
    };
    let file = vec![
        field("content", 134, &int),
        field("file_path", 100, &string),
        field("file_format", 101, &string),
        field("partition", 102, &record("r102", partition)),
        field("record_count", 103, &long),
        field("file_size_in_bytes", 104, &long),
        optional("null_value_counts", 110, &by_column(121, 122, "long")),
        optional("lower_bounds", 125, &by_column(126, 127, "bytes")),
        optional("upper_bounds", 128, &by_column(129, 130, "bytes")),
    ];
    record(
        "manifest_entry",
        vec![
            field("status", 0, &int),
            optional("snapshot_id", 1, &long),
            optional("sequence_number", 3, &long),
            optional("file_sequence_number", 4, &long),
            field("data_file", 2, &record("r2", file)),
        ],
    )
}

fn list_schema() -> Value {
    let (int, long) = (json!("int"), json!("long"));
    let range = vec![
        field("contains_null", 509, &json!("boolean")),
        optional("contains_nan", 518, &json!("boolean")),
        optional("lower_bound", 510, &json!("bytes")),
        optional("upper_bound", 511, &json!("bytes")),
    ];
    let ranges = json!({ "type": "array", "items": record("r508", range), "element-id": 508 });
    record(
        "manifest_file",
        vec![
            field("manifest_path", 500, &json!("string")),
            field("manifest_length", 501, &long),
            field("partition_spec_id", 502, &int),
            field("content", 517, &int),
            field("sequence_number", 515, &long),
            field("min_sequence_number", 516, &long),
            field("added_snapshot_id", 503, &long),
            field("added_files_count", 504, &int),
            field("existing_files_count", 505, &int),
            field("deleted_files_count", 506, &int),
            field("added_rows_count", 512, &long),
            field("existing_rows_count", 513, &long),
            field("deleted_rows_count", 514, &long),
            optional("partitions", 507, &ranges),
        ],
    )
}

fn some(value: Avro) -> Avro {
    Avro::Union(1, Box::new(value))
}

fn none() -> Avro {
    Avro::Union(0, Box::new(Avro::Null))
}

fn members<const N: usize>(members: [(&str, Avro); N]) -> Avro {
    Avro::Record(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn of_column(column: i32, value: Avro) -> Avro {
    some(Avro::Array(vec![members([("key", Avro::Int(column)), ("value", value)])]))
}

fn entry_value(entry: &Entry, snapshot: i64, partition: &str, event_time: i32) -> Avro {
    let file = &entry.file;
    let day = file.day.clone().map(|day| (partition.to_owned(), some(Avro::String(day))));
    // Iceberg keeps bounds in the bytes of the value: a timestamp's are microseconds, the lowest first.
    let bound = |micros: i64| of_column(event_time, Avro::Bytes(micros.to_le_bytes().into()));
    let nulls = file.event_times.map_or_else(none, |_| of_column(event_time, Avro::Long(0)));
    let file = members([
        ("content", Avro::Int(0)),
        ("file_path", Avro::String(file.uri.clone())),
        ("file_format", Avro::String("PARQUET".to_owned())),
        ("partition", Avro::Record(day.into_iter().collect())),
        ("record_count", Avro::Long(file.rows)),
        ("file_size_in_bytes", Avro::Long(file.size)),
        ("null_value_counts", nulls),
        ("lower_bounds", file.event_times.map_or_else(none, |(lower, _)| bound(lower))),
        ("upper_bounds", file.event_times.map_or_else(none, |(_, upper)| bound(upper))),
    ]);
    // 1 says that this snapshot brought the file, 0 that it was there.
    let status = i32::from(entry.snapshot == snapshot);
    members([
        ("status", Avro::Int(status)),
        ("snapshot_id", some(Avro::Long(entry.snapshot))),
        ("sequence_number", some(Avro::Long(entry.snapshot))),
        ("file_sequence_number", some(Avro::Long(entry.snapshot))),
        ("data_file", file),
    ])
}

fn manifest_value(manifest: &Manifest) -> Avro {
    let count = |files: i64| Avro::Int(i32::try_from(files).unwrap_or(i32::MAX));
    let range = manifest.days.as_ref().map(|(first, last)| {
        members([
            ("contains_null", Avro::Boolean(false)),
            ("contains_nan", some(Avro::Boolean(false))),
            ("lower_bound", some(Avro::Bytes(first.as_bytes().into()))),
            ("upper_bound", some(Avro::Bytes(last.as_bytes().into()))),
        ])
    });
    members([
        ("manifest_path", Avro::String(manifest.uri.clone())),
        ("manifest_length", Avro::Long(manifest.size)),
        ("partition_spec_id", Avro::Int(manifest.spec)),
        ("content", Avro::Int(0)),
        ("sequence_number", Avro::Long(manifest.snapshot)),
        ("min_sequence_number", Avro::Long(manifest.first_snapshot)),
        ("added_snapshot_id", Avro::Long(manifest.snapshot)),
        ("added_files_count", count(manifest.added.0)),
        ("existing_files_count", count(manifest.existing.0)),
        ("deleted_files_count", Avro::Int(0)),
        ("added_rows_count", Avro::Long(manifest.added.1)),
        ("existing_rows_count", Avro::Long(manifest.existing.1)),
        ("deleted_rows_count", Avro::Long(0)),
        ("partitions", some(Avro::Array(range.into_iter().collect()))),
    ])
}

/// The members of an Avro record, to be taken by name.
struct Members(HashMap<String, Avro>);

impl Members {
    fn of(value: Avro) -> Result<Self, Error> {
        match plain(value) {
            Avro::Record(members) => Ok(Self(members.into_iter().collect())),
            other => Err(wrong(format!("expected a record, got {other:?}"))),
        }
    }

    fn take(&mut self, name: &str) -> Result<Avro, Error> {
        self.0.remove(name).map(plain).ok_or_else(|| wrong(format!("member {name} is missing")))
    }

    fn number(&mut self, name: &str) -> Result<i64, Error> {
        match self.take(name)? {
            Avro::Int(number) => Ok(i64::from(number)),
            Avro::Long(number) => Ok(number),
            other => Err(wrong(format!("{name} should be a number, not {other:?}"))),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, Error> {
        match self.take(name)? {
            Avro::String(text) => Ok(text),
            other => Err(wrong(format!("{name} should be text, not {other:?}"))),
        }
    }

    fn day(&mut self, name: &str) -> Result<String, Error> {
        match self.take(name)? {
            Avro::Bytes(bytes) => String::from_utf8(bytes).map_err(|_| wrong(format!("{name} is no text"))),
            other => Err(wrong(format!("{name} should be bytes, not {other:?}"))),
        }
    }

    /// The bound of one column.
    fn bound(&mut self, name: &str, column: i32) -> Result<Option<i64>, Error> {
        let Avro::Array(pairs) = self.take(name)? else { return Ok(None) };
        for pair in pairs {
            let mut pair = Self::of(pair)?;
            if pair.number("key")? == i64::from(column) {
                let Avro::Bytes(bytes) = pair.take("value")? else { return Ok(None) };
                return Ok(bytes.try_into().ok().map(i64::from_le_bytes));
            }
        }
        Ok(None)
    }

    fn entry(mut self, event_time: i32) -> Result<Entry, Error> {
        let snapshot = self.number("snapshot_id")?;
        let mut file = Self::of(self.take("data_file")?)?;
        let partition = Self::of(file.take("partition")?)?.0.into_values().next().map(plain);
        let day = match partition {
            Some(Avro::String(day)) => Some(day),
            _ => None,
        };
        let lower = file.bound("lower_bounds", event_time)?;
        let file = DataFile {
            uri: file.text("file_path")?,
            day,
            rows: file.number("record_count")?,
            size: file.number("file_size_in_bytes")?,
            event_times: lower.zip(file.bound("upper_bounds", event_time)?),
        };
        Ok(Entry { snapshot, file })
    }

    fn manifest(mut self) -> Result<Manifest, Error> {
        let days = match self.take("partitions")? {
            Avro::Array(ranges) => ranges.into_iter().next(),
            _ => None,
        };
        let days = days.map(|range| {
            let mut range = Self::of(range)?;
            Ok::<_, Error>((range.day("lower_bound")?, range.day("upper_bound")?))
        });
        Ok(Manifest {
            uri: self.text("manifest_path")?,
            size: self.number("manifest_length")?,
            spec: i32::try_from(self.number("partition_spec_id")?).unwrap_or(OF_NO_DAY),
            snapshot: self.number("added_snapshot_id")?,
            first_snapshot: self.number("min_sequence_number")?,
            added: (self.number("added_files_count")?, self.number("added_rows_count")?),
            existing: (self.number("existing_files_count")?, self.number("existing_rows_count")?),
            days: days.transpose()?,
        })
    }
}

fn plain(value: Avro) -> Avro {
    match value {
        Avro::Union(_, inner) => *inner,
        other => other,
    }
}

fn wrong(reason: String) -> Error {
    Error::Iceberg { reason }
}
