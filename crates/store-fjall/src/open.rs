//! How fjall opens a database.

use std::path::Path;
use std::time::Duration;

use granary_store::disk::{Failure, Kind, is_of_the_machine};

use crate::Settings;
use crate::database::{FjallDatabase, told};

/// fjall with its settings.
pub(crate) struct Fjall<'a>(pub(crate) &'a Settings);

impl Kind for Fjall<'_> {
    type Database = FjallDatabase;

    const NAME: &'static str = "fjall";

    const SURVIVES_POWER_CUTS: bool = true;

    fn limit(&self) -> Duration {
        self.0.open_limit
    }

    fn opener(&self, database: &Path) -> Box<dyn FnOnce() -> Result<FjallDatabase, Failure> + Send> {
        let (path, settings) = (database.to_owned(), self.0.clone());
        Box::new(move || {
            let opened = fjall::Database::builder(&path).cache_size(settings.cache_capacity_bytes).open();
            opened.map(|db| FjallDatabase::new(db, &path, settings)).map_err(|error| match error {
                fjall::Error::Io(error) if is_of_the_machine(&error) => Failure::Machine(error),
                fjall::Error::Storage(fjall::LsmError::Io(error)) if is_of_the_machine(&error) => {
                    Failure::Machine(error)
                }
                error => Failure::Database(format!("fjall does not open it: {}", told(error))),
            })
        })
    }
}
