//! One shard's replica: the store under apply, its Raft group, and what its leader has to do.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use granary_consensus::{
    Group, GroupSpec, Member, PeerPool, ProposeError, ReadError, Role, SnapshotSource, StateMachine, WaitError,
};
use granary_platform::{Platform, TaskKind};
use granary_proto::internal::{self, shard_command::Command};
use granary_shard::{PinnedSnapshot, ShardStore};
use granary_types::mutants::{Mutant, is_planted};
use granary_types::{Error, ErrorKind, NodeId, ShardId, StreamId};
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;

use crate::comparison::Comparison;
use crate::freshness::Freshness;
use crate::group_commit::{WriteError, WriteQueue, Written, store_error, write_error};
use crate::{Metrics, Settings, standstill, updates};

/// What a compactor told is forgotten after this time: one that still fails tells again within its longest rest.
const FAILING_TABLES_KEPT: Duration = Duration::from_secs(60);
/// How many failing tables one answer to `status` names.
const FAILING_TABLES_MAX: usize = 100;

/// More keys than this leave the async threads: a read of the engine may touch the disk.
pub(crate) const KEYS_INLINE_MAX: usize = 32;

/// What a new slot's epoch is.
const FIRST_EPOCH: u64 = 1;

/// The store as consensus sees it.
struct ShardMachine(Arc<ShardStore>);

impl fmt::Debug for ShardMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardMachine")
    }
}

impl StateMachine for ShardMachine {
    fn apply(&self, index: u64, command: &Bytes) -> io::Result<Bytes> {
        self.0.apply(index, command).map_err(io::Error::other)
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.room())
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(ShardSnapshot(self.0.pin_snapshot().map_err(io::Error::other)?)))
    }

    fn restore(&self, index: u64, local: bool, body: &mut dyn Read) -> io::Result<()> {
        self.0.restore(index, local, body).map_err(io::Error::other)
    }
}

struct ShardSnapshot(PinnedSnapshot);

impl SnapshotSource for ShardSnapshot {
    fn index(&self) -> u64 {
        self.0.index()
    }

    fn write_to(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out).map_err(io::Error::other)
    }
}

/// What a replica is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) spec: GroupSpec,
    pub(crate) stream: StreamId,
    /// The shard's slots by the catalog, given to it when it has none of its own.
    pub(crate) slots: Vec<u32>,
    pub(crate) members: Vec<Member>,
    pub(crate) store: Arc<ShardStore>,
}

