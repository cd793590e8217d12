//! The engine port over any database: its trees, and the verdict over them.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{Health, contain};
use crate::chunked::{Chunk, ChunkedScan};
use crate::{Engine, Error, Pairs, Tree};

/// An engine's database, by the calls that the port needs. Clones are handles of one database. Every call is contained
/// by [`Health`], so it may panic, and what it reports as `Corrupt` condemns the database.
pub trait Database: Clone + Send + Sync + 'static {
    /// A handle of a tree.
    type Tree: Send + Sync + 'static;

    /// Opens a tree, empty if it was not there.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn open_tree(&self, name: &str) -> Result<Self::Tree, Error>;

    /// Removes a tree with all it holds, marker and all in one step; nothing, if there is none. `tree` is the handle of
    /// it, where there is one.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn drop_tree(&self, name: &str, tree: Option<Self::Tree>) -> Result<(), Error>;

    /// As [`Tree::get`].
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn get(tree: &Self::Tree, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// As [`Tree::write`], with the marker under [`MARKER_KEY`].
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn write(
        &self,
        tree: &Self::Tree,
        pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>,
        marker: &[u8],
    ) -> Result<(), Error>;

    /// Fills a chunk with pairs from a key on, until it wants no more, up to [`MARKER_KEY`].
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn scan(tree: &Self::Tree, from: &[u8], chunk: &mut Chunk) -> Result<(), Error>;

    /// Bytes on disk.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn size_on_disk(&self) -> Result<u64, Error>;

    /// Lets go of the database, the last handle of it, and of its trees, and returns when it has written what it had in
    /// memory and its threads have ended.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn end(self, trees: Vec<Self::Tree>) -> Result<(), Error>;
}

/// Sorts after every key of the port.
pub const MARKER_KEY: &[u8] = &[0xff];

/// A database behind the port.
pub(super) struct DiskEngine<D: Database> {
    name: &'static str,
    open: Mutex<Option<Open<D>>>,
    path: PathBuf,
    close_limit: Duration,
    health: Arc<Health>,
}

/// What is there until the engine is closed.
struct Open<D: Database> {
    database: D,
    /// One handle for each name, so that all who ask for a tree see it cleared, dropped or closed.
    trees: HashMap<String, Arc<DiskTree<D>>>,
}

impl<D: Database> DiskEngine<D> {
    pub(super) fn new(name: &'static str, health: Health, path: &Path, database: D, close_limit: Duration) -> Self {
        let open = Mutex::new(Some(Open { database, trees: HashMap::new() }));
        Self { name, open, path: path.to_owned(), close_limit, health: Arc::new(health) }
    }

    fn with<T>(&self, run: impl FnOnce(&mut Open<D>) -> Result<T, Error>) -> Result<T, Error> {
        let mut open = self.open.lock();
        run(open.as_mut().ok_or_else(closed)?)
    }
}

impl<D: Database> Engine for DiskEngine<D> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error> {
        self.with(|open| {
            if let Some(tree) = open.trees.get(name) {
                return Ok(Arc::clone(tree) as Arc<dyn Tree>);
            }
            let inner = self.health.contain(|| open.database.open_tree(name))?;
            let tree = Arc::new(DiskTree {
                name: name.into(),
                inner: RwLock::new(Some((open.database.clone(), inner))),
                health: Arc::clone(&self.health),
            });
            open.trees.insert(name.to_owned(), Arc::clone(&tree));
            Ok(tree as Arc<dyn Tree>)
        })
    }

    fn drop_tree(&self, name: &str) -> Result<(), Error> {
        self.with(|open| {
            let tree = open.trees.remove(name).and_then(|tree| tree.take());
            self.health.contain(|| open.database.drop_tree(name, tree))
        })
    }

    fn close(&self) -> Result<(), Error> {
        let Open { database, trees } = self.open.lock().take().ok_or_else(closed)?;
        let trees = trees.values().filter_map(|tree| tree.take()).collect();
        contain::within(self.name, self.close_limit, move || database.end(trees))
            .unwrap_or_else(|why| Err(Error::Io(why)))?;
        self.health.close(&self.path)
    }

    fn size_on_disk(&self) -> u64 {
        self.with(|open| self.health.contain(|| open.database.size_on_disk())).unwrap_or_default()
    }
}

impl<D: Database> fmt::Debug for DiskEngine<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskEngine").field("path", &self.path).field("health", &self.health).finish_non_exhaustive()
    }
}

/// A tree. The handles are taken out when it is dropped or the engine closed.
struct DiskTree<D: Database> {
    name: String,
    inner: RwLock<Option<(D, D::Tree)>>,
    health: Arc<Health>,
}

impl<D: Database> DiskTree<D> {
    /// Waits for calls under way and takes the handle out.
    fn take(&self) -> Option<D::Tree> {
        self.inner.write().take().map(|(_, tree)| tree)
    }

    fn with<T>(&self, run: impl FnOnce(&D, &D::Tree) -> Result<T, Error>) -> Result<T, Error> {
        let inner = self.inner.read();
        let (database, tree) = inner.as_ref().ok_or_else(gone)?;
        self.health.contain(|| run(database, tree))
    }
}

impl<D: Database> Tree for DiskTree<D> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.with(|_, tree| D::get(tree, key))
    }

    fn write(&self, pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>, marker: &[u8]) -> Result<(), Error> {
        self.with(|database, tree| {
            let mut checked = pairs.inspect(|(key, _)| {
                debug_assert!(key.first().is_some_and(|first| *first != MARKER_KEY[0]), "the port reserves such keys");
            });
            database.write(tree, &mut checked, marker)
        })?;
        self.health.wrote()
    }

    fn marker(&self) -> Result<Option<Bytes>, Error> {
        self.get(MARKER_KEY)
    }

    fn scan_within(&self, from: &[u8], prefix_len: usize) -> Pairs<'_> {
        Box::new(ChunkedScan::new(from, prefix_len, |from: &[u8], chunk: &mut Chunk| {
            if from >= MARKER_KEY {
                return Ok(());
            }
            self.with(|_, tree| D::scan(tree, from, chunk))
        }))
    }

    /// Drops the tree and opens it anew: one step for the database, where removing key by key would take seconds.
    fn clear(&self) -> Result<(), Error> {
        let mut inner = self.inner.write();
        let (database, tree) = inner.take().ok_or_else(gone)?;
        let empty = self.health.contain(|| {
            database.drop_tree(&self.name, Some(tree))?;
            database.open_tree(&self.name)
        })?;
        *inner = Some((database, empty));
        Ok(())
    }
}

impl<D: Database> fmt::Debug for DiskTree<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskTree").field("name", &self.name).finish_non_exhaustive()
    }
}

fn closed() -> Error {
    Error::Io("the engine is closed".into())
}

fn gone() -> Error {
    Error::Io("the tree was dropped or its engine closed".into())
}
