//! Writing the Parquet files of a flush, and describing them to the table.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Datelike};
use deltalake_core::kernel::Add;
use deltalake_core::logstore::ObjectStoreRef;
use futures::{StreamExt, TryStreamExt, stream};
use granary_platform::Platform;
use granary_types::{EventTime, FeatureGroup};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::batch::{record_batch, sorted};
use crate::iceberg::{day_directory, numbered_schema};
use crate::layout::file_path;
use crate::schema::{EVENT_NANOS, EVENT_TIME, WRITE_STAMP, arrow_schema};
use crate::{Error, OfflineRow, Settings, directory, file_name};

/// Rows turned into columns at a time: bounds the Arrow memory beside rows and file.
const BATCH_ROWS: usize = 8_192;

/// A file that stands in the object store and in no table version yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Below the table: directory and name.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// How many rows.
    pub rows: usize,
    /// The least event time.
    pub earliest: EventTime,
    /// The greatest.
    pub latest: EventTime,
    /// When it was written, milliseconds since the Unix epoch.
    pub written_at_ms: u64,
}

impl WrittenFile {
    /// The file as an action of a table commit.
    pub(crate) fn to_add(&self) -> Add {
        Add {
            path: self.path.clone(),
            partition_values: HashMap::new(),
            size: i64::try_from(self.size).expect("a file in memory is smaller than 2^63 bytes"),
            modification_time: i64::try_from(self.written_at_ms).unwrap_or(i64::MAX),
            data_change: true,
            stats: Some(self.stats()),
            ..Add::default()
        }
    }

    /// Statistics by which readers skip files. Nobody checks them and wrong ones give wrong answers, so there are
    /// only those that cannot be wrong: the count, and the range of the event time in the milliseconds that Delta
    /// asks for, widened to whole ones. Years that other readers' calendars or parsers disagree about have none.
    fn stats(&self) -> String {
        let mut stats = json!({ "numRecords": self.rows });
        let range = (milliseconds(self.earliest.micros().div_euclid(1_000)), milliseconds(ceil_millis(self.latest)));
        if let (Some(earliest), Some(latest)) = range {
            stats["minValues"] = json!({ EVENT_TIME: earliest });
            stats["maxValues"] = json!({ EVENT_TIME: latest });
            stats["nullCount"] = json!({ EVENT_TIME: 0 });
        }
        stats.to_string()
    }
}

/// The first millisecond that is not before the microsecond of the event time.
fn ceil_millis(time: EventTime) -> i64 {
    -(-time.micros()).div_euclid(1_000)
}

