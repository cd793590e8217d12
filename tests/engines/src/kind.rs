//! The engines under test.

use std::path::Path;
use std::time::Duration;

use granary_store::disk::{Error, Opened};

/// An engine on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// sled.
    Sled,
    /// fjall.
    Fjall,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Fjall];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
        }
    }

    /// The engine of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Opens the engine in a directory, small: caches that do not hold everything, tables that fill and are merged.
    ///
    /// # Errors
    /// As the engine's `open`.
    pub fn open(self, dir: &Path) -> Result<Opened, Error> {
        let open_limit = Duration::from_secs(20);
        match self {
            Self::Sled => {
                let flush_every = Duration::from_millis(20);
                let settings = granary_store_sled::Settings { cache_capacity_bytes: 1 << 20, flush_every, open_limit };
                granary_store_sled::open(dir, &settings)
            }
            Self::Fjall => {
                let settings = granary_store_fjall::Settings {
                    cache_capacity_bytes: 1 << 20,
                    memtable_bytes: 64 << 10,
                    sync_every: Duration::from_millis(20),
                    open_limit,
                };
                granary_store_fjall::open(dir, &settings)
            }
        }
    }
}
