//! Files that other programs wrote under a feature group's prefix, on their way into its table.
//!
//! Each look lists a group's directory, which may take long, so it is taken beside the flushes, with handles of its own, and
//! holds nothing up. One group at a time, all of them once an interval.

use std::collections::{BTreeMap, BTreeSet};
use std::future;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::CatalogView;
use granary_offline_store::{OfflineTable, TakenIn, Verdicts, Warehouse};
use granary_platform::Platform;
use granary_types::{FeatureGroup, FeatureGroupId, FeatureGroupStatus, with_causes};
use tokio::sync::watch;

use crate::Error;
use crate::iceberg::Publisher;
use crate::marks::Marks;
use crate::metrics::{FOREIGN_OUTCOMES, Metrics};

/// How many refused or removed files of one look are named in the log.
const NAMED_MAX: usize = 20;

/// The loop that looks for them.
#[derive(Debug)]
pub(crate) struct ForeignFiles {
    pub(crate) platform: Platform,
    pub(crate) catalog: watch::Receiver<Arc<CatalogView>>,
    pub(crate) warehouse: Arc<Warehouse>,
    pub(crate) marks: Marks,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) metrics: Metrics,
    /// Zero means never.
    pub(crate) interval: Duration,
    /// So many tables are kept open from one look to the next.
    pub(crate) open_max: usize,
}

/// What is known from the looks before.
#[derive(Debug, Default)]
struct Known {
    open: BTreeMap<FeatureGroupId, OfflineTable>,
    verdicts: BTreeMap<FeatureGroupId, Verdicts>,
    /// Those whose last look failed, which is told once.
    failing: BTreeSet<FeatureGroupId>,
}

impl Known {
    /// Forgets all groups but these.
    fn retain(&mut self, live: &BTreeSet<FeatureGroupId>) {
        self.open.retain(|id, _| live.contains(id));
        self.verdicts.retain(|id, _| live.contains(id));
        self.failing.retain(|id| live.contains(id));
    }
}

impl ForeignFiles {
    /// Looks at all groups, again and again. Never ends.
    pub(crate) async fn run(&self) {
        if self.interval.is_zero() {
            return future::pending().await;
        }
        let mut known = Known::default();
        loop {
            self.platform.sleep(self.interval).await;
            let catalog = self.catalog.borrow().clone();
            let live =
                |group: &&Arc<FeatureGroup>| group.offline.is_some() && group.status == FeatureGroupStatus::Created;
            let groups: Vec<Arc<FeatureGroup>> = catalog.groups().filter(live).cloned().collect();
            known.retain(&groups.iter().map(|group| group.id).collect());
            for group in &groups {
                self.look_and_tell(&catalog, group, &mut known).await;
            }
        }
    }

    async fn look_and_tell(&self, catalog: &CatalogView, group: &Arc<FeatureGroup>, known: &mut Known) {
        let may_create = self.marks.has_none(group.id, catalog.shards().iter().map(|shard| shard.stream));
        let (kept, verdicts) = (known.open.remove(&group.id), known.verdicts.entry(group.id).or_default());
        let look = look(kept, &self.warehouse, group, may_create, verdicts);
        match self.platform.apart_from_time(look).await {
            Ok(found) => {
                if known.failing.remove(&group.id) {
                    tracing::info!(group = group.name, "files of other programs are looked for again");
                }
                let Some((table, taken)) = found else { return };
                tell(group, &taken, &self.metrics);
                self.publisher.queue(&table);
                if known.open.len() < self.open_max {
                    known.open.insert(group.id, table);
                }
            }
            Err(error) if known.failing.insert(group.id) => {
                tracing::warn!(
                    group = group.name,
                    error = with_causes(&error),
                    "look for files of other programs, again later"
                );
            }
            Err(error) => {
                tracing::debug!(
                    group = group.name,
                    error = with_causes(&error),
                    "look for files of other programs still fails"
                );
            }
        }
    }
}

/// Looks for files of one group. Returns the table's handle, if there is a table now. One that was never there is made
/// only where there are files for it; `may_create` says whether that is so, or history may be lost.
///
/// # Errors
/// [`Error::Table`]; the next round looks again.
async fn look(
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
fn tell(group: &FeatureGroup, taken: &TakenIn, metrics: &Metrics) {
    let TakenIn { files, rows, refused, removed } = taken;
    for (outcome, count) in FOREIGN_OUTCOMES.iter().zip([files.len(), refused.len(), removed.len()]) {
        metrics.foreign_files.with_label_values(&[outcome]).inc_by(count as u64);
    }
    metrics.rows.inc_by(*rows);
    if !files.is_empty() {
        let files = files.len();
        tracing::info!(group = group.name, files, rows, "files of another program are part of the offline table now");
    }
    for (path, why) in refused.iter().take(NAMED_MAX) {
        tracing::warn!(group = group.name, path, why, "file of another program is no part of the offline table");
    }
    for path in removed.iter().take(NAMED_MAX) {
        tracing::warn!(group = group.name, path, "file of another program is gone or another, its rows left the table");
    }
    let more = refused.len().saturating_sub(NAMED_MAX) + removed.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        tracing::warn!(group = group.name, more, "more such files");
    }
}
