//! One feature group's table: opening, creating, columns, offsets, the snapshot for readers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TableReference};
use deltalake_core::kernel::{Action, MetadataExt, StructField, StructType};
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use granary_types::{FeatureGroup, FeatureGroupId, StreamId};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use url::Url;

use crate::commit::{Offsets, is_conflict};
use crate::durable::sync_directory;
use crate::parquet_file::WrittenFile;
use crate::schema::{arrow_schema, delta_columns, evolve};
use crate::{Error, OfflineRow, Warehouse, parquet_file};

/// The table property that names the feature group a table belongs to.
pub(crate) const GROUP_PROPERTY: &str = "granary.featureGroupId";

/// One feature group's table at one version, newer after [`Self::refresh`]. Writers and readers hold one each and
/// keep it: opening reads the log from its last checkpoint, refreshing only what is new. A clone shares what was read.
#[derive(Clone)]
pub struct OfflineTable {
    pub(crate) group: Arc<FeatureGroup>,
    pub(crate) delta: DeltaTable,
    pub(crate) offsets: Offsets,
    pub(crate) warehouse: Warehouse,
    checkpointed: u64,
    base: Option<Base>,
}

/// A commit's file as it was when it was read. Later versions are read on top of it, so it must stay what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    version: u64,
    size: u64,
    modified: DateTime<Utc>,
    e_tag: Option<String>,
}

impl fmt::Debug for OfflineTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfflineTable")
            .field("group", &self.group.name)
            .field("url", &self.url().as_str())
            .field("version", &self.delta.version())
            .finish_non_exhaustive()
    }
}

impl OfflineTable {
    /// Opens or creates the table behind `log_store` and gives it the group's columns.
    pub(crate) async fn open(
        group: &FeatureGroup,
        log_store: LogStoreRef,
        warehouse: &Warehouse,
    ) -> Result<Self, Error> {
        if let Some(table) = Self::open_existing(group, log_store.clone(), warehouse).await? {
            return Ok(table);
        }
        let created = create(group, log_store.clone()).await;
        // Another process may have created it, or the answer was lost: what counts is what stands there now.
        match Self::open_existing(group, log_store, warehouse).await {
            Ok(Some(table)) => Ok(table),
            Ok(None) => Err(created.err().unwrap_or(DeltaTableError::NotATable(group.name.clone()).into())),
            Err(error) => Err(created.err().unwrap_or(error)),
        }
    }

    /// Opens the table behind `log_store`, if there is one, and gives it the group's columns.
    pub(crate) async fn open_existing(
        group: &FeatureGroup,
        log_store: LogStoreRef,
        warehouse: &Warehouse,
    ) -> Result<Option<Self>, Error> {
        let mut delta = DeltaTable::new(log_store.clone());
        if !log_store.is_delta_table_location().await? {
            return Ok(None);
        }
        delta.load().await?;
        let checkpointed = delta.version().unwrap_or_default();
        let mut table = Self {
            group: Arc::new(group.clone()),
            delta,
            offsets: Offsets::default(),
            warehouse: warehouse.clone(),
            checkpointed,
            base: None,
        };
        table.base = table.base_at(checkpointed).await?;
        table.check_owner()?;
        table.add_missing_columns().await?;
        Ok(Some(table))
    }

    /// The feature group as it was when the table was opened or last given by [`Self::adopt`].
    pub fn group(&self) -> &Arc<FeatureGroup> {
        &self.group
    }

    /// Where the table is.
    pub fn url(&self) -> &Url {
        self.delta.table_url()
    }

    /// The version this handle has read.
    pub fn version(&self) -> u64 {
        self.delta.version().unwrap_or_default()
    }

    /// The columns that rows written by this handle have.
    pub fn schema(&self) -> SchemaRef {
        arrow_schema(&self.group)
    }

