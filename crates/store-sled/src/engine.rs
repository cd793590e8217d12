//! The engine: one sled database, its trees, and the verdict over both.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_store::disk::{Health, contain};
use granary_store::{Engine, Error, Tree};
use parking_lot::Mutex;

use crate::open::wait_until_released;
use crate::tree::SledTree;

/// What an error of sled is to the port.
pub(crate) fn told(error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => Error::Corrupt(error.to_string()),
        error => Error::Io(error.to_string()),
    }
}

/// sled behind the port.
pub(crate) struct SledEngine {
    open: Mutex<Option<Open>>,
    database: PathBuf,
    close_limit: Duration,
    health: Arc<Health>,
}

/// What is there until the engine is closed.
struct Open {
    db: sled::Db,
    /// One handle for each name, so that all who ask for a tree see it cleared, dropped or closed.
    trees: HashMap<String, Arc<SledTree>>,
}

impl SledEngine {
    pub(crate) fn new(health: Health, database: &Path, db: sled::Db, close_limit: Duration) -> Self {
        Self {
            open: Mutex::new(Some(Open { db, trees: HashMap::new() })),
            database: database.to_owned(),
            close_limit,
            health: Arc::new(health),
        }
    }

    /// Lets go of every handle and waits until sled has ended: its last flush and its threads.
    fn end(&self, open: Open) -> Result<(), Error> {
        let trees: Vec<_> = open.trees.values().filter_map(|tree| tree.take()).collect();
        let data = self.database.join("db");
        let ended = contain::within("sled", self.close_limit, move || {
            open.db.flush()?;
            drop((trees, open));
            wait_until_released(&data)
        });
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Io(error.to_string())),
            Err(why) => Err(Error::Io(why)),
        }
    }
}

impl Engine for SledEngine {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error> {
        let mut open = self.open.lock();
        let open = open.as_mut().ok_or_else(closed)?;
        if let Some(tree) = open.trees.get(name) {
            return Ok(Arc::clone(tree) as Arc<dyn Tree>);
        }
        let inner = self.health.contain(|| open.db.open_tree(name).map_err(told))?;
        let tree = Arc::new(SledTree::new(name, open.db.clone(), inner, Arc::clone(&self.health)));
        open.trees.insert(name.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    fn drop_tree(&self, name: &str) -> Result<(), Error> {
        let mut open = self.open.lock();
        let open = open.as_mut().ok_or_else(closed)?;
        if let Some(tree) = open.trees.remove(name) {
            drop(tree.take());
        }
        self.health.contain(|| open.db.drop_tree(name).map_err(told))?;
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        let open = self.open.lock().take().ok_or_else(closed)?;
        self.end(open)?;
        self.health.close(&self.database)
    }

    fn size_on_disk(&self) -> u64 {
        let open = self.open.lock();
        open.as_ref()
            .and_then(|open| self.health.contain(|| open.db.size_on_disk().map_err(told)).ok())
            .unwrap_or_default()
    }
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine")
            .field("database", &self.database)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

fn closed() -> Error {
    Error::Io("the engine is closed".into())
}
