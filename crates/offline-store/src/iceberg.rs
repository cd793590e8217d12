//! A second set of books: Iceberg metadata (format v2) that names the same Parquet files as the Delta table's log.
//!
//! The Delta log alone is the truth; offsets and CP-1 rest on it. After a commit, [`OfflineTable::publish_iceberg`] writes what
//! the log says as Iceberg says it, for readers that know only that. It may be killed anywhere, run twice at once, or not at
//! all for a while: a document is numbered by the Delta version that it shows and put only where none of that number is,
//! and whoever comes next begins with the newest document and the log. Documents only ever add to the ones before: new
//! files get a manifest of their own, older manifests are named again, and only when the log took files away, named some a
//! second time, or is not the log that was shown, or when manifests are not where they were put, is everything written anew.
//!
//! Manifests are merged when sixteen of about one size have gathered, so that a snapshot names few of them, and a file is
//! written again as often as its number of files has digits to the base of sixteen.

mod columns;
mod manifest;
mod metadata;
mod place;
mod properties;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime};
use deltalake_core::kernel::Action;
use deltalake_core::logstore::get_actions;
use granary_types::FeatureGroup;
use serde_json::Value;

use self::columns::day_of;
pub(crate) use self::columns::{day_directory, numbered_schema};
use self::manifest::{
    DataFile, Entry, Manifest, OF_NO_DAY, decode_list, decode_manifest, encode_list, encode_manifest,
};
use self::metadata::{Metadata, NewSnapshot, Shown, Totals};
pub use self::place::is_proposal;
use self::place::{Listing, Place, Put};
use crate::layout::{is_file_name, name_of};
use crate::parquet_file::blocking;
use crate::schema::EVENT_TIME;
use crate::{Error, OfflineTable, Warehouse};

/// So many manifests of one level are merged into one of the next.
const MERGE_COUNT: usize = 16;
/// Manifests of more files are not merged any more, and none is begun with more.
const MANIFEST_FILES_MAX: usize = 4_096;
/// A document that is further behind than this is not caught up commit by commit.
const VERSIONS_BEHIND_MAX: u64 = 1_000;

impl OfflineTable {
    /// Shows the newest version of the table as Iceberg, if it is a table that is to be shown so and is not shown yet. Returns
    /// the number of the document that was written. Some ten requests; nothing of the table itself is touched.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Table`], [`Error::Replaced`]; [`Error::Iceberg`] for a file that Iceberg cannot name.
    /// After any of them call it again when the table is next looked at.
    pub async fn publish_iceberg(&mut self) -> Result<Option<u64>, Error> {
        if !self.group.is_iceberg() {
            return Ok(None);
        }
        let place = Place::new(&self.warehouse, self.url())?;
        let attempts = self.warehouse.settings().commit_attempts_max;
        for _ in 0..attempts {
            // First what is published and then what there is: so the log is at least as new, or another one.
            let listing = place.list().await?;
            let mut published = Published::newest(&place, &listing).await?;
            self.refresh().await?;
            let Some(next) = next_or_anew(self, &place, &mut published).await? else {
                let newest = published.map_or(0, |published| published.number);
                place.hint(newest).await?;
                return Ok(None);
            };
            let document = serde_json::to_vec(&next.metadata).map_err(|error| wrong(error.to_string()))?;
            if place.put_document(next.number, document).await? == Put::Taken {
                // Its manifests stay: if an answer was lost, the document that is there is this one.
                continue;
            }
            place.hint(next.number).await?;
            place.delete_old_proposals(&listing).await?;
            prune(self, &place, &listing, &next.metadata).await?;
            return Ok(Some(next.number));
        }
        Err(Error::Busy { attempts })
    }
}

impl Warehouse {
    /// Where readers find the newest Iceberg metadata of a group, as a Glue table's `metadata_location` says it. In a bucket
    /// that is where it is: `s3://lake/prefix/bucket/key/metadata/v12.metadata.json`. On a local disk it is below the URI that
    /// the group was given, by which Granary's own S3 calls find it. `None` for a group whose table is not kept as Iceberg,
    /// and for one that has no metadata yet. One request.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Location`].
    pub async fn iceberg_metadata_location(&self, group: &FeatureGroup) -> Result<Option<String>, Error> {
        if !group.is_iceberg() {
            return Ok(None);
        }
        let place = Place::new(self, &self.table_url(group)?)?;
        let newest = place.list().await?.numbers.last().copied();
        Ok(newest.map(|number| document_location(self, group, &place, number)))
    }
}

