//! The offline tables as they stand at the end, read from their files.

use std::sync::Arc;

use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use granary_history::model::{Key, TableOffset, TableRow, What};
use granary_offline_store::{IS_DELETED, SEQUENCE, STREAM, WRITE_ID, Warehouse};
use granary_types::{FeatureGroup, StreamId};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Every row and every stream's offset of a group's table.
pub(crate) async fn read(
    warehouse: &Warehouse,
    store: &dyn ObjectStore,
    group: &Arc<FeatureGroup>,
    streams: &[StreamId],
) -> anyhow::Result<Vec<What>> {
    let mut table = warehouse.table(group).await?;
    let offsets = table.offsets(streams).await?;
    let mut found = Vec::new();
    let mut files: Vec<String> = table.delta().get_file_uris()?.collect();
    files.sort();
    for file in files {
        let path = file.split_once("://").map_or(file.as_str(), |(_, path)| path).trim_start_matches('/').to_owned();
        let bytes = store.get(&object_store::path::Path::parse(&path)?).await?.bytes().await?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
            rows_of(&group.name, &batch?, &mut found)?;
        }
    }
    let mut streams = streams.to_vec();
    streams.sort_by_key(ToString::to_string);
    for stream in streams {
        let sequence = offsets.get(&stream).copied().unwrap_or(0);
        let offset = TableOffset { group: group.name.clone(), stream: stream.to_string(), sequence };
        found.push(What::TableOffset(offset));
    }
    Ok(found)
}

fn rows_of(group: &str, batch: &RecordBatch, found: &mut Vec<What>) -> anyhow::Result<()> {
    let column = |name: &str, kind: DataType| -> anyhow::Result<_> {
        let column = batch.column_by_name(name).with_context(|| format!("the table has no column {name}"))?;
        Ok(cast(column, &kind)?)
    };
    let (ids, values, kept) =
        (column("id", DataType::Utf8)?, column("value", DataType::Utf8)?, column("kept", DataType::Utf8)?);
    let (at, deleted) = (column("at", DataType::Float64)?, column(IS_DELETED, DataType::Boolean)?);
    let (write_ids, streams) = (column(WRITE_ID, DataType::Utf8)?, column(STREAM, DataType::Utf8)?);
    let sequences = column(SEQUENCE, DataType::Int64)?;
    for row in 0..batch.num_rows() {
        let is_deleted = deleted.as_boolean().value(row);
        let (value, kept) = (values.as_string::<i32>(), kept.as_string::<i32>());
        found.push(What::TableRow(TableRow {
            key: Key::new(group, ids.as_string::<i32>().value(row)),
            write_id: write_ids.as_string::<i32>().value(row).to_owned(),
            value: (!is_deleted && !value.is_null(row)).then(|| value.value(row).to_owned()),
            kept: (!is_deleted && !kept.is_null(row)).then(|| kept.value(row).to_owned()),
            #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
            event_time: at.as_primitive::<Float64Type>().value(row) as i64,
            stream: streams.as_string::<i32>().value(row).to_owned(),
            sequence: sequences.as_primitive::<Int64Type>().value(row).cast_unsigned(),
        }));
    }
    Ok(())
}
