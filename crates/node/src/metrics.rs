//! The node's metrics. Labels are shards and error kinds, never identifiers of records.

use std::sync::Arc;

use granary_shard::Sample;
use granary_types::{ReplicaId, ShardId};
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::replica::Replica;

/// Counters and gauges of one node.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) writes_per_entry: Histogram,
    pub(crate) rebuilds: IntCounterVec,
    pub(crate) stopped: IntCounterVec,
    pub(crate) handed_over: IntCounterVec,
    pub(crate) snapshots_failed: IntGaugeVec,
    pub(crate) asking: IntGaugeVec,
    pub(crate) reads: IntCounterVec,
    pub(crate) applied_index: IntGaugeVec,
    pub(crate) cells: IntGaugeVec,
    pub(crate) memory_table_bytes: IntGaugeVec,
    pub(crate) change_log_bytes: IntGaugeVec,
    pub(crate) change_log_events: IntGaugeVec,
    pub(crate) leader: IntGaugeVec,
    pub(crate) change_log_budget_bytes: IntGaugeVec,
    pub(crate) change_log_pressure: IntGaugeVec,
    pub(crate) writes_refused: IntCounterVec,
    pub(crate) writes_slowed: IntCounterVec,
    pub(crate) expired: IntCounterVec,
    pub(crate) different_replicas: IntGaugeVec,
    compared_index: IntGaugeVec,
    state_hashes: StateHashes,
}

impl Metrics {
    /// Registers the node's metrics.
    ///
    /// # Errors
    /// When a name is taken in the registry: two nodes of one process need a registry each.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by_shard = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["shard"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["shard", label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let buckets = prometheus::exponential_buckets(1.0, 2.0, 13)?;
        let writes_per_entry = Histogram::with_opts(
            HistogramOpts::new("granary_node_writes_per_entry_count", "Client writes in one Raft entry")
                .buckets(buckets),
        )?;
        registry.register(Box::new(writes_per_entry.clone()))?;
        Ok(Self {
            writes_per_entry,
            rebuilds: counter("granary_node_replica_rebuilds_total", "Replicas whose state was rebuilt", "reason")?,
            stopped: counter("granary_node_replicas_stopped_total", "Replicas that stay stopped", "reason")?,
            handed_over: counter(
                "granary_node_leadership_handed_over_total",
                "Times that a leader handed over because its disk stood still",
                "reason",
            )?,
            snapshots_failed: by_shard(
                "granary_node_snapshots_failed",
                "Snapshots that could not be written since the replica started: its Raft log is not purged",
            )?,
            asking: by_shard(
                "granary_node_asking",
                "1 while the replica waits for the other members to say what they remember of it",
            )?,
            reads: counter("granary_node_reads_total", "Keys read, by consistency level", "level")?,
            applied_index: by_shard("granary_node_applied_index", "Applied Raft index")?,
            cells: by_shard("granary_node_cells_count", "Cells in the store")?,
            memory_table_bytes: by_shard("granary_node_memory_table_bytes", "Bytes in the memory table")?,
            change_log_bytes: by_shard("granary_node_change_log_bytes", "Bytes of events not yet committed offline")?,
            change_log_events: by_shard("granary_node_change_log_events_count", "Events not yet committed offline")?,
            leader: by_shard("granary_node_leader", "1 where this node leads the shard")?,
            change_log_budget_bytes: by_shard(
                "granary_node_change_log_budget_bytes",
                "The bound for them; 0 for none",
            )?,
            change_log_pressure: by_shard(
                "granary_node_change_log_pressure_level",
                "0 normal, 1 from 50 % of the budget (alert), 2 from 75 % (writes slow), 3 from 95 % (writes refused)",
            )?,
            writes_refused: counter(
                "granary_node_writes_refused_total",
                "Writes that apply refused, at the leader",
                "reason",
            )?,
            writes_slowed: counter("granary_node_entries_slowed_total", "Entries held back by the leader", "reason")?,
            expired: {
                let help = "Expired records that the leader removed from the online store";
                let counter = IntCounterVec::new(Opts::new("granary_node_expired_records_total", help), &["shard"])?;
                registry.register(Box::new(counter.clone()))?;
                counter
            },
            different_replicas: by_shard(
                "granary_node_different_replicas_count",
                "At the leader: replicas whose state differs from its own at the same index (RG-2); must be 0",
            )?,
            compared_index: {
                let help = "At the leader: the last index at which the replica's state was found equal to its own";
                let gauge = IntGaugeVec::new(Opts::new("granary_node_compared_index", help), &["shard", "replica"])?;
                registry.register(Box::new(gauge.clone()))?;
                gauge
            },
            state_hashes: StateHashes::register(registry)?,
        })
    }

    /// Another replica's state was equal to the leader's at `index`.
    pub(crate) fn compared(&self, shard: ShardId, replica: ReplicaId, index: u64) {
        let labels = [shard.to_string(), replica.to_string()];
        self.compared_index.with_label_values(&labels).set(i64::try_from(index).unwrap_or(i64::MAX));
    }

    /// How many replicas differ from the leader's.
    pub(crate) fn different(&self, shard: ShardId, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.different_replicas.with_label_values(&[&shard.to_string()]).set(count);
    }

    /// Takes the gauges from the replicas that run now.
    pub(crate) fn export(&self, replicas: &[Arc<Replica>]) {
        self.state_hashes.take(replicas);
        for replica in replicas {
            let shard = replica.shard().to_string();
            let (status, log) = (replica.store().status(), replica.store().change_log());
            let set = |gauge: &IntGaugeVec, value: u64| {
                gauge.with_label_values(&[&shard]).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.cells, status.cells);
            set(&self.memory_table_bytes, status.memory_table_bytes as u64);
            set(&self.change_log_bytes, log.bytes);
            set(&self.change_log_events, log.last_sequence - log.trimmed_sequence);
            let group = replica.group().status();
            set(&self.snapshots_failed, group.stats.snapshots_failed);
            set(&self.asking, u64::from(group.asking));
            set(&self.leader, u64::from(replica.leads()));
            set(&self.applied_index, status.applied_index);
            set(&self.change_log_budget_bytes, log.budget_bytes);
            set(&self.change_log_pressure, log.pressure as u64);
        }
    }
}

