//! What a replica's state was at some recent indexes: the ground on which replicas compare themselves (RG-2).
//!
//! Samples are taken at fixed indexes, so that replicas that are apart have some in common. Taking one costs nothing
//! but a copy: the state hash and the change log's digest are kept up to date by apply.

use std::collections::VecDeque;

use crate::control::Control;

/// A sample is taken of the state after each index that this divides.
const SAMPLE_EVERY: u64 = 1_024;
/// How many are kept: replicas that are some 30,000 entries apart can still be compared.
const SAMPLES_KEPT: usize = 32;

/// A replica's state after one index, in a few numbers. Equal on all replicas of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The index.
    pub index: u64,
    /// The state hash: over all rows.
    pub state_hash: u128,
    /// Over all segments of the change log ever sealed; `None` where it is not known.
    pub change_log_digest: Option<u128>,
    /// The number that the next event gets.
    pub next_sequence: u64,
    /// The last write stamp given.
    pub last_stamp: u64,
    /// How many write ids are remembered.
    pub recent_writes: u64,
}

impl Sample {
    /// What of the two differs, though they are of the same index; `None` when nothing does.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let digests = self.change_log_digest.zip(other.change_log_digest);
        match () {
            () if self.index != other.index => None,
            () if self.state_hash != other.state_hash => Some("state hash"),
            () if digests.is_some_and(|(one, other)| one != other) => Some("change log"),
            () if self.next_sequence != other.next_sequence => Some("number of events"),
            () if self.last_stamp != other.last_stamp => Some("last stamp"),
            () if self.recent_writes != other.recent_writes => Some("remembered writes"),
            () => None,
        }
    }
}

/// The newest samples.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    newest: VecDeque<Sample>,
}

impl Samples {
    /// To be called before `index` is applied: no entry lies between the last applied one and it.
    pub(crate) fn before(&mut self, index: u64, control: &Control) {
        let at = (index - 1) / SAMPLE_EVERY * SAMPLE_EVERY;
        if at < control.applied_index || at == 0 || self.newest.back().is_some_and(|last| last.index >= at) {
            return;
        }
        if let Some(sample) = control.sample_at(at) {
            self.newest.push_back(sample);
            if self.newest.len() > SAMPLES_KEPT {
                self.newest.pop_front();
            }
        }
    }

    /// Forgets all: the state was replaced.
    pub(crate) fn clear(&mut self) {
        self.newest.clear();
    }

    /// Rising by index; the last one is of the state as it is now.
    pub(crate) fn with_now(&self, control: &Control) -> Vec<Sample> {
        let now = control.sample_at(control.applied_index);
        let before = self.newest.iter().filter(|sample| sample.index < control.applied_index);
        before.copied().chain(now).collect()
    }
}
