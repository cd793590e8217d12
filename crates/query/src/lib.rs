//! The query service: SQL over the offline tables and point-in-time joins.
//!
//! * [`pit`] is the join's kernel: Arrow batches in, Arrow batches out, nothing else.
//! * `sql` makes one DataFusion session for each query, whose tables are the feature groups at their newest versions.
//! * [`trino`] gives SQL the meaning it has on Athena, for those who come from there.
//! * `point_in_time` runs a join request: spine and histories come from `sql`, the answer from [`pit`].
//! * `offline_wait` tells a caller when everything written before is in the offline store.
//! * [`QueryService`] is the gRPC face of all but [`trino`], and what all share: bounds, deadlines, metrics.
//!
//! Nothing here writes: not the online store, and of the offline store only the columns that a table lacks. A table that
//! is not there has no rows. DataFusion is named in this crate alone.
//!
//! A query's CPU work runs on the runtime given in [`Settings::runtime`], never on the threads that serve. It gives way
//! to other queries every few milliseconds, and ends when its caller goes.

mod answer;
mod error;
mod metrics;
mod offline_wait;
pub mod pit;
mod point_in_time;
mod service;
mod settings;
mod sql;
pub mod trino;

pub use error::Error;
pub use service::{Permit, QueryService};
pub use settings::Settings;
