//! The columns of a table: the features in definition order, SageMaker's three, then Granary's provenance.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltalake_core::kernel::{ArrayType, DataType as DeltaType, StructField};
use granary_types::{Feature, FeatureGroup, FeatureType};

use crate::Error;

/// When the shard leader accepted the write: timestamp, microseconds.
pub const WRITE_TIME: &str = "write_time";
/// When the call arrived at the router: timestamp, microseconds.
pub const API_INVOCATION_TIME: &str = "api_invocation_time";
/// Whether the row is a delete of either kind.
pub const IS_DELETED: &str = "is_deleted";
/// The event time as an instant, rounded down to the microsecond: what time filters and joins compare.
pub const EVENT_TIME: &str = "granary_event_time";
/// The event time's nanoseconds below the microsecond, 0 to 999.
pub const EVENT_NANOS: &str = "granary_event_nanos";
/// The version's write stamp, nanoseconds.
pub const WRITE_STAMP: &str = "granary_write_stamp";
/// `put`, `delete` or `reset`.
pub const OPERATION: &str = "granary_operation";
/// The write id, 32 hex digits.
pub const WRITE_ID: &str = "granary_write_id";
/// The change log's stream.
pub const STREAM: &str = "granary_stream";
/// The event's sequence number in its stream.
pub const SEQUENCE: &str = "granary_sequence";

/// The type of a timestamp column.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn text_list() -> DataType {
    // The element's name is Delta's, which Parquet files written by others have too.
    DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)))
}

/// The Arrow type of a feature's column. Collections keep the texts that were put.
pub(crate) fn feature_type(feature: &Feature) -> DataType {
    match (feature.collection, feature.kind) {
        (Some(_), _) => text_list(),
        (None, FeatureType::String) => DataType::Utf8,
        (None, FeatureType::Integral) => DataType::Int64,
        (None, FeatureType::Fractional) => DataType::Float64,
    }
}

/// The columns of a group's table, in order. Every column may be null: a delete has only its identifier and event
/// time, and other programs may add rows without provenance.
pub fn arrow_schema(group: &FeatureGroup) -> SchemaRef {
    let features = group.schema.features().iter().map(|feature| (feature.name.as_str(), feature_type(feature)));
    let added = [
        (WRITE_TIME, timestamp()),
        (API_INVOCATION_TIME, timestamp()),
        (IS_DELETED, DataType::Boolean),
        (EVENT_TIME, timestamp()),
        (EVENT_NANOS, DataType::Int32),
        (WRITE_STAMP, DataType::Int64),
        (OPERATION, DataType::Utf8),
        (WRITE_ID, DataType::Utf8),
        (STREAM, DataType::Utf8),
        (SEQUENCE, DataType::Int64),
    ];
    let fields = features.chain(added).map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The same columns as Delta's types.
pub(crate) fn delta_columns(group: &FeatureGroup) -> Vec<StructField> {
    arrow_schema(group)
        .fields()
        .iter()
        .map(|field| StructField::nullable(field.name(), delta_type(field.data_type())))
        .collect()
}

fn delta_type(kind: &DataType) -> DeltaType {
    match kind {
        DataType::Utf8 => DeltaType::STRING,
        DataType::Int64 => DeltaType::LONG,
        DataType::Int32 => DeltaType::INTEGER,
        DataType::Float64 => DeltaType::DOUBLE,
        DataType::Boolean => DeltaType::BOOLEAN,
        DataType::Timestamp(..) => DeltaType::TIMESTAMP,
        DataType::List(_) => ArrayType::new(DeltaType::STRING, true).into(),
        other => unreachable!("a table has no column of type {other}"),
    }
}

/// The columns a table should have, given those it has, or `None` when it already has them all. Features that the
/// table lacks go to their place in definition order; a column that the group does not know stays, at the end.
pub(crate) fn evolve(group: &FeatureGroup, present: &[StructField]) -> Result<Option<Vec<StructField>>, Error> {
    let mut wanted = delta_columns(group);
    let mut missing = false;
    for column in &mut wanted {
        match present.iter().find(|field| field.name() == column.name()) {
            Some(field) if field.data_type() == column.data_type() => *column = field.clone(),
            Some(field) => {
                return Err(Error::TableMismatch {
                    group: group.id,
                    reason: format!(
                        "column {:?} has type {:?}, not {:?}",
                        column.name(),
                        field.data_type(),
                        column.data_type()
                    ),
                });
            }
            None => missing = true,
        }
    }
    if !missing {
        return Ok(None);
    }
    let unknown = present.iter().filter(|field| !wanted.iter().any(|column| column.name() == field.name()));
    let unknown: Vec<StructField> = unknown.cloned().collect();
    wanted.extend(unknown);
    Ok(Some(wanted))
}
