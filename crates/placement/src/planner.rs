//! Proposes slot tables.
//!
//! The hash ring proposes an owner for each slot; the planner then evens the table out on the explicit slots, which a
//! ring alone cannot. Three properties hold for every plan:
//!
//! * **even**: the fullest shard owns at most one slot more than the emptiest;
//! * **least movement**: no table that is as even can be reached with fewer moves. From an even table, adding
//!   shards moves slots to the new ones only, and removing shards moves only the slots they owned;
//! * **deterministic**: equal tables and shards give equal plans, on every platform.
//!
//! A plan is a proposal. Its epochs are what the slots will have when every move was made; each is minted by the
//! `Close` that the old owner commits, not here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use granary_types::{ShardId, Slot};

use crate::ring::proposals;
use crate::{Error, SLOT_COUNT, SlotTable};

/// A slot that shall change its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    /// The slot.
    pub slot: Slot,
    /// Who owns it.
    pub from: ShardId,
    /// Who shall own it.
    pub to: ShardId,
}

/// A proposed table, and how it differs from the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The table when every move was made. Epochs rise by one for moved slots and stay for the others.
    pub table: SlotTable,
    /// What has to move, ascending by slot, each slot at most once.
    pub moves: Vec<Move>,
}

/// The first table over `shards`, all slots at epoch 1.
///
/// # Errors
/// `ShardCount` for no shards or more than slots, `MetaShard` when the meta group is among them.
pub fn deal(shards: &BTreeSet<ShardId>) -> Result<SlotTable, Error> {
    check_shards(shards)?;
    let ring = proposals(shards);
    let mut holdings = Holdings::new(shards);
    for (slot, shard) in crate::slots().zip(&ring) {
        holdings.give(slot, *shard);
    }
    holdings.even_out(&ring);
    let owners = holdings.owners();
    Ok(SlotTable::first(|slot| owners[&slot]))
}

/// The next table over `shards`, as near to `current` as an even table can be. Takes milliseconds; called when
/// shards come or go, never on the way of a request.
///
/// # Errors
/// `ShardCount` for no shards or more than slots, `MetaShard` when the meta group is among them.
pub fn plan(current: &SlotTable, shards: &BTreeSet<ShardId>) -> Result<Plan, Error> {
    check_shards(shards)?;
    let ring = proposals(shards);
    let mut holdings = Holdings::new(shards);
    let mut orphans = Vec::new();
    for (slot, shard, _) in current.iter() {
        if shards.contains(&shard) {
            holdings.give(slot, shard);
        } else {
            orphans.push(slot);
        }
    }
    holdings.adopt(orphans, &ring);
    holdings.even_out(&ring);

    let owners = holdings.owners();
    let mut table = current.clone();
    let mut moves = Vec::new();
    for (slot, from, _) in current.iter() {
        let to = owners[&slot];
        if to != from {
            table.hand_over(slot, to);
            moves.push(Move { slot, from, to });
        }
    }
    Ok(Plan { table, moves })
}

fn check_shards(shards: &BTreeSet<ShardId>) -> Result<(), Error> {
    if shards.is_empty() || shards.len() > usize::from(SLOT_COUNT) {
        return Err(Error::ShardCount { shards: shards.len() });
    }
    if shards.contains(&ShardId::META) {
        return Err(Error::MetaShard);
    }
    Ok(())
}

/// Who holds which slots while a plan is made. Every shard has an entry, also one that holds nothing yet.
struct Holdings {
    slots: BTreeMap<ShardId, BTreeSet<Slot>>,
}

impl Holdings {
    fn new(shards: &BTreeSet<ShardId>) -> Self {
        Self { slots: shards.iter().map(|shard| (*shard, BTreeSet::new())).collect() }
    }

    fn give(&mut self, slot: Slot, shard: ShardId) {
        self.slots.get_mut(&shard).expect("the shard has an entry").insert(slot);
    }

    fn count(&self, shard: ShardId) -> usize {
        self.slots[&shard].len()
    }

    /// The shard with the most slots, the lowest id among equals.
    fn fullest(&self) -> ShardId {
        let ranked = self.slots.iter().max_by_key(|(shard, held)| (held.len(), Reverse(**shard)));
        *ranked.expect("there is a shard").0
    }

    /// The shard with the fewest slots, the lowest id among equals.
    fn emptiest(&self) -> ShardId {
        let ranked = self.slots.iter().min_by_key(|(shard, held)| (held.len(), **shard));
        *ranked.expect("there is a shard").0
    }

    /// Gives slots without an owner away: to the shard that the ring proposes while that one is below its even
    /// share, the others to the emptiest. Nobody thereby comes to hold more than it may keep.
    fn adopt(&mut self, orphans: Vec<Slot>, ring: &[ShardId]) {
        let share = usize::from(SLOT_COUNT) / self.slots.len();
        let mut left = Vec::new();
        for slot in orphans {
            let proposed = ring[usize::from(slot.0)];
            if self.count(proposed) < share {
                self.give(slot, proposed);
            } else {
                left.push(slot);
            }
        }
        for slot in left {
            self.give(slot, self.emptiest());
        }
    }

    /// Lets the emptiest shard steal from the fullest until they differ by at most one slot. It takes a slot that the
    /// ring proposes for it if there is one, so that a table stays near the ring over many changes.
    fn even_out(&mut self, ring: &[ShardId]) {
        loop {
            let (from, to) = (self.fullest(), self.emptiest());
            if self.count(from) - self.count(to) <= 1 {
                return;
            }
            let held = self.slots.get_mut(&from).expect("the fullest has an entry");
            let proposed = held.iter().copied().find(|slot| ring[usize::from(slot.0)] == to);
            let slot = proposed.or_else(|| held.last().copied()).expect("the fullest holds a slot");
            held.remove(&slot);
            self.give(slot, to);
        }
    }

    fn owners(&self) -> BTreeMap<Slot, ShardId> {
        self.slots.iter().flat_map(|(shard, slots)| slots.iter().map(|slot| (*slot, *shard))).collect()
    }
}
