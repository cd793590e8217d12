//! Files that other programs wrote below a table: found, checked, and committed where they are.
//!
//! Writing Parquet files straight under a group's prefix is public practice (contract 4.5: SageMaker's Spark connector
//! does it). Such a file becomes part of the table by one commit that names it, so that every reader of the table
//! sees it from then on, in this version and in all later ones. It is not moved, rewritten or given provenance: its
//! `granary_` columns are null.
//!
//! A file with our columns of provenance is never taken in: it is an orphan of ours, whose rows are committed by
//! other files. Nor is a file that a commit removed, or one that is older than the log remembers removals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use arrow::datatypes::{DataType, Schema};
use chrono::{DateTime, Utc};
use deltalake_core::kernel::{Action, Add};
use deltalake_core::logstore::ObjectStoreRef;
use futures::TryStreamExt;
use granary_types::FeatureGroup;
use object_store::{GetOptions, GetRange, ObjectMeta};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::json;

use crate::schema::{SEQUENCE, arrow_schema};
use crate::table::appends;
use crate::{Error, OfflineTable};

/// A file that is older than this is not taken in: the log forgets after a week what was removed from the table, and a
/// removed file must not come back.
const AGE_MAX: Duration = Duration::from_secs(6 * 24 * 3_600);
/// The most files of one commit.
const FILES_MAX: usize = 1_000;
/// What is read from the end of a file first: the footer of a file of some hundred columns fits.
const FOOTER_GUESS: u64 = 64 << 10;
/// The largest footer that is read.
const FOOTER_MAX: usize = 64 << 20;
/// How many verdicts are remembered.
const VERDICTS_MAX: usize = 100_000;

/// What was found of files that are not in the table, so that each is opened once. Forgotten when it is full.
#[derive(Debug, Default)]
pub struct Verdicts(BTreeMap<(String, u64, DateTime<Utc>), Verdict>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// With our provenance: committed elsewhere, or never to be.
    Ours,
    /// Not to be read as rows of this table.
    Refused,
}

/// What one look at a table's directory brought.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TakenIn {
    /// Paths below the table that are part of it now.
    pub files: Vec<String>,
    /// The rows in them.
    pub rows: u64,
    /// Paths that cannot be taken in, and why; each once.
    pub refused: Vec<(String, String)>,
}

/// A file that fits.
#[derive(Debug)]
struct Foreign {
    path: String,
    size: u64,
    rows: u64,
    modified: DateTime<Utc>,
}

impl OfflineTable {
    /// Looks through the table's directory and commits the Parquet files of other programs. At most 1,000 files a call.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Table`], [`Error::Busy`]. What was not committed is found again.
    pub async fn take_in_foreign_files(&mut self, verdicts: &mut Verdicts) -> Result<TakenIn, Error> {
        self.refresh().await?;
        let mut taken = TakenIn::default();
        let candidates = self.candidates(verdicts).await?;
        if candidates.is_empty() {
            return Ok(taken);
        }
        let store = self.delta.object_store();
        let mut fitting = Vec::new();
        for meta in candidates {
            match judge(&store, &meta, &self.group).await? {
                Ok(foreign) => fitting.push(foreign),
                Err((verdict, why)) => {
                    taken.refused.extend(why.map(|why| (meta.location.to_string(), why)));
                    verdicts.keep(&meta, verdict);
                }
            }
        }
        self.commit_foreign(&fitting).await?;
        taken.rows = fitting.iter().map(|file| file.rows).sum();
        taken.files = fitting.into_iter().map(|file| file.path).collect();
        Ok(taken)
    }

    /// Whether the table's newest version names a file, by its path below the table.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn names_file(&self, path: &str) -> Result<bool, Error> {
        Ok(self.delta.snapshot()?.log_data().into_iter().any(|file| file.path() == path))
    }

    /// Files that no version of the table names and that were not judged yet.
    async fn candidates(&self, verdicts: &Verdicts) -> Result<Vec<ObjectMeta>, Error> {
        let now = self.warehouse.platform().now_millis();
        let oldest = i64::try_from(now.saturating_sub(u64::try_from(AGE_MAX.as_millis()).unwrap_or(u64::MAX)));
        let oldest = oldest.unwrap_or(i64::MAX);
        let known: BTreeSet<String> = self.active_paths()?;
        let mut found = Vec::new();
        let store = self.delta.object_store();
        let mut listing = store.list(None);
        while let Some(meta) = listing.try_next().await? {
            let path = meta.location.as_ref();
            let fresh = meta.last_modified.timestamp_millis() >= oldest;
            if fresh && is_data(path) && !known.contains(path) && !verdicts.has(&meta) {
                found.push(meta);
            }
            if found.len() >= FILES_MAX {
                break;
            }
        }
        drop(listing);
        if !found.is_empty() {
            let removed = self.removed_paths().await?;
            found.retain(|meta| !removed.contains(meta.location.as_ref()));
        }
        found.sort_by(|one, other| one.location.cmp(&other.location));
        Ok(found)
    }

    fn active_paths(&self) -> Result<BTreeSet<String>, Error> {
        Ok(self.delta.snapshot()?.log_data().into_iter().map(|file| file.path().into_owned()).collect())
    }

    async fn removed_paths(&self) -> Result<BTreeSet<String>, Error> {
        let log_store = self.delta.log_store();
        let removed = self.delta.snapshot()?.all_tombstones(log_store.as_ref());
        Ok(removed.map_ok(|file| file.path().into_owned()).try_collect().await?)
    }

    /// One commit for all of them. A file that another commit named meanwhile would only be named again.
    async fn commit_foreign(&mut self, files: &[Foreign]) -> Result<(), Error> {
        let attempts = self.warehouse.settings().commit_attempts_max;
        for _ in 0..attempts {
            let active = self.active_paths()?;
            let missing = files.iter().filter(|file| !active.contains(&file.path));
            let actions: Vec<Action> = missing.map(|file| Action::Add(file.to_add())).collect();
            if actions.is_empty() {
                return Ok(());
            }
            self.try_commit(actions, appends()).await?;
        }
        Err(Error::Busy { attempts })
    }
}

