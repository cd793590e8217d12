//! Counters of a group, for metrics. They only rise, from nought at the start of the process.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $(pub(crate) $name: Counter,)*
        }

        /// The counters as of one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            pub(crate) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Commands handed to Raft by this replica.
    proposals,
    /// Their length in bytes.
    proposal_bytes,
    /// Commands handed to Raft that were answered with an error.
    proposals_failed,
    /// Commands applied to the state machine.
    commands_applied,
    /// Rounds of ReadIndex.
    read_rounds,
    /// Reads answered by those rounds.
    reads_joined,
    /// Rounds that failed or timed out.
    read_rounds_failed,
    /// Requests to followers that carried entries.
    append_requests,
    /// Entries in them.
    append_entries,
    /// Snapshots written here.
    snapshots_built,
    /// Their length in bytes.
    snapshot_bytes_built,
    /// Snapshots that could not be written.
    snapshots_failed,
    /// Snapshots sent to other replicas in full.
    snapshots_sent,
    /// Bytes of snapshots sent.
    snapshot_bytes_sent,
    /// Snapshots received and installed.
    snapshots_installed,
    /// Bytes of snapshots received.
    snapshot_bytes_received,
    /// Transfers that went on where one before had ended.
    snapshots_resumed,
    /// Chunks of snapshots that came in damaged.
    snapshot_chunks_refused,
}

/// A counter that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
