//! sled's calls: single inserts in key order, the marker last.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use granary_store::Error;
use granary_store::chunked::Chunk;
use granary_store::disk::{Database, MARKER_KEY};

use crate::open::wait_until_released;

/// sled's database and where it is.
#[derive(Clone)]
pub(crate) struct SledDatabase {
    db: sled::Db,
    data: PathBuf,
}

impl SledDatabase {
    pub(crate) fn new(db: sled::Db, database: &Path) -> Self {
        Self { db, data: database.join("db") }
    }
}

impl Database for SledDatabase {
    type Tree = sled::Tree;

    fn open_tree(&self, name: &str) -> Result<sled::Tree, Error> {
        self.db.open_tree(name).map_err(told)
    }

    fn drop_tree(&self, name: &str, _: Option<sled::Tree>) -> Result<(), Error> {
        self.db.drop_tree(name).map(drop).map_err(told)
    }

    fn get(tree: &sled::Tree, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(tree.get(key).map_err(told)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn write(
        &self,
        tree: &sled::Tree,
        pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>,
        marker: &[u8],
    ) -> Result<(), Error> {
        // sled recovers a prefix of its log, so what was inserted last is there only if all before it is.
        for (key, value) in pairs {
            let done = match &value {
                Some(value) => tree.insert(&key, &value[..]),
                None => tree.remove(&key),
            };
            done.map_err(told)?;
        }
        tree.insert(MARKER_KEY, marker).map(drop).map_err(told)
    }

    fn scan(tree: &sled::Tree, from: &[u8], chunk: &mut Chunk) -> Result<(), Error> {
        for pair in tree.range(from..MARKER_KEY) {
            let (key, value) = pair.map_err(told)?;
            if !chunk.push(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)) {
                break;
            }
        }
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, Error> {
        self.db.size_on_disk().map_err(told)
    }

    fn end(self, trees: Vec<sled::Tree>) -> Result<(), Error> {
        self.db.flush().map_err(told)?;
        let data = self.data.clone();
        drop((trees, self));
        wait_until_released(&data).map_err(told)
    }
}

fn told(error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => Error::Corrupt(error.to_string()),
        error => Error::Io(error.to_string()),
    }
}
