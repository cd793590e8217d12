//! The state hash: which cells a replica holds, in 128 bits.
//!
//! A sum (modulo 2^128) of the cells' digests: a multiset hash, so it can be kept up to date cell by cell, in any
//! order, and be recomputed by a scan. Replicas at the same applied index have the same one (RG-2). It finds
//! accidents, not adversaries: xxh3 is no cryptographic hash.

/// The sum of the digests of some cells, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StateHash {
    sum: u128,
    cells: u64,
}

impl StateHash {
    pub(crate) fn from_parts(sum: u128, cells: u64) -> Self {
        Self { sum, cells }
    }

    /// The hash.
    pub(crate) fn value(self) -> u128 {
        self.sum
    }

    /// How many cells it covers.
    pub(crate) fn cells(self) -> u64 {
        self.cells
    }

    /// Takes a cell in.
    pub(crate) fn add(&mut self, digest: u128) {
        self.sum = self.sum.wrapping_add(digest);
        self.cells += 1;
    }

    /// Takes one cell in for another.
    pub(crate) fn replace(&mut self, old: u128, new: u128) {
        self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
    }
}