/// Where readers find a document.
fn document_location(warehouse: &Warehouse, group: &FeatureGroup, place: &Place, number: u64) -> String {
    match warehouse.is_bucket() {
        true => place.document_uri(number),
        false => format!("{}/metadata/{}", location(group), place::document_name(number)),
    }
}

/// The directory above a group's files, as SageMaker says it: where Glue and its clients believe the table to be.
fn location(group: &FeatureGroup) -> String {
    let resolved = group.offline.as_ref().map(|offline| offline.resolved_uri.trim_end_matches('/'));
    resolved.and_then(|uri| uri.rsplit_once('/')).map(|(above, _)| above.to_owned()).unwrap_or_default()
}

/// The newest document.
struct Published {
    number: u64,
    /// `None` for one that Granary did not write, or not here: it is followed by one that owes nothing to it.
    metadata: Option<Metadata>,
}

impl Published {
    async fn newest(place: &Place, listing: &Listing) -> Result<Option<Self>, Error> {
        let Some(number) = listing.numbers.last().copied() else { return Ok(None) };
        let bytes = place.read_document(number).await?;
        let of_this_table = |found: &Metadata| {
            let snapshot = found.current_snapshot();
            found.shown().is_some() && snapshot.is_none_or(|snapshot| place.holds(&snapshot.manifest_list))
        };
        let metadata = serde_json::from_slice::<Metadata>(&bytes).ok().filter(of_this_table);
        if metadata.is_none() {
            let document = place.document_uri(number);
            tracing::warn!(document, "iceberg metadata is not granary's or of another place, written anew");
        }
        Ok(Some(Self { number, metadata }))
    }
}

/// A document to be put.
struct Next {
    number: u64,
    metadata: Metadata,
}

/// What happened to a table since the version that was shown.
enum Change {
    /// Files came, or nothing.
    Added(Vec<DataFile>),
    /// Files went, or it is not known what happened: these are all there are.
    Anew(Vec<DataFile>),
}

/// The document that is due, if one is; one that owes nothing to what is published where that is not whole.
async fn next_or_anew(
    table: &OfflineTable,
    place: &Place,
    published: &mut Option<Published>,
) -> Result<Option<Next>, Error> {
    loop {
        match next(table, place, published.as_ref()).await {
            Err(error @ (Error::IcebergLost { .. } | Error::Avro(_))) => {
                if published.as_mut().and_then(|published| published.metadata.take()).is_none() {
                    return Err(error);
                }
                tracing::warn!(%error, table = %table.url(), "iceberg metadata is not whole, written anew");
            }
            next => return next,
        }
    }
}

/// The document that is due, if one is. Its manifests are written.
async fn next(table: &OfflineTable, place: &Place, published: Option<&Published>) -> Result<Option<Next>, Error> {
    let group = &table.group;
    let known = published.and_then(|published| published.metadata.as_ref());
    let newest = newest_commit(table).await?;
    if known.is_some_and(|known| known.shown() == Some(newest.shown) && known.has_columns_of(group)) {
        return Ok(None);
    }
    let number = published.map_or(newest.shown.version, |last| newest.shown.version.max(last.number + 1));
    let mut metadata = match (known, published) {
        (Some(known), Some(published)) => {
            let mut metadata = known.clone();
            let kept = table.warehouse.settings().iceberg_snapshots_max;
            metadata.follow(place.document_uri(published.number), kept.saturating_sub(1));
            metadata
        }
        _ => Metadata::new(group, table.delta.snapshot()?.metadata().id(), location(group)),
    };
    metadata.show(group, newest.shown, newest.committed_at_ms, table.iceberg_properties()?);
    let change = change(table, place, known).await?;
    add_snapshot(table, place, number, &mut metadata, change).await?;
    Ok(Some(Next { number, metadata }))
}

