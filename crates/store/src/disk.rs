//! What stands around an engine on disk, whichever it is: one directory that is opened once at a time, judged before
//! the engine sees it, and moved aside when it cannot be trusted (ST-1).
//!
//! - [`open`] judges the directory and says with [`Trust`] what the trees are worth. What cannot be trusted is moved
//!   aside, never repaired, and the caller rebuilds from a snapshot and the Raft log.
//! - The engine opens in a thread of its own, under a time limit, its panics caught ([`contain`]). Later panics are
//!   caught by [`Health`], too; after the first sign of damage the whole directory is condemned and the next open moves
//!   it aside.
//!
//! The files and their names are in [`place`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::Engine;

pub mod contain;
mod engine;
mod health;
pub mod place;

use engine::DiskEngine;
pub use engine::{Database, MARKER_KEY};
pub use health::Health;
use place::{Left, Place};

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
    /// The machine stopped before it was closed, and the engine is one that survives that: as after a crash of the
    /// process, but a tree may have lost its last writes, back to an earlier marker.
    PowerCut,
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
    /// The engine did not open even an empty directory.
    #[error("{engine} does not open an empty directory: {why}")]
    Unusable {
        /// Which.
        engine: &'static str,
        /// What it said.
        why: String,
    },
}

/// Why an engine did not open its database.
#[derive(Debug)]
pub enum Failure {
    /// The database may be well: the machine lacks something.
    Machine(io::Error),
    /// The database is not to be trusted.
    Database(String),
}

/// What [`open`] needs to know of an engine.
pub trait Kind {
    /// The engine's open database.
    type Database: Database;

    /// `sled`, `fjall`.
    const NAME: &'static str;

    /// Whether a database that was in use when the machine stopped may be opened: the engine was seen to come up with
    /// an earlier state that is whole, or to refuse.
    const SURVIVES_POWER_CUTS: bool;

    /// How long opening may take before the directory is given up, and closing before the stop counts as unclean.
    fn limit(&self) -> Duration;

    /// What opens the database in a directory, which may be empty. Called on a thread of its own.
    fn opener(&self, database: &Path) -> Box<dyn FnOnce() -> Result<Self::Database, Failure> + Send>;
}

/// Opens the engine in `dir`, which is made if it is missing, and says what its trees are worth.
///
/// # Errors
/// When the directory is open already or the file system refuses (permission, space, too many open files).
pub fn open<K: Kind>(dir: &Path, kind: &K) -> Result<Opened, Error> {
    let place = Place::lock(dir)?;
    let (database, trust) = match judged::<K>(place.judge()?) {
        Judgement::Nothing => return open_new(place, kind, Trust::Fresh),
        Judgement::Open(database, trust) => (database, Ok(trust)),
        Judgement::Refuse(why) => (PathBuf::new(), Err(why)),
    };
    let why = match trust {
        Err(why) => why,
        Ok(trust) => {
            place.begin()?;
            match open_database(kind, &database) {
                Ok(opened) => return Ok(engine(place, kind, &database, opened, trust)),
                Err(Failure::Machine(source)) => {
                    return Err(Error::Io { doing: "open database", path: database, source });
                }
                Err(Failure::Database(why)) => why,
            }
        }
    };
    let aside = place.move_aside()?;
    tracing::warn!(dir = ?dir, moved_to = ?aside, why, "engine directory is not to be trusted, starting empty");
    open_new(place, kind, Trust::Rebuilt { why })
}

/// What is to be done with a directory.
enum Judgement {
    Nothing,
    Open(PathBuf, Trust),
    Refuse(String),
}

fn judged<K: Kind>(left: Left) -> Judgement {
    match left {
        Left::Nothing => Judgement::Nothing,
        Left::Unusable(why) => Judgement::Refuse(why),
        Left::Closed(database) => Judgement::Open(database, Trust::Clean),
        Left::InUse { database, same_boot: true } => Judgement::Open(database, Trust::SameBootCrash),
        Left::InUse { database, .. } if K::SURVIVES_POWER_CUTS => Judgement::Open(database, Trust::PowerCut),
        Left::InUse { .. } => Judgement::Refuse("it was not closed before the machine stopped".into()),
    }
}

fn open_new<K: Kind>(place: Place, kind: &K, trust: Trust) -> Result<Opened, Error> {
    let database = place.create()?;
    match open_database(kind, &database) {
        Ok(opened) => Ok(engine(place, kind, &database, opened, trust)),
        Err(Failure::Machine(source)) => Err(Error::Io { doing: "open database", path: database, source }),
        Err(Failure::Database(why)) => Err(Error::Unusable { engine: K::NAME, why }),
    }
}

fn open_database<K: Kind>(kind: &K, database: &Path) -> Result<K::Database, Failure> {
    let outcome = contain::within(K::NAME, kind.limit(), kind.opener(database));
    outcome.unwrap_or_else(|why| Err(Failure::Database(why)))
}

fn engine<K: Kind>(place: Place, kind: &K, database: &Path, opened: K::Database, trust: Trust) -> Opened {
    let health = Health::new(K::NAME, place);
    Opened { engine: Arc::new(DiskEngine::new(K::NAME, health, database, opened, kind.limit())), trust }
}

/// Whether an error tells of the machine (permission, space, too many open files) and not of the file's contents.
pub fn is_of_the_machine(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    /// Too many open files, in the system and in the process.
    const ENFILE_EMFILE: [i32; 2] = [23, 24];
    matches!(error.kind(), OutOfMemory | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        || error.raw_os_error().is_some_and(|code| ENFILE_EMFILE.contains(&code))
}

/// Removes an engine's directory with all that was moved aside from it, for an engine that is not used any more.
/// Says whether there was any.
///
/// # Errors
/// When it is open, or the file system refuses.
pub fn remove(dir: &Path) -> Result<bool, Error> {
    if !place::is_there(dir)? {
        return Ok(false);
    }
    Place::lock(dir)?.remove()?;
    Ok(true)
}
