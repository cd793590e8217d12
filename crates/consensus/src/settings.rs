//! What can be set about a Raft group. Every queue and batch is bounded here, in bytes where it holds bytes.

use granary_proto::MESSAGE_LEN_MAX;

use crate::Error;

/// Settings of a Raft group. The defaults hold for a dozen groups on three nodes that share two busy cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How often a leader tells its followers that it is there, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest time without a heartbeat before a follower stands for election, in milliseconds, counted after
    /// the lease (`election_max_ms`) that a follower grants its leader: a dead leader is replaced after
    /// `election_max_ms + election_min_ms` at the earliest.
    pub election_min_ms: u64,
    /// The longest such time, and the leader's lease, in milliseconds.
    pub election_max_ms: u64,
    /// Entries between two snapshots.
    pub snapshot_after_entries: u64,
    /// A snapshot up to this size is taken whenever the number of entries says so. A larger one waits until about as
    /// many bytes of commands were applied as the last one was long, so that snapshots at most double what is written.
    pub snapshot_free_bytes: u64,
    /// Entries kept in the log although a snapshot covers them: a follower that was away briefly catches up without
    /// a snapshot, and a damaged newest snapshot can be replaced by the older one and the log.
    pub log_entries_kept: u64,
    /// How long one transfer and installation of a snapshot may take, in milliseconds.
    pub snapshot_timeout_ms: u64,
    /// How long a follower may take to append and sync entries, in milliseconds.
    pub append_timeout_ms: u64,
    /// Entries in one request to a follower, in bytes; a larger entry travels alone.
    pub append_bytes_max: usize,
    /// Size of one file of the Raft log, in bytes.
    pub log_chunk_bytes: usize,
    /// Cache of the newest entries, in bytes; the entries of the open file are cached besides.
    pub log_cache_bytes: usize,
    /// Cache of the newest entries, in entries.
    pub log_cache_entries: usize,
    /// The longest command, in bytes. With its entry's frame it fits one message between nodes.
    pub command_bytes_max: usize,
    /// Commands proposed and not yet answered, in bytes; a short command counts as 4 KiB.
    pub proposals_bytes_max: usize,
    /// How long `propose` waits for an outcome, in milliseconds; after that it is unknown.
    pub propose_timeout_ms: u64,
    /// Reads that wait for the next round of ReadIndex.
    pub reads_queued_max: usize,
    /// How long one round of ReadIndex may take, in milliseconds.
    pub read_round_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_ms: 300,
            election_min_ms: 1_500,
            election_max_ms: 3_000,
            snapshot_after_entries: 10_000,
            snapshot_free_bytes: 16 << 20,
            log_entries_kept: 20_000,
            snapshot_timeout_ms: 600_000,
            append_timeout_ms: 5_000,
            append_bytes_max: 4 << 20,
            log_chunk_bytes: 16 << 20,
            log_cache_bytes: 8 << 20,
            log_cache_entries: 4_096,
            command_bytes_max: MESSAGE_LEN_MAX / 4 * 3,
            proposals_bytes_max: 64 << 20,
            propose_timeout_ms: 10_000,
            reads_queued_max: 16_384,
            read_round_timeout_ms: 2_000,
        }
    }
}

impl Settings {
    /// openraft's configuration.
    ///
    /// # Errors
    /// [`Error::Settings`] when the times do not fit each other or a bound is nought.
    pub(crate) fn raft_config(&self, name: String) -> Result<openraft::Config, Error> {
        if self.command_bytes_max + self.append_bytes_max > MESSAGE_LEN_MAX - (64 << 10) {
            return Err(Error::Settings("an entry and a request together exceed the longest message".to_owned()));
        }
        if self.proposals_bytes_max < self.command_bytes_max {
            return Err(Error::Settings("the longest command exceeds the budget of proposals".to_owned()));
        }
        let config = openraft::Config {
            cluster_name: name,
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: self.snapshot_timeout_ms,
            // Requests are bounded by bytes in the log store; this only bounds the number of tiny entries.
            max_payload_entries: 2_048,
            max_append_entries: Some(4_096),
            // Only says when a new learner counts as caught up.
            replication_lag_threshold: self.snapshot_after_entries.max(1_000),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries.max(1)),
            max_in_snapshot_log_to_keep: self.log_entries_kept,
            purge_batch_size: (self.log_entries_kept / 8).max(1),
            enable_pre_vote: Some(true),
            // On by default in openraft. A restarted leader must be elected again: its state machine may be behind
            // what it acknowledged before.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            backoff: "100ms 200ms 400ms ...2s".to_owned(),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| Error::Settings(error.to_string()))
    }
}
