//! The sled engine: sled 0.34 behind the engine port, with what has to stand around it.
//!
//! sled keeps a rebuildable copy and is trusted only as far as it was measured: after a clean stop, and after a crash
//! of the process while the machine stays up (ST-1). Its `flush` is no fsync, after a power cut a directory may
//! not open or may open silently stale, and damage shows as an error, a panic or a hang. Hence:
//!
//! - [`open`] judges the directory before sled sees it and says with [`Trust`] what the trees are worth. What cannot be
//!   trusted is moved aside, never repaired, and the caller rebuilds from a snapshot and the Raft log.
//! - sled opens in a thread of its own, under a time limit, its panics caught. Later panics are caught at the port,
//!   too; after the first sign of damage the whole directory is condemned and the next open moves it aside.
//! - Pairs are inserted one by one in key order, the marker last. `apply_batch` and transactions take a lock over the
//!   whole process and write up to ten times the bytes; nothing here calls them.
//!
//! One directory holds one sled database for the whole node, with a tree for each replica. Beside the database lie
//! `clean` (there after a clean stop only), `boot_id` (the boot of the machine that used it last) and `condemned` (why
//! it must not be opened again); next to the directory a lock file, so that it is opened once at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_store::Engine;

mod contain;
mod engine;
mod open;
mod place;
mod tree;

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

/// An engine, and what the trees in it are worth.
#[derive(Debug)]
pub struct Opened {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What was found.
    pub trust: Trust,
}

/// What the trees of a directory are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It was closed: every tree is whole at its marker.
    Clean,
    /// The process that used it ended without closing it, in this boot of the machine: every tree holds what its
    /// marker implies, and perhaps pairs of later writes. Replay from the marker; a tree without one holds nothing to
    /// rely on.
    SameBootCrash,
    /// There was nothing: the engine is empty.
    Fresh,
    /// What was there could not be trusted and was moved aside to `<dir>.untrusted-<n>`: the engine is empty.
    Rebuilt {
        /// What was wrong with it.
        why: String,
    },
}

/// Why a directory could not be opened at all. Damage is no such reason: it gives [`Trust::Rebuilt`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An engine of this or of another process has it open.
    #[error("engine directory is open already: dir={dir:?}")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system refused.
    #[error("{doing} failed: path={path:?}")]
    Io {
        /// Verb and object.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// sled did not open even an empty directory.
    #[error("sled does not open an empty directory: {why}")]
    Unusable {
        /// What it said.
        why: String,
    },
}

/// Opens the engine in `dir`, which is made if it is missing, and says what its trees are worth.
///
/// # Errors
/// When the directory is open already or the file system refuses (permission, space, too many open files).
pub fn open(dir: &Path, settings: &Settings) -> Result<Opened, Error> {
    open::open(dir, settings)
}
