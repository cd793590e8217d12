//! The consensus crate from outside: openraft's own storage suite, damaged files, read rounds, and three replicas
//! that talk gRPC over loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod copies;
mod list_machine;
mod log_crash;
mod log_files;
mod log_steps;
mod read_rounds;
mod replication;
mod snapshot_crash;
mod snapshot_files;
mod snapshot_flow;
mod suite;