impl Foreign {
    /// Without statistics but the count: nobody has checked its values.
    fn to_add(&self) -> Add {
        Add {
            path: self.path.clone(),
            partition_values: HashMap::new(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            modification_time: self.modified.timestamp_millis(),
            data_change: true,
            stats: Some(json!({ "numRecords": self.rows }).to_string()),
            ..Add::default()
        }
    }
}

impl Verdicts {
    fn key(meta: &ObjectMeta) -> (String, u64, DateTime<Utc>) {
        (meta.location.to_string(), meta.size, meta.last_modified)
    }

    fn has(&self, meta: &ObjectMeta) -> bool {
        self.0.contains_key(&Self::key(meta))
    }

    fn keep(&mut self, meta: &ObjectMeta, verdict: Verdict) {
        if self.0.len() >= VERDICTS_MAX {
            self.0.clear();
        }
        self.0.insert(Self::key(meta), verdict);
    }
}

/// Parquet files, but for what Hive and Spark hide: paths with a part that begins with `_` or `.`.
pub fn is_data(path: &str) -> bool {
    path.ends_with(".parquet") && !path.split('/').any(|part| part.starts_with(['_', '.']))
}

/// Opens a file's footer and says whether it can be read as rows of the group's table.
async fn judge(
    store: &ObjectStoreRef,
    meta: &ObjectMeta,
    group: &FeatureGroup,
) -> Result<Result<Foreign, (Verdict, Option<String>)>, Error> {
    let refused = |why: String| Ok(Err((Verdict::Refused, Some(why))));
    let path = meta.location.as_ref();
    // Delta's paths are percent-encoded, and readers do not agree on how often.
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/=_-.+:,@".contains(&byte)) {
        return refused("the path holds characters other than letters, digits and /=_-.+:,@".to_owned());
    }
    let footer = match footer(store, meta).await? {
        Ok(footer) => footer,
        Err(why) => return refused(why),
    };
    let file = footer.file_metadata();
    let schema = match parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()) {
        Ok(schema) => schema,
        Err(error) => return refused(error.to_string()),
    };
    if schema.field_with_name(SEQUENCE).is_ok() {
        return Ok(Err((Verdict::Ours, None)));
    }
    if let Err(why) = check_columns(&schema, group) {
        return refused(why);
    }
    let rows = u64::try_from(file.num_rows()).unwrap_or(0);
    Ok(Ok(Foreign { path: path.to_owned(), size: meta.size, rows, modified: meta.last_modified }))
}

/// The Parquet footer, or why there is none to read.
async fn footer(store: &ObjectStoreRef, meta: &ObjectMeta) -> Result<Result<ParquetMetaData, String>, Error> {
    let mut reader = ParquetMetaDataReader::new();
    let mut wanted = FOOTER_GUESS.min(meta.size);
    // The second time all of it is there.
    for _ in 0..2 {
        let options = GetOptions { range: Some(GetRange::Suffix(wanted)), ..GetOptions::default() };
        let tail = store.get_opts(&meta.location, options).await?.bytes().await?;
        match reader.try_parse_sized(&tail, meta.size) {
            Ok(()) => return Ok(reader.finish().map_err(|error| error.to_string())),
            Err(ParquetError::NeedMoreData(more)) if more <= FOOTER_MAX => wanted = more as u64,
            Err(error) => return Ok(Err(error.to_string())),
        }
    }
    Ok(Err("the footer does not end".to_owned()))
}

/// Whether every column that the table knows can be read as the table's type, and identifier and event time are there.
fn check_columns(file: &Schema, group: &FeatureGroup) -> Result<(), String> {
    for needed in [&group.record_identifier_feature().name, &group.event_time_feature().name] {
        if file.field_with_name(needed).is_err() {
            return Err(format!("column {needed:?} is missing"));
        }
    }
    for column in arrow_schema(group).fields() {
        let Some((_, found)) = file.fields().iter().enumerate().find(|(_, field)| field.name() == column.name()) else {
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
    fn hidden_files_are_no_data() {
        for path in ["part-0.parquet", "year=2024/month=01/x.snappy.parquet"] {
            assert!(is_data(path), "{path}");
        }
        for path in ["_delta_log/1.checkpoint.parquet", "_temporary/0/x.parquet", "a/.x.parquet", "x.csv", "_x.parquet"]
        {
            assert!(!is_data(path), "{path}");
        }
    }

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