/// A sample with the labels it is exported under: shard and replica.
type Labelled = ([String; 2], Sample);

/// State hashes beside their indexes, both of one moment also when they are scraped.
///
/// A gauge is a float with 53 bits: it tells the low 52 of the hash, enough to compare replicas by. `granary status`
/// and the comparison between replicas have all 128.
#[derive(Debug, Clone)]
struct StateHashes {
    hash: IntGaugeVec,
    index: IntGaugeVec,
    newest: Arc<Mutex<Vec<Labelled>>>,
}

impl StateHashes {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["shard", "replica"]);
        let hashes = Self {
            hash: gauge(
                "granary_shard_state_hash",
                "Low 52 bits of the state hash at granary_shard_state_hash_index: equal on replicas at the same index",
            )?,
            index: gauge("granary_shard_state_hash_index", "The applied index of granary_shard_state_hash")?,
            newest: Arc::default(),
        };
        registry.register(Box::new(hashes.clone()))?;
        Ok(hashes)
    }

    fn take(&self, replicas: &[Arc<Replica>]) {
        let newest = |replica: &Arc<Replica>| {
            let sample = replica.store().samples().pop()?;
            Some(([replica.shard().to_string(), replica.group().spec().replica.to_string()], sample))
        };
        *self.newest.lock() = replicas.iter().filter_map(newest).collect();
    }
}

impl Collector for StateHashes {
    fn desc(&self) -> Vec<&Desc> {
        [self.hash.desc(), self.index.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let newest = self.newest.lock();
        self.hash.reset();
        self.index.reset();
        for (labels, sample) in &*newest {
            let low_bits = i64::try_from(sample.state_hash & ((1 << 52) - 1)).expect("52 bits");
            self.hash.with_label_values(labels).set(low_bits);
            self.index.with_label_values(labels).set(i64::try_from(sample.index).unwrap_or(i64::MAX));
        }
        [self.hash.collect(), self.index.collect()].concat()
    }
}
