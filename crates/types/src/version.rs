//! Record versions and the one rule that decides between them.
//!
//! A [`Cell`] is all that is remembered of one record: its newest version and its last reset. Cells form a join
//! semilattice under [`Cell::merge`] (commutative, associative, idempotent), so nothing depends on the order in
//! which versions arrive: not the online write, not a slot's move, not compaction, not verification.

use std::cmp::Ordering;
use std::fmt;

use crate::EventTime;

/// A hybrid logical time in nanoseconds since the Unix epoch: the shard leader's clock, raised where needed so
/// that it grows strictly with every write of the shard. Minted in apply from the stamp in the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WriteStamp(pub u64);

impl WriteStamp {
    /// The stamp a write gets that was proposed at `proposed` after `self` was the last one given.
    #[must_use]
    pub fn next(self, proposed: Self) -> Self {
        Self(proposed.0.max(self.0 + 1))
    }

    /// Its wall-clock part in microseconds since the Unix epoch: the write time.
    pub fn micros(self) -> i64 {
        i64::try_from(self.0 / 1_000).expect("u64 nanoseconds in microseconds fit i64")
    }
}

impl fmt::Display for WriteStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A record version: newer event times win, equal event times go to the later write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The caller's time.
    pub event_time: EventTime,
    /// Ours.
    pub stamp: WriteStamp,
}

/// Whether `new` replaces `old`. The only place where two versions of a record are compared.
///
/// A version never supersedes itself.
pub fn supersedes(new: &Version, old: &Version) -> bool {
    new.cmp(old) == Ordering::Greater
}

/// Something at a version: a row or a soft delete online, an event offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Which version.
    pub version: Version,
    /// What was written; `None` is a soft delete, which is a version like any other.
    pub value: Option<T>,
}

/// What is remembered of one record: a join semilattice.
///
/// The newest version and the last reset alone are not one: of a put for the event time 10 stamped 1, a put for 5
/// stamped 3 and a reset stamped 2, only the second put survives, but whoever merges the two puts first and keeps
/// the newer one has lost it. So a cell also keeps what the newest version *shadows*: older event times with later
/// stamps, which a reset still on its way could uncover. Where no earlier stamp can still arrive (a slot that is
/// not being moved: stamps are applied in order), [`Cell::settle`] drops them and one version is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell<T> {
    /// The last hard delete. What was stamped at or before it never counts again.
    pub reset: Option<WriteStamp>,
    /// The version nothing supersedes (ON-1), stamped after `reset`.
    pub latest: Option<Versioned<T>>,
    /// Versions by falling event time and rising stamp, each stamped later than all before it.
    pub shadowed: Vec<Versioned<T>>,
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self { reset: None, latest: None, shadowed: Vec::new() }
    }
}

impl<T> Cell<T> {
    /// The cell of one put or soft delete.
    pub fn of(version: Version, value: Option<T>) -> Self {
        Self { reset: None, latest: Some(Versioned { version, value }), shadowed: Vec::new() }
    }

    /// The cell of one hard delete.
    pub fn reset_at(stamp: WriteStamp) -> Self {
        Self { reset: Some(stamp), latest: None, shadowed: Vec::new() }
    }

    /// Whether merging a version stamped and timed so would change [`Self::latest`].
    pub fn accepts(&self, version: &Version) -> bool {
        self.reset.is_none_or(|reset| version.stamp > reset)
            && self.latest.as_ref().is_none_or(|latest| supersedes(version, &latest.version))
    }

