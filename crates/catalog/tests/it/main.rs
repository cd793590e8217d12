//! Tests of the catalog through its public interface.

mod commands;
mod offline;
mod properties;
mod search;
mod state;
mod updates;
mod view;
mod watch;
