//! fjall's calls: batches in key order, the marker in the last one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fjall::{Keyspace, KeyspaceCreateOptions, LsmError, PersistMode};
use granary_store::Error;
use granary_store::chunked::Chunk;
use granary_store::disk::{Database, MARKER_KEY};
use parking_lot::Mutex;

use crate::Settings;

/// A batch is held in memory twice while it is committed, and readers see it at once: no bound of correctness.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// fjall's database and where it is.
#[derive(Clone)]
pub(crate) struct FjallDatabase {
    db: fjall::Database,
    lock: PathBuf,
    settings: Settings,
    synced_at: Arc<Mutex<Option<Instant>>>,
}

impl FjallDatabase {
    pub(crate) fn new(db: fjall::Database, database: &Path, settings: Settings) -> Self {
        Self { db, lock: database.join("lock"), settings, synced_at: Arc::default() }
    }

    /// How far the next write is to go: mostly to the operating system, now and then to the disk.
    fn persist_mode(&self) -> PersistMode {
        let now = Instant::now();
        let mut synced_at = self.synced_at.lock();
        if synced_at.is_some_and(|at| now.duration_since(at) < self.settings.sync_every) {
            return PersistMode::Buffer;
        }
        *synced_at = Some(now);
        PersistMode::SyncData
    }
}

impl Database for FjallDatabase {
    type Tree = Keyspace;

    fn open_tree(&self, name: &str) -> Result<Keyspace, Error> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(self.settings.memtable_bytes);
        self.db.keyspace(name, options).map_err(told)
    }

    fn drop_tree(&self, name: &str, tree: Option<Keyspace>) -> Result<(), Error> {
        let tree = match tree {
            Some(tree) => tree,
            None if self.db.keyspace_exists(name) => self.open_tree(name)?,
            None => return Ok(()),
        };
        self.db.delete_keyspace(tree).map_err(told)
    }

    fn get(tree: &Keyspace, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(tree.get(key).map_err(told)?.map(Bytes::from))
    }

    fn write(
        &self,
        tree: &Keyspace,
        pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>,
        marker: &[u8],
    ) -> Result<(), Error> {
        let (mut batch, mut bytes) = (self.db.batch(), 0);
        for (key, value) in pairs {
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            match value {
                Some(value) => batch.insert(tree, key, value),
                None => batch.remove(tree, key),
            }
            if bytes >= BATCH_BYTES_MAX {
                batch.commit().map_err(told)?;
                (batch, bytes) = (self.db.batch(), 0);
            }
        }
        // Journals are read back in order up to the first that is torn: the marker is there only if all before it is.
        batch.insert(tree, MARKER_KEY, marker);
        batch.durability(Some(self.persist_mode())).commit().map_err(told)
    }

    fn scan(tree: &Keyspace, from: &[u8], chunk: &mut Chunk) -> Result<(), Error> {
        for pair in tree.range(from..MARKER_KEY) {
            let (key, value) = pair.into_inner().map_err(told)?;
            if !chunk.push(key.into(), value.into()) {
                break;
            }
        }
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, Error> {
        self.db.disk_space().map_err(told)
    }

    fn end(self, trees: Vec<Keyspace>) -> Result<(), Error> {
        self.db.persist(PersistMode::SyncAll).map_err(told)?;
        let lock = self.lock.clone();
        drop((trees, self));
        // A thread of fjall may outlive the last handle for a moment.
        File::open(&lock).and_then(|file| file.lock()).map_err(|error| Error::Io(error.to_string()))
    }
}

/// What an error of fjall is to the port. Of the machine are a failed write or sync, after which fjall refuses all
/// others, and what the operating system says; a file that ends too early is damage.
pub(crate) fn told(error: fjall::Error) -> Error {
    let damage = match &error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => is_damage(error),
        fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted => false,
        _ => true,
    };
    if damage { Error::Corrupt(error.to_string()) } else { Error::Io(error.to_string()) }
}

fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
}
