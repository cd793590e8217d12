//! Files that other programs wrote below a table: found, checked, and committed where they are.
//!
//! Writing Parquet files straight under a group's prefix is public practice (contract 4.5: SageMaker's Spark connector
//! does it). Such a file becomes part of the table by one commit that names it, so that every reader of the table
//! sees it from then on, in this version and in all later ones. It is not moved, rewritten or given provenance: its
//! `granary_` columns are null.
//!
//! A file with rows of our provenance is never taken in: it is an orphan of ours, whose rows are committed by
//! other files. Nor is a file that a commit removed, or one that is older than the log remembers removals.
//!
//! A file that was taken in and is not there any more would make every reader of the table fail. It is removed from the
//! table. One that was overwritten is judged anew, and named again or removed.

mod judge;
mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use deltalake_core::kernel::{Action, Add};
use deltalake_core::protocol::DeltaOperation;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStoreExt};
use serde_json::{Value, json};

use self::judge::{Foreign, Unfit, judge};
use crate::layout::{is_file_name, name_of};
use crate::table::appends;
use crate::{Error, OfflineTable};

/// A file that is older than this is not taken in: the log forgets after a week what was removed from the table, and a
/// removed file must not come back.
const AGE_MAX: Duration = Duration::from_secs(6 * 24 * 3_600);
/// The most files of one commit.
const FILES_MAX: usize = 1_000;
/// How many files are read at the same time: two columns of a row group each.
const FILES_IN_FLIGHT: usize = 4;
/// How many verdicts are remembered.
const VERDICTS_MAX: usize = 100_000;

/// Files that stay outside, as they were when that was found, so that each is opened once. Forgotten when it is full.
#[derive(Debug, Default)]
pub struct Verdicts(BTreeSet<(String, u64, DateTime<Utc>)>);

/// What one look at a table's directory brought.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TakenIn {
    /// Paths below the table that are part of it now.
    pub files: Vec<String>,
    /// The rows in them.
    pub rows: u64,
    /// Paths that cannot be taken in, and why; each once.
    pub refused: Vec<(String, String)>,
    /// Paths that were part of the table and are no more, because the files are not what was taken in.
    pub removed: Vec<String>,
}

/// What the directory holds, beside what the log says.
#[derive(Debug, Default)]
struct Found {
    /// To be judged.
    candidates: Vec<ObjectMeta>,
    /// Files that were taken in, as the log says, and are gone or another; of the latter the path is among the candidates.
    outdated: BTreeMap<String, Named>,
}

/// The files that commits removed, by path, with the sizes that they had, where the log says that.
type Removed = BTreeMap<String, Vec<Option<i64>>>;

/// A file as the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    size: i64,
    modified_ms: i64,
    /// By [`OfflineTable::take_in_foreign_files`], and not written by Granary or committed by another program.
    taken_in: bool,
}

