//! Where things stand: record identifier -> slot, slot -> shard, shard -> nodes.
//!
//! * [`slot_of`] is a hash that is fixed for ever: a record's slot never changes.
//! * [`SlotTable`] says explicitly which shard owns each slot, and at which epoch.
//! * [`planner`] proposes tables. Only there does a hash ring occur; nobody computes ownership from a ring, so two
//!   versions of Granary, or two lists of members, cannot disagree about an owner.
//! * [`replicas`] spreads the replicas of shards over nodes.
//!
//! Everything here is a pure function. It does not decide ownership (a shard's own log does, at apply: RG-1) and it
//! moves nothing; it only says what shall be.

pub mod planner;
pub mod replicas;
mod ring;
mod slot;
mod table;

use granary_types::{Epoch, ShardId, Slot};

pub use planner::{Move, Plan};
pub use replicas::place_replicas;
pub use slot::{SLOT_COUNT, slot_of, slots};
pub use table::SlotTable;

/// Why a table is wrong, or cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A table has an entry for every slot, and each entry an epoch.
    #[error("a slot table has {SLOT_COUNT} shards and epochs, got {shards} and {epochs}")]
    WrongLength {
        /// How many shards were given.
        shards: usize,
        /// How many epochs were given.
        epochs: usize,
    },
    /// A slot is owned by a shard that does not exist, or by the meta group.
    #[error("slot is owned by a shard that is not there slot={slot} shard={shard}")]
    UnknownShard {
        /// The slot.
        slot: Slot,
        /// Its owner by the table.
        shard: ShardId,
    },
    /// Epochs count from 1.
    #[error("slot has no epoch slot={slot} epoch={epoch}")]
    NoEpoch {
        /// The slot.
        slot: Slot,
        /// Its epoch by the table.
        epoch: Epoch,
    },
    /// Somebody must own the slots, and each shard must own at least one.
    #[error("slots are dealt to 1 to {SLOT_COUNT} shards, got {shards}")]
    ShardCount {
        /// How many shards were given.
        shards: usize,
    },
    /// The meta group owns no slots and is not placed here.
    #[error("the meta group is not a shard that owns slots")]
    MetaShard,
    /// Two replicas of a shard never stand on one node.
    #[error("{replicas} replicas need as many nodes, there are {nodes}")]
    TooFewNodes {
        /// The replicas of each shard.
        replicas: usize,
        /// How many nodes there are.
        nodes: usize,
    },
    /// A shard without replicas keeps nothing.
    #[error("a shard needs at least one replica")]
    NoReplicas,
}
