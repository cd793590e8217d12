//! The tables of a flush: rows and offsets into each, in one commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use granary_offline_store::{OfflineRow, OfflineTable, OffsetMove, Outcome, Warehouse};
use granary_platform::Platform;
use granary_types::{FeatureGroup, FeatureGroupId, StreamId, with_causes};

use crate::Error;
use crate::iceberg::Publisher;
use crate::marks::Marks;
use crate::metrics::Metrics;
use crate::settings::{Settings, Step};

/// What one flush brings to one table.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) group: Arc<FeatureGroup>,
    /// Of all streams.
    pub(crate) rows: Vec<OfflineRow>,
    /// What the table must hold already, by stream.
    pub(crate) marks: BTreeMap<StreamId, u64>,
}

impl Load {
    /// The last event of each stream.
    fn reaches(&self) -> BTreeMap<StreamId, u64> {
        let mut reaches = BTreeMap::new();
        for row in &self.rows {
            let last = reaches.entry(row.stream).or_insert(row.sequence);
            *last = row.sequence.max(*last);
        }
        reaches
    }
}

/// What is known of the tables: open handles by feature group, the least recently used given up first; what the
/// tables must hold; and those that cannot be written.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) marks: Marks,
    pub(crate) failing: Failing,
    warehouse: Arc<Warehouse>,
    publisher: Arc<Publisher>,
    open: HashMap<FeatureGroupId, (u64, OfflineTable)>,
    open_max: usize,
    uses: u64,
}

impl Tables {
    pub(crate) fn new(warehouse: Arc<Warehouse>, publisher: Arc<Publisher>, open_max: usize) -> Self {
        let (marks, failing) = (Marks::default(), Failing::default());
        Self { marks, failing, warehouse, publisher, open: HashMap::new(), open_max, uses: 0 }
    }

    pub(crate) fn warehouse(&self) -> Arc<Warehouse> {
        self.warehouse.clone()
    }

    /// The kept handle of a group's table, no longer kept here.
    pub(crate) fn take(&mut self, group: FeatureGroupId) -> Option<OfflineTable> {
        self.open.remove(&group).map(|(_, table)| table)
    }

    /// Keeps a handle for the next flush, and has its version published.
    pub(crate) fn keep(&mut self, table: OfflineTable) {
        self.publisher.queue(&table);
        self.uses += 1;
        self.open.insert(table.group().id, (self.uses, table));
        if self.open.len() > self.open_max {
            let oldest = self.open.iter().min_by_key(|(_, (used, _))| *used).map(|(group, _)| *group);
            oldest.and_then(|group| self.open.remove(&group));
        }
    }
}

/// Tables that cannot be written, and why.
#[derive(Debug, Default)]
pub(crate) struct Failing(BTreeMap<FeatureGroupId, Failure>);

#[derive(Debug)]
struct Failure {
    group: Arc<FeatureGroup>,
    why: String,
    lost_history: bool,
}

impl Failing {
    /// Keeps a failure, which is logged aloud when it is news.
    pub(crate) fn note(&mut self, group: &Arc<FeatureGroup>, error: &Error) {
        let (name, why) = (&group.name, with_causes(error));
        let lost_history = matches!(error, Error::LostHistory { .. });
        if self.0.get(&group.id).is_some_and(|known| known.lost_history == lost_history) {
            tracing::debug!(group = name, error = why, "offline table still fails");
        } else {
            tracing::error!(group = name, error = why, "offline table cannot be written, begin anew from the offsets");
        }
        self.0.insert(group.id, Failure { group: group.clone(), why, lost_history });
    }

    /// It went well.
    pub(crate) fn clear(&mut self, group: FeatureGroupId) {
        if let Some(failure) = self.0.remove(&group) {
            tracing::info!(group = failure.group.name, "offline table works again");
        }
    }

    /// The first after `last`, or the first of all.
    pub(crate) fn next_group(&self, last: Option<FeatureGroupId>) -> Option<FeatureGroupId> {
        let after = self.0.keys().find(|group| last.is_none_or(|last| **group > last));
        after.or_else(|| self.0.keys().next()).copied()
    }

    /// How many there are, and how many of them have lost history.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.0.len(), self.0.values().filter(|failure| failure.lost_history).count())
    }

    /// A line for each, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.values().map(|failure| format!("{}: {}", failure.group.name, failure.why)).collect()
    }
}

/// A load that is committed.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) table: OfflineTable,
    /// For each stream of the load: its offset as read back, which reaches the load's last event of it.
    pub(crate) offsets: HashMap<StreamId, u64>,
}

