//! The crash suite of the engines, for each of them: see the library's documentation.
//!
//! `GRANARY_CRASHES` multiplies the number of kills, cuts and damages; `GRANARY_SEED` sets the first seed, which a
//! failure prints.

mod conformance;
mod damage;
mod failing;
mod kill;
mod moves;
mod power_cut;
mod process;
mod support;
