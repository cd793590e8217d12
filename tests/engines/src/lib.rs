//! What the crash suite of the engines is made of: one replica over one engine, as a node puts it together, and what
//! it must come to whatever happened to its directory.
//!
//! - [`history`]: the Raft log. Entry `n` is a function of `n`, so the log needs no file: only its length is kept.
//! - [`kind`]: the engines, with settings that make a small history reach every part of them.
//! - [`replica`]: opens engine and store by the rules of `granary_node`, restores the newest snapshot and replays.
//! - [`oracle`]: the same history in memory, never interrupted.
//!
//! The rule of every test here (ST-1): whatever a crash, a power cut or damage left, a replica that opens its directory,
//! restores its own newest snapshot and applies the entries after it is byte for byte the replica that was never
//! interrupted. It may get there from the rows in the tree or by throwing them away; never by serving others.

pub mod history;
pub mod kind;
pub mod oracle;
pub mod replica;
