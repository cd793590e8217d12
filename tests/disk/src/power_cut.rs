//! Power cuts: directories that a machine may find when it comes up again.

use std::io;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::journal::Journal;
use crate::model::Model;
use crate::tree::Files;

/// Reaches the disk as a whole or not at all.
pub const PAGE_BYTES: u64 = 4_096;

/// How what was not synced may have reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In the order in which it was done, over all files, up to some point.
    Done,
    /// Each page by itself, there or not. Directory changes still are a prefix.
    Any,
}

/// A power cut after some operations of a journal.
#[derive(Debug, Clone, Copy)]
pub struct PowerCut {
    /// What happens to what was not synced.
    pub order: Order,
    /// After so many operations.
    pub at: usize,
    /// Chooses what of it is there.
    pub seed: u64,
}

impl PowerCut {
    /// A cut somewhere in the journal, all chosen by the seed.
    pub fn random(journal: &Journal, order: Order, seed: u64) -> Self {
        let at = StdRng::seed_from_u64(seed ^ 0x5eed).random_range(0..=journal.len());
        Self { order, at, seed }
    }

    /// The files that are there afterwards.
    ///
    /// # Panics
    /// When the journal has fewer operations.
    pub fn files(&self, journal: &Journal) -> Files {
        let mut chance = StdRng::seed_from_u64(self.seed);
        // Some cuts keep nearly everything, some next to nothing.
        let kept: f64 = [0.02, 0.5, 0.5, 0.9, 0.99][chance.random_range(0..5)];
        let mut model = Model::new(&journal.before);
        for (place, record) in journal.records[..self.at].iter().enumerate() {
            model.take(place, record, &mut |_| chance.random_bool(kept));
        }
        match self.order {
            Order::Done => {
                let until = self.at - (self.at as f64 * (1.0 - kept) * chance.random::<f64>()) as usize;
                model.files_with(model.namings_before(until), &mut |place, _| place < until)
            }
            Order::Any => {
                let (all, durable) = model.namings();
                let namings = chance.random_range(durable..=all);
                model.files_with(namings, &mut |_, _| chance.random_bool(kept))
            }
        }
    }

    /// Makes the directory `root`, which must not be there yet, with these files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn build(&self, journal: &Journal, root: &Path) -> io::Result<()> {
        self.files(journal).write(root)
    }
}
