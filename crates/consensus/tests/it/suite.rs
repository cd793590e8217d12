//! openraft's own suite over the log store and the state machine adapter.

use std::sync::Arc;

use granary_consensus::Settings;
use granary_consensus::log_store::LogStore;
use granary_consensus::snapshot_store::SnapshotStore;
use granary_consensus::state_machine_adapter::StateMachineAdapter;
use granary_consensus::type_config::TypeConfig;
use granary_types::{ClusterId, ShardId};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::list_machine::ListMachine;

struct InTempDir;

impl StoreBuilder<TypeConfig, LogStore, StateMachineAdapter, TempDir> for InTempDir {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachineAdapter), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let log = LogStore::open(&dir.path().join("log"), &Settings::default()).unwrap();
        let snapshots = SnapshotStore::open(&dir.path().join("snapshots"), ClusterId(1), ShardId(1)).unwrap();
        let adapter = StateMachineAdapter::restore(Arc::new(ListMachine::default()), Arc::new(snapshots)).unwrap();
        Ok((dir, log, adapter))
    }
}

#[tokio::test]
async fn openraft_storage_suite() {
    Suite::test_all(InTempDir).await.unwrap();
}
