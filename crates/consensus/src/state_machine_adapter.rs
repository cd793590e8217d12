//! openraft's state machine over the [`StateMachine`] port and the group's snapshot files.
//!
//! Entries are applied one by one, in order, each after the port had room for it (bounded memory reaches the
//! proposers that way). The port keeps the state; this adapter keeps the last applied log id and the membership,
//! which are part of every snapshot file. The applied index is published before a proposal is answered, so that a
//! read that waits for it sees what it should.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, TryStreamExt};
use granary_platform::Platform;
use granary_types::with_causes;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::codec::StoredPayload;
use crate::snapshot_store::{SnapshotFile, SnapshotStore};
use crate::stats::Stats;
use crate::type_config::{LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::{SnapshotSource, StateMachine};

/// A snapshot that waits for about as many new bytes as the last one had never waits for more than this.
const SNAPSHOT_DEFER_BYTES_MAX: u64 = 1 << 30;

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// The state machine that openraft drives.
#[derive(Debug)]
pub struct StateMachineAdapter {
    port: Arc<dyn StateMachine>,
    snapshots: Arc<SnapshotStore>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    applied: watch::Sender<u64>,
    stats: Arc<Stats>,
    platform: Platform,
    snapshot_free_bytes: u64,
    bytes_since_snapshot: u64,
    snapshot_wanted: Arc<AtomicBool>,
}

impl StateMachineAdapter {
    /// Restores the port from the newest valid snapshot file, if there is one. Blocks.
    ///
    /// # Errors
    /// When the port cannot be restored.
    pub fn restore(port: Arc<dyn StateMachine>, snapshots: Arc<SnapshotStore>) -> io::Result<Self> {
        Self::restore_counted(port, snapshots, Arc::default(), 0, Platform::system())
    }

    pub(crate) fn restore_counted(
        port: Arc<dyn StateMachine>,
        snapshots: Arc<SnapshotStore>,
        stats: Arc<Stats>,
        snapshot_free_bytes: u64,
        platform: Platform,
    ) -> io::Result<Self> {
        let (applied, _) = watch::channel(0);
        let mut adapter = Self {
            port,
            snapshots,
            last_applied: None,
            membership: StoredMembership::default(),
            applied,
            stats,
            platform,
            snapshot_free_bytes,
            bytes_since_snapshot: 0,
            snapshot_wanted: Arc::default(),
        };
        if let Some(newest) = adapter.snapshots.newest() {
            adapter.port.restore(newest.meta().last_log_id.map_or(0, |id| id.index), true, &mut newest.body())?;
            adapter.adopt(newest.meta());
        }
        Ok(adapter)
    }

    /// The index of the last applied entry; 0 before the first.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    async fn wait_for_room(&self) -> io::Result<()> {
        tokio::select! {
            biased;
            () = self.port.room() => Ok(()),
            () = self.platform.shutdown_begun() => Err(io::Error::other("group stopped before there was room")),
        }
    }

    fn adopt(&mut self, meta: &SnapshotMeta) {
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.bytes_since_snapshot = 0;
        self.applied.send_replace(meta.last_log_id.map_or(0, |id| id.index));
    }

    /// Set it to have the next snapshot taken however little was applied since the last.
    pub(crate) fn snapshot_wanted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.snapshot_wanted)
    }

    /// Whether a snapshot of about the last one's size is worth it by now.
    fn snapshot_is_due(&self) -> bool {
        if self.snapshot_wanted.swap(false, Ordering::Relaxed) {
            return true;
        }
        let last = self.snapshots.newest().map_or(0, |newest| newest.file_len());
        last <= self.snapshot_free_bytes || self.bytes_since_snapshot >= last.min(SNAPSHOT_DEFER_BYTES_MAX)
    }

    fn pin(&mut self) -> io::Result<SnapshotBuilder> {
        let source = self.port.snapshot()?;
        let index = self.last_applied.map_or(0, |id| id.index);
        if source.index() > index {
            // The port kept a newer state of its own over a restart and these entries are still being applied again.
            return Err(io::Error::other(format!(
                "state is ahead of the entries applied since the start: state={} applied={index}",
                source.index()
            )));
        }
        self.bytes_since_snapshot = 0;
        let meta = SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() };
        Ok(SnapshotBuilder {
            snapshots: Arc::clone(&self.snapshots),
            stats: Arc::clone(&self.stats),
            platform: self.platform.clone(),
            meta,
            source: Mutex::new(Some(Ok(source))),
        })
    }

    fn builder_or_failure(&mut self) -> SnapshotBuilder {
        self.pin().unwrap_or_else(|error| SnapshotBuilder {
            snapshots: Arc::clone(&self.snapshots),
            stats: Arc::clone(&self.stats),
            platform: self.platform.clone(),
            meta: SnapshotMeta::default(),
            source: Mutex::new(Some(Err(error))),
        })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachineAdapter {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.bytes_since_snapshot += StoredPayload::len(&entry.payload) as u64;
            let log_id = entry.log_id();
            let reply = match entry.payload {
                EntryPayload::Blank => Reply::default(),
                EntryPayload::Normal(command) => {
                    self.wait_for_room().await?;
                    self.stats.commands_applied.add(1);
                    Reply(self.port.apply(log_id.index, &command.0)?)
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership);
                    Reply::default()
                }
            };
            self.last_applied = Some(log_id);
            self.applied.send_replace(log_id.index);
            if let Some(responder) = responder {
                responder.send(reply);
            }
            // A long run of entries must not keep the thread from heartbeats.
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if force {
            return Some(self.builder_or_failure());
        }
        if !self.snapshot_is_due() {
            return None;
        }
        self.pin().inspect_err(|error| tracing::warn!(%error, "snapshot is put off")).ok()
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.builder_or_failure()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (port, snapshots) = (Arc::clone(&self.port), Arc::clone(&self.snapshots));
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let install = move || {
            let installed = snapshots.install(&snapshot)?;
            port.restore(index, false, &mut installed.body())
        };
        self.platform.blocking(install).await??;
        // Counted before the index is published: whoever saw it applied sees it counted.
        self.stats.snapshots_installed.add(1);
        self.adopt(meta);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        Ok(self.snapshots.newest().map(raft_snapshot))
    }
}

