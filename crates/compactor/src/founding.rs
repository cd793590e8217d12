//! Tables of new groups that are to be shown as Iceberg: made when the group is, and not with its first events. Iceberg's clients
//! open a table before there is anything in it.

use std::collections::BTreeSet;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::CatalogView;
use granary_offline_store::{Error, Warehouse};
use granary_platform::Platform;
use granary_types::{FeatureGroup, FeatureGroupId, FeatureGroupStatus, with_causes};
use tokio::sync::watch;

use crate::iceberg::Publisher;
use crate::marks::Marks;

/// The loop that makes them.
#[derive(Debug)]
pub(crate) struct Founding {
    pub(crate) platform: Platform,
    pub(crate) catalog: watch::Receiver<Arc<CatalogView>>,
    pub(crate) warehouse: Arc<Warehouse>,
    pub(crate) marks: Marks,
    pub(crate) publisher: Arc<Publisher>,
    /// The first rest while there is one that could not be made.
    pub(crate) rest_min: Duration,
    /// The longest.
    pub(crate) rest_max: Duration,
}

impl Founding {
    /// Makes the tables of new groups, as the catalog shows them. Never ends.
    pub(crate) async fn run(&self) {
        let (mut catalog, mut founded, mut rest) = (self.catalog.clone(), BTreeSet::new(), self.rest_min);
        loop {
            let view = catalog.borrow_and_update().clone();
            let groups: Vec<_> = view.groups().filter(|group| is_shown(group)).cloned().collect();
            let live: BTreeSet<FeatureGroupId> = groups.iter().map(|group| group.id).collect();
            founded.retain(|id| live.contains(id));
            for group in groups.iter().filter(|group| !founded.contains(&group.id)).collect::<Vec<_>>() {
                if self.found(&view, group).await {
                    founded.insert(group.id);
                }
            }
            let retry = async {
                match founded.len() < live.len() {
                    true => self.platform.sleep(rest).await,
                    false => future::pending().await,
                }
            };
            tokio::select! {
                changed = catalog.changed() => match changed {
                    Ok(()) => rest = self.rest_min,
                    Err(_) => future::pending().await,
                },
                () = retry => rest = (rest * 2).min(self.rest_max),
            }
        }
    }

    /// Whether a group's table is there now.
    async fn found(&self, catalog: &CatalogView, group: &FeatureGroup) -> bool {
        // One that may have been lost is not begun anew.
        let may_create = self.marks.has_none(group.id, catalog.shards().iter().map(|shard| shard.stream));
        match self.platform.apart_from_time(self.table(group, may_create)).await {
            Ok(is_there) => is_there,
            Err(error) => {
                tracing::debug!(
                    group = group.name,
                    error = with_causes(&error),
                    "make the table of a new group, again later"
                );
                false
            }
        }
    }

    async fn table(&self, group: &FeatureGroup, may_create: bool) -> Result<bool, Error> {
        let table = match may_create {
            true => Some(self.warehouse.table(group).await?),
            false => self.warehouse.existing_table(group).await?,
        };
        if let Some(table) = &table {
            self.publisher.queue(table);
        }
        Ok(table.is_some())
    }
}

fn is_shown(group: &FeatureGroup) -> bool {
    group.is_iceberg() && group.status == FeatureGroupStatus::Created
}