/// Brings a load into its table and reads the offsets back.
///
/// # Errors
/// [`Error::Moved`] when another compactor was first, [`Error::LostHistory`], [`Error::NotCovered`], [`Error::Table`]. The handle is gone then:
/// the next one begins with what the log says.
pub(crate) async fn land(
    kept: Option<OfflineTable>,
    warehouse: &Warehouse,
    load: Load,
    platform: &Platform,
    settings: &Settings,
    metrics: &Metrics,
) -> Result<Landed, Error> {
    let group = load.group.id;
    let failed = |source| Error::Table { group, source };
    let mut table = match kept {
        Some(table) => table,
        // One that was there must not begin anew.
        None if load.marks.is_empty() => {
            platform.apart_from_time(warehouse.table(&load.group)).await.map_err(failed)?
        }
        None => platform.apart_from_time(existing(warehouse, &load.group, &load.marks)).await?,
    };
    platform.apart_from_time(check_history(&mut table, &load.marks)).await?;
    platform.apart_from_time(table.adopt(&load.group)).await.map_err(failed)?;
    let reaches = load.reaches();
    let streams: Vec<StreamId> = reaches.keys().copied().collect();
    let committed = platform.apart_from_time(table.offsets(&streams)).await.map_err(failed)?;
    let mut rows = load.rows;
    rows.retain(|row| row.sequence > committed[&row.stream]);
    if !rows.is_empty() {
        commit(&mut table, rows, &committed, &reaches, platform, settings, metrics).await?;
    }
    settings.reached(Step::Committed).await;
    let offsets = platform.apart_from_time(table.durable_offsets(&streams)).await.map_err(failed)?;
    for (stream, events) in reaches {
        let offset = offsets[&stream];
        if offset < events {
            return Err(Error::NotCovered { stream, group, offset, events });
        }
    }
    Ok(Landed { table, offsets })
}

/// A table that the marks say was there.
async fn existing(
    warehouse: &Warehouse,
    group: &Arc<FeatureGroup>,
    marks: &BTreeMap<StreamId, u64>,
) -> Result<OfflineTable, Error> {
    let failed = |source| Error::Table { group: group.id, source };
    if let Some(table) = warehouse.existing_table(group).await.map_err(failed)? {
        return Ok(table);
    }
    let location = warehouse.table_url(group).map_err(failed)?.to_string();
    let (stream, mark) = marks.first_key_value().expect("a group with marks");
    Err(Error::LostHistory { group: group.id, location, stream: *stream, offset: 0, trimmed: *mark })
}

/// Whether the table still holds everything that was trimmed because it held it (CP-2).
async fn check_history(table: &mut OfflineTable, marks: &BTreeMap<StreamId, u64>) -> Result<(), Error> {
    let group = table.group().id;
    let streams: Vec<StreamId> = marks.keys().copied().collect();
    let offsets = table.offsets(&streams).await.map_err(|source| Error::Table { group, source })?;
    for (stream, trimmed) in marks {
        let offset = offsets[stream];
        if offset < *trimmed {
            let location = table.url().to_string();
            return Err(Error::LostHistory { group, location, stream: *stream, offset, trimmed: *trimmed });
        }
    }
    Ok(())
}

/// Looks whether a table is still what it must be, though there is nothing to write to it: by its whole log, which a kept
/// handle does not read again. Returns the new handle.
///
/// # Errors
/// [`Error::LostHistory`], [`Error::Table`].
pub(crate) async fn audit(
    warehouse: &Warehouse,
    group: &Arc<FeatureGroup>,
    marks: &BTreeMap<StreamId, u64>,
) -> Result<OfflineTable, Error> {
    let mut table = existing(warehouse, group, marks).await?;
    check_history(&mut table, marks).await?;
    Ok(table)
}

/// Files, then one commit.
async fn commit(
    table: &mut OfflineTable,
    rows: Vec<OfflineRow>,
    committed: &HashMap<StreamId, u64>,
    reaches: &BTreeMap<StreamId, u64>,
    platform: &Platform,
    settings: &Settings,
    metrics: &Metrics,
) -> Result<(), Error> {
    let group = table.group().id;
    let failed = |source| Error::Table { group, source };
    let moves: Vec<OffsetMove> = reaches
        .iter()
        .map(|(stream, new)| OffsetMove { stream: *stream, expected: committed[stream], new: *new })
        .filter(|offset| offset.new > offset.expected)
        .collect();
    let files = platform.apart_from_time(table.write_files(rows)).await.map_err(failed)?;
    settings.reached(Step::FilesWritten).await;
    match platform.apart_from_time(table.append(&files, &moves)).await.map_err(failed)? {
        Outcome::Committed(version) => {
            let (rows, bytes) = files.iter().fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.size));
            tracing::debug!(table = %table.url(), version, rows, files = files.len(), "committed");
            metrics.commits.inc();
            metrics.rows.inc_by(rows as u64);
            metrics.files.inc_by(files.len() as u64);
            metrics.file_bytes.inc_by(bytes);
            Ok(())
        }
        // The offsets that are read back say so, too.
        Outcome::AlreadyDone => {
            metrics.conflicts.inc();
            Ok(())
        }
        Outcome::Moved => {
            metrics.conflicts.inc();
            Err(Error::Moved { group })
        }
    }
}