/// The newest commit of the log.
struct Commit {
    shown: Shown,
    committed_at_ms: i64,
}

async fn newest_commit(table: &OfflineTable) -> Result<Commit, Error> {
    let version = table.version();
    let missing = || Error::Replaced { location: table.url().to_string(), version };
    let bytes = table.delta.log_store().read_commit_entry(version).await?.ok_or_else(missing)?;
    let told = get_actions(version, &bytes)?.into_iter().find_map(|action| match action {
        Action::CommitInfo(info) => info.in_commit_timestamp.or(info.timestamp),
        _ => None,
    });
    let now = || i64::try_from(table.warehouse.platform().now_millis()).unwrap_or(i64::MAX);
    let shown = Shown { version, commit: crc32fast::hash(&bytes) };
    Ok(Commit { shown, committed_at_ms: told.unwrap_or_else(now) })
}

/// What the log says since the version that `known` shows.
async fn change(table: &OfflineTable, place: &Place, known: Option<&Metadata>) -> Result<Change, Error> {
    if let Some(shown) = known.and_then(Metadata::shown)
        && let Some(added) = added_since(table, place, shown).await?
        && adds_up(table, known, &added)?
    {
        return Ok(Change::Added(added));
    }
    let (snapshot, group, place) = (table.delta.snapshot()?.clone(), table.group.clone(), place.clone());
    let every = move || {
        let views = snapshot.log_data();
        let files = views.iter().map(|view| {
            let deletes = view.deletion_vector_descriptor().is_some();
            data_file(&group, &place, &view.path(), view.size(), view.stats().as_deref(), deletes)
        });
        files.collect()
    };
    Ok(Change::Anew(blocking(every).await?))
}

/// Whether the log names as many files as were shown and came since. A file that it names a second time came only once.
fn adds_up(table: &OfflineTable, known: Option<&Metadata>, added: &[DataFile]) -> Result<bool, Error> {
    let (shown, more) = (known.map_or(0, |known| known.total().files), i64::try_from(added.len()).unwrap_or(i64::MAX));
    let named = i64::try_from(table.delta.snapshot()?.log_data().num_files()).unwrap_or(i64::MAX);
    Ok(shown.checked_add(more) == Some(named))
}

/// The files that came after `shown`; `None` when others went, or when it is not told what happened.
async fn added_since(table: &OfflineTable, place: &Place, shown: Shown) -> Result<Option<Vec<DataFile>>, Error> {
    let (log, newest) = (table.delta.log_store(), table.version());
    if newest < shown.version || newest - shown.version > VERSIONS_BEHIND_MAX {
        return Ok(None);
    }
    let same = log.read_commit_entry(shown.version).await?.is_some_and(|was| crc32fast::hash(&was) == shown.commit);
    if !same {
        return Ok(None);
    }
    let mut added = Vec::new();
    for version in shown.version + 1..=newest {
        let Some(bytes) = log.read_commit_entry(version).await? else { return Ok(None) };
        for action in get_actions(version, &bytes)? {
            match action {
                Action::Add(add) if add.data_change => {
                    let (stats, deletes) = (add.stats.as_deref(), add.deletion_vector.is_some());
                    added.push(data_file(&table.group, place, &add.path, add.size, stats, deletes)?);
                }
                Action::Add(_) | Action::Remove(_) => return Ok(None),
                _ => {}
            }
        }
    }
    Ok(Some(added))
}

/// A file of the Delta table as Iceberg names it.
fn data_file(
    group: &FeatureGroup,
    place: &Place,
    path: &str,
    size: i64,
    stats: Option<&str>,
    has_deletes: bool,
) -> Result<DataFile, Error> {
    if has_deletes {
        return Err(wrong(format!("file {path} has a deletion vector, which format v2 cannot say")));
    }
    let stats: Value = stats.and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default();
    let rows = stats["numRecords"].as_i64().ok_or_else(|| wrong(format!("file {path} does not say how many rows")))?;
    let range = event_times(&stats);
    // Other programs may put any rows below a path that names a day.
    let is_of = |day: &&str| range.map_or_else(|| is_file_name(name_of(path)), |range| is_within(day, range));
    let day = day_of(&group.event_time_feature().name, path).filter(is_of);
    // Granary widens its ranges to whole milliseconds; what others do is not known.
    let event_times = day.and(range);
    Ok(DataFile { uri: place.file_uri(path), day: day.map(str::to_owned), rows, size, event_times })
}