/// A running replica.
#[derive(Debug)]
pub struct Replica {
    shard: ShardId,
    stream: StreamId,
    group: Group,
    store: Arc<ShardStore>,
    queue: WriteQueue,
    freshness: Freshness,
    platform: Platform,
    read_wait: Duration,
    entry_bytes_max: usize,
    dir: PathBuf,
    /// The last term in which this replica was found to have applied what leaders of earlier terms left (`updates.rs`).
    current_in_term: AtomicU64,
    /// As the compactor that last read the change log here tells it, and when it did.
    failing_tables: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Replica {
    /// Starts the replica's Raft group and its leader's duties.
    ///
    /// # Errors
    /// When the Raft log or the newest snapshot cannot be opened.
    pub(crate) async fn start(
        parts: Parts,
        settings: &Settings,
        peers: Arc<PeerPool>,
        platform: &Platform,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, granary_consensus::Error> {
        let platform = platform.child();
        let (shard, dir) = (parts.spec.group, parts.spec.dir.clone());
        let machine = Arc::new(ShardMachine(Arc::clone(&parts.store)));
        let group = Group::start_on(
            settings.logs(),
            parts.spec,
            settings.consensus.clone(),
            machine,
            Arc::clone(&peers),
            platform.clone(),
        )
        .await?;
        let queue =
            WriteQueue::start(&platform, group.clone(), Arc::clone(&parts.store), settings, Arc::clone(&metrics));
        let replica = Arc::new(Self {
            shard,
            stream: parts.stream,
            group,
            store: parts.store,
            queue,
            freshness: Freshness::default(),
            platform: platform.clone(),
            read_wait: settings.read_wait,
            entry_bytes_max: settings.entry_bytes_max,
            dir,
            current_in_term: AtomicU64::new(0),
            failing_tables: Mutex::default(),
        });
        // Every member does, with the same members: one that dies early must not leave the group without a leader.
        let (group, members) = (replica.group.clone(), parts.members.clone());
        platform.spawn(TaskKind::Request, "initialise-shard", async move {
            if let Err(error) = group.initialize(members).await {
                tracing::error!(%shard, %error, "initialise shard");
            }
        });
        let duties = LeaderDuties {
            replica: Arc::clone(&replica),
            slots: parts.slots,
            seal_interval: settings.seal_interval,
            seal_bytes: settings.seal_bytes,
            open_since: None,
        };
        platform.spawn(TaskKind::Request, "leader-duties", duties.run());
        let watch = standstill::Watch::new(Arc::clone(&replica), settings.standstill_max, Arc::clone(&metrics));
        platform.spawn(TaskKind::Request, "standstill-watch", watch.run());
        let comparison = Comparison {
            replica: Arc::clone(&replica),
            peers,
            members: parts.members,
            interval: settings.compare_interval,
            metrics,
            different: BTreeSet::new(),
        };
        platform.spawn(TaskKind::Request, "compare-replicas", comparison.run());
        Ok(replica)
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's change log.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The store under apply.
    pub fn store(&self) -> &Arc<ShardStore> {
        &self.store
    }

    /// The Raft group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Where the replica's Raft log and snapshots are.
    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    /// Writes through group commit; answers after apply (WR-1).
    ///
    /// # Errors
    /// As [`WriteQueue::submit`].
    pub async fn write(&self, writes: Vec<internal::Write>) -> Result<Written, WriteError> {
        if let Some(failure) = self.store.failure() {
            return Err(WriteError::Failed(Error::new(ErrorKind::Unavailable, format!("replica failed: {failure}"))));
        }
        if !writes.iter().any(updates::is_update) {
            return self.queue.submit(writes).await;
        }
        self.write_with_updates(writes).await
    }

    /// The index a read at this replica must wait for, by its consistency level.
    ///
    /// # Errors
    /// `NotLeader` for linearizable reads at a follower; otherwise what kept the index from being confirmed.
    pub async fn index_for_read(
        &self,
        request: &internal::ShardReadRequest,
        ask_leader: impl AsyncFnOnce(NodeId) -> Result<u64, WriteError>,
    ) -> Result<u64, WriteError> {
        match request.level() {
            internal::ReadLevel::Linearizable => self.group.read_index().await.map_err(read_error),
            internal::ReadLevel::Session => Ok(request.min_applied_index),
            internal::ReadLevel::Eventual => Ok(0),
            internal::ReadLevel::BoundedStaleness => {
                let staleness = Duration::from_millis(request.max_staleness_ms.into());
                let ask = || async {
                    match self.group.read_index().await {
                        Err(ReadError::NotLeader { leader: Some((_, node)) }) => ask_leader(node).await,
                        other => other.map_err(read_error),
                    }
                };
                self.freshness.index_within(staleness, || self.platform.instant(), ask).await
            }
        }
    }

    /// Waits until the replica has applied `index`.
    ///
    /// # Errors
    /// `Unavailable` when that takes longer than the settings' `read_wait`: another replica may be further.
    pub async fn caught_up(&self, index: u64) -> Result<(), WriteError> {
        if self.group.applied_index() >= index || is_planted(Mutant::ReadsBeforeApply) {
            return Ok(());
        }
        let behind = |error: WaitError| {
            let message = format!("the replica has not caught up: index={index}: {error}");
            WriteError::Failed(Error::new(ErrorKind::Unavailable, message))
        };
        self.group.wait_applied(index, self.read_wait).await.map_err(behind)
    }

    /// Reads keys of the current state. What the state must have reached was waited for before.
    ///
    /// # Errors
    /// `Unavailable` once the store has failed (ST-1).
    pub fn read(&self, request: &internal::ShardReadRequest) -> Result<internal::ShardRows, WriteError> {
        let projections: Vec<Vec<granary_types::FeatureOrdinal>> = request
            .projections
            .iter()
            .map(|projection| {
                projection
                    .ordinals
                    .iter()
                    .filter_map(|ordinal| u16::try_from(*ordinal).ok().map(granary_types::FeatureOrdinal))
                    .collect()
            })
            .collect();
        let whole = Vec::new();
        // Before the rows, so that a session made of it never promises more than was read.
        let applied_index = self.group.applied_index();
        let rows = request
            .keys
            .iter()
            .enumerate()
            .map(|(place, key)| {
                let chosen = request.key_projection.get(place).and_then(|choice| projections.get(*choice as usize));
                self.store.read(key, chosen.unwrap_or(&whole))
            })
            .collect();
        if let Some(failure) = self.store.failure() {
            return Err(WriteError::Failed(Error::new(ErrorKind::Unavailable, format!("replica failed: {failure}"))));
        }
        Ok(internal::ShardRows { applied_index, rows })
    }

    /// Lists records of the current state. What the state must have reached was waited for before. Reads the tree.
    ///
    /// # Errors
    /// `Unavailable` once the store has failed (ST-1).
    pub fn list(
        &self,
        request: &internal::ShardListRequest,
    ) -> Result<internal::shard_list_response::Result, WriteError> {
        self.store.list(request).map_err(store_error)
    }

    /// Proposes the trim of the change log up to an offset that was read back from table commits (CL-3).
    ///
    /// # Errors
    /// `NotLeader`, or as the proposal failed.
    pub async fn trim(&self, sequence: u64) -> Result<u64, WriteError> {
        if self.store.change_log().trimmed_sequence >= sequence {
            return Ok(self.store.change_log().trimmed_sequence);
        }
        self.propose(Command::Trim(internal::TrimChangeLog { sequence })).await.map_err(write_error)?;
        Ok(self.store.change_log().trimmed_sequence)
    }

    pub(crate) fn queue(&self) -> &WriteQueue {
        &self.queue
    }

    pub(crate) fn current_in_term(&self) -> &AtomicU64 {
        &self.current_in_term
    }

    /// How many bytes of writes go into one entry.
    pub(crate) fn entry_bytes_max(&self) -> usize {
        self.entry_bytes_max
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Keeps what a compactor cannot write, for `status`.
    pub(crate) fn note_failing_tables(&self, mut tables: Vec<String>) {
        tables.truncate(FAILING_TABLES_MAX);
        *self.failing_tables.lock() = (!tables.is_empty()).then(|| (self.platform.instant(), tables));
    }

    /// What a compactor told lately of tables that it cannot write.
    pub(crate) fn failing_tables(&self) -> Vec<String> {
        let noted = self.failing_tables.lock();
        let recent =
            noted.as_ref().filter(|(told, _)| self.platform.instant().duration_since(*told) < FAILING_TABLES_KEPT);
        recent.map(|(_, tables)| tables.clone()).unwrap_or_default()
    }

    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        self.group.status().role == Role::Leader
    }

    /// Stops the replica and says whether its store was closed cleanly: only then may its tree count as clean.
    pub async fn stop(&self) -> bool {
        self.platform.begin_shutdown();
        self.group.shutdown().await;
        let store = Arc::clone(&self.store);
        match self.platform.blocking(move || store.close()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(shard = %self.shard, %error, "close store");
                false
            }
            Err(error) => {
                tracing::error!(shard = %self.shard, %error, "close store");
                false
            }
        }
    }

    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        let command = internal::ShardCommand { command: Some(command) };
        self.group.propose(Bytes::from(command.encode_to_vec())).await.map(|_| ())
    }
}

/// What a read index that was not confirmed means to whoever waits for it.
pub(crate) fn read_error(error: ReadError) -> WriteError {
    match error {
        ReadError::NotLeader { leader } => WriteError::NotLeader(leader.map(|(_, node)| node)),
        ReadError::Unavailable => {
            WriteError::Failed(Error::new(ErrorKind::Unavailable, "the replica could not confirm that it is current"))
        }
        ReadError::Overloaded => {
            WriteError::Failed(Error::new(ErrorKind::Overloaded, "the shard's reads are at their bound"))
        }
        ReadError::Stopped => WriteError::Failed(Error::new(ErrorKind::Unavailable, "the replica is stopping")),
    }
}

/// What the leader of a shard does besides serving: gives the shard its first slots, and seals segments.
struct LeaderDuties {
    replica: Arc<Replica>,
    slots: Vec<u32>,
    seal_interval: Duration,
    seal_bytes: u64,
    /// The open segment, by the last event sealed before it, and since when this replica has seen events in it.
    open_since: Option<(u64, Instant)>,
}

impl LeaderDuties {
    async fn run(mut self) {
        let platform = self.replica.platform.clone();
        let tick = (self.seal_interval / 4).max(Duration::from_millis(10));
        loop {
            tokio::select! {
                () = platform.sleep(tick) => {}
                () = platform.shutdown_begun() => return,
            }
            if !self.replica.leads() {
                continue;
            }
            let result = match self.due() {
                Some(command) => self.replica.propose(command).await,
                None => continue,
            };
            if let Err(error) = result {
                // Another leader, or no quorum: whoever leads next does it.
                tracing::debug!(shard = %self.replica.shard, %error, "leader duty not done");
            }
        }
    }

    fn due(&mut self) -> Option<Command> {
        let store = &self.replica.store;
        if store.status().slots == 0 {
            return Some(Command::OpenSlots(internal::OpenSlots {
                slots: self.slots.clone(),
                epoch: FIRST_EPOCH,
                stream: Some(granary_proto::convert::stream_to_wire(self.replica.stream)),
            }));
        }
        let open = store.open_segment();
        if open.events == 0 {
            self.open_since = None;
            return None;
        }
        // By this process's own clock: stamps may lie ahead of it, after a leader whose clock did.
        let (now, sealed) = (self.replica.platform.instant(), store.change_log().sealed_sequence);
        let since = match self.open_since {
            Some((segment, since)) if segment == sealed => since,
            _ => {
                self.open_since = Some((sealed, now));
                now
            }
        };
        let seal = open.bytes >= self.seal_bytes || now.duration_since(since) >= self.seal_interval;
        seal.then(|| Command::Seal(internal::SealSegment { stamp: self.replica.platform.now_nanos() }))
    }
}
