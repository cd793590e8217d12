//! The invariants by id. An id is written in code, tests, metrics and documents; `docs/architecture.md` says
//! where each is kept. Predicates that need state live beside it and report here through [`check`].

use std::sync::atomic::{AtomicU64, Ordering};

/// An invariant of Granary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// WR-1: an acknowledged write is on disk on a majority.
    AcknowledgedIsDurable,
    /// ON-1: the online value of a key is the committed version that nothing supersedes, unless deleted or expired.
    NothingSupersedesOnline,
    /// CL-1: an accepted client write makes exactly one change-log event; nothing else makes any.
    OneEventPerWrite,
    /// CL-2: numbering is dense and never restarts under one stream id.
    DenseSequence,
    /// CL-3: the change log is trimmed only up to an offset found in a committed table version.
    TrimAfterCommit,
    /// CP-1: committed rows are the change log up to the committed offset, each event exactly once.
    CommittedOnce,
    /// CP-2: watermarks derive from committed offsets only, and never retreat.
    WatermarkMonotone,
    /// PIT-1: a join sees nothing from after its cut-off.
    NothingAfterCutOff,
    /// PIT-2: and nothing newer is left out.
    NothingNewerLeftOut,
    /// RG-1: at any time at most one shard acknowledges writes of a slot.
    OneOwnerPerSlot,
    /// RG-2: replicas at the same applied index hold the same rows (equal state hash).
    EqualReplicas,
    /// ST-1: a replica serves only state from trusted sources.
    TrustedState,
    /// LIN-1: a linearizable read returns the maximum over all writes acknowledged before it began.
    LinearizableRead,
}

impl Invariant {
    /// Every invariant, in the order of the design's table.
    pub const ALL: [Self; 13] = [
        Self::AcknowledgedIsDurable,
        Self::NothingSupersedesOnline,
        Self::OneEventPerWrite,
        Self::DenseSequence,
        Self::TrimAfterCommit,
        Self::CommittedOnce,
        Self::WatermarkMonotone,
        Self::NothingAfterCutOff,
        Self::NothingNewerLeftOut,
        Self::OneOwnerPerSlot,
        Self::EqualReplicas,
        Self::TrustedState,
        Self::LinearizableRead,
    ];

    /// The id in code, tests, metrics and documents.
    pub fn id(self) -> &'static str {
        match self {
            Self::AcknowledgedIsDurable => "WR-1",
            Self::NothingSupersedesOnline => "ON-1",
            Self::OneEventPerWrite => "CL-1",
            Self::DenseSequence => "CL-2",
            Self::TrimAfterCommit => "CL-3",
            Self::CommittedOnce => "CP-1",
            Self::WatermarkMonotone => "CP-2",
            Self::NothingAfterCutOff => "PIT-1",
            Self::NothingNewerLeftOut => "PIT-2",
            Self::OneOwnerPerSlot => "RG-1",
            Self::EqualReplicas => "RG-2",
            Self::TrustedState => "ST-1",
            Self::LinearizableRead => "LIN-1",
        }
    }
}

static VIOLATIONS: [AtomicU64; Invariant::ALL.len()] = [const { AtomicU64::new(0) }; Invariant::ALL.len()];

/// Asserts an invariant in debug builds and counts its violation in release builds.
///
/// Returns whether it held, so that the caller can refuse to go on where going on would spread the damage.
pub fn check(invariant: Invariant, held: bool, detail: impl FnOnce() -> String) -> bool {
    if !held {
        VIOLATIONS[invariant as usize].fetch_add(1, Ordering::Relaxed);
        debug_assert!(held, "invariant {} is violated: {}", invariant.id(), detail());
    }
    held
}

/// Counts a violation that this process saw but another one may be to blame for: it must not stop for it.
pub fn count(invariant: Invariant) {
    VIOLATIONS[invariant as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often each invariant was seen violated in this process: the source of `granary_invariant_violations_total`.
pub fn violations() -> impl Iterator<Item = (&'static str, u64)> {
    Invariant::ALL.iter().map(|invariant| (invariant.id(), VIOLATIONS[*invariant as usize].load(Ordering::Relaxed)))
}
