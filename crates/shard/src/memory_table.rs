//! The memory table: the newest cells, not yet in the tree.
//!
//! Apply writes into the active map. A freeze sets it aside with a marker of what it completes; the checkpointer
//! writes frozen maps to the tree, oldest first, and drops them. There are two at most: one being written and one set
//! aside by a snapshot. Whoever looks finds the newest cell: active, then frozen from new to old, then what is below.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::marker::Marker;

/// What an entry takes beside the bytes of key and cell: two handles, two allocations, the map's slack.
const ENTRY_OVERHEAD: usize = 160;

/// Cells by key, apart by slot, so that listing a slot looks at no other. The order of these maps is never seen: what
/// leaves them is sorted.
#[derive(Debug, Default)]
struct Cells {
    slots: HashMap<[u8; 2], HashMap<Bytes, Bytes>>,
}

impl Cells {
    fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.slots.get(&slot_of(key))?.get(key)
    }

    fn insert(&mut self, key: Bytes, cell: Bytes) -> Option<Bytes> {
        self.slots.entry(slot_of(&key)).or_default().insert(key, cell)
    }

    fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.slots.values().flatten()
    }

    fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The first bytes of a key (`cell.rs`).
fn slot_of(key: &[u8]) -> [u8; 2] {
    key.first_chunk().copied().unwrap_or_default()
}

/// A map set aside for the tree.
#[derive(Debug)]
pub(crate) struct Frozen {
    cells: Cells,
    bytes: usize,
    /// What the tree is once this is written.
    pub(crate) marker: Marker,
}

impl Frozen {
    /// Its cells in key order, sharing their bytes.
    pub(crate) fn sorted(&self) -> Vec<(Bytes, Bytes)> {
        let mut cells: Vec<_> = self.cells.iter().map(|(key, cell)| (key.clone(), cell.clone())).collect();
        cells.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        cells
    }
}

/// The memory table of one replica.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    active: Cells,
    active_bytes: usize,
    /// Oldest first.
    frozen: VecDeque<Arc<Frozen>>,
}

impl MemoryTable {
    /// The newest cell of the key, if it is not only in the tree.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Bytes> {
        let frozen = || self.frozen.iter().rev().find_map(|frozen| frozen.cells.get(key));
        self.active.get(key).or_else(frozen).cloned()
    }

    /// The newest cells with keys after `after` that begin with its first `prefix_len` bytes, which name a slot at
    /// least, in key order: the first `cells_max` of them. Looks at all keys of the slot.
    pub(crate) fn after(&self, after: &[u8], prefix_len: usize, cells_max: usize) -> BTreeMap<Bytes, Bytes> {
        let maps = self.frozen.iter().map(|frozen| &frozen.cells).chain([&self.active]);
        let mut first = BTreeMap::new();
        // Later ones replace earlier ones.
        for (key, cell) in maps.filter_map(|cells| cells.slots.get(&slot_of(after))).flatten() {
            let is_wanted = key.starts_with(&after[..prefix_len]) && **key > *after;
            let is_too_far = first.len() == cells_max && first.last_key_value().is_some_and(|(last, _)| key > last);
            if is_wanted && !is_too_far {
                first.insert(key.clone(), cell.clone());
                if first.len() > cells_max {
                    first.pop_last();
                }
            }
        }
        first
    }

    pub(crate) fn put(&mut self, key: Bytes, cell: Bytes) {
        let (key_len, cell_len) = (key.len(), cell.len());
        match self.active.insert(key, cell) {
            Some(old) => self.active_bytes = self.active_bytes - old.len() + cell_len,
            None => self.active_bytes += key_len + cell_len + ENTRY_OVERHEAD,
        }
    }

    /// Sets the active map aside, unless it is empty.
    pub(crate) fn freeze(&mut self, marker: Marker) {
        if !self.active.is_empty() {
            let (cells, bytes) = (std::mem::take(&mut self.active), std::mem::take(&mut self.active_bytes));
            self.frozen.push_back(Arc::new(Frozen { cells, bytes, marker }));
        }
    }

    /// What is to be written next.
    pub(crate) fn oldest_frozen(&self) -> Option<Arc<Frozen>> {
        self.frozen.front().cloned()
    }

    /// Drops the oldest frozen map, which is in the tree now.
    pub(crate) fn drop_oldest(&mut self) {
        self.frozen.pop_front();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes in the active map.
    pub(crate) fn active_bytes(&self) -> usize {
        self.active_bytes
    }

    /// Bytes in all maps.
    pub(crate) fn bytes(&self) -> usize {
        self.active_bytes + self.frozen.iter().map(|frozen| frozen.bytes).sum::<usize>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.frozen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_first_cells_after_a_key_are_the_newest_ones() {
        let mut table = MemoryTable::default();
        for key in ["s1b", "s1d", "s1f", "s2a", "s1a", "s1c"] {
            table.put(bytes(key), bytes("old"));
        }
        table.freeze(Marker::default());
        for key in ["s1e", "s1c", "s1g", "s1h"] {
            table.put(bytes(key), bytes("new"));
        }
        let after = |cells_max| table.after(b"s1a", 2, cells_max).into_iter().collect::<Vec<_>>();
        let all = ["s1b", "s1c", "s1d", "s1e", "s1f", "s1g", "s1h"];
        for cells_max in 1..9 {
            let found = after(cells_max);
            let keys: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
            assert_eq!(keys, all[..cells_max.min(7)]);
            assert!(cells_max < 2 || found[1].1 == "new", "{found:?}");
        }
    }

    #[test]
    fn the_newest_cell_is_found_and_bytes_add_up() {
        let mut table = MemoryTable::default();
        for cell in ["one", "three"] {
            table.put(bytes("a"), bytes(cell));
        }
        assert_eq!(table.active_bytes(), ENTRY_OVERHEAD + 6);
        table.freeze(Marker::default());
        table.put(bytes("a"), bytes("four"));
        table.put(bytes("b"), bytes("five"));
        table.freeze(Marker::default());
        table.freeze(Marker::default());
        table.put(bytes("b"), bytes("six"));
        assert_eq!(table.get(b"a"), Some(bytes("four")));
        assert_eq!(table.get(b"b"), Some(bytes("six")));
        assert_eq!(table.frozen.len(), 2, "an empty map is not set aside");
        table.drop_oldest();
        table.drop_oldest();
        assert_eq!(table.get(b"a"), None);
        assert_eq!(table.bytes(), table.active_bytes());
        table.clear();
        assert!(table.is_empty() && table.bytes() == 0);
    }
}
