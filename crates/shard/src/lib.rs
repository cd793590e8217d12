//! The store under apply: everything one replica of a shard knows.
//!
//! [`ShardStore`] is a state machine. [`ShardStore::apply`] is a pure function of (state, entry): it decides who owns
//! a slot, recognises retries, settles old against new with `granary_types::Cell`, and appends to the change log. It
//! reads no clock, no randomness and waits for no disk: what it writes goes into a bounded memory table, and one
//! background thread, the checkpointer, moves that into the engine's tree.
//!
//! What it is not: not durable (the Raft log and the snapshot files are; the tree is a copy that can be rebuilt), not a
//! network service, and not acquainted with consensus: `granary-node` adapts it to `granary_consensus::StateMachine`.
//!
//! Two kinds of state, kept in two places:
//!
//! | state | where | after a restart it is at |
//! |---|---|---|
//! | control: slots, stamps, recent writes, touches, change log | memory, snapshots | the newest snapshot's index S |
//! | rows: the cells | memory table, row cache, tree, snapshots | the tree's marker N, N >= S, or later in places |
//!
//! So on replay the rows may be **ahead** of the control state. That is sound because merging a cell is idempotent
//! and because no control effect depends on a row, but for one: whether a hard delete was stale. A cell therefore
//! remembers its latest resets (`cell.rs` has the format), from which the first decision is read back.
//!
//! Invariants kept here: ON-1, CL-1, CL-2, CL-3 (with the offset the caller gives), RG-1 (by epoch, at apply), RG-2, ST-1.

mod apply;
mod cell;
mod change_log;
mod checkpointer;
mod control;
mod dedup;
mod error;
mod expiry;
mod list;
mod marker;
mod memory_table;
mod preserved;
mod read;
mod row_cache;
mod rows;
mod sample;
mod settings;
mod slots;
mod snapshot;
mod state_hash;
mod store;
mod touches;
mod update;

pub use change_log::{ChangeLogStatus, OpenSegment, Pressure, decode_segment};
pub use checkpointer::{Job, Spawn, Step, spawn_thread};
#[doc(hidden)]
pub use dedup::Window;
pub use error::Error;
pub use expiry::{ExpiredRecord, Look};
pub use sample::Sample;
pub use settings::Settings;
pub use snapshot::PinnedSnapshot;
pub use store::{ShardStore, Status, TreeTrust};
pub use update::Merged;
