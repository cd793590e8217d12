//! The offline store against real Delta tables, in memory and on disk, with object stores that fail on purpose.

mod commits;
mod faults;
mod foreign;
mod iceberg;
mod support;
mod tables;
mod values;
