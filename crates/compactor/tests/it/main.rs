//! Compactors against a change log served over gRPC and real Delta tables.

mod cluster;
mod crashes;
mod deaths;
mod events;
mod faulty;
mod foreign;
mod iceberg;
mod lost;
mod twins;
