//! Chaos: real processes, real faults, and a judge outside.
//!
//! [`Cluster`] starts the processes an operator would start, over a [`network`](mod@network) that can be cut. [`run()`] lets clients
//! work on it ([`mod@workload`]) while faults come and go ([`mod@faults`]), heals it, looks at everything in the
//! end ([`mod@finale`]) and gives the recorded history to the checkers of `granary-history`. `README.md` shows how to add a fault.

pub mod cluster;
pub mod faults;
pub mod finale;
pub mod network;
pub mod run;
pub mod workload;

use std::time::Duration;

pub use cluster::{Cluster, ClusterSettings};
pub use run::{Verdict, run, run_briefly};

/// What a wait may take on two busy cores: an election is 3 to 6 seconds, a start with replay a few more.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls a condition until it holds, within a bound.
///
/// # Errors
/// When it does not.
pub async fn eventually(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    let held = tokio::time::timeout(patience, async {
        while !condition().await {
            poll.tick().await;
        }
    });
    held.await.map_err(|_| anyhow::anyhow!("gave up after {patience:?}: {what}"))
}
