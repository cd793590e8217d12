//! The row cache: cells of the tree that were read or written not long ago, bounded in bytes.
//!
//! Apply decides by what it reads here, so a stale cell would be a wrong state, not only a wrong answer. The rule: for
//! a key that is not in the memory table, a cached cell equals the tree's. It is kept by two means.
//!
//! - The checkpointer, the only one to change the tree, puts what it wrote here *before* the memory table drops it.
//! - A reader that missed everywhere fills the cache only with a [`Ticket`] it took *before* it looked into the memory
//!   table. Every put and clear voids the tickets of its shard. Suppose a reader carries an old cell out of the tree. If
//!   the newer one was in the memory table when it looked, it found it there and fills nothing. If not, the newer one's
//!   put comes after the ticket was taken: when it came before the fill, the ticket is void, and when it comes after,
//!   it replaces the old cell. In between, the newer cell is in the memory table, where everybody looks first.
//!
//! Replacement is the clock algorithm: a cell that was read since the hand last passed it gets another round.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

const SHARDS: usize = 64;
/// As in the memory table, with the slot of the clock.
const ENTRY_OVERHEAD: usize = 200;

/// The right to fill the cache with what is read from the tree from now on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    shard: usize,
    generation: u64,
}

/// The row cache of one replica.
#[derive(Debug)]
pub(crate) struct RowCache {
    shards: Vec<RwLock<Shard>>,
}

impl RowCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max / SHARDS;
        Self { shards: (0..SHARDS).map(|_| RwLock::new(Shard { bytes_max, ..Shard::default() })).collect() }
    }

    fn place_of(key: &[u8]) -> usize {
        usize::try_from(xxh3_64(key) % SHARDS as u64).expect("below 64")
    }

    /// To be taken before the memory table is looked into.
    pub(crate) fn ticket(&self, key: &[u8]) -> Ticket {
        let shard = Self::place_of(key);
        Ticket { shard, generation: self.shards[shard].read().generation }
    }

    /// The cached cell. To be asked after the memory table.
    pub(crate) fn get(&self, key: &[u8], ticket: Ticket) -> Option<Bytes> {
        let shard = self.shards[ticket.shard].read();
        let slot = shard.slots[*shard.places.get(key)?].as_ref()?;
        slot.referenced.store(true, Ordering::Relaxed);
        Some(slot.cell.clone())
    }

    /// Caches what was read from the tree, if the ticket is still good.
    pub(crate) fn fill(&self, key: Bytes, cell: Bytes, ticket: Ticket) {
        let mut shard = self.shards[ticket.shard].write();
        if shard.generation == ticket.generation {
            shard.insert(key, cell);
        }
    }

    /// Caches what was just written to the tree.
    pub(crate) fn put(&self, key: Bytes, cell: Bytes) {
        let mut shard = self.shards[Self::place_of(&key)].write();
        shard.generation += 1;
        shard.insert(key, cell);
    }

    /// Forgets everything: the tree was replaced.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            *shard = Shard { bytes_max: shard.bytes_max, generation: shard.generation + 1, ..Shard::default() };
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().bytes).sum()
    }
}

#[derive(Debug)]
struct Entry {
    key: Bytes,
    cell: Bytes,
    referenced: AtomicBool,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.key.len() + self.cell.len() + ENTRY_OVERHEAD
    }
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<Bytes, usize>,
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    generation: u64,
}

impl Shard {
    fn insert(&mut self, key: Bytes, cell: Bytes) {
        if let Some(place) = self.places.get(&key).copied() {
            self.remove(place);
        }
        let entry = Entry { key: key.clone(), cell, referenced: AtomicBool::new(false) };
        if entry.bytes() > self.bytes_max {
            return;
        }
        self.bytes += entry.bytes();
        // Room is made first, so that the new entry is not its own victim.
        while self.bytes > self.bytes_max {
            self.evict_one();
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some(entry);
        self.places.insert(key, place);
    }

    fn remove(&mut self, place: usize) {
        if let Some(entry) = self.slots[place].take() {
            self.bytes -= entry.bytes();
            self.places.remove(&entry.key);
            self.free.push(place);
        }
    }

    /// Moves the hand on to the first entry that was not read since it last passed: two rounds at most.
    fn evict_one(&mut self) {
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            let spared =
                self.slots[self.hand].as_ref().is_none_or(|entry| entry.referenced.swap(false, Ordering::Relaxed));
            if !spared {
                return self.remove(self.hand);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: impl Into<String>) -> Bytes {
        Bytes::from(text.into())
    }

    #[test]
    fn a_fill_that_began_before_a_put_is_refused() {
        let cache = RowCache::new(1 << 20);
        let ticket = cache.ticket(b"k");
        // The reader misses in the memory table here and reads the old cell; then apply and checkpointer pass by.
        cache.put(bytes("k"), bytes("new"));
        cache.fill(bytes("k"), bytes("old"), ticket);
        assert_eq!(cache.get(b"k", ticket), Some(bytes("new")));
        let late = cache.ticket(b"k");
        cache.clear();
        cache.fill(bytes("k"), bytes("old"), late);
        assert_eq!(cache.get(b"k", late), None);
        cache.fill(bytes("k"), bytes("now"), cache.ticket(b"k"));
        assert_eq!(cache.get(b"k", late), Some(bytes("now")));
    }

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_read() {
        let cache = RowCache::new(64 * 10 * (ENTRY_OVERHEAD + 20));
        cache.put(bytes("hot"), bytes("cell"));
        for round in 0..5_000 {
            assert!(cache.get(b"hot", cache.ticket(b"hot")).is_some(), "round {round}");
            cache.put(bytes(format!("{round:010}")), bytes("0123456789"));
            assert!(cache.shards.iter().all(|shard| shard.read().bytes <= shard.read().bytes_max));
        }
        assert!(cache.bytes() > 64 * 5 * (ENTRY_OVERHEAD + 20), "it is used");
        cache.put(bytes("hot"), Bytes::from(vec![0; 1 << 20]));
        assert!(cache.get(b"hot", cache.ticket(b"hot")).is_none(), "too large: the old one must go, too");
    }
}
