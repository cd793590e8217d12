//! The fold of one record's events, winner after winner.
//!
//! `granary_types::Cell` is the same fold for one record and one moment; this one keeps no rows, costs no
//! allocation for each event, and is asked for the winner after every step.

use granary_types::{Version, WriteStamp, supersedes};

/// Puts and deletes that count or that a reset still to come could uncover.
#[derive(Debug, Default)]
pub(super) struct Fold {
    reset: Option<WriteStamp>,
    /// By rising version. Stamps fall: an older version stamped before a newer one can never be uncovered,
    /// since whatever resets the newer one resets it too.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    version: Version,
    event: u32,
}

impl Fold {
    /// Starts over with the next record.
    pub(super) fn clear(&mut self) {
        self.reset = None;
        self.steps.clear();
    }

    /// A put or a soft delete, called `event` from here on.
    pub(super) fn write(&mut self, version: Version, event: u32) {
        if self.reset.is_some_and(|reset| version.stamp <= reset) {
            return;
        }
        let older = self.steps.partition_point(|step| !supersedes(&step.version, &version));
        let shadowed = self.steps.get(older).is_some_and(|newer| newer.version.stamp >= version.stamp);
        // The very same version once more: the first one stays.
        let known = older.checked_sub(1).is_some_and(|index| self.steps[index].version == version);
        if shadowed || known {
            return;
        }
        let uncoverable = self.steps[..older].partition_point(|step| step.version.stamp > version.stamp);
        self.steps.splice(uncoverable..older, [Step { version, event }]);
    }

    /// A hard delete: what is stamped at or before it never counts again.
    pub(super) fn reset(&mut self, stamp: WriteStamp) {
        self.reset = self.reset.max(Some(stamp));
        self.steps.truncate(self.steps.partition_point(|step| step.version.stamp > stamp));
    }

    /// The version that nothing supersedes.
    pub(super) fn winner(&self) -> Option<u32> {
        self.steps.last().map(|step| step.event)
    }
}

#[cfg(test)]
mod tests {
    use granary_types::EventTime;

    use super::*;

    fn version(seconds: i64, stamp: u64) -> Version {
        Version { event_time: EventTime::from_parts(seconds, 0).expect("in range"), stamp: WriteStamp(stamp) }
    }

    #[test]
    fn a_reset_takes_all_up_to_its_own_stamp_in_any_order() {
        let mut fold = Fold::default();
        fold.write(version(1, 5), 0);
        fold.reset(WriteStamp(5));
        assert_eq!(fold.winner(), None);
        fold.write(version(2, 5), 1);
        assert_eq!(fold.winner(), None);
        fold.write(version(0, 6), 2);
        assert_eq!(fold.winner(), Some(2));
    }

    #[test]
    fn a_reset_uncovers_what_was_written_after_it() {
        let mut fold = Fold::default();
        fold.write(version(5, 3), 0);
        fold.write(version(10, 1), 1);
        assert_eq!(fold.winner(), Some(1));
        fold.reset(WriteStamp(2));
        assert_eq!(fold.winner(), Some(0));
    }
}
