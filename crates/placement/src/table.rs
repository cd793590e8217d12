//! The explicit table: slot -> (shard, epoch).

use std::collections::{BTreeMap, BTreeSet};

use granary_types::{Epoch, ShardId, Slot};

use crate::{Error, SLOT_COUNT, slots};

/// Which shard owns each slot, and since which epoch of the slot.
///
/// Every slot has an owner that is not the meta group, and an epoch of at least 1. Whether the owners exist is for
/// [`check`](Self::check).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    /// `SLOT_COUNT` entries; the index is the slot.
    entries: Vec<(ShardId, Epoch)>,
}

impl SlotTable {
    /// A table of two vectors of `SLOT_COUNT` entries, indexed by slot, as a catalog carries them.
    ///
    /// # Errors
    /// For another length, the meta group as an owner, and epoch 0.
    pub fn from_vectors(shards: &[u32], epochs: &[u64]) -> Result<Self, Error> {
        if shards.len() != usize::from(SLOT_COUNT) || epochs.len() != shards.len() {
            return Err(Error::WrongLength { shards: shards.len(), epochs: epochs.len() });
        }
        let entries = shards.iter().zip(epochs).map(|(shard, epoch)| (ShardId(*shard), Epoch(*epoch))).collect();
        let table = Self { entries };
        for (slot, shard, epoch) in table.iter() {
            if shard == ShardId::META {
                return Err(Error::UnknownShard { slot, shard });
            }
            if epoch == Epoch(0) {
                return Err(Error::NoEpoch { slot, epoch });
            }
        }
        Ok(table)
    }

    /// The table as two vectors of `SLOT_COUNT` entries, indexed by slot: shards and epochs.
    pub fn to_vectors(&self) -> (Vec<u32>, Vec<u64>) {
        self.entries.iter().map(|(shard, epoch)| (shard.0, epoch.0)).unzip()
    }

    /// A first table, at epoch 1. `owner` is asked for each slot.
    pub(crate) fn first(owner: impl Fn(Slot) -> ShardId) -> Self {
        Self { entries: slots().map(|slot| (owner(slot), Epoch(1))).collect() }
    }

    /// Checks that every owner is one of `shards`.
    ///
    /// # Errors
    /// `UnknownShard`, naming the first slot whose owner is not.
    pub fn check(&self, shards: &BTreeSet<ShardId>) -> Result<(), Error> {
        match self.iter().find(|(_, shard, _)| !shards.contains(shard)) {
            Some((slot, shard, _)) => Err(Error::UnknownShard { slot, shard }),
            None => Ok(()),
        }
    }

    /// The owner of `slot` and its epoch; none for a number that is not a slot.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<(ShardId, Epoch)> {
        self.entries.get(usize::from(slot.0)).copied()
    }

    /// Every slot with its owner and epoch, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Slot, ShardId, Epoch)> + '_ {
        slots().zip(&self.entries).map(|(slot, (shard, epoch))| (slot, *shard, *epoch))
    }

    /// The slots of `shard`, ascending.
    pub fn slots_of(&self, shard: ShardId) -> impl Iterator<Item = Slot> + '_ {
        self.iter().filter(move |(_, owner, _)| *owner == shard).map(|(slot, _, _)| slot)
    }

    /// How many slots each shard owns; shards that own none are not in it.
    pub fn counts(&self) -> BTreeMap<ShardId, usize> {
        let mut counts = BTreeMap::new();
        for (shard, _) in &self.entries {
            *counts.entry(*shard).or_insert(0) += 1;
        }
        counts
    }

    /// Gives `slot` to `shard` at the slot's next epoch.
    pub(crate) fn hand_over(&mut self, slot: Slot, shard: ShardId) {
        let entry = &mut self.entries[usize::from(slot.0)];
        *entry = (shard, Epoch(entry.1.0 + 1));
    }
}
