//! Whether an engine's data are well.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::contain;
use super::place::Place;
use crate::Error;

/// What an engine and its trees share: the directory, locked until a close or as long as any of them lives, and whether
/// it was found damaged.
#[derive(Debug)]
pub struct Health {
    engine: &'static str,
    place: Place,
    condemned: OnceLock<String>,
    stands: AtomicBool,
}

impl Health {
    /// The health of an engine that opened well.
    pub fn new(engine: &'static str, place: Place) -> Self {
        Self { engine, place, condemned: OnceLock::new(), stands: AtomicBool::new(false) }
    }

    /// Runs a call into the engine and contains its panic. The first sign of damage, a panic or `Corrupt`, condemns
    /// the directory, for this process and for the next: after it every call is refused.
    ///
    /// # Errors
    /// What the call said; `Corrupt` from the first sign of damage on.
    pub fn contain<T>(&self, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.check()?;
        match contain::catching(self.engine, run) {
            Ok(Err(Error::Corrupt(why))) | Err(why) => Err(self.condemn(why)),
            Ok(told) => told,
        }
    }

    /// Tells that a tree was written.
    ///
    /// # Errors
    /// `Io`.
    pub fn wrote(&self) -> Result<(), Error> {
        if self.stands.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.place.stands().map_err(|error| Error::Io(error.to_string()))
    }

    /// # Errors
    /// `Corrupt` when the directory is condemned.
    pub fn check(&self) -> Result<(), Error> {
        self.condemned.get().map_or(Ok(()), |why| Err(Error::Corrupt(why.clone())))
    }

    fn condemn(&self, why: String) -> Error {
        if self.condemned.set(why.clone()).is_ok() {
            let marked = self.place.condemn(&why);
            let engine = self.engine;
            tracing::error!(
                engine,
                why,
                ?marked,
                "the engine's data are damaged and will be rebuilt at the next start"
            );
        }
        Error::Corrupt(why)
    }

    /// Ends the use of a database that the engine no longer has open: marks it as cleanly stopped, unless it is
    /// condemned, and lets another open take the directory.
    ///
    /// # Errors
    /// `Corrupt`, `Io`: then it counts as not closed.
    pub fn close(&self, database: &Path) -> Result<(), Error> {
        self.check()?;
        let closed = self.place.mark_clean(database).and_then(|()| self.place.unlock());
        closed.map_err(|error| Error::Io(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::place::Left;

    #[test]
    fn a_panic_condemns_the_directory_for_good() {
        let parent = tempfile::tempdir().expect("temp dir");
        let dir = parent.path().join("engine");
        let place = Place::lock(&dir).expect("free");
        let database = place.create().expect("new");
        let health = Health::new("sled", place);
        assert!(matches!(health.contain(|| Ok(1)), Ok(1)));
        assert!(matches!(health.contain(|| Err::<(), _>(Error::Io("x".into()))), Err(Error::Io(_))));
        assert!(matches!(health.contain(|| Ok(1)), Ok(1)));
        assert!(matches!(health.contain(|| -> Result<(), _> { panic!("Uninitialized") }), Err(Error::Corrupt(_))));
        assert!(matches!(health.contain(|| Ok(1)), Err(Error::Corrupt(_))));
        assert!(health.close(&database).is_err());
        drop(health);
        let Left::Unusable(why) = Place::lock(&dir).expect("free").judge().expect("lists") else {
            panic!("a condemned directory may be opened");
        };
        assert!(why.contains("Uninitialized"), "{why}");
    }

    #[test]
    fn a_directory_that_ends_every_process_is_given_up() {
        let parent = tempfile::tempdir().expect("temp dir");
        let dir = parent.path().join("engine");
        drop(Place::lock(&dir).expect("free").create().expect("new"));
        let start = || {
            let place = Place::lock(&dir).expect("free");
            let left = place.judge().expect("lists");
            place.begin().expect("writes");
            (Health::new("fjall", place), left)
        };
        for _ in 0..2 {
            // The first of these counts the process that made it, or the one that wrote it and ended.
            (0..4).for_each(|_| assert!(matches!(start().1, Left::InUse { .. })));
            let (health, left) = start();
            let Left::Unusable(why) = left else { panic!("{left:?}") };
            assert!(why.contains("processes have ended over it"), "{why}");
            health.wrote().expect("removes");
            health.wrote().expect("nothing to do");
            drop(health);
            assert!(matches!(start().1, Left::InUse { .. }));
        }
    }
}
