//! Raft groups: replicated commands for a deterministic state machine, durable on a majority before an answer
//! leaves (WR-1), and linearizable read indexes (LIN-1).
//!
//! A [`Group`] is one replica of one Raft group: a Raft log of its own ([`log_store`]), snapshot files
//! ([`snapshot_store`]) and whatever implements the [`StateMachine`] port. Groups of a process share the
//! connections of a [`PeerPool`] and one [`ConsensusService`]. Commands and replies are opaque bytes here: this crate
//! knows neither shards nor catalogs, and nothing outside it names openraft.
//!
//! Durable are the Raft log and snapshot files, and nothing else. The log is purged only up to a snapshot file that
//! was synced; the state machine is rebuilt from the newest valid file and the log after it (ST-1).

mod admission;
pub mod codec;
mod dirs;
mod error;
mod group;
mod leadership;
mod lineage;
mod log_files;
mod log_note;
mod log_repair;
pub mod log_store;
mod logs;
mod memory_log;
mod network;
mod peers;
mod propose;
pub mod read_index;
mod service;
mod settings;
pub mod snapshot_store;
mod snapshot_transfer;
mod standing;
mod state_machine;
pub mod state_machine_adapter;
mod stats;
pub mod type_config;

pub use dirs::create_synced;
pub use error::{Error, ProposeError, ReadError, WaitError};
pub use group::{Group, GroupSpec, GroupStatus, Member, Role};
pub use leadership::Leadership;
pub use log_files::exists as log_exists;
pub use logs::Logs;
pub use memory_log::{MemoryDisk, SyncTimes};
pub use peers::PeerPool;
pub use propose::{PendingProposal, Proposed};
pub use service::ConsensusService;
pub use settings::Settings;
pub use snapshot_transfer::fetch_snapshot;
pub use state_machine::{SnapshotSource, StateMachine};
pub use stats::StatsSnapshot;
