//! What bounds the services, and what they say of their deployment.

use std::time::Duration;

/// Settings of [`crate::Lake`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// The AWS account in answers, 12 digits.
    pub account_id: String,
    /// The region in answers.
    pub region: String,
    /// Whether S3 is served.
    pub s3_enabled: bool,
    /// Where results go when a query names no place: `s3://bucket/prefix/`.
    pub output_location: Option<String>,
    /// Queries that wait for their turn; one more is refused as too many.
    pub queries_waiting_max: usize,
    /// Whether no other process runs queries over this warehouse: what another one left running is dead.
    pub alone: bool,
    /// How often a process shows that it is alive while it runs queries.
    pub lease_renewal: Duration,
    /// A process that did not for so long is taken for dead, and its queries end as failed. Clocks of different
    /// machines may differ by what this is more than `lease_renewal`.
    pub lease_time: Duration,
    /// How long executions are kept, which is Athena's time.
    pub history: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            account_id: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            s3_enabled: true,
            output_location: None,
            queries_waiting_max: 100,
            alone: false,
            lease_renewal: Duration::from_secs(5),
            lease_time: Duration::from_secs(30),
            history: Duration::from_secs(45 * 86_400),
        }
    }
}
