//! The tables of a flush: rows and offsets into each, in one commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use granary_offline_store::{OfflineRow, OfflineTable, OffsetMove, Outcome, Warehouse};
use granary_platform::Platform;
use granary_types::{FeatureGroup, FeatureGroupId, StreamId};

use crate::Error;
use crate::metrics::Metrics;
use crate::settings::{Settings, Step};

/// What one flush brings to one table.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) group: Arc<FeatureGroup>,
    /// Of all streams.
    pub(crate) rows: Vec<OfflineRow>,
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

/// Open table handles by feature group, the least recently used given up first.
#[derive(Debug)]
pub(crate) struct Tables {
    warehouse: Arc<Warehouse>,
    open: HashMap<FeatureGroupId, (u64, OfflineTable)>,
    open_max: usize,
    uses: u64,
}

impl Tables {
    pub(crate) fn new(warehouse: Arc<Warehouse>, open_max: usize) -> Self {
        Self { warehouse, open: HashMap::new(), open_max, uses: 0 }
    }

    pub(crate) fn warehouse(&self) -> Arc<Warehouse> {
        self.warehouse.clone()
    }

    /// The kept handle of a group's table, no longer kept here.
    pub(crate) fn take(&mut self, group: FeatureGroupId) -> Option<OfflineTable> {
        self.open.remove(&group).map(|(_, table)| table)
    }

    /// Keeps a handle for the next flush.
    pub(crate) fn keep(&mut self, table: OfflineTable) {
        self.uses += 1;
        self.open.insert(table.group().id, (self.uses, table));
        if self.open.len() > self.open_max {
            let oldest = self.open.iter().min_by_key(|(_, (used, _))| *used).map(|(group, _)| *group);
            oldest.and_then(|group| self.open.remove(&group));
        }
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
/// [`Error::Moved`] when another compactor was first, [`Error::NotCovered`], [`Error::Table`]. The handle is gone then:
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
        None => platform.apart_from_time(warehouse.table(&load.group)).await.map_err(failed)?,
    };
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