impl OfflineTable {
    /// Looks through the table's directory and commits the Parquet files of other programs. At most 1,000 files a call.
    /// Reads the identifiers and event times of each.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Table`], [`Error::Busy`]. What was not committed is found again.
    pub async fn take_in_foreign_files(&mut self, verdicts: &mut Verdicts) -> Result<TakenIn, Error> {
        self.refresh().await?;
        let Found { candidates, mut outdated } = self.find(verdicts).await?;
        let (mut taken, mut fitting) = (TakenIn::default(), Vec::new());
        let (store, group) = (self.delta.object_store(), self.group.clone());
        let judged = candidates.into_iter().map(|meta| {
            let (store, group) = (store.clone(), group.clone());
            async move { (judge(&store, &meta, &group).await, meta) }
        });
        let mut judged = stream::iter(judged).buffered(FILES_IN_FLIGHT);
        while let Some((judged, meta)) = judged.next().await {
            match judged {
                Ok(foreign) => {
                    outdated.remove(&foreign.path);
                    fitting.push(foreign);
                }
                Err(Unfit::Unread(error)) => return Err(error),
                Err(Unfit::Changing) => {
                    outdated.remove(meta.location.as_ref());
                }
                Err(Unfit::Ours) => verdicts.keep(&meta),
                Err(Unfit::Refused(why)) => {
                    verdicts.keep(&meta);
                    taken.refused.push((meta.location.to_string(), why));
                }
            }
        }
        self.commit_foreign(&fitting).await?;
        self.commit_removals(&outdated).await?;
        taken.removed = outdated.into_keys().collect();
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

    /// Files that no version of the table names and that were not judged yet, and what the log says and is not so.
    async fn find(&self, verdicts: &Verdicts) -> Result<Found, Error> {
        let now = self.warehouse.platform().now_millis();
        let oldest = i64::try_from(now.saturating_sub(u64::try_from(AGE_MAX.as_millis()).unwrap_or(u64::MAX)));
        let oldest = oldest.unwrap_or(i64::MAX);
        let (mut named, mut removed, mut found) = (self.named_files()?, None, Found::default());
        let store = self.delta.object_store();
        let mut listing = store.list(None);
        while let Some(meta) = listing.try_next().await? {
            let path = meta.location.as_ref();
            let known = named.remove(path);
            match known {
                Some(known) if known.is_replaced_by(&meta) => {
                    found.outdated.insert(path.to_owned(), known);
                }
                Some(_) => continue,
                None if !is_data(path) || verdicts.has(&meta) => continue,
                None if meta.last_modified.timestamp_millis() < oldest => continue,
                // Before they are counted, or those that were removed could fill every look.
                None if self.is_removed(path, meta.size, &mut removed).await? => continue,
                None => {}
            }
            found.candidates.push(meta);
            if found.candidates.len() >= FILES_MAX {
                return Ok(found);
            }
        }
        named.retain(|_, file| file.taken_in);
        for (path, file) in named.into_iter().take(FILES_MAX) {
            // A listing may leave out what is there; this would be the end of it.
            if let Err(object_store::Error::NotFound { .. }) = store.head(&path.as_str().into()).await {
                found.outdated.insert(path, file);
            }
        }
        Ok(found)
    }

    fn named_files(&self) -> Result<BTreeMap<String, Named>, Error> {
        let views = self.delta.snapshot()?.log_data();
        let named = views.iter().map(|view| {
            let (path, stats) = (view.path().into_owned(), view.stats());
            let taken_in = is_taken_in(&path, stats.as_deref());
            (path, Named { size: view.size(), modified_ms: view.modification_time(), taken_in })
        });
        Ok(named.collect())
    }

    /// Whether a commit removed the file of this path and size. One of another size is another file, written since.
    /// `removed` is what the log says of that, once it was asked.
    async fn is_removed(&self, path: &str, size: u64, removed: &mut Option<Removed>) -> Result<bool, Error> {
        let removed = match removed {
            Some(removed) => removed,
            None => removed.insert(self.removed_files().await?),
        };
        Ok(removed
            .get(path)
            .is_some_and(|sizes| sizes.iter().any(|of| of.is_none() || *of == i64::try_from(size).ok())))
    }

    async fn removed_files(&self) -> Result<Removed, Error> {
        let log_store = self.delta.log_store();
        let mut tombstones = self.delta.snapshot()?.all_tombstones(log_store.as_ref());
        let mut removed = Removed::new();
        while let Some(file) = tombstones.try_next().await? {
            removed.entry(file.path().into_owned()).or_default().push(file.size());
        }
        Ok(removed)
    }

    /// One commit for all of them. After a commit of somebody else the log is asked again: that one may have named the same
    /// files, or removed them.
    async fn commit_foreign(&mut self, files: &[Foreign]) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let (attempts, looked_at) = (self.warehouse.settings().commit_attempts_max, self.version());
        for _ in 0..attempts {
            let (named, mut removed) = (self.named_files()?, None);
            let mut actions = Vec::new();
            for file in files.iter().filter(|file| named.get(&file.path).is_none_or(|named| !file.is(named))) {
                if self.version() == looked_at || !self.is_removed(&file.path, file.size, &mut removed).await? {
                    actions.push(Action::Add(file.to_add()));
                }
            }
            if actions.is_empty() {
                return Ok(());
            }
            self.try_commit(actions, appends()).await?;
        }
        Err(Error::Busy { attempts })
    }