/// The range of the event times in a file, in microseconds, where the log says it and says that every row has one.
fn event_times(stats: &Value) -> Option<(i64, i64)> {
    let micros =
        |range: &str| Some(DateTime::parse_from_rfc3339(stats[range][EVENT_TIME].as_str()?).ok()?.timestamp_micros());
    let complete = stats["nullCount"][EVENT_TIME].as_i64() == Some(0);
    micros("minValues").zip(micros("maxValues")).filter(|_| complete)
}

/// Whether a range lies in a day. Its end is widened to a whole millisecond, which may be the next day's first.
fn is_within(day: &str, (first, last): (i64, i64)) -> bool {
    let begins = NaiveDate::parse_from_str(day, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    let ends = begins.and_then(|begins| begins.checked_add_days(Days::new(1)));
    let micros = |time: NaiveDateTime| time.and_utc().timestamp_micros();
    begins.zip(ends).is_some_and(|(begins, ends)| micros(begins) <= first && last <= micros(ends))
}

/// Gives the document a snapshot with the change, unless nothing changed.
async fn add_snapshot(
    table: &OfflineTable,
    place: &Place,
    number: u64,
    metadata: &mut Metadata,
    change: Change,
) -> Result<(), Error> {
    let (before, files, removes) = match change {
        Change::Added(files) if files.is_empty() => return Ok(()),
        Change::Added(files) => (metadata.total(), files, false),
        Change::Anew(files) => {
            let fresh = metadata.current_snapshot().is_none();
            if files.is_empty() && fresh {
                return Ok(());
            }
            (Totals::default(), files, !fresh)
        }
    };
    let parent = metadata.current_snapshot();
    let older = match parent {
        Some(parent) if !removes => decode_list(&place.read_avro(&parent.manifest_list).await?)?,
        _ => Vec::new(),
    };
    let id = i64::try_from(number).map_err(|_| wrong(format!("version {number} is too large")))?;
    let parent = parent.map(|parent| parent.snapshot_id);
    let added = sum(&files);
    let manifests = Manifests { table, place, number, id }.write(older, files).await?;
    let manifest_list = place.fresh_avro(place::SNAPSHOT, number);
    place.put_avro(&manifest_list, encode_list(&manifests, id, parent)?).await?;
    let uses_no_day = manifests.iter().any(|manifest| manifest.spec == OF_NO_DAY);
    let new = NewSnapshot { id, manifest_list, added, total: before.plus(added), removes };
    let kept = table.warehouse.settings().iceberg_snapshots_max;
    metadata.add_snapshot(&table.group, new, uses_no_day, kept);
    Ok(())
}

fn sum(files: &[DataFile]) -> Totals {
    let one = |file: &DataFile| Totals { files: 1, rows: file.rows, bytes: file.size };
    files.iter().map(one).fold(Totals::default(), Totals::plus)
}

/// The manifests of a snapshot that is being made.
struct Manifests<'a> {
    table: &'a OfflineTable,
    place: &'a Place,
    number: u64,
    id: i64,
}

