//! How sled opens a database.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use granary_store::disk::{Failure, Kind, is_of_the_machine};

use crate::Settings;
use crate::database::SledDatabase;

/// sled with its settings.
pub(crate) struct Sled<'a>(pub(crate) &'a Settings);

impl Kind for Sled<'_> {
    type Database = SledDatabase;

    const NAME: &'static str = "sled";

    const SURVIVES_POWER_CUTS: bool = false;

    fn limit(&self) -> Duration {
        self.0.open_limit
    }

    fn opener(&self, database: &Path) -> Box<dyn FnOnce() -> Result<SledDatabase, Failure> + Send> {
        // No compression: sled 0.34's links a zstd that cannot stand beside the one Parquet needs.
        let config = sled::Config::new()
            .path(database)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(self.0.cache_capacity_bytes)
            .flush_every_ms(Some(millis(self.0.flush_every)));
        let database = database.to_owned();
        Box::new(move || {
            let opened = wait_until_released(&database.join("db"))
                .and_then(|()| Ok(remove_half_written_snapshots(&database)?))
                .and_then(|()| config.open());
            opened.map(|db| SledDatabase::new(db, &database)).map_err(|error| match error {
                sled::Error::Io(error) if is_of_the_machine(&error) => Failure::Machine(error),
                error => Failure::Database(format!("sled does not open it: {error}")),
            })
        })
    }
}

/// A process killed while sled opened leaves `snap.<n>.generating`, which sled would take for its newest snapshot and
/// refuse to open, for ever (sled issues 1527 and 1533).
fn remove_half_written_snapshots(database: &Path) -> io::Result<()> {
    for entry in fs::read_dir(database)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Waits until no thread of sled holds the data file. One may outlive the last handle for a moment.
pub(crate) fn wait_until_released(data: &Path) -> sled::Result<()> {
    match File::open(data) {
        Ok(file) => Ok(file.lock()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
