//! The node's metrics. Labels are shards and error kinds, never identifiers of records.

use std::sync::Arc;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::replica::Replica;

/// Counters and gauges of one node.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) writes_per_entry: Histogram,
    pub(crate) rebuilds: IntCounterVec,
    pub(crate) stopped: IntCounterVec,
    pub(crate) snapshots_failed: IntGaugeVec,
    pub(crate) asking: IntGaugeVec,
    pub(crate) reads: IntCounterVec,
    pub(crate) applied_index: IntGaugeVec,
    pub(crate) cells: IntGaugeVec,
    pub(crate) memory_table_bytes: IntGaugeVec,
    pub(crate) change_log_bytes: IntGaugeVec,
    pub(crate) change_log_events: IntGaugeVec,
    pub(crate) leader: IntGaugeVec,
    pub(crate) state_hash: IntGaugeVec,
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
            state_hash: by_shard(
                "granary_node_state_hash",
                "Low 63 bits of the state hash at granary_node_applied_index; equal on replicas at the same index",
            )?,
        })
    }

    /// Takes the gauges from the replicas that run now.
    pub(crate) fn export(&self, replicas: &[Arc<Replica>]) {
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
            if let Some(hash) = status.state_hash {
                set(&self.state_hash, u64::try_from(hash & u128::from(u64::MAX >> 1)).unwrap_or(0));
            }
        }
    }
}