    /// One commit that takes files out of the table, if it still names them so.
    async fn commit_removals(&mut self, outdated: &BTreeMap<String, Named>) -> Result<(), Error> {
        if outdated.is_empty() {
            return Ok(());
        }
        let attempts = self.warehouse.settings().commit_attempts_max;
        let now = i64::try_from(self.warehouse.platform().now_millis()).unwrap_or(i64::MAX);
        for _ in 0..attempts {
            let named = self.named_files()?;
            let views = self.delta.snapshot()?.log_data();
            let as_it_was = |path: &str| outdated.get(path).is_some_and(|file| named.get(path) == Some(file));
            let removals = views.iter().filter(|view| as_it_was(&view.path())).map(|view| {
                let mut removal = view.remove_action(true);
                removal.deletion_timestamp = Some(now);
                Action::Remove(removal)
            });
            let actions: Vec<Action> = removals.collect();
            if actions.is_empty() {
                return Ok(());
            }
            self.try_commit(actions, DeltaOperation::Delete { predicate: None }).await?;
        }
        Err(Error::Busy { attempts })
    }
}

impl Named {
    /// Whether a file of this path is not the one that was taken in. The clocks of those that Granary wrote are others.
    fn is_replaced_by(&self, meta: &ObjectMeta) -> bool {
        let same_size = u64::try_from(self.size) == Ok(meta.size);
        self.taken_in && (!same_size || meta.last_modified.timestamp_millis() > self.modified_ms)
    }
}

impl Foreign {
    /// Whether the log names this very file.
    fn is(&self, named: &Named) -> bool {
        u64::try_from(named.size) == Ok(self.size) && named.modified_ms == self.modified.timestamp_millis()
    }

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
        self.0.contains(&Self::key(meta))
    }

    fn keep(&mut self, meta: &ObjectMeta) {
        if self.0.len() >= VERDICTS_MAX {
            self.0.clear();
        }
        self.0.insert(Self::key(meta));
    }
}

/// Parquet files, but for what Hive and Spark hide: paths with a part that begins with `_` or `.`.
pub fn is_data(path: &str) -> bool {
    path.ends_with(".parquet") && !path.split('/').any(|part| part.starts_with(['_', '.']))
}

/// Whether a file of the log is one that was taken in: it says how many rows it has and no more, and is not called as
/// Granary's files are, of which those of far years say no more either. That a file of Granary's own is missing must never
/// be made to look right.
fn is_taken_in(path: &str, stats: Option<&str>) -> bool {
    let stats: Value = stats.and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default();
    let says = |key: &str| stats[key].as_object().is_some_and(|values| !values.is_empty());
    let says_more = ["minValues", "maxValues", "nullCount"].into_iter().any(says);
    !is_file_name(name_of(path)) && stats["numRecords"].is_u64() && !says_more
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
    fn what_was_taken_in_is_told_from_what_granary_and_others_committed() {
        let (counted, measured) = (r#"{"numRecords":1}"#, r#"{"numRecords":1,"nullCount":{"id":0}}"#);
        assert!(is_taken_in("year=2024/part-0.parquet", Some(counted)));
        assert!(is_taken_in("part-0.parquet", Some(r#"{"numRecords":1,"nullCount":{}}"#)), "as a checkpoint says it");
        for (path, stats) in [
            ("year=2024/20240131T083000Z_x7Kq0b2Zr9TtWm4A.parquet", Some(counted)),
            ("part-0.parquet", Some(measured)),
            ("part-0.parquet", None),
        ] {
            assert!(!is_taken_in(path, stats), "{path} {stats:?}");
        }
    }
}