    /// The table as delta-rs sees it, loaded: `delta().table_provider()` and `delta().snapshot()` are what a query
    /// needs. As of [`Self::version`].
    pub fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    /// Reads what was committed since.
    ///
    /// # Errors
    /// [`Error::Table`]; the handle stays at its version. [`Error::Replaced`] when what it read before is not there any
    /// more: the handle is of no use then.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        let version = self.version();
        if self.base.is_none() || self.base != self.base_at(version).await? {
            return Err(Error::Replaced { location: self.url().to_string(), version });
        }
        self.delta.update_incremental(None).await?;
        if self.version() != version {
            self.base = self.base_at(self.version()).await?;
        }
        Ok(())
    }

    /// The file of a version's commit, if it is there.
    async fn base_at(&self, version: u64) -> Result<Option<Base>, Error> {
        let file = Path::from(format!("_delta_log/{version:020}.json"));
        match self.delta.object_store().head(&file).await {
            Ok(meta) => Ok(Some(Base { version, size: meta.size, modified: meta.last_modified, e_tag: meta.e_tag })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a newer view of the group and adds the columns of features that were added since.
    ///
    /// # Errors
    /// [`Error::Table`], [`Error::TableMismatch`].
    pub async fn adopt(&mut self, group: &Arc<FeatureGroup>) -> Result<(), Error> {
        if group.schema.version <= self.group.schema.version {
            return Ok(());
        }
        self.group = group.clone();
        self.add_missing_columns().await
    }

    /// The committed offset of each stream in the newest version of the table; 0 for a stream that has none.
    ///
    /// # Errors
    /// [`Error::Table`], [`Error::OffsetRetreated`].
    pub async fn offsets(&mut self, streams: &[StreamId]) -> Result<HashMap<StreamId, u64>, Error> {
        self.refresh().await?;
        self.offsets.read(&self.delta, streams).await
    }

    /// As [`Self::offsets`], and what it returns survives a power cut: what a trim of the change log may rest on
    /// (CL-3). On a local disk another process's commit can be seen a moment before it is synced.
    ///
    /// # Errors
    /// As [`Self::offsets`], and [`Error::Io`].
    pub async fn durable_offsets(&mut self, streams: &[StreamId]) -> Result<HashMap<StreamId, u64>, Error> {
        let offsets = self.offsets(streams).await?;
        if let Some(directory) = self.warehouse.local_directory(self.url()) {
            let log = directory.join("_delta_log");
            tokio::task::spawn_blocking(move || sync_directory(&log)).await.map_err(|_| Error::TaskDied)??;
        }
        Ok(offsets)
    }

    /// Writes rows into Parquet files, one or more for each directory of their event times, each sorted by record
    /// identifier, event time and write stamp. Readers see none of them before [`Self::append`].
    ///
    /// # Errors
    /// [`Error::CorruptRow`], [`Error::NewerSchema`] when a row was written under a schema that this handle does not
    /// have yet ([`Self::adopt`]), [`Error::ObjectStore`]. Files written by then stay as orphans.
    pub async fn write_files(&self, rows: Vec<OfflineRow>) -> Result<Vec<WrittenFile>, Error> {
        let store = self.delta.object_store();
        parquet_file::write(&self.group, rows, &store, self.warehouse.platform(), self.warehouse.settings()).await
    }

    /// Gives the log a checkpoint when enough versions have passed since the last one this handle knows of, and
    /// removes log files that are past the table's log retention. Off the path of commits: call it after them.
    /// Returns whether it made a checkpoint.
    ///
    /// # Errors
    /// [`Error::Table`]; nothing is lost by it.
    pub async fn maintain(&mut self) -> Result<bool, Error> {
        let version = self.version();
        if version < self.checkpointed + self.warehouse.settings().checkpoint_interval {
            return Ok(false);
        }
        // Before the work, so that a failing checkpoint is tried again an interval later and not after every commit.
        self.checkpointed = version;
        deltalake_core::checkpoints::create_checkpoint(&self.delta, None).await?;
        deltalake_core::checkpoints::cleanup_metadata(&self.delta, None).await?;
        Ok(true)
    }

    /// Refuses the table of another group: its offsets would hide this group's events.
    fn check_owner(&self) -> Result<(), Error> {
        let owner = self.delta.snapshot()?.metadata().configuration().get(GROUP_PROPERTY);
        match owner {
            Some(owner) if *owner != self.group.id.to_string() => Err(Error::TableMismatch {
                group: self.group.id,
                reason: format!("the table belongs to feature group {owner}"),
            }),
            _ => Ok(()),
        }
    }

    /// One commit that gives the table the columns it lacks; tried again when another commit came first.
    async fn add_missing_columns(&mut self) -> Result<(), Error> {
        let attempts = self.warehouse.settings().commit_attempts_max;
        for _ in 0..attempts {
            let snapshot = self.delta.snapshot()?;
            let present: Vec<StructField> = snapshot.schema().fields().cloned().collect();
            let Some(columns) = evolve(&self.group, &present)? else {
                return Ok(());
            };
            let added = columns.iter().filter(|column| !present.contains(column)).cloned().collect();
            let schema = StructType::try_new(columns).map_err(|error| mismatch(self.group.id, &error))?;
            let metadata = snapshot.metadata().clone().with_schema(&schema).map_err(DeltaTableError::from)?;
            self.try_commit(vec![Action::Metadata(metadata)], DeltaOperation::AddColumn { fields: added }).await?;
        }
        Err(Error::Busy { attempts })
    }

    /// A commit that only adds to what is there, and a look at what stands there then. Whether it was made, or another one
    /// came first, is for the caller to see there.
    ///
    /// # Errors
    /// [`Error::Table`], after which it may have been made all the same.
    pub(crate) async fn try_commit(&mut self, actions: Vec<Action>, operation: DeltaOperation) -> Result<(), Error> {
        match self.commit_on_loaded(properties(), actions, operation).await {
            Err(error) if !is_conflict(&error) => Err(error.into()),
            _ => self.refresh().await,
        }
    }

    /// One commit on the version that this handle has loaded, and on no other. Returns the version it made.
    pub(crate) async fn commit_on_loaded(
        &self,
        properties: CommitProperties,
        actions: Vec<Action>,
        operation: DeltaOperation,
    ) -> Result<u64, DeltaTableError> {
        let snapshot = self.delta.snapshot()? as &dyn TableReference;
        let commit = CommitBuilder::from(properties).with_actions(actions);
        let prepared = commit.build(Some(snapshot), self.delta.log_store(), operation).into_prepared_commit_future();
        Ok(prepared.await?.await?.version)
    }
}

/// What a commit of files is to Delta.
pub(crate) fn appends() -> DeltaOperation {
    DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None }
}

/// Version 0 of a group's table.
async fn create(group: &FeatureGroup, log_store: LogStoreRef) -> Result<(), Error> {
    CreateBuilder::new()
        .with_log_store(log_store)
        .with_table_name(group.name.clone())
        .with_columns(delta_columns(group))
        .with_save_mode(SaveMode::Ignore)
        .with_raise_if_key_not_exists(false)
        .with_configuration([(GROUP_PROPERTY, Some(group.id.to_string()))])
        .with_commit_properties(properties())
        .await?;
    Ok(())
}

/// Of every commit: no housekeeping inside it, which [`OfflineTable::maintain`] does, so that a commit that is made
/// cannot end in an error of something else. And no second try inside it, on a version that nobody has looked at: the
/// same file would be named twice, and the loser of a race to create would commit its metadata as version 1.
pub(crate) fn properties() -> CommitProperties {
    CommitProperties::default().with_create_checkpoint(false).with_cleanup_expired_logs(Some(false)).with_max_retries(0)
}

fn mismatch(group: FeatureGroupId, error: &impl fmt::Display) -> Error {
    Error::TableMismatch { group, reason: error.to_string() }
}
