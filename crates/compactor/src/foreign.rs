//! Files that other programs wrote under a feature group's prefix, on their way into its table.
//!
//! One group at a time, all of them once an interval: each look lists the group's directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_catalog::CatalogView;
use granary_offline_store::{OfflineTable, TakenIn, Verdicts, Warehouse};
use granary_types::{FeatureGroup, FeatureGroupId, FeatureGroupStatus};
use tokio::time::Instant;

use crate::Error;
use crate::metrics::Metrics;

/// How many refused files of one look are named in the log.
const NAMED_MAX: usize = 20;

/// Which group is looked at next, and what is known of files that stay outside.
#[derive(Debug)]
pub(crate) struct ForeignFiles {
    /// When the next round begins; the groups of a round follow each other without a pause.
    pub(crate) due: Instant,
    last: Option<FeatureGroupId>,
    verdicts: BTreeMap<FeatureGroupId, Verdicts>,
}

impl ForeignFiles {
    pub(crate) fn new(due: Instant) -> Self {
        Self { due, last: None, verdicts: BTreeMap::new() }
    }

    /// The next group of this round, or `None` when the round is over.
    pub(crate) fn next(&mut self, catalog: &CatalogView) -> Option<Arc<FeatureGroup>> {
        let live = |group: &&Arc<FeatureGroup>| group.offline.is_some() && group.status == FeatureGroupStatus::Created;
        let after = catalog.groups().filter(live).filter(|group| self.last.is_none_or(|last| group.id > last));
        let next = after.min_by_key(|group| group.id).cloned();
        self.last = next.as_ref().map(|group| group.id);
        if next.is_none() {
            self.verdicts.retain(|id, _| catalog.group_by_id(*id).is_some_and(|group| live(&group)));
        }
        next
    }

    /// The group's verdicts, to be changed.
    pub(crate) fn verdicts(&mut self, group: FeatureGroupId) -> &mut Verdicts {
        self.verdicts.entry(group).or_default()
    }
}

/// Looks for files of one group. Returns the table's handle, if there is a table now. One that was never there is made
/// only where there are files for it; `may_create` says whether that is so, or history may be lost.
///
/// # Errors
/// [`Error::Table`]; the next round looks again.
pub(crate) async fn look(
    kept: Option<OfflineTable>,
    warehouse: &Warehouse,
    group: &Arc<FeatureGroup>,
    may_create: bool,
    verdicts: &mut Verdicts,
) -> Result<Option<(OfflineTable, TakenIn)>, Error> {
    let failed = |source| Error::Table { group: group.id, source };
    let table = match kept {
        Some(table) => Some(table),
        None => warehouse.existing_table(group).await.map_err(failed)?,
    };
    let mut table = match table {
        Some(table) => table,
        None if may_create && warehouse.has_files(group).await.map_err(failed)? => {
            warehouse.table(group).await.map_err(failed)?
        }
        None => return Ok(None),
    };
    table.adopt(group).await.map_err(failed)?;
    let taken = table.take_in_foreign_files(verdicts).await.map_err(failed)?;
    Ok(Some((table, taken)))
}

/// Says and counts what a look brought.
pub(crate) fn tell(group: &FeatureGroup, taken: &TakenIn, metrics: &Metrics) {
    metrics.foreign_files.with_label_values(&["taken"]).inc_by(taken.files.len() as u64);
    metrics.foreign_files.with_label_values(&["refused"]).inc_by(taken.refused.len() as u64);
    metrics.rows.inc_by(taken.rows);
    if !taken.files.is_empty() {
        let (files, rows) = (taken.files.len(), taken.rows);
        tracing::info!(group = group.name, files, rows, "files of another program are part of the offline table now");
    }
    for (path, why) in taken.refused.iter().take(NAMED_MAX) {
        tracing::warn!(group = group.name, path, why, "file of another program is no part of the offline table");
    }
    if taken.refused.len() > NAMED_MAX {
        let more = taken.refused.len() - NAMED_MAX;
        tracing::warn!(group = group.name, more, "more such files");
    }
}
