//! A tree: single inserts in key order, the marker last.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use granary_store::chunked::{Chunk, ChunkedScan};
use granary_store::disk::Health;
use granary_store::{Error, Pairs, Tree};
use parking_lot::RwLock;

use crate::engine::told;

/// Sorts after every key of the port.
const MARKER_KEY: &[u8] = &[0xff];

/// A tree of a sled database. sled's handle is taken out when the tree is dropped or the engine closed.
pub(crate) struct SledTree {
    name: String,
    inner: RwLock<Option<Handles>>,
    health: Arc<Health>,
}

/// sled's handles: the tree, and the database that it is cleared through.
pub(crate) struct Handles {
    db: sled::Db,
    tree: sled::Tree,
}

impl SledTree {
    pub(crate) fn new(name: &str, db: sled::Db, tree: sled::Tree, health: Arc<Health>) -> Self {
        Self { name: name.into(), inner: RwLock::new(Some(Handles { db, tree })), health }
    }

    /// Waits for calls under way and takes sled's handles out.
    pub(crate) fn take(&self) -> Option<Handles> {
        self.inner.write().take()
    }

    fn with<T>(&self, run: impl FnOnce(&sled::Tree) -> sled::Result<T>) -> Result<T, Error> {
        let inner = self.inner.read();
        let handles = inner.as_ref().ok_or_else(gone)?;
        self.health.contain(|| run(&handles.tree).map_err(told))
    }

    fn lookup(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.with(|tree| Ok(tree.get(key)?.map(|value| Bytes::copy_from_slice(&value))))
    }
}

impl Tree for SledTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.lookup(key)
    }

    fn write(&self, pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>, marker: &[u8]) -> Result<(), Error> {
        // sled recovers a prefix of its log, so what was inserted last is there only if all before it is.
        for (key, value) in pairs {
            debug_assert!(key.first().is_some_and(|first| *first != MARKER_KEY[0]), "the port reserves such keys");
            self.with(|tree| match &value {
                Some(value) => tree.insert(&key, &value[..]),
                None => tree.remove(&key),
            })?;
        }
        self.with(|tree| tree.insert(MARKER_KEY, marker))?;
        Ok(())
    }

    fn marker(&self) -> Result<Option<Bytes>, Error> {
        self.lookup(MARKER_KEY)
    }

    fn scan(&self, from: &[u8]) -> Pairs<'_> {
        Box::new(ChunkedScan::new(from, |from: &[u8], chunk: &mut Chunk| {
            self.with(|tree| {
                if from >= MARKER_KEY {
                    return Ok(());
                }
                for pair in tree.range(from..MARKER_KEY) {
                    let (key, value) = pair?;
                    if !chunk.push(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)) {
                        break;
                    }
                }
                Ok(())
            })
        }))
    }

    /// Drops the tree and opens it anew: one step for sled, marker and all, where removing key by key takes 5 s for
    /// half a million.
    fn clear(&self) -> Result<(), Error> {
        let mut inner = self.inner.write();
        let handles = inner.as_mut().ok_or_else(gone)?;
        handles.tree = self.health.contain(|| {
            handles.db.drop_tree(&self.name).map_err(told)?;
            handles.db.open_tree(&self.name).map_err(told)
        })?;
        Ok(())
    }
}

impl fmt::Debug for SledTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledTree").field("name", &self.name).finish_non_exhaustive()
    }
}

fn gone() -> Error {
    Error::Io("the tree was dropped or its engine closed".into())
}
