//! What bounds a router.

use std::time::Duration;

/// A router's bounds and times. The defaults suit a laptop and a small cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a request may take when its caller names no shorter time.
    pub deadline: Duration,
    /// How long one attempt at one replica may take. Shorter than an election (3 s at most) would not help: the
    /// next replica could not answer either.
    pub attempt_timeout: Duration,
    /// How long a connection may take to stand.
    pub connect_timeout: Duration,
    /// How often a request goes round the replicas of its shard. At the longest pause of 0.5 s, 3/4 of it on
    /// average, 64 rounds outlast the deadline; the bound is for a shard that answers at once and always refuses.
    pub rounds_max: u32,
    /// The pause after the first round; it doubles with each round.
    pub backoff_min: Duration,
    /// The longest pause between two rounds.
    pub backoff_max: Duration,
    /// Requests in flight in the whole router; an entry of a batch of writes counts as one.
    pub requests_in_flight_max: usize,
    /// Writes that wait for one shard.
    pub queued_writes_max: usize,
    /// Bytes of the writes that wait for one shard or are on their way to it.
    pub queued_bytes_max: usize,
    /// Writes in one request to a shard.
    pub batch_writes_max: usize,
    /// Bytes of writes in one request to a shard; a single larger write goes alone.
    pub batch_bytes_max: usize,
    /// Write requests on their way to one shard. While they are, the next one gathers.
    pub batches_in_flight_max: usize,
    /// Entries in one batch of writes.
    pub batch_entries_max: usize,
    /// Keys in one batch of reads.
    pub read_keys_max: usize,
    /// Keys in one request to a shard.
    pub read_request_keys_max: usize,
    /// Requests that one batch of reads has under way at a time.
    pub read_fan_out_max: usize,
    /// Feature groups that may exist before a create is refused; 0 for as many as the catalog holds.
    pub feature_groups_max: u32,
    /// How long a change of the catalog waits for the router's own catalog to show it.
    pub catalog_wait: Duration,
    /// The AWS account in the locations and ARNs of feature groups.
    pub account_id: String,
    /// The AWS region in the locations and ARNs of feature groups.
    pub region: String,
    /// Where offline data goes when a create names no place: `s3://bucket/prefix`.
    pub default_s3_uri: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            rounds_max: 64,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(500),
            requests_in_flight_max: 16_384,
            queued_writes_max: 8_192,
            queued_bytes_max: 64 << 20,
            batch_writes_max: 1_024,
            batch_bytes_max: 1 << 20,
            batches_in_flight_max: 4,
            batch_entries_max: 1_000,
            read_keys_max: 10_000,
            read_request_keys_max: 1_000,
            read_fan_out_max: 16,
            feature_groups_max: 1_000,
            catalog_wait: Duration::from_secs(5),
            account_id: "000000000000".into(),
            region: "us-east-1".into(),
            default_s3_uri: "s3://granary".into(),
        }
    }
}