fn milliseconds(millis: i64) -> Option<String> {
    let time = DateTime::from_timestamp_millis(millis)?;
    (1900..=9999).contains(&time.year()).then(|| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Writes `rows` into files below the table whose store is `store`.
pub(crate) async fn write(
    group: &std::sync::Arc<FeatureGroup>,
    rows: Vec<OfflineRow>,
    store: &ObjectStoreRef,
    platform: &Platform,
    settings: &Settings,
) -> Result<Vec<WrittenFile>, Error> {
    let divided = {
        let (group, rows_max) = (group.clone(), settings.file_rows_max);
        blocking(move || divide(&group, rows, rows_max)).await?
    };
    let level = settings.compression_level;
    stream::iter(divided)
        .map(|(directory, rows)| async move {
            let (earliest, latest) = event_times(&rows);
            let count = rows.len();
            let fresh = platform.fresh_id();
            let path = file_path(group, &directory, &file_name(latest, fresh), fresh);
            let group = group.clone();
            let bytes = blocking(move || encode(&group, &rows, level)).await?;
            let file = WrittenFile {
                path,
                size: bytes.len() as u64,
                rows: count,
                earliest,
                latest,
                written_at_ms: platform.now_millis(),
            };
            store.put(&Path::from(file.path.as_str()), bytes.into()).await?;
            Ok(file)
        })
        .buffered(settings.files_in_flight.max(1))
        .try_collect()
        .await
}

/// Work that keeps a thread busy, off the threads that serve.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::TaskDied)?
}

/// The rows of each file, in the file's order, with its directory.
fn divide(
    group: &FeatureGroup,
    rows: Vec<OfflineRow>,
    rows_max: usize,
) -> Result<Vec<(String, Vec<OfflineRow>)>, Error> {
    let mut by_directory: BTreeMap<String, Vec<OfflineRow>> = BTreeMap::new();
    for row in rows {
        by_directory.entry(directory_of(group, row.event_time)).or_default().push(row);
    }
    let mut files = Vec::with_capacity(by_directory.len());
    for (directory, rows) in by_directory {
        // Rows are small handles to shared bytes; a clone copies no row.
        for chunk in sorted(group, &rows)?.chunks(rows_max.max(1)) {
            files.push((directory.clone(), chunk.iter().map(|row| (*row).clone()).collect()));
        }
    }
    Ok(files)
}

/// The directory of the rows of an event time, whose files say so (contract 4.1).
fn directory_of(group: &FeatureGroup, event_time: EventTime) -> String {
    if group.is_iceberg() {
        return day_directory(group, &event_time.to_utc().format("%Y-%m-%d").to_string());
    }
    directory(group.offline.as_ref().map(|offline| offline.granularity).unwrap_or_default(), event_time)
}

fn event_times(rows: &[OfflineRow]) -> (EventTime, EventTime) {
    let times = || rows.iter().map(|row| row.event_time);
    let earliest = times().min().expect("a file has rows");
    (earliest, times().max().expect("a file has rows"))
}

/// A Parquet file of rows that are sorted already.
fn encode(group: &FeatureGroup, rows: &[OfflineRow], compression_level: i32) -> Result<Vec<u8>, Error> {
    let schema = if group.is_iceberg() { numbered_schema(group) } else { arrow_schema(group) };
    let sorting = [group.record_identifier_feature().name.as_str(), EVENT_TIME, EVENT_NANOS, WRITE_STAMP]
        .map(|name| schema.index_of(name).map(ascending));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(compression_level)?))
        .set_created_by(concat!("granary ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(sorting.into_iter().collect::<Result<_, _>>()?))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    for chunk in rows.chunks(BATCH_ROWS) {
        writer.write(&record_batch(group, &chunk.iter().collect::<Vec<_>>())?)?;
    }
    Ok(writer.into_inner()?)
}

/// Every column has one leaf, so a column's place is its leaf's.
fn ascending(place: usize) -> SortingColumn {
    SortingColumn {
        column_idx: i32::try_from(place).expect("a table has a few thousand columns"),
        descending: false,
        nulls_first: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(earliest: &str, latest: &str) -> WrittenFile {
        let at = |text| EventTime::parse_iso(text).expect("an instant");
        WrittenFile { path: "p".into(), size: 1, rows: 2, earliest: at(earliest), latest: at(latest), written_at_ms: 0 }
    }

    #[test]
    fn statistics_contain_the_event_times() {
        let stats: serde_json::Value =
            serde_json::from_str(&file("1969-12-31T23:59:59.999999999Z", "2024-01-01T00:00:00.000001Z").stats())
                .expect("json");
        assert_eq!(stats["numRecords"], 2);
        assert_eq!(stats["minValues"][EVENT_TIME], "1969-12-31T23:59:59.999Z");
        assert_eq!(stats["maxValues"][EVENT_TIME], "2024-01-01T00:00:00.001Z");
        let exact: serde_json::Value =
            serde_json::from_str(&file("2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z").stats()).expect("json");
        assert_eq!(exact["maxValues"][EVENT_TIME], "2024-01-01T00:00:00.500Z");
    }

    #[test]
    fn far_years_have_no_range() {
        for (earliest, latest) in [
            ("0000-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
            ("2024-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"),
        ] {
            let stats: serde_json::Value = serde_json::from_str(&file(earliest, latest).stats()).expect("json");
            assert!(stats.get("minValues").is_none() && stats.get("maxValues").is_none());
        }
    }
}
