//! Starts the replicas that the catalog puts on this node, and rebuilds one whose state failed (ST-1).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::{CatalogView, ShardEntry};
use granary_consensus::{ConsensusService, GroupSpec, Member, PeerPool};
use granary_platform::Platform;
use granary_shard::{ShardStore, TreeTrust};
use granary_store::{Engine, Tree};
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::identity::Identity;
use crate::replica::{Parts, Replica};
use crate::{Metrics, Settings};

/// How often the replicas' health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// A replica that failed so often since the process started stays stopped: its disk needs a person.
const REBUILDS_MAX: u32 = 3;
/// How the note of a replica begins that stays stopped.
const STOPPED: &str = "stopped";

/// What can keep a replica from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The identity says the replica was created here, but its Raft log is gone: it may have voted.
    #[error(
        "raft log of shard {shard} replica {replica} is missing under an identity that had it; the replica must be replaced, not restarted"
    )]
    LogMissing {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The identity could not be written.
    #[error(transparent)]
    Identity(#[from] crate::identity::Error),
    /// The engine or the tree failed.
    #[error(transparent)]
    Engine(#[from] granary_store::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] granary_shard::Error),
    /// The Raft group failed.
    #[error(transparent)]
    Consensus(#[from] granary_consensus::Error),
}

/// The replicas running on this node, by shard.
#[derive(Debug, Default)]
pub struct Replicas {
    running: RwLock<HashMap<ShardId, Arc<Replica>>>,
    /// Why a shard's state was rebuilt or its replica did not start, for `status`.
    notes: Mutex<HashMap<ShardId, String>>,
}

impl Replicas {
    /// The replica of `shard`, if it runs here.
    pub fn get(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.running.read().get(&shard).cloned()
    }

    /// All of them, by shard.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        let mut all: Vec<_> = self.running.read().values().cloned().collect();
        all.sort_by_key(|replica| replica.shard());
        all
    }

    /// What was noted of a shard: why it was rebuilt or did not start.
    pub fn note(&self, shard: ShardId) -> Option<String> {
        self.notes.lock().get(&shard).cloned()
    }

    /// Everything noted.
    pub fn notes(&self) -> Vec<(ShardId, String)> {
        self.notes.lock().iter().map(|(shard, note)| (*shard, note.clone())).collect()
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
    pub(crate) metrics: Arc<Metrics>,
}

impl Supervisor {
    /// Follows the catalog until shutdown, then stops every replica and closes the engine.
    pub(crate) async fn run(self, mut catalog: watch::Receiver<Arc<CatalogView>>) {
        let mut rebuilds: HashMap<ShardId, u32> = HashMap::new();
        loop {
            let view = Arc::clone(&catalog.borrow_and_update());
            self.start_missing(&view).await;
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { break },
                () = self.platform.sleep(HEALTH_INTERVAL) => {}
                () = self.platform.shutdown_begun() => break,
            }
            self.rebuild_failed(&view, &mut rebuilds).await;
            self.export_metrics();
        }
        self.stop_all().await;
    }

    async fn start_missing(&self, view: &CatalogView) {
        for shard in view.shards() {
            let Some(seat) = shard.replicas.iter().find(|seat| seat.node == self.node) else { continue };
            let noted = self.replicas.notes.lock().get(&shard.id).is_some_and(|note| note.starts_with(STOPPED));
            if noted || self.replicas.get(shard.id).is_some() {
                continue;
            }
            match self.start(view, shard, seat.replica, self.trust).await {
                Ok(()) => {
                    if let Some(why) = &self.rebuilt_because {
                        self.metrics.rebuilds.with_label_values(&[&shard.id.to_string(), "untrusted-engine"]).inc();
                        self.replicas.notes.lock().insert(shard.id, why.clone());
                    }
                }
                Err(error) => self.give_up(shard.id, &error.to_string()),
            }
        }
    }

    async fn start(
        &self,
        view: &CatalogView,
        shard: &ShardEntry,
        replica: ReplicaId,
        trust: TreeTrust,
    ) -> Result<(), Error> {
        let dir = self.replica_dir(shard.id, replica);
        self.claim_seat(shard.id, replica, &dir)?;
        let name = format!("shard-{}-replica-{replica}", shard.id);
        let (store, rebuilt) = self.open_store(&name, trust).await?;
        if let Some(why) = rebuilt {
            tracing::warn!(shard = %shard.id, %why, "state is not trusted and is rebuilt from snapshot and Raft log");
            self.metrics.rebuilds.with_label_values(&[&shard.id.to_string(), "corrupt-tree"]).inc();
            self.replicas.notes.lock().insert(shard.id, why);
        }
        let parts = Parts {
            spec: GroupSpec { cluster: self.cluster, group: shard.id, replica, dir },
            stream: shard.stream,
            slots: slots_of(view, shard.id),
            members: members(view, shard),
            initialises: shard.replicas.first().is_some_and(|seat| seat.replica == replica),
            store,
        };
        let started = self.start_or_fetch(parts).await?;
        self.consensus.register(started.group().clone());
        self.replicas.running.write().insert(shard.id, started);
        tracing::info!(shard = %shard.id, %replica, "replica started");
        Ok(())
    }

    /// Starts the replica. One that has its Raft log but lost its snapshots takes a peer's.
    async fn start_or_fetch(&self, parts: Parts) -> Result<Arc<Replica>, Error> {
        let start = |parts: Parts| {
            let (peers, metrics) = (Arc::clone(&self.peers), Arc::clone(&self.metrics));
            Box::pin(Replica::start(parts, &self.settings, peers, &self.platform, metrics))
        };
        let missing = match start(parts.clone()).await {
            Err(error @ granary_consensus::Error::SnapshotMissing { .. }) => error,
            started => return Ok(started?),
        };
        let shard = parts.spec.group;
        tracing::warn!(%shard, %missing, "asking the peers for a snapshot");
        self.metrics.rebuilds.with_label_values(&[&shard.to_string(), "snapshot-missing"]).inc();
        for peer in parts.members.iter().filter(|member| member.replica != parts.spec.replica) {
            match granary_consensus::fetch_snapshot(&parts.spec, &self.peers, peer).await {
                Ok(()) => {
                    self.replicas.notes.lock().insert(shard, format!("{missing}; taken from {}", peer.address));
                    return Ok(start(parts).await?);
                }
                Err(error) => tracing::warn!(%shard, %error, "no snapshot from this peer"),
            }
        }
        Err(missing.into())
    }

    /// Notes the replica in the identity before its first vote, and refuses one that lost its log since.
    fn claim_seat(&self, shard: ShardId, replica: ReplicaId, dir: &Path) -> Result<(), Error> {
        let mut identity = self.identity.lock();
        if identity.has_replica(shard, replica) {
            return if dir.join("log").exists() { Ok(()) } else { Err(Error::LogMissing { shard, replica }) };
        }
        std::fs::create_dir_all(dir.join("log")).map_err(crate::identity::Error::Io)?;
        identity.add_replica(shard, replica)?;
        Ok(())
    }

    /// Opens the store over its tree. A tree that turns out to be damaged is emptied and opened as untrusted.
    async fn open_store(&self, name: &str, trust: TreeTrust) -> Result<(Arc<ShardStore>, Option<String>), Error> {
        let (engine, settings, name) = (Arc::clone(&self.engine), self.settings.shard, name.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let tree: Arc<dyn Tree> = engine.tree(&name)?;
            match ShardStore::open(Arc::clone(&tree), trust, settings) {
                Err(error @ granary_shard::Error::Corrupt { .. }) => {
                    let why = error.to_string();
                    tree.clear()?;
                    Ok((ShardStore::open(tree, TreeTrust::Untrusted, settings)?, Some(why)))
                }
                other => Ok((other?, None)),
            }
        });
        opened.await.map_err(|error| granary_store::Error::Io(error.to_string()))?
    }

    async fn rebuild_failed(&self, view: &CatalogView, rebuilds: &mut HashMap<ShardId, u32>) {
        for replica in self.replicas.all() {
            let Some(failure) = replica.store().failure() else {
                self.stop_if_log_failed(&replica).await;
                continue;
            };
            let shard = replica.shard();
            tracing::error!(%shard, %failure, "replica failed, stopping it");
            self.consensus.unregister(shard);
            self.replicas.running.write().remove(&shard);
            replica.stop().await;
            drop(replica);
            let count = rebuilds.entry(shard).or_default();
            *count += 1;
            let entry = view.shards().iter().find(|entry| entry.id == shard);
            let seat = entry.and_then(|entry| entry.replicas.iter().find(|seat| seat.node == self.node));
            let (Some(entry), Some(seat)) = (entry, seat) else { continue };
            if *count > REBUILDS_MAX {
                self.give_up(shard, &failure.to_string());
                continue;
            }
            self.metrics.rebuilds.with_label_values(&[&shard.to_string(), "failed"]).inc();
            match self.start(view, entry, seat.replica, TreeTrust::Untrusted).await {
                Ok(()) => drop(self.replicas.notes.lock().insert(shard, failure.to_string())),
                Err(error) => self.give_up(shard, &error.to_string()),
            }
        }
    }

    /// A Raft log that failed to write or sync is not tried again: what it holds is known only after a restart.
    async fn stop_if_log_failed(&self, replica: &Arc<Replica>) {
        let Some(failure) = replica.group().status().failure else { return };
        self.consensus.unregister(replica.shard());
        self.replicas.running.write().remove(&replica.shard());
        replica.stop().await;
        self.give_up(replica.shard(), &failure);
    }

    fn give_up(&self, shard: ShardId, why: &str) {
        tracing::error!(%shard, why, "replica stays stopped");
        self.replicas.notes.lock().insert(shard, format!("{STOPPED}: {why}"));
    }

    async fn stop_all(&self) {
        // A tree whose store failed or never opened must not pass for clean at the next start.
        let mut clean = !self.replicas.notes().iter().any(|(_, note)| note.starts_with(STOPPED));
        for replica in self.replicas.all() {
            clean &= replica.stop().await;
        }
        self.replicas.running.write().clear();
        if !clean {
            tracing::warn!("the engine is left as after a crash: its trees are verified at the next start");
            return;
        }
        let engine = Arc::clone(&self.engine);
        match tokio::task::spawn_blocking(move || engine.close()).await {
            Ok(Ok(())) => tracing::info!("stopped cleanly"),
            Ok(Err(error)) => tracing::error!(%error, "close engine: the next start rebuilds its trees"),
            Err(error) => tracing::error!(%error, "close engine"),
        }
    }

    fn replica_dir(&self, shard: ShardId, replica: ReplicaId) -> PathBuf {
        self.settings.data_dir.join("shards").join(format!("{shard}-{replica}"))
    }

    fn export_metrics(&self) {
        for replica in self.replicas.all() {
            let shard = replica.shard().to_string();
            let (status, log) = (replica.store().status(), replica.store().change_log());
            let set = |gauge: &prometheus::IntGaugeVec, value: u64| {
                gauge.with_label_values(&[&shard]).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.metrics.cells, status.cells);
            set(&self.metrics.memory_table_bytes, status.memory_table_bytes as u64);
            set(&self.metrics.change_log_bytes, log.bytes);
            set(&self.metrics.change_log_events, log.last_sequence - log.trimmed_sequence);
            set(&self.metrics.leader, u64::from(replica.leads()));
            set(&self.metrics.applied_index, status.applied_index);
            if let Some(hash) = status.state_hash {
                set(&self.metrics.state_hash, u64::try_from(hash & u128::from(u64::MAX >> 1)).unwrap_or(0));
            }
        }
    }
}

fn slots_of(view: &CatalogView, shard: ShardId) -> Vec<u32> {
    view.slot_table().map(|table| table.slots_of(shard).map(|slot| u32::from(slot.0)).collect()).unwrap_or_default()
}

fn members(view: &CatalogView, shard: &ShardEntry) -> Vec<Member> {
    let member = |seat: &granary_catalog::ReplicaEntry| Member {
        replica: seat.replica,
        node: seat.node,
        address: view.node_address(seat.node).unwrap_or_default().to_owned(),
    };
    shard.replicas.iter().map(member).collect()
}
