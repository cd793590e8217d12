//! The fjall engine: fjall 3 behind the engine port.
//!
//! fjall is a log-structured merge tree: a journal with a checksum over each batch, and immutable tables with one over
//! each block. As with every engine here it keeps a rebuildable copy, and [`granary_store::disk`] stands around it. It
//! differs from sled in this:
//!
//! - A batch is whole or absent, and the marker is in the last batch of a write. Now and then a write is fsynced.
//! - After a power cut it was seen to come up with an earlier state that is whole, or to refuse (docs/engines.md). So its
//!   trees are offered as [`Trust::PowerCut`]; whether they are taken is decided by the shard's scan, which adds up every
//!   row, and by the newest snapshot, which they must not be older than.
//! - A damaged length in the middle of its journal is taken for the end of the journal (fjall issue 311). What was
//!   written later is lost, or, when tables or a later journal hold it already, mixed with what is older. That is for the
//!   same scan to find.
//!
//! One directory holds one fjall database for the whole node, with a keyspace for each replica.

use std::path::Path;
use std::time::Duration;

use granary_store::disk;

mod database;
mod open;

pub use granary_store::disk::{Error, Opened, Trust};

/// How fjall is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// fjall's cache of blocks, in bytes.
    pub cache_capacity_bytes: u64,
    /// The bound of each replica's memtable; up to five of them wait to be written out.
    pub memtable_bytes: u64,
    /// A write is fsynced when so much time has passed since the last one that was: about what a power cut loses.
    pub sync_every: Duration,
    /// How long opening may take before the directory is given up. fjall reads its journals back, at most 512 MiB.
    pub open_limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_capacity_bytes: 256 << 20,
            memtable_bytes: 32 << 20,
            sync_every: Duration::from_millis(500),
            open_limit: Duration::from_secs(60),
        }
    }
}

/// Opens the engine in `dir`, which is made if it is missing, and says what its trees are worth.
///
/// # Errors
/// When the directory is open already or the file system refuses (permission, space, too many open files).
pub fn open(dir: &Path, settings: &Settings) -> Result<Opened, Error> {
    disk::open(dir, &open::Fjall(settings))
}