impl Manifests<'_> {
    /// `older` and new ones for `files`, few enough.
    async fn write(&self, older: Vec<Manifest>, files: Vec<DataFile>) -> Result<Vec<Manifest>, Error> {
        let mut by_spec: BTreeMap<i32, Vec<Entry>> = BTreeMap::new();
        for file in files {
            by_spec.entry(file.spec()).or_default().push(Entry { snapshot: self.id, file });
        }
        let mut manifests = older;
        for entries in by_spec.values().flat_map(|entries| entries.chunks(MANIFEST_FILES_MAX)) {
            manifests.push(self.put(entries.to_vec()).await?);
        }
        while let Some(alike) = alike(&manifests) {
            let mut entries = Vec::new();
            for place in &alike {
                let bytes = self.place.read_avro(&manifests[*place].uri).await?;
                let group = self.table.group.clone();
                entries.extend(blocking(move || decode_manifest(&group, &bytes)).await?);
            }
            let merged = self.put(entries).await?;
            let mut places = 0..;
            manifests.retain(|_| places.next().is_some_and(|place| !alike.contains(&place)));
            manifests.push(merged);
        }
        Ok(manifests)
    }

    async fn put(&self, entries: Vec<Entry>) -> Result<Manifest, Error> {
        let (group, id, uri) = (self.table.group.clone(), self.id, self.place.fresh_avro(place::MANIFEST, self.number));
        let named = uri.clone();
        let (manifest, bytes) = blocking(move || {
            let bytes = encode_manifest(&group, &entries, id)?;
            Ok((Manifest::of(&entries, named, bytes.len(), id), bytes))
        })
        .await?;
        self.place.put_avro(&uri, bytes).await?;
        Ok(manifest)
    }
}

/// Sixteen manifests, by their places, that are of one spec and about one size.
fn alike(manifests: &[Manifest]) -> Option<Vec<usize>> {
    let mut levels: BTreeMap<(i32, u32), Vec<usize>> = BTreeMap::new();
    for (place, manifest) in manifests.iter().enumerate() {
        let files = usize::try_from(manifest.files()).unwrap_or(usize::MAX).max(1);
        if files < MANIFEST_FILES_MAX {
            levels.entry((manifest.spec, files.ilog(MERGE_COUNT))).or_default().push(place);
        }
    }
    levels.into_values().find(|level| level.len() >= MERGE_COUNT)
}

/// Deletes what no document that is kept names. A manifest is named by the snapshots from the one it was written for up to
/// the last before it was merged; so one older than the oldest snapshot is needed only if that snapshot names it.
async fn prune(table: &OfflineTable, place: &Place, listing: &Listing, metadata: &Metadata) -> Result<(), Error> {
    let kept = table.warehouse.settings().iceberg_snapshots_max;
    let Some(oldest) = metadata.snapshots.first().filter(|_| listing.numbers.len() >= kept) else { return Ok(()) };
    let mut used = BTreeSet::from([oldest.manifest_list.clone()]);
    match place.read_avro(&oldest.manifest_list).await {
        Ok(list) => used.extend(decode_list(&list)?.into_iter().map(|manifest| manifest.uri)),
        // What it named is not known, so nothing can be deleted until it is the oldest no more.
        Err(Error::IcebergLost { .. }) => return Ok(()),
        Err(error) => return Err(error),
    }
    let oldest = u64::try_from(oldest.snapshot_id).unwrap_or(0);
    place.prune(listing, kept.saturating_sub(1), oldest, &used).await
}

fn wrong(reason: String) -> Error {
    Error::Iceberg { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(spec: i32, files: i64) -> Manifest {
        let size = 0;
        Manifest {
            uri: String::new(),
            size,
            spec,
            snapshot: 1,
            first_snapshot: 1,
            added: (files, 0),
            existing: (0, 0),
            days: None,
        }
    }

    #[test]
    fn manifests_stay_few_and_are_merged_seldom() {
        let (mut manifests, mut rewritten) = (Vec::new(), 0_usize);
        for _ in 0..20_000 {
            manifests.push(manifest(0, 1));
            while let Some(places) = alike(&manifests) {
                let files: i64 = places.iter().map(|place| manifests[*place].files()).sum();
                rewritten += usize::try_from(files).expect("few");
                let mut place = 0..;
                manifests.retain(|_| place.next().is_some_and(|place| !places.contains(&place)));
                manifests.push(manifest(0, files));
            }
            assert!(manifests.len() < 4 * MERGE_COUNT, "{}", manifests.len());
        }
        assert_eq!(manifests.iter().map(Manifest::files).sum::<i64>(), 20_000);
        assert!(rewritten <= 3 * 20_000, "{rewritten}");
    }

    #[test]
    fn manifests_of_two_specs_are_not_merged() {
        let of = |spec| std::iter::repeat_n(manifest(spec, 1), MERGE_COUNT - 1);
        assert_eq!(alike(&of(0).chain(of(1)).collect::<Vec<_>>()), None);
    }
}
