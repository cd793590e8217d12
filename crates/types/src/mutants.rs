//! Bugs put in on purpose, to see that the simulation catches them (`tests/sim`).
//!
//! Each place that can have one asks [`is_planted`]. Without the feature `mutants`, which no build but the simulation's
//! own asks for, the answer is a constant and nothing of this is compiled.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The Raft log says that a write is on disk before it is.
    AcknowledgesBeforeSync = 1,
    /// Apply stamps writes by the replica's own clock.
    ApplyReadsClock,
    /// A newer event time does not keep an older one from the online store.
    ForgetsEventTime,
    /// A leader answers reads without asking whether it still leads.
    StaleReadIndex,
    /// A read does not wait until its index is applied.
    ReadsBeforeApply,
    /// A restart or a snapshot from a peer forgets the recent write ids.
    LosesRecentWrites,
    /// A trim drops the segment that the offset only reaches into.
    TrimsTooFar,
    /// A compactor acknowledges what it did not read back from a commit.
    AcknowledgesUncommitted,
    /// A commit is made without a look at where the streams stand.
    CommitsBlindly,
    /// An update holds whatever was written to its record since it was merged.
    UpdatesBlindly,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::AcknowledgesBeforeSync,
        Self::ApplyReadsClock,
        Self::ForgetsEventTime,
        Self::StaleReadIndex,
        Self::ReadsBeforeApply,
        Self::LosesRecentWrites,
        Self::TrimsTooFar,
        Self::AcknowledgesUncommitted,
        Self::CommitsBlindly,
        Self::UpdatesBlindly,
    ];
}

#[cfg(feature = "mutants")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Puts the bug into this process, for good.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Mutant) {
    PLANTED.store(mutant as u8, std::sync::atomic::Ordering::SeqCst);
}

/// Whether the bug is in this process.
#[cfg(feature = "mutants")]
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::SeqCst) == mutant as u8
}

/// Whether the bug is in this process: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_planted(_mutant: Mutant) -> bool {
    false
}
