//! Settings of a shard's store.

/// Settings of one replica's store. They may differ from replica to replica and from start to start: apply depends on
/// none of them (RG-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Where [`crate::ShardStore::room`] ends: bytes of rows that are not yet in the tree. One entry may overrun it.
    pub memory_table_bytes: usize,
    /// A checkpoint is due when so many bytes wait; well below `memory_table_bytes`, so that apply need not wait.
    pub checkpoint_bytes: usize,
    /// A checkpoint is due when a row has waited so long, in milliseconds.
    pub checkpoint_age_ms: u64,
    /// Cells written to the tree in one step of the checkpointer.
    pub checkpoint_step_cells: usize,
    /// Bytes of overwritten rows that are kept in memory for a snapshot being written; more of them go into the tree.
    pub snapshot_overlay_bytes: usize,
    /// Bytes of rows that are kept in memory for reads beside the memory table.
    pub row_cache_bytes: usize,
    /// The budget of the change log in bytes of framed events; 0 for no bound. A leader puts it into its entries, and
    /// there it decides: at 95 % of it offline-enabled writes are refused. Here it only says how full the log is.
    pub change_log_budget_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_table_bytes: 64 << 20,
            checkpoint_bytes: 16 << 20,
            checkpoint_age_ms: 2_000,
            checkpoint_step_cells: 1_024,
            snapshot_overlay_bytes: 32 << 20,
            row_cache_bytes: 64 << 20,
            change_log_budget_bytes: 256 << 20,
        }
    }
}
