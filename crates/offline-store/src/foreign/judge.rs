//! One file of another program: whether all of it can be read as rows of the table.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use deltalake_core::logstore::ObjectStoreRef;
use granary_types::FeatureGroup;
use object_store::{GetOptions, GetRange, ObjectMeta};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::rows::check_rows;
use crate::Error;
use crate::schema::{SEQUENCE, arrow_schema};

/// The smallest Parquet file: the magic number at both ends and the length of the footer between.
const FILE_SIZE_MIN: u64 = 12;
/// What is read from the end of a file first: the footer of a file of some hundred columns fits.
const FOOTER_GUESS: u64 = 64 << 10;
/// The largest footer that is read.
const FOOTER_MAX: u64 = 64 << 20;

/// A file that fits.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) rows: u64,
    pub(super) modified: DateTime<Utc>,
}

/// Why a file is not taken in.
#[derive(Debug)]
pub(super) enum Unfit {
    /// With our provenance: committed elsewhere, or never to be.
    Ours,
    /// Not to be read as rows of this table, for this reason.
    Refused(String),
    /// It is not what was listed any more: another look will tell.
    Changing,
    /// It could not be read.
    Unread(Error),
}

impl From<object_store::Error> for Unfit {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Changing,
            error => Self::Unread(error.into()),
        }
    }
}

impl From<ParquetError> for Unfit {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(source) => match source.downcast::<object_store::Error>() {
                Ok(failed) => (*failed).into(),
                Err(other) => Self::Refused(other.to_string()),
            },
            error => Self::Refused(error.to_string()),
        }
    }
}

/// Reads a file's footer, then the rows' identifiers and event times.
///
/// # Errors
/// Why it is not taken in.
pub(super) async fn judge(
    store: &ObjectStoreRef,
    meta: &ObjectMeta,
    group: &Arc<FeatureGroup>,
) -> Result<Foreign, Unfit> {
    let path = meta.location.as_ref();
    // Delta's paths are percent-encoded, and readers do not agree on how often.
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/=_-.+:,@".contains(&byte)) {
        return Err(Unfit::Refused("the path holds characters other than letters, digits and /=_-.+:,@".to_owned()));
    }
    let footer = Arc::new(footer(store, meta).await?);
    if is_ours(&footer) {
        return Err(Unfit::Ours);
    }
    let metadata = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())?;
    check_columns(metadata.schema(), group).map_err(Unfit::Refused)?;
    let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
    check_rows(store, meta, metadata, group).await?;
    Ok(Foreign { path: path.to_owned(), size: meta.size, rows, modified: meta.last_modified })
}

async fn footer(store: &ObjectStoreRef, meta: &ObjectMeta) -> Result<ParquetMetaData, Unfit> {
    if meta.size < FILE_SIZE_MIN {
        return Err(Unfit::Refused(format!("a file of {} bytes is no Parquet file", meta.size)));
    }
    let mut reader = ParquetMetaDataReader::new();
    let mut wanted = FOOTER_GUESS.min(meta.size);
    // The second time all of it is there.
    for _ in 0..2 {
        let tail = read(store, meta, meta.size - wanted..meta.size).await?;
        match reader.try_parse_sized(&tail, meta.size) {
            Ok(()) => return Ok(reader.finish()?),
            Err(ParquetError::NeedMoreData(more)) => {
                wanted = u64::try_from(more).unwrap_or(u64::MAX);
                if wanted > meta.size.min(FOOTER_MAX) {
                    return Err(Unfit::Refused(format!("the footer has {wanted} bytes")));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Unfit::Refused("the footer does not end".to_owned()))
}

/// Bytes of a file, if it is still the one that was listed.
async fn read(store: &ObjectStoreRef, meta: &ObjectMeta, range: Range<u64>) -> Result<Bytes, Unfit> {
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let found = store.get_opts(&meta.location, options).await?;
    // Some stores list milliseconds and answer in seconds.
    let same_time = found.meta.last_modified.timestamp() == meta.last_modified.timestamp();
    if found.meta.size != meta.size || !same_time {
        return Err(Unfit::Changing);
    }
    Ok(found.bytes().await?)
}

/// Whether the footer says that rows have sequence numbers of ours. Where it does not say, the rows do.
fn is_ours(footer: &ParquetMetaData) -> bool {
    let chunks = footer.row_groups().iter().flat_map(|group| group.columns().iter().map(move |chunk| (group, chunk)));
    let mut of_sequence = chunks.filter(|(_, chunk)| chunk.column_path().string() == SEQUENCE);
    of_sequence.any(|(group, chunk)| {
        let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt());
        nulls.is_some_and(|nulls| nulls < u64::try_from(group.num_rows()).unwrap_or(0))
    })
}

/// Whether every column that the table knows can be read as the table's type, and identifier and event time are there.
fn check_columns(file: &Schema, group: &FeatureGroup) -> Result<(), String> {
    for needed in [&group.record_identifier_feature().name, &group.event_time_feature().name] {
        if file.field_with_name(needed).is_err() {
            return Err(format!("column {needed:?} is missing"));
        }
    }
    for column in arrow_schema(group).fields() {
        let Ok(found) = file.field_with_name(column.name()) else {
            let other_case = file.fields().iter().find(|field| field.name().eq_ignore_ascii_case(column.name()));
            match other_case {
                Some(other) => return Err(format!("column {:?} is called {:?} here", column.name(), other.name())),
                None => continue,
            }
        };
        if !reads_as(found.data_type(), column.data_type()) {
            return Err(format!(
                "column {:?} has type {}, which is not read as {}",
                column.name(),
                found.data_type(),
                column.data_type()
            ));
        }
    }
    Ok(())
}

/// Whether values of a file's type become the table's without loss.
fn reads_as(file: &DataType, table: &DataType) -> bool {
    match (file, table) {
        (DataType::Dictionary(_, values), table) => reads_as(values, table),
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, DataType::Utf8) => true,
        (DataType::List(file) | DataType::LargeList(file), DataType::List(table)) => {
            reads_as(file.data_type(), table.data_type())
        }
        (DataType::Timestamp(..), DataType::Timestamp(..)) | (DataType::Boolean, DataType::Boolean) => true,
        (DataType::Float32 | DataType::Float64, DataType::Float64) => true,
        (file, DataType::Int64) => file.is_integer() && *file != DataType::UInt64,
        (DataType::Int32, DataType::Int32) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_lose_nothing_are_read() {
        let text = || DataType::Utf8;
        assert!(reads_as(&DataType::LargeUtf8, &text()));
        assert!(reads_as(&DataType::Dictionary(Box::new(DataType::Int32), Box::new(text())), &text()));
        assert!(reads_as(&DataType::Int32, &DataType::Int64) && reads_as(&DataType::Float32, &DataType::Float64));
        for (file, table) in [
            (DataType::Int64, DataType::Utf8),
            (DataType::Float64, DataType::Int64),
            (DataType::UInt64, DataType::Int64),
            (DataType::Utf8, DataType::Boolean),
            (DataType::Int64, DataType::Float64),
        ] {
            assert!(!reads_as(&file, &table), "{file} as {table}");
        }
    }
}
