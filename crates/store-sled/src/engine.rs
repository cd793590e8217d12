//! The engine: one sled database, its trees, and the verdict over both.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use granary_store::{Engine, Error, Tree};
use parking_lot::Mutex;

use crate::contain;
use crate::open::wait_until_released;
use crate::place::Place;
use crate::tree::SledTree;

/// What engine and trees share: the directory, locked until a close or as long as any of them lives, and whether it
/// was found damaged.
#[derive(Debug)]
pub(crate) struct Health {
    place: Place,
    condemned: OnceLock<String>,
}

impl Health {
    /// Runs a call into sled and contains its panic. The first sign of damage condemns the directory, for this
    /// process and for the next: after it every call is refused.
    pub(crate) fn contain<T>(&self, run: impl FnOnce() -> sled::Result<T>) -> Result<T, Error> {
        self.check()?;
        let why = match contain::catching(run) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_)))) => error.to_string(),
            Ok(Err(error)) => return Err(Error::Io(error.to_string())),
            Err(why) => why,
        };
        Err(self.condemn(why))
    }

    fn check(&self) -> Result<(), Error> {
        self.condemned.get().map_or(Ok(()), |why| Err(Error::Corrupt(why.clone())))
    }

    fn condemn(&self, why: String) -> Error {
        if self.condemned.set(why.clone()).is_ok() {
            let marked = self.place.condemn(&why);
            tracing::error!(why, ?marked, "sled's data are damaged, its directory will be rebuilt at the next start");
        }
        Error::Corrupt(why)
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
    pub(crate) fn new(place: Place, database: &Path, db: sled::Db, close_limit: Duration) -> Self {
        Self {
            open: Mutex::new(Some(Open { db, trees: HashMap::new() })),
            database: database.to_owned(),
            close_limit,
            health: Arc::new(Health { place, condemned: OnceLock::new() }),
        }
    }

    /// Lets go of every handle and waits until sled has ended: its last flush and its threads.
    fn end(&self, open: Open) -> Result<(), Error> {
        let trees: Vec<_> = open.trees.values().filter_map(|tree| tree.take()).collect();
        let data = self.database.join("db");
        let ended = contain::within(self.close_limit, move || {
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
        let inner = self.health.contain(|| open.db.open_tree(name))?;
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
        self.health.contain(|| open.db.drop_tree(name))?;
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        let open = self.open.lock().take().ok_or_else(closed)?;
        self.end(open)?;
        self.health.check()?;
        let place = &self.health.place;
        place.mark_clean(&self.database).and_then(|()| place.unlock()).map_err(|error| Error::Io(error.to_string()))
    }

    fn size_on_disk(&self) -> u64 {
        let open = self.open.lock();
        open.as_ref().and_then(|open| self.health.contain(|| open.db.size_on_disk()).ok()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Trust, open};

    #[test]
    fn a_panic_condemns_the_directory_for_good() {
        let parent = tempfile::tempdir().expect("temp dir");
        let dir = parent.path().join("engine");
        let place = Place::lock(&dir).expect("free");
        place.create().expect("new");
        let health = Health { place, condemned: OnceLock::new() };
        assert!(matches!(health.contain(|| Ok(1)), Ok(1)));
        assert!(matches!(health.contain(|| Err::<(), _>(sled::Error::Unsupported("x".into()))), Err(Error::Io(_))));
        assert!(matches!(health.contain(|| Ok(1)), Ok(1)));
        assert!(matches!(health.contain(|| -> sled::Result<()> { panic!("Uninitialized") }), Err(Error::Corrupt(_))));
        assert!(matches!(health.contain(|| Ok(1)), Err(Error::Corrupt(_))));
        drop(health);
        let Trust::Rebuilt { why } = open(&dir, &Settings::default()).expect("opens").trust else {
            panic!("a condemned directory was trusted");
        };
        assert!(why.contains("Uninitialized"), "{why}");
        assert!(parent.path().join("engine.untrusted-2").is_dir());
    }
}
