//! The one binary of Granary: every role, the client commands, the demo.
//!
//! Here is what a process needs around the roles: configuration ([`config`]), command line ([`cli`]), telemetry
//! ([`telemetry`]), the wiring of the roles' crates ([`roles`]), and the demo ([`demo`]), which uses nothing but the
//! public API. Rules live in the crates below; this one only puts them together.

mod cli;
mod client;
mod config;
mod demo;
mod failure;
mod output;
mod progress;
mod roles;
mod telemetry;

fn main() -> std::process::ExitCode {
    cli::main()
}
