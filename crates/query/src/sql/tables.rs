//! Offline tables, kept open between queries and fixed at one version within a query.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use granary_catalog::CatalogView;
use granary_offline_store::{OfflineTable, Warehouse, arrow_schema};
use granary_types::{FeatureGroup, FeatureGroupId, FeatureGroupStatus};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::Error;

/// A table's handle, once it was opened. Held while it reads the newest commits, so that queries share that work.
type Handle = Arc<AsyncMutex<Option<OfflineTable>>>;

/// The open tables of a service.
#[derive(Debug)]
pub(super) struct Tables {
    warehouse: Arc<Warehouse>,
    open: Mutex<HashMap<FeatureGroupId, Handle>>,
    open_max: usize,
}

impl Tables {
    pub(super) fn new(warehouse: Arc<Warehouse>, open_max: usize) -> Self {
        Self { warehouse, open: Mutex::new(HashMap::new()), open_max: open_max.max(1) }
    }

    /// A provider of the group's table at its newest version.
    async fn newest(
        &self,
        group: &Arc<FeatureGroup>,
        catalog: &CatalogView,
        state: &Arc<SessionState>,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        let handle = self.handle(group.id, catalog);
        let mut table = handle.lock().await;
        let refreshed = match table.as_mut() {
            Some(table) => refresh(table, group).await,
            None => Ok(()),
        };
        if let Err(error) = refreshed {
            // The log may have been cleaned up past what the handle knows; a fresh one starts from the checkpoint.
            tracing::debug!(%error, group = %group.name, "open offline table anew");
            *table = None;
        }
        if table.is_none() {
            *table = self.warehouse.existing_table(group).await?;
        }
        // Only a compactor makes tables: it knows whether one that is not there was lost.
        let Some(table) = table.as_ref() else {
            return Ok(Arc::new(EmptyTable::new(arrow_schema(group))));
        };
        Ok(table.delta().table_provider().with_session(Arc::clone(state)).await?)
    }

    fn handle(&self, id: FeatureGroupId, catalog: &CatalogView) -> Handle {
        let mut open = self.open.lock();
        if !open.contains_key(&id) && open.len() >= self.open_max {
            let alive = |id: &FeatureGroupId| {
                catalog.group_by_id(*id).is_some_and(|group| group.status == FeatureGroupStatus::Created)
            };
            open.retain(|id, _| alive(id));
            // Any one will do: a query that still reads from it has a provider of its own.
            let any = open.keys().next().copied().filter(|_| open.len() >= self.open_max);
            any.map(|id| open.remove(&id));
        }
        Arc::clone(open.entry(id).or_default())
    }
}

async fn refresh(table: &mut OfflineTable, group: &Arc<FeatureGroup>) -> Result<(), granary_offline_store::Error> {
    table.refresh().await?;
    table.adopt(group).await
}

/// The tables of one query: each at the version at which the query first named it.
pub(crate) struct QueryTables {
    tables: Arc<Tables>,
    catalog: Arc<CatalogView>,
    /// What providers take their scan settings from.
    state: Arc<SessionState>,
    opened: AsyncMutex<HashMap<FeatureGroupId, Arc<dyn TableProvider>>>,
}

impl fmt::Debug for QueryTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryTables").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl QueryTables {
    pub(super) fn new(tables: Arc<Tables>, catalog: Arc<CatalogView>, state: &SessionState) -> Self {
        Self { tables, catalog, state: Arc::new(state.clone()), opened: AsyncMutex::default() }
    }

    /// The group's table.
    ///
    /// # Errors
    /// `Invalid` for a group without an offline store; what opening it fails with.
    pub(crate) async fn open(&self, group: &Arc<FeatureGroup>) -> Result<Arc<dyn TableProvider>, Error> {
        if group.offline.is_none() {
            let message = format!("feature group {:?} has no offline store to query", group.name);
            return Err(granary_types::Error::invalid(message).into());
        }
        let mut opened = self.opened.lock().await;
        if let Some(table) = opened.get(&group.id) {
            return Ok(Arc::clone(table));
        }
        let table = self.tables.newest(group, &self.catalog, &self.state).await?;
        opened.insert(group.id, Arc::clone(&table));
        Ok(table)
    }
}
