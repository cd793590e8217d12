//! Starts the replicas that the catalog puts on this node, and rebuilds one whose state failed (ST-1).
//!
//! A replica runs, waits to be tried again, or stays stopped because its disk needs a person. What the engine as a
//! whole refuses (damage found while running, a full disk) ends the process: the next start moves the engine's
//! directory aside and rebuilds every replica from snapshot and Raft log.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::{CatalogView, ReplicaEntry, ShardEntry};
use granary_consensus::{ConsensusService, Group, GroupSpec, Member, PeerPool};
use granary_platform::{Platform, TaskKind};
use granary_shard::{ShardStore, Step, TreeTrust};
use granary_store::{Engine, Tree};
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId, with_causes};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::identity::{self, Identity};
use crate::replica::{Parts, Replica};
use crate::{Metrics, Settings};

/// How often the replicas' health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// A replica that failed so often since the process started stays stopped: its disk needs a person.
const REBUILDS_MAX: u32 = 3;
/// The pause before a replica that did not start is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// The simulated time of a piece of the checkpointer's work.
const CHECKPOINT_STEP: Duration = Duration::from_millis(5);
/// How long one peer may take to send a snapshot.
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);

/// What can keep a replica from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its Raft log is missing, or the identity could not be written.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The engine or the tree failed.
    #[error(transparent)]
    Engine(#[from] granary_store::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] granary_shard::Error),
    /// The Raft group failed.
    #[error(transparent)]
    Consensus(#[from] granary_consensus::Error),
    /// The catalog lacks a node that it puts a replica on.
    #[error("the catalog lacks a member's node")]
    MemberUnknown,
}

impl Error {
    /// Whether another try would fail the same way: the replica's own log is gone or damaged.
    fn is_final(&self) -> bool {
        match self {
            Self::Identity(error) => matches!(error, identity::Error::LogMissing { .. }),
            Self::Consensus(error) => error.is_final(),
            _ => false,
        }
    }

    /// A word for what keeps the replica from starting, for the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Identity(identity::Error::LogMissing { .. }) => "log-missing",
            Self::Consensus(error) => error.reason(),
            Self::Identity(_) | Self::Engine(_) | Self::Store(_) | Self::MemberUnknown => "other",
        }
    }

    /// Whether the engine failed, and with it every replica of the node.
    fn is_of_the_engine(&self) -> bool {
        match self {
            Self::Engine(_) => true,
            Self::Store(error) => is_of_the_engine(error),
            _ => false,
        }
    }
}

fn is_of_the_engine(error: &granary_shard::Error) -> bool {
    matches!(error, granary_shard::Error::Engine(_) | granary_shard::Error::EnginePanicked(_))
}

/// Where a replica of this node stands.
#[derive(Debug)]
enum Seat {
    Running(Arc<Replica>),
    /// It did not start; tried again then.
    Waiting(Instant),
    /// It needs a person.
    Stopped,
}

/// The replicas of this node, by shard.
#[derive(Debug, Default)]
pub struct Replicas {
    seats: RwLock<HashMap<ShardId, Seat>>,
    /// Why a shard's state was rebuilt or its replica does not run, for `status`.
    notes: Mutex<HashMap<ShardId, String>>,
}

impl Replicas {
    /// The replica of `shard`, if it runs here.
    pub fn get(&self, shard: ShardId) -> Option<Arc<Replica>> {
        match self.seats.read().get(&shard) {
            Some(Seat::Running(replica)) => Some(Arc::clone(replica)),
            _ => None,
        }
    }

    /// All that run, by shard.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        let running = |seat: &Seat| match seat {
            Seat::Running(replica) => Some(Arc::clone(replica)),
            Seat::Waiting(_) | Seat::Stopped => None,
        };
        let mut all: Vec<_> = self.seats.read().values().filter_map(running).collect();
        all.sort_by_key(|replica| replica.shard());
        all
    }

    /// What was noted of a shard: why it was rebuilt or does not run.
    pub fn note(&self, shard: ShardId) -> Option<String> {
        self.notes.lock().get(&shard).cloned()
    }

    /// Everything noted.
    pub fn notes(&self) -> Vec<(ShardId, String)> {
        self.notes.lock().iter().map(|(shard, note)| (*shard, note.clone())).collect()
    }

    pub(crate) fn set_note(&self, shard: ShardId, note: String) {
        self.notes.lock().insert(shard, note);
    }

    fn set(&self, shard: ShardId, seat: Seat) {
        self.seats.write().insert(shard, seat);
    }
}

