//! The rows of a file of another program: what a point-in-time join needs of each is looked at before the file is part of
//! the table, since a row that cannot be placed in time would make every join of its record fail from then on.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use bytes::Bytes;
use deltalake_core::logstore::ObjectStoreRef;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::{StreamExt, TryFutureExt};
use granary_types::feature_group::RESERVED_FEATURE_PREFIX;
use granary_types::{EventTime, FeatureGroup};
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::judge::Unfit;
use crate::parquet_file::blocking;
use crate::schema::{SEQUENCE, feature_type};

/// Rows that are looked at at a time.
const BATCH_ROWS: usize = 8_192;

/// Whether every row has an identifier and an event time that is one, and none has provenance. Reads those columns and no
/// others, a row group at a time.
///
/// # Errors
/// Why the file is not taken in: the first row that is in the way.
pub(super) async fn check_rows(
    store: &ObjectStoreRef,
    meta: &ObjectMeta,
    metadata: ArrowReaderMetadata,
    group: &Arc<FeatureGroup>,
) -> Result<(), Unfit> {
    let needed = [group.record_identifier_feature().name.as_str(), group.event_time_feature().name.as_str()];
    let wanted = |name: &str| needed.contains(&name) || is_reserved(name);
    let fields = metadata.schema().fields().iter().enumerate();
    let places: Vec<usize> = fields.filter(|(_, field)| wanted(field.name())).map(|(place, _)| place).collect();
    let columns = ProjectionMask::roots(metadata.metadata().file_metadata().schema_descr(), places);
    let file = File { store: store.clone(), meta: meta.clone(), footer: metadata.metadata().clone() };
    let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(file, metadata);
    let mut batches = builder.with_projection(columns).with_batch_size(BATCH_ROWS).build()?;
    let mut before = 0;
    while let Some(batch) = batches.next().await {
        let (batch, group) = (batch?, group.clone());
        let rows = batch.num_rows();
        blocking(move || Ok(check_batch(&batch, before, &group))).await.map_err(Unfit::Unread)??;
        before += rows;
    }
    Ok(())
}

/// `before`: how many rows of the file come before the batch.
fn check_batch(batch: &RecordBatch, before: usize, group: &FeatureGroup) -> Result<(), Unfit> {
    let reserved = || batch.schema_ref().fields().iter().map(|field| field.name()).filter(|name| is_reserved(name));
    let has_values =
        |name: &str| batch.column_by_name(name).is_some_and(|column| column.logical_null_count() < column.len());
    if has_values(SEQUENCE) {
        return Err(Unfit::Ours);
    }
    if let Some(name) = reserved().find(|name| has_values(name)) {
        return Err(Unfit::Refused(format!("column {name:?} has values, which only Granary may give it")));
    }
    let column = |name: &str, kind: &DataType| -> Result<_, ArrowError> {
        let found = batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name:?}")))?;
        cast(&cast(found, kind)?, &DataType::Utf8)
    };
    let refused = |error: ArrowError| Unfit::Refused(error.to_string());
    let (identifier, event_time) = (group.record_identifier_feature(), group.event_time_feature());
    let identifiers = column(&identifier.name, &feature_type(identifier)).map_err(refused)?;
    let event_times = column(&event_time.name, &feature_type(event_time)).map_err(refused)?;
    let rows = identifiers.as_string::<i32>().iter().zip(event_times.as_string::<i32>());
    for (row, (identifier, time)) in (before + 1..).zip(rows) {
        let Some(identifier) = identifier else {
            return Err(Unfit::Refused(format!("row {row} has no record identifier")));
        };
        let wrong = |why: &str| Unfit::Refused(format!("row {row}, of record {identifier:?}: {why}"));
        let time = time.ok_or_else(|| wrong("it has no event time"))?;
        EventTime::parse(event_time.kind, time).map_err(|error| wrong(&error.message))?;
    }
    Ok(())
}

/// Columns that are called so are Granary's.
fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED_FEATURE_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_FEATURE_PREFIX))
}

/// A file whose footer has been read.
struct File {
    store: ObjectStoreRef,
    meta: ObjectMeta,
    footer: Arc<ParquetMetaData>,
}

fn failed(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for File {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.store.get_range(&self.meta.location, range).map_err(failed).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.meta.location, &ranges).await.map_err(failed) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        ready(Ok(self.footer.clone())).boxed()
    }
}
