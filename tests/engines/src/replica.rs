//! A replica over an engine: what `granary_node` does around a store, without the network.
//!
//! ```text
//! <dir>/engine/…      the engine's directory and what lies beside it
//! <dir>/snapshots/<n> the newest snapshot, as of entry n: written whole, fsynced, renamed
//! <dir>/log           how many entries the Raft log has, before they are applied
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_shard::{Error, Settings, ShardStore, TreeTrust};
use granary_store::disk::Trust;
use granary_store::{Engine, Tree};

use crate::history::entry;
use crate::kind::Kind;

/// Checkpoints all the time, of a few dozen cells each, in several parts.
pub fn settings() -> Settings {
    Settings {
        memory_table_bytes: 256 << 10,
        checkpoint_bytes: 24 << 10,
        checkpoint_age_ms: 10,
        checkpoint_step_cells: 16,
        row_cache_bytes: 16 << 10,
        change_log_budget_bytes: 0,
        ..Settings::default()
    }
}

/// Name of the replica's tree.
const TREE: &str = "shard-1-replica-1";
/// An open replica.
#[derive(Debug)]
pub struct Replica {
    dir: PathBuf,
    log: File,
    engine: Arc<dyn Engine>,
    store: Arc<ShardStore>,
    applied: u64,
    /// What became of the rows that the directory held.
    pub start: Start,
}

/// How a replica came by its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// What the engine's directory was worth.
    pub trust: Trust,
    /// Why the tree was emptied although the directory was trusted.
    pub emptied: Option<String>,
    /// The index of the rows that were found, or 0.
    pub found: u64,
    /// The newest snapshot's.
    pub snapshot: u64,
}

impl Start {
    /// Whether the rows that were found were kept.
    pub fn kept_rows(&self) -> bool {
        self.found > 0 && self.found >= self.snapshot
    }
}

/// Why a replica did not stand: the process would end here.
#[derive(Debug)]
pub enum Ended {
    /// The engine's directory did not open.
    Open(granary_store::disk::Error),
    /// The engine failed.
    Engine(granary_store::Error),
    /// The store did.
    Store(Error),
    /// The test's own files.
    Io(io::Error),
}

impl From<granary_store::Error> for Ended {
    fn from(error: granary_store::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A store's whole state, byte for byte, but for the index from which it is comparable.
///
/// # Errors
/// As `write_to`.
pub fn image(store: &ShardStore) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    store.pin_snapshot()?.write_to(&mut body)?;
    body.drain(8..16);
    Ok(body)
}

impl Replica {
    /// Starts a replica and replays everything that the log has.
    ///
    /// # Errors
    /// Where a node would end its process.
    pub fn start(kind: Kind, dir: &Path) -> Result<Self, Ended> {
        Self::start_with(kind, dir, &mut |_| ())
    }

    /// [`Self::start`], which tells when it comes how far.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with(kind: Kind, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<Self, Ended> {
        let log = File::options().read(true).write(true).create(true).truncate(false).open(dir.join("log"))?;
        let length = length(&log)?;
        let snapshot = newest_snapshot(dir)?;
        say("opens");
        let opened = kind.open(&dir.join("engine")).map_err(Ended::Open)?;
        say("opened");
        let mut start = Start { trust: opened.trust.clone(), emptied: None, found: 0, snapshot: snapshot.unwrap_or(0) };
        let tree = opened.engine.tree(TREE)?;
        let store = open_store(tree, &mut start)?;
        start.found = store.status().written_index;
        if let Some(index) = snapshot {
            let mut body = BufReader::new(File::open(dir.join("snapshots").join(index.to_string()))?);
            store.restore(index, true, &mut body)?;
        }
        say("restored");
        let mut replica =
            Self { dir: dir.to_owned(), log, engine: opened.engine, store, applied: start.snapshot, start };
        for index in replica.applied + 1..=length {
            replica.apply(index)?;
        }
        say("replayed");
        Ok(replica)
    }

    /// The last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The store.
    pub fn store(&self) -> &ShardStore {
        &self.store
    }

    /// Appends the next entry to the log and applies it.
    ///
    /// # Errors
    /// The store's.
    pub fn advance(&mut self) -> Result<(), Ended> {
        let next = self.applied + 1;
        self.log.write_all_at(&next.to_be_bytes(), 0)?;
        self.apply(next)
    }

    fn apply(&mut self, index: u64) -> Result<(), Ended> {
        // As consensus does before each entry.
        let memory = self.store.status();
        if memory.memory_table_bytes >= memory.memory_table_bytes_max {
            self.store.checkpoint()?;
        }
        self.store.apply(index, &entry(index))?;
        self.applied = index;
        Ok(())
    }

    /// Writes a snapshot, durably, and then removes the one before it.
    ///
    /// # Errors
    /// The store's.
    pub fn snapshot(&self) -> Result<(), Ended> {
        let pinned = match self.store.pin_snapshot() {
            // Rows are ahead: later.
            Err(Error::Replaying { .. }) => return Ok(()),
            pinned => pinned?,
        };
        let dir = self.dir.join("snapshots");
        fs::create_dir_all(&dir)?;
        File::open(&self.dir)?.sync_all()?;
        let (path, draft) = (dir.join(pinned.index().to_string()), dir.join("draft"));
        let older = newest_snapshot(&self.dir)?.map(|index| dir.join(index.to_string())).filter(|older| *older != path);
        let mut file = File::create(&draft)?;
        pinned.write_to(&mut file)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&dir)?.sync_all()?;
        if let Some(older) = older {
            fs::remove_file(older)?;
        }
        Ok(())
    }

    /// Stops cleanly.
    ///
    /// # Errors
    /// The store's or the engine's.
    pub fn close(self) -> Result<(), Ended> {
        self.store.close()?;
        drop(self.store);
        Ok(self.engine.close()?)
    }

    /// The whole state, byte for byte.
    ///
    /// # Errors
    /// The store's.
    pub fn image(&self) -> Result<Vec<u8>, Ended> {
        Ok(image(&self.store)?)
    }
}

fn open_store(tree: Arc<dyn Tree>, start: &mut Start) -> Result<Arc<ShardStore>, Ended> {
    let trust = match &start.trust {
        Trust::Clean => TreeTrust::Trusted { clean: true },
        Trust::SameBootCrash | Trust::PowerCut => TreeTrust::Trusted { clean: false },
        Trust::Fresh | Trust::Rebuilt { .. } => TreeTrust::Untrusted,
    };
    match ShardStore::open(Arc::clone(&tree), trust, settings()) {
        Err(error @ Error::Corrupt { .. }) => {
            start.emptied = Some(error.to_string());
            tree.clear()?;
            Ok(ShardStore::open(tree, TreeTrust::Untrusted, settings())?)
        }
        opened => Ok(opened?),
    }
}

/// How long the log is.
fn length(log: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match log.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read.map(|()| u64::from_be_bytes(bytes)),
    }
}

/// The index of the newest snapshot in a replica's directory.
///
/// # Errors
/// When it cannot be listed.
pub fn newest_snapshot(dir: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    let entries = match fs::read_dir(dir.join("snapshots")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        newest = newest.max(entry?.file_name().to_string_lossy().parse().ok());
    }
    Ok(newest)
}
