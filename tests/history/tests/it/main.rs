//! The checkers against exhaustive search, against a system that is right, and against one that is not.

mod against_search;
mod file;
mod mutants;
mod recording;
mod search;
mod simulated;