    /// The join of two cells.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let reset = self.reset.max(other.reset);
        let (a, b) = (self.latest.into_iter().chain(self.shadowed), other.latest.into_iter().chain(other.shadowed));
        let mut versions: Vec<Versioned<T>> =
            a.chain(b).filter(|versioned| reset.is_none_or(|reset| versioned.version.stamp > reset)).collect();
        versions.sort_by_key(|versioned| std::cmp::Reverse(versioned.version));
        let mut stamped_last = None;
        versions.retain(|versioned| {
            let uncoverable = stamped_last.is_none_or(|last| versioned.version.stamp > last);
            stamped_last = stamped_last.max(Some(versioned.version.stamp));
            uncoverable
        });
        let mut versions = versions.into_iter();
        Self { reset, latest: versions.next(), shadowed: versions.collect() }
    }

    /// Forgets what is shadowed. Right only where every stamp still to come is later than all merged so far.
    #[must_use]
    pub fn settle(mut self) -> Self {
        self.shadowed.clear();
        self
    }

    /// The row, when the record exists: not soft-deleted, not reset. (Whether it is expired is judged at the
    /// edge of the read.)
    pub fn live(&self) -> Option<&T> {
        self.latest.as_ref()?.value.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(seconds: i64, stamp: u64) -> Version {
        Version { event_time: EventTime::from_parts(seconds, 0).expect("in range"), stamp: WriteStamp(stamp) }
    }

    /// One write: its event time and kind are functions of its stamp, as a stamp is given to one write only.
    fn write(stamp: u64) -> Cell<u64> {
        let seconds = i64::try_from(stamp * 7 % 5).expect("small");
        match stamp % 4 {
            0 => Cell::reset_at(WriteStamp(stamp)),
            1 => Cell::of(version(seconds, stamp), None),
            _ => Cell::of(version(seconds, stamp), Some(stamp)),
        }
    }

    fn cells() -> impl Strategy<Value = Cell<u64>> {
        proptest::collection::vec(0_u64..12, 0..6)
            .prop_map(|stamps| stamps.into_iter().map(write).fold(Cell::default(), Cell::merge))
    }

    proptest! {
        #[test]
        fn merge_is_commutative(a in cells(), b in cells()) {
            prop_assert_eq!(a.clone().merge(b.clone()), b.merge(a));
        }

        #[test]
        fn merge_is_associative(a in cells(), b in cells(), c in cells()) {
            prop_assert_eq!(a.clone().merge(b.clone()).merge(c.clone()), a.merge(b.merge(c)));
        }

        #[test]
        fn merge_is_idempotent(a in cells(), b in cells()) {
            let joined = a.clone().merge(b.clone());
            prop_assert_eq!(joined.clone().merge(a).merge(b), joined);
        }

        #[test]
        fn nothing_left_out_supersedes_the_latest(a in cells(), b in cells()) {
            let joined = a.clone().merge(b.clone());
            for other in [a.latest, b.latest].into_iter().flatten() {
                prop_assert!(!joined.accepts(&other.version));
            }
        }
    }

    proptest! {
        /// What a shard does to a slot that is not being moved: stamps in order, settled after each.
        #[test]
        fn settling_in_stamp_order_loses_nothing(mut stamps in proptest::collection::vec(0_u64..40, 0..20)) {
            stamps.sort_unstable();
            stamps.dedup();
            let joined = stamps.iter().map(|stamp| write(*stamp)).fold(Cell::default(), Cell::merge);
            let settled = stamps.iter().map(|stamp| write(*stamp)).fold(Cell::default(), |a, b| a.merge(b).settle());
            prop_assert_eq!(joined.settle(), settled);
        }
    }

    #[test]
    fn a_reset_that_arrives_late_uncovers_what_was_shadowed() {
        let newer_event = Cell::of(version(10, 1), Some(1));
        let reset = Cell::reset_at(WriteStamp(2));
        let later_write = Cell::of(version(5, 3), Some(3));
        let cell = later_write.merge(newer_event).merge(reset);
        assert_eq!(cell.live(), Some(&3));
    }

    #[test]
    fn hard_delete_forgets_the_watermark_and_what_came_before() {
        let put = Cell::of(version(100, 1), Some(1));
        let reset = Cell::reset_at(WriteStamp(2));
        let older_put_after = Cell::of(version(50, 3), Some(3));
        let cell = put.clone().merge(reset).merge(older_put_after).merge(put);
        assert_eq!(cell.live(), Some(&3));
    }

    #[test]
    fn equal_event_times_go_to_the_later_write() {
        assert!(supersedes(&version(1, 2), &version(1, 1)));
        assert!(!supersedes(&version(1, 1), &version(1, 1)));
        assert!(!supersedes(&version(0, 9), &version(1, 1)));
    }
}
