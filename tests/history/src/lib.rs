//! Histories of what clients asked and were told, and checkers that say whether a correct system can have answered so.
//!
//! A test harness records a [`History`] outside of the system: every call when it begins and when it ends, faults,
//! replicas' state hashes, and in the end the offline tables. Each checker is a pure function of a history. It
//! accuses only with proof: a few operations that no correct system explains, told in order. What it cannot check it
//! says ([`Report::unchecked`]).
//!
//! This crate knows nothing of the system's code, on purpose: an oracle that shares code with what it judges shares its
//! mistakes. The file format is in [`mod@format`]; the rule for linearizability in `register`, for records with hard deletes
//! in `resets`. Both are compared with exhaustive search in `tests/it`.

pub mod format;
pub mod levels;
pub mod log_order;
pub mod model;
pub mod offline;
pub mod operations;
pub mod recorder;
mod register;
pub mod replicas;
mod resets;
pub mod verdict;

mod check;

pub use check::{Counts, Promises, Report, check};
pub use model::{Event, Header, History};
pub use operations::Operations;
pub use recorder::{Client, Recorder};
pub use verdict::{Rule, Violation};