/// A pinned state on its way into a file.
pub struct SnapshotBuilder {
    snapshots: Arc<SnapshotStore>,
    stats: Arc<Stats>,
    platform: Platform,
    meta: SnapshotMeta,
    // The mutex only makes it `Sync`.
    source: Mutex<Option<io::Result<Box<dyn SnapshotSource>>>>,
}

impl std::fmt::Debug for SnapshotBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotBuilder").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    /// Writes the file on a blocking thread. If that fails and there is an older snapshot, that one is returned:
    /// nothing more is purged then, and the next attempt comes with the next entries.
    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let source = self.source.get_mut().take().ok_or_else(|| io::Error::other("snapshot was built already"))?;
        let (snapshots, meta) = (Arc::clone(&self.snapshots), self.meta.clone());
        let written = match source {
            Ok(source) => {
                let write = move || snapshots.write(&meta, |out| source.write_to(out));
                self.platform.blocking(write).await.flatten()
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(file) => {
                self.stats.snapshots_built.add(1);
                self.stats.snapshot_bytes_built.add(file.file_len());
                Ok(raft_snapshot(file))
            }
            Err(error) => {
                self.stats.snapshots_failed.add(1);
                tracing::error!(error = with_causes(&error), "snapshot could not be written");
                self.snapshots.newest().map(raft_snapshot).ok_or(error)
            }
        }
    }
}

fn raft_snapshot(file: SnapshotFile) -> RaftSnapshot {
    Snapshot { meta: file.meta().clone(), snapshot: file }
}
