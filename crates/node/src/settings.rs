//! What a node is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use granary_consensus::Logs;
use granary_shard::TreeTrust;
use granary_store::Engine;

/// The engine under the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// sled, on disk.
    #[default]
    Sled,
    /// fjall, on disk.
    Fjall,
    /// In memory: for simulation and tests. Rows are rebuilt from snapshot and Raft log at every start.
    Memory,
}

/// What a simulated node stands on instead of files: it outlives the node and forgets in a crash what was not synced.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// The engine under the store, instead of the one that [`Settings::engine`] names.
    pub engine: Arc<dyn Engine>,
    /// What its trees are worth.
    pub trust: TreeTrust,
    /// Where the Raft logs are.
    pub logs: Logs,
}

/// A node's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything of the node lives.
    pub data_dir: PathBuf,
    /// host:port under which the other nodes reach this one.
    pub advertise: String,
    /// host:port of the nodes that found the cluster, the same list in the same order on each of them.
    pub seeds: Vec<String>,
    /// How many shards a new cluster gets.
    pub shards: u32,
    /// How many replicas each shard has; at most the number of seeds.
    pub replicas: u32,
    /// The engine under the store.
    pub engine: EngineKind,
    /// Set for a node in a simulation.
    pub simulated: Option<Simulated>,
    /// sled's page cache, for the whole node.
    pub sled_cache_bytes: u64,
    /// fjall's block cache, for the whole node.
    pub fjall_cache_bytes: u64,
    /// Each replica's store.
    pub shard: granary_shard::Settings,
    /// Each replica's Raft group.
    pub consensus: granary_consensus::Settings,
    /// How long an event may wait in the open segment before it is sealed and the compactor can see it.
    pub seal_interval: Duration,
    /// A segment of this many bytes is sealed at once.
    pub seal_bytes: u64,
    /// Bounds of one Raft entry's worth of writes.
    pub entry_bytes_max: usize,
    /// Raft entries of one shard under way at a time.
    pub entries_in_flight_max: usize,
    /// Writes of one shard waiting at its leader; more are refused as overloaded.
    pub queued_writes_max: usize,
    /// Bytes of the same.
    pub queued_bytes_max: usize,
    /// How often a leader goes through its rows for expired records.
    pub expiry_interval: Duration,
    /// How long after its expiry a record is removed at the earliest: longer than clocks of the cluster differ.
    pub expiry_grace: Duration,
    /// A shard without a single record that has a time to live is gone through once in so many rounds and one.
    pub expiry_idle_rounds: u32,
    /// How often a leader compares its replica's state with the others' (RG-2).
    pub compare_interval: Duration,
    /// After this time in which its disk has synced nothing, or it has applied nothing, a leader hands over.
    pub standstill_max: Duration,
    /// How long a read waits for its replica to catch up before it is told to go elsewhere.
    pub read_wait: Duration,
}

impl Settings {
    /// A laptop's defaults for a node in `data_dir` that listens at `advertise`.
    pub fn new(data_dir: PathBuf, advertise: String, seeds: Vec<String>) -> Self {
        let replicas = u32::try_from(seeds.len().clamp(1, 3)).expect("1 to 3");
        Self {
            data_dir,
            advertise,
            seeds,
            shards: 3,
            replicas,
            engine: EngineKind::default(),
            simulated: None,
            sled_cache_bytes: 256 << 20,
            fjall_cache_bytes: 256 << 20,
            shard: granary_shard::Settings::default(),
            consensus: granary_consensus::Settings::default(),
            seal_interval: Duration::from_millis(500),
            seal_bytes: 1 << 20,
            entry_bytes_max: 1 << 20,
            entries_in_flight_max: 4,
            queued_writes_max: 65_536,
            queued_bytes_max: 64 << 20,
            expiry_interval: Duration::from_secs(60),
            expiry_grace: Duration::from_secs(60),
            expiry_idle_rounds: 10,
            compare_interval: Duration::from_secs(10),
            // Longer than a busy disk takes, and as long as followers wait for a leader that is dead.
            standstill_max: Duration::from_secs(3),
            // Below the router's patience with one replica, so that it hears of the lag and asks another.
            read_wait: Duration::from_secs(2),
        }
    }

    pub(crate) fn logs(&self) -> Logs {
        self.simulated.as_ref().map(|simulated| simulated.logs.clone()).unwrap_or_default()
    }
}
