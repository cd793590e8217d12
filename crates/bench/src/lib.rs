//! The load instrument: what `granary bench` and the load driver in `benches/` measure with.
//!
//! An operation's latency is counted from the moment it was **scheduled** to begin, not from when it was sent: a server
//! that stalls is charged for every operation that was due meanwhile ([`open`]). A closed loop, which waits with its
//! callers, is there for limits ([`closed`]). Schedules and keys are fixed beforehand by a seed ([`schedule`], [`keys`]),
//! latencies are kept in histograms that merge exactly ([`Histogram`]), and whatever was scheduled is accounted for: it
//! completed, failed, timed out or was shed ([`ClassResult`]).
//!
//! [`workload`] holds the workloads as data, [`store`] speaks to a cluster by the public gRPC API. Nothing here knows
//! the command line.

mod clock;
mod histogram;
pub mod keys;
mod record;
mod run;
pub mod schedule;
pub mod store;
pub mod workload;

pub use clock::{Clock, Feed, SystemClock};
pub use histogram::Histogram;
pub use record::{ClassResult, Outcome, Window};
pub use run::{Class, Failure, Live, Operation, Plan, Target, closed, open};

/// Mixes two numbers into one that looks random: the seed of a part from the seed of the whole.
pub fn mix(seed: u64, part: u64) -> u64 {
    // SplitMix64's finisher, over a sum that differs for every pair that matters here.
    let mut mixed = seed.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
