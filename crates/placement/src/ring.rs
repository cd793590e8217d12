//! The hash ring, as the planner's source of proposals.
//!
//! Traps of `hashring` 0.3.6 that this module avoids: it hashes through `std::hash::Hash`, whose encoding of lengths
//! and `usize` differs between platforms, so keys here feed their own bytes to the hasher; it knows no virtual nodes,
//! so each is an entry of its own; `add` sorts every time, so all are added at once; and `get_with_replicas`, which
//! counts ring entries and not shards, is never called.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use granary_types::{ShardId, Slot};
use hashring::HashRing;

use crate::slots;

/// Virtual nodes of each shard. With 256, the fullest of 2 to 16 shards holds 1.05 to 1.14 times the mean (measured
/// in the test below); evening out does the rest, and the closer the ring comes, the less there is to even out.
pub(crate) const VIRTUAL_NODE_COUNT: u32 = 256;

/// One virtual node: hashed as the bytes `shard`, shard id u32 big endian, number u32 big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VirtualNode {
    shard: ShardId,
    number: u32,
}

impl Hash for VirtualNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"shard");
        state.write(&self.shard.0.to_be_bytes());
        state.write(&self.number.to_be_bytes());
    }
}

/// A slot's place on the ring: hashed as the bytes `slot`, slot u16 big endian.
struct SlotPoint(Slot);

impl Hash for SlotPoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"slot");
        state.write(&self.0.0.to_be_bytes());
    }
}

/// The shard that the ring of `shards` proposes for each slot; the index is the slot. `shards` must not be empty.
pub(crate) fn proposals(shards: &BTreeSet<ShardId>) -> Vec<ShardId> {
    let mut ring = HashRing::new();
    ring.batch_add(
        shards
            .iter()
            .flat_map(|shard| (0..VIRTUAL_NODE_COUNT).map(|number| VirtualNode { shard: *shard, number }))
            .collect(),
    );
    slots().map(|slot| ring.get(&SlotPoint(slot)).expect("the ring has an entry for every shard").shard).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// If the ring were far from even, evening out would undo it and tables would wander from plan to plan.
    #[test]
    fn the_ring_alone_comes_near_to_even() {
        for count in [2, 3, 5, 8, 12, 16] {
            let shards = (1..=count).map(ShardId).collect();
            let mut held: BTreeMap<ShardId, u32> = BTreeMap::new();
            for shard in proposals(&shards) {
                *held.entry(shard).or_insert(0) += 1;
            }
            let most = *held.values().max().expect("there are shards");
            let over_mean = f64::from(most * count) / f64::from(crate::SLOT_COUNT);
            assert!(over_mean < 1.25, "{count} shards: {over_mean}");
        }
    }
}
