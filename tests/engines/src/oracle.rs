//! The replica that is never interrupted.

use std::sync::Arc;

use granary_shard::{ShardStore, TreeTrust};
use granary_store::Engine;
use granary_store::memory::MemoryEngine;

use crate::history::entry;
use crate::replica::{image, settings};

/// A store in memory that has applied the history up to some index.
#[derive(Debug)]
pub struct Oracle {
    store: Arc<ShardStore>,
    applied: u64,
}

impl Default for Oracle {
    fn default() -> Self {
        let tree = MemoryEngine::new().tree("oracle").expect("in memory");
        let store = ShardStore::open(tree, TreeTrust::Untrusted, settings()).expect("in memory");
        Self { store, applied: 0 }
    }
}

impl Oracle {
    /// The whole state after the entry at `index`, byte for byte. The index only rises.
    ///
    /// # Panics
    /// When it falls.
    pub fn image(&mut self, index: u64) -> Vec<u8> {
        assert!(index >= self.applied, "the oracle does not go back");
        for index in self.applied + 1..=index {
            self.store.apply(index, &entry(index)).expect("applies");
        }
        self.applied = index;
        image(&self.store).expect("in memory")
    }
}
