//! The sled engine: sled 0.34 behind the engine port, with what has to stand around it.
//!
//! sled keeps a rebuildable copy and is trusted only as far as it was measured: after a clean stop, and after a crash
//! of the process while the machine stays up (ST-1). Its `flush` is no fsync, after a power cut a directory may
//! not open or may open silently stale, and damage shows as an error, a panic or a hang. Hence:
//!
//! - [`granary_store::disk`] stands around it: the directory is judged before sled sees it and moved aside when it was
//!   in use as the machine stopped; panics and hangs are contained, damage condemns the directory.
//! - Pairs are inserted one by one in key order, the marker last. `apply_batch` and transactions take a lock over the
//!   whole process and write up to ten times the bytes; nothing here calls them.
//!
//! One directory holds one sled database for the whole node, with a tree for each replica.

use std::path::Path;
use std::time::Duration;

use granary_store::disk;

mod database;
mod open;

pub use granary_store::disk::{Error, Opened, Trust};

/// How sled is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// sled's page cache, in bytes. Reads slow down about fourfold when it is below twice the raw bytes of the node's
    /// rows.
    pub cache_capacity_bytes: u64,
    /// How often sled's thread writes out and fsyncs what is buffered: about what a killed process replays from the
    /// Raft log.
    pub flush_every: Duration,
    /// How long opening may take before the directory is given up. sled reads back the log written since it was last
    /// opened, some 0.7 s a GB.
    pub open_limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_capacity_bytes: 256 << 20,
            flush_every: Duration::from_millis(500),
            open_limit: Duration::from_secs(60),
        }
    }
}

/// Opens the engine in `dir`, which is made if it is missing, and says what its trees are worth.
///
/// # Errors
/// When the directory is open already or the file system refuses (permission, space, too many open files).
pub fn open(dir: &Path, settings: &Settings) -> Result<Opened, Error> {
    disk::open(dir, &open::Sled(settings))
}
