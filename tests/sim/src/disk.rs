//! A host's disk: how long syncs take, and which fail.

use std::io;
use std::time::Duration;

use granary_consensus::SyncTimes;
use parking_lot::Mutex;

use crate::rng::Rng;

/// What a disk is like at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Health {
    pub(crate) sync_ms_min: u64,
    pub(crate) sync_ms_max: u64,
    /// The next sync fails.
    pub(crate) fails: bool,
}

impl Health {
    pub(crate) const WELL: Self = Self { sync_ms_min: 0, sync_ms_max: 2, fails: false };
}

/// The times of one host's syncs.
#[derive(Debug)]
pub(crate) struct Times {
    state: Mutex<(Rng, Health)>,
}

impl Times {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { state: Mutex::new((rng, Health::WELL)) }
    }

    pub(crate) fn set(&self, health: Health) {
        self.state.lock().1 = health;
    }
}

impl SyncTimes for Times {
    fn next(&self) -> io::Result<Duration> {
        let (rng, health) = &mut *self.state.lock();
        if health.fails {
            return Err(io::Error::other("simulated failure of a sync"));
        }
        Ok(Duration::from_millis(rng.between(health.sync_ms_min, health.sync_ms_max)))
    }
}
