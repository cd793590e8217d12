//! Tests of the catalog through its public interface.

mod commands;
mod offline;
mod properties;
mod state;
mod view;
mod watch;
