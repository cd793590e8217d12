//! Settings of a shard's store.

/// What every replica of a shard must agree on: apply depends on it, so replicas with different rules diverge (RG-2).
/// The node takes them from one place for all and never from a machine's own configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The budget of the change log in bytes of framed events. At 95 % of it offline-enabled writes are refused.
    pub change_log_bytes: u64,
    /// How many accepted write ids are remembered at most.
    pub recent_writes_count: usize,
    /// How long a write id is remembered at most, in milliseconds between write stamps.
    pub recent_writes_age_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { change_log_bytes: 256 << 20, recent_writes_count: 1_000_000, recent_writes_age_ms: 10 * 60 * 1_000 }
    }
}

/// Settings of one replica's store. All but `rules` may differ from replica to replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Where [`crate::ShardStore::room`] ends: bytes of rows that are not yet in the tree. One entry may overrun it.
    pub memory_table_bytes: usize,
    /// A checkpoint is due when so many bytes wait; well below `memory_table_bytes`, so that apply need not wait.
    pub checkpoint_bytes: usize,
    /// A checkpoint is due when a row has waited so long, in milliseconds.
    pub checkpoint_age_ms: u64,
    /// Bytes of rows that are kept in memory for reads beside the memory table.
    pub row_cache_bytes: usize,
    /// The same on every replica.
    pub rules: Rules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_table_bytes: 64 << 20,
            checkpoint_bytes: 16 << 20,
            checkpoint_age_ms: 2_000,
            row_cache_bytes: 64 << 20,
            rules: Rules::default(),
        }
    }
}
