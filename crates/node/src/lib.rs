//! A node: a process with a disk and an identity that hosts replicas of shards and of the meta group.
//!
//! | module | story |
//! |---|---|
//! | `engine` | which engine the rows are in, and how a node changes it |
//! | [`identity`] | who this disk is: fsynced before the first vote, never given out twice |
//! | [`bootstrap`] | how empty seeds become a cluster, and how a node finds the one it belongs to |
//! | [`meta`] | the meta group's replica: catalog in, catalog out to whoever watches |
//! | [`replica`] | one shard's replica: store, Raft group, group commit, reads, leader's duties |
//! | `standstill` | when a leader whose own disk hangs hands over |
//! | `updates` | updates merged into their records by the leader, and again after a lost race |
//! | [`supervisor`] | starts the replicas that the catalog puts on this node, and rebuilds a failed one |
//! | [`services`] | the gRPC services of the peer port |
//!
//! A put passes [`services::shard`] → [`group_commit`] → consensus → the shard's `apply`; a get passes
//! [`services::shard`] → [`freshness`] → the shard's `read`. Invariants kept here: WR-1 (answers leave after apply
//! of a committed entry), LIN-1 (reads wait for a read index), ST-1 (state that cannot be trusted is rebuilt).

pub mod bootstrap;
mod comparison;
mod engine;
mod expiry;
pub mod freshness;
pub mod group_commit;
pub mod identity;
pub mod meta;
mod metrics;
mod node;
pub mod replica;
pub mod services;
mod settings;
mod standstill;
pub mod supervisor;
mod updates;

pub use metrics::Metrics;
pub use node::{Error, Node, Port};
pub use settings::{EngineKind, Settings, Simulated};
