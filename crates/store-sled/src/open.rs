//! Opening: judge the directory, open what is trusted, move aside the rest.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::SledEngine;
use crate::place::{Place, Verdict};
use crate::{Error, Opened, Settings, Trust, contain};

/// Why sled did not open a database.
enum Failure {
    /// The database may be well: the machine lacks something.
    Machine(io::Error),
    /// The database is not to be trusted.
    Database(String),
}

pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Opened, Error> {
    let place = Place::lock(dir)?;
    let why = match place.judge()? {
        Verdict::Nothing => return open_new(place, settings, Trust::Fresh),
        Verdict::Untrusted(why) => why,
        Verdict::Trusted { database, clean } => {
            place.begin(&database)?;
            match open_database(&database, settings) {
                Ok(db) => {
                    let trust = if clean { Trust::Clean } else { Trust::SameBootCrash };
                    return Ok(opened(place, &database, db, settings, trust));
                }
                Err(Failure::Machine(source)) => {
                    return Err(Error::Io { doing: "open database", path: database, source });
                }
                Err(Failure::Database(why)) => why,
            }
        }
    };
    let aside = place.move_aside()?;
    tracing::warn!(dir = ?dir, moved_to = ?aside, why, "engine directory is not to be trusted, starting empty");
    open_new(place, settings, Trust::Rebuilt { why })
}

fn open_new(place: Place, settings: &Settings, trust: Trust) -> Result<Opened, Error> {
    let database = place.create()?;
    match open_database(&database, settings) {
        Ok(db) => Ok(opened(place, &database, db, settings, trust)),
        Err(Failure::Machine(source)) => Err(Error::Io { doing: "open database", path: database, source }),
        Err(Failure::Database(why)) => Err(Error::Unusable { why }),
    }
}

fn opened(place: Place, database: &Path, db: sled::Db, settings: &Settings, trust: Trust) -> Opened {
    Opened { engine: Arc::new(SledEngine::new(place, database, db, settings.open_limit)), trust }
}

fn open_database(database: &Path, settings: &Settings) -> Result<sled::Db, Failure> {
    // No compression: sled 0.34's links a zstd that cannot stand beside the one Parquet needs.
    let config = sled::Config::new()
        .path(database)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(settings.cache_capacity_bytes)
        .flush_every_ms(Some(millis(settings.flush_every)));
    let data = database.join("db");
    let outcome = contain::within(settings.open_limit, move || {
        wait_until_released(&data)?;
        config.open()
    });
    match outcome {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if is_of_the_machine(&error) => Err(Failure::Machine(error)),
        Ok(Err(error)) => Err(Failure::Database(format!("sled does not open it: {error}"))),
        Err(why) => Err(Failure::Database(why)),
    }
}

/// Waits until no thread of sled holds the data file. One may outlive the last handle for a moment.
pub(crate) fn wait_until_released(data: &Path) -> sled::Result<()> {
    match File::open(data) {
        Ok(file) => Ok(file.lock()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_of_the_machine(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    /// Too many open files, in the system and in the process.
    const ENFILE_EMFILE: [i32; 2] = [23, 24];
    matches!(error.kind(), OutOfMemory | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        || error.raw_os_error().is_some_and(|code| ENFILE_EMFILE.contains(&code))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