/// Starts and restarts replicas.
pub(crate) struct Supervisor {
    pub(crate) settings: Settings,
    pub(crate) platform: Platform,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) identity: Arc<Mutex<Identity>>,
    pub(crate) engine: Arc<dyn Engine>,
    /// Whether the engine's trees can be trusted as they were found at the start.
    pub(crate) trust: TreeTrust,
    /// Why they cannot, for `status`.
    pub(crate) rebuilt_because: Option<String>,
    pub(crate) peers: Arc<PeerPool>,
    pub(crate) consensus: ConsensusService,
    pub(crate) replicas: Arc<Replicas>,
    /// The node's replica of the meta group, to be looked after too.
    pub(crate) meta: Option<Group>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Supervisor {
    /// Follows the catalog until shutdown, then stops every replica and closes the engine.
    pub(crate) async fn run(self, mut catalog: watch::Receiver<Arc<CatalogView>>) {
        let mut rebuilds: HashMap<ShardId, u32> = HashMap::new();
        // Which trees were opened in this process: only the first opening finds them as the last process left them.
        let mut opened: HashMap<ShardId, u32> = HashMap::new();
        loop {
            let view = Arc::clone(&catalog.borrow_and_update());
            self.start_missing(&view, &mut opened).await;
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { break },
                () = self.platform.sleep(HEALTH_INTERVAL) => {}
                () = self.platform.shutdown_begun() => break,
            }
            self.rebuild_failed(&view, &mut rebuilds).await;
            self.stop_if_meta_failed().await;
            self.metrics.export(&self.replicas.all());
        }
        let view = Arc::clone(&catalog.borrow());
        self.stop_all(&view).await;
    }

    async fn start_missing(&self, view: &CatalogView, opened: &mut HashMap<ShardId, u32>) {
        for (shard, seat) in self.seats(view) {
            let due = match self.replicas.seats.read().get(&shard.id) {
                None => true,
                Some(Seat::Waiting(at)) => self.platform.instant() >= *at,
                Some(Seat::Running(_) | Seat::Stopped) => false,
            };
            if !due {
                continue;
            }
            let openings = opened.entry(shard.id).or_default();
            let trust = if *openings == 0 { self.trust } else { after_a_try(self.trust) };
            *openings += 1;
            match self.start(view, shard, seat.replica, trust).await {
                Ok(()) if *openings == 1 => self.note_rebuilt(shard.id),
                Ok(()) => {}
                Err(error) => self.not_started(shard.id, &error),
            }
        }
    }

    /// The shards that have a replica here, and which.
    fn seats<'v>(&self, view: &'v CatalogView) -> impl Iterator<Item = (&'v ShardEntry, &'v ReplicaEntry)> {
        let node = self.node;
        let mine = move |shard: &'v ShardEntry| shard.replicas.iter().find(|seat| seat.node == node);
        view.shards().iter().filter_map(move |shard| Some((shard, mine(shard)?)))
    }

    async fn start(
        &self,
        view: &CatalogView,
        shard: &ShardEntry,
        replica: ReplicaId,
        trust: TreeTrust,
    ) -> Result<(), Error> {
        let dir = self.replica_dir(shard.id, replica);
        self.identity.lock().claim(shard.id, replica, &dir.join("log"))?;
        let store = self.open_store(shard.id, replica, trust).await?;
        let parts = Parts {
            spec: GroupSpec { cluster: self.cluster, group: shard.id, replica, dir },
            stream: shard.stream,
            slots: slots_of(view, shard.id),
            members: members(view, shard).ok_or(Error::MemberUnknown)?,
            store,
        };
        let started = self.start_or_fetch(parts).await?;
        self.identity.lock().note_started(shard.id, replica)?;
        self.consensus.register(started.group().clone());
        self.replicas.set(shard.id, Seat::Running(started));
        tracing::info!(shard = %shard.id, %replica, "replica started");
        Ok(())
    }

    /// Opens the store over its tree. A tree that turns out to be damaged is emptied and opened as untrusted.
    async fn open_store(&self, shard: ShardId, replica: ReplicaId, trust: TreeTrust) -> Result<Arc<ShardStore>, Error> {
        let (engine, settings) = (Arc::clone(&self.engine), self.settings.shard);
        let open = if self.platform.is_simulated() { ShardStore::open_stepped } else { ShardStore::open };
        let opened = self.platform.blocking(move || {
            let tree: Arc<dyn Tree> = engine.tree(&format!("shard-{shard}-replica-{replica}"))?;
            match open(Arc::clone(&tree), trust, settings) {
                Err(error @ granary_shard::Error::Corrupt { .. }) => {
                    tree.clear()?;
                    Ok((open(tree, TreeTrust::Untrusted, settings)?, Some(error)))
                }
                other => Ok::<_, Error>((other?, None)),
            }
        });
        let opened = opened.await.map_err(|error| granary_store::Error::Io(error.to_string()))?;
        let (store, damage) = opened?;
        if let Some(why) = damage {
            tracing::warn!(%shard, %why, "state is not trusted and is rebuilt from snapshot and Raft log");
            self.metrics.rebuilds.with_label_values(&[&shard.to_string(), "corrupt-tree"]).inc();
            self.replicas.set_note(shard, why.to_string());
        }
        if self.platform.is_simulated() {
            self.step_in_simulated_time(Arc::clone(&store));
        }
        Ok(store)
    }

    /// Drives the checkpointer of a simulated node, which has no threads.
    fn step_in_simulated_time(&self, store: Arc<ShardStore>) {
        let platform = self.platform.clone();
        self.platform.spawn(TaskKind::Request, "checkpointer", async move {
            while store.step(platform.instant().into_std()) != Step::Ended {
                platform.sleep(CHECKPOINT_STEP).await;
            }
        });
    }

    /// Starts the replica. One that has its Raft log but lost its snapshots takes a peer's.
    async fn start_or_fetch(&self, parts: Parts) -> Result<Arc<Replica>, Error> {
        let start = |parts: Parts| {
            let (peers, metrics) = (Arc::clone(&self.peers), Arc::clone(&self.metrics));
            Box::pin(Replica::start(parts, &self.settings, peers, &self.platform, metrics))
        };
        let mut missing = match start(parts.clone()).await {
            Err(error @ granary_consensus::Error::SnapshotMissing { .. }) => error,
            started => return Ok(started?),
        };
        let shard = parts.spec.group;
        tracing::warn!(%shard, %missing, "asking the peers for a snapshot");
        self.metrics.rebuilds.with_label_values(&[&shard.to_string(), "snapshot-missing"]).inc();
        for peer in parts.members.iter().filter(|member| member.replica != parts.spec.replica) {
            let fetched = granary_consensus::fetch_snapshot(&parts.spec, &self.peers, peer, &self.platform);
            match tokio::time::timeout(FETCH_TIMEOUT, fetched).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%shard, %error, "no snapshot from this peer");
                    continue;
                }
                Err(_) => continue,
            }
            match start(parts.clone()).await {
                // This peer's is too old as well.
                Err(error @ granary_consensus::Error::SnapshotMissing { .. }) => missing = error,
                started => {
                    self.replicas.set_note(shard, format!("{missing}; taken from {}", peer.address));
                    return Ok(started?);
                }
            }
        }
        Err(missing.into())
    }

    async fn rebuild_failed(&self, view: &CatalogView, rebuilds: &mut HashMap<ShardId, u32>) {
        for replica in self.replicas.all() {
            let shard = replica.shard();
            let Some(failure) = replica.store().failure() else {
                self.stop_if_log_failed(&replica).await;
                continue;
            };
            tracing::error!(%shard, %failure, "replica failed, stopping it");
            self.take_away(&replica).await;
            drop(replica);
            if is_of_the_engine(&failure) {
                self.replicas.set(shard, Seat::Stopped);
                self.platform.fail(format!("the engine failed under shard {shard}: {}", with_causes(&failure)));
                return;
            }
            let count = rebuilds.entry(shard).or_default();
            *count += 1;
            let Some((entry, seat)) = self.seats(view).find(|(entry, _)| entry.id == shard) else { continue };
            if *count > REBUILDS_MAX {
                self.stays_stopped(shard, "rebuilds", &failure.to_string());
                continue;
            }
            self.metrics.rebuilds.with_label_values(&[&shard.to_string(), "failed"]).inc();
            match self.start(view, entry, seat.replica, TreeTrust::Untrusted).await {
                Ok(()) => self.replicas.set_note(shard, failure.to_string()),
                Err(error) => self.not_started(shard, &error),
            }
        }
    }

    /// A Raft log that failed to write or sync ends the process: what it holds is known only after a restart, and a
    /// second sync would succeed without having written anything. A replica whose log is an older copy, or that runs
    /// twice, stops alone.
    async fn stop_if_log_failed(&self, replica: &Arc<Replica>) {
        let status = replica.group().status();
        if let Some(why) = status.refusal {
            self.take_away(replica).await;
            self.stays_stopped(replica.shard(), "refused", &format!("{why}; the replica must be replaced"));
        } else if let Some(failure) = status.failure {
            self.take_away(replica).await;
            self.replicas.set(replica.shard(), Seat::Stopped);
            self.platform.fail(format!("the raft log failed under shard {}: {failure}", replica.shard()));
        }
    }

    /// The meta group's replica as any other; data is served without it.
    async fn stop_if_meta_failed(&self) {
        let Some(meta) = &self.meta else { return };
        let status = meta.status();
        if let Some(why) = status.refusal {
            if self.replicas.note(ShardId::META).is_none() {
                self.consensus.unregister(ShardId::META);
                meta.shutdown().await;
                self.note_stopped(ShardId::META, "refused", &format!("{why}; the replica must be replaced"));
            }
        } else if let Some(failure) = status.failure {
            self.platform.fail(format!("the raft log failed under the meta group: {failure}"));
        }
    }

    async fn take_away(&self, replica: &Arc<Replica>) {
        self.consensus.unregister(replica.shard());
        self.replicas.seats.write().remove(&replica.shard());
        replica.stop().await;
    }

    fn note_rebuilt(&self, shard: ShardId) {
        if let Some(why) = &self.rebuilt_because {
            self.metrics.rebuilds.with_label_values(&[&shard.to_string(), "untrusted-engine"]).inc();
            self.replicas.set_note(shard, why.clone());
        }
    }

    fn not_started(&self, shard: ShardId, error: &Error) {
        if error.is_of_the_engine() {
            self.replicas.set(shard, Seat::Stopped);
            self.platform.fail(format!("the engine failed under shard {shard}: {}", with_causes(error)));
        } else if error.is_final() {
            self.stays_stopped(shard, error.reason(), &error.to_string());
        } else {
            let why = with_causes(error);
            tracing::warn!(%shard, why, "replica does not start, trying again");
            self.replicas.set_note(shard, format!("does not start, is tried again: {why}"));
            self.replicas.set(shard, Seat::Waiting(self.platform.instant() + RETRY));
        }
    }

    fn stays_stopped(&self, shard: ShardId, reason: &str, why: &str) {
        self.note_stopped(shard, reason, why);
        self.replicas.set(shard, Seat::Stopped);
    }

    fn note_stopped(&self, shard: ShardId, reason: &str, why: &str) {
        tracing::error!(%shard, reason, why, "replica stays stopped");
        self.metrics.stopped.with_label_values(&[&shard.to_string(), reason]).inc();
        self.replicas.set_note(shard, format!("stopped: {why}"));
    }

    /// Stops every replica, and closes the engine if every tree of this node is known to be whole: one that was left
    /// by a crash and never opened, or whose store failed, must not pass for clean at the next start.
    async fn stop_all(&self, view: &CatalogView) {
        let left_by_a_crash = self.trust == TreeTrust::Trusted { clean: false };
        let mut clean = !(left_by_a_crash && view.shards().is_empty());
        for (shard, _) in self.seats(view) {
            clean &= matches!(self.replicas.seats.read().get(&shard.id), Some(Seat::Running(_)));
        }
        for replica in self.replicas.all() {
            clean &= replica.stop().await;
        }
        self.replicas.seats.write().clear();
        if !clean {
            tracing::warn!("the engine is left as after a crash: its trees are verified at the next start");
            return;
        }
        let engine = Arc::clone(&self.engine);
        match self.platform.blocking(move || engine.close()).await {
            Ok(Ok(())) => tracing::info!("stopped cleanly"),
            Ok(Err(error)) => tracing::error!(%error, "close engine: the next start rebuilds its trees"),
            Err(error) => tracing::error!(%error, "close engine"),
        }
    }

    fn replica_dir(&self, shard: ShardId, replica: ReplicaId) -> PathBuf {
        self.settings.data_dir.join("shards").join(format!("{shard}-{replica}"))
    }
}

/// What a tree is worth that a try to start has had open: at best what a crash leaves.
fn after_a_try(trust: TreeTrust) -> TreeTrust {
    match trust {
        TreeTrust::Trusted { .. } => TreeTrust::Trusted { clean: false },
        TreeTrust::Untrusted => TreeTrust::Untrusted,
    }
}

fn slots_of(view: &CatalogView, shard: ShardId) -> Vec<u32> {
    view.slot_table().map(|table| table.slots_of(shard).map(|slot| u32::from(slot.0)).collect()).unwrap_or_default()
}

fn members(view: &CatalogView, shard: &ShardEntry) -> Option<Vec<Member>> {
    let member = |seat: &ReplicaEntry| {
        let address = view.node_address(seat.node)?.to_owned();
        Some(Member { replica: seat.replica, node: seat.node, address })
    };
    shard.replicas.iter().map(member).collect()
}
