//! The configuration of every role: one TOML file, the environment and flags over laptop defaults.
//!
//! Later layers win: defaults, file (`--config`), environment (`GRANARY__SECTION__KEY`), flags. Unknown keys are
//! refused and all mistakes are reported at once, each with where it stands. One table ([`keys`]) drives reading,
//! printing and the reference in `docs/operations/config.md`, so that none of them can fall behind. The roles'
//! crates have settings of their own; the wiring turns a [`Config`] into those.

mod keys;
mod layers;
mod reference;
mod rules;
mod setting;
pub(crate) mod units;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use layers::{Mistakes, Sources, load};
pub(crate) use reference::{print, reference};
pub(crate) use setting::{Engine, LogFormat, SecretRef};
use units::ByteCount;

/// Everything that can be set. Field names are the keys; what each means stands once, in [`keys`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Config {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    pub(crate) router: Router,
    pub(crate) compactor: Compactor,
    pub(crate) query: Query,
    pub(crate) object_store: ObjectStore,
    pub(crate) athena: Athena,
    pub(crate) s3: S3,
    pub(crate) sagemaker: Sagemaker,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
}

/// What all roles of one cluster agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) seeds: Vec<String>,
    pub(crate) shards: u32,
    pub(crate) replicas: u32,
    pub(crate) advertise: Option<String>,
}

/// A process that hosts replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: String,
    pub(crate) engine: Engine,
    pub(crate) memory_table_bytes: ByteCount,
    pub(crate) sled_cache_bytes: ByteCount,
    pub(crate) fjall_cache_bytes: ByteCount,
    pub(crate) row_cache_bytes: ByteCount,
    pub(crate) change_log_budget_bytes: ByteCount,
    pub(crate) seal_interval: Duration,
    pub(crate) seal_bytes: ByteCount,
    pub(crate) expiry_interval: Duration,
    pub(crate) expiry_grace: Duration,
    pub(crate) snapshot_after_entries: u64,
    pub(crate) raft_heartbeat: Duration,
    pub(crate) raft_election_min: Duration,
    pub(crate) raft_election_max: Duration,
}

/// The stateless front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Router {
    pub(crate) listen: String,
    pub(crate) deadline: Duration,
    pub(crate) max_in_flight: u32,
    pub(crate) feature_groups_max: u32,
}

/// Change log to Parquet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compactor {
    pub(crate) flush_interval: Duration,
    pub(crate) flush_bytes: ByteCount,
    pub(crate) poll: Duration,
    pub(crate) foreign_files_interval: Duration,
    pub(crate) iceberg_interval: Duration,
    pub(crate) iceberg_snapshots_max: u32,
}

/// SQL and point-in-time joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) listen: String,
    pub(crate) memory_limit: ByteCount,
    pub(crate) spill_bytes: ByteCount,
    pub(crate) max_in_flight: u32,
}

/// Where the offline store is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ObjectStore {
    pub(crate) url: Option<String>,
    pub(crate) s3_endpoint: Option<String>,
    pub(crate) s3_region: Option<String>,
    pub(crate) s3_access_key_id: Option<SecretRef>,
    pub(crate) s3_secret_access_key: Option<SecretRef>,
    pub(crate) s3_allow_http: bool,
    pub(crate) s3_virtual_hosted: bool,
}

/// SQL as Athena's clients send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Athena {
    pub(crate) output_location: Option<String>,
    pub(crate) queue_max: u32,
}

/// S3 calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct S3 {
    pub(crate) enabled: Option<bool>,
}

/// What stands in the answers of the SageMaker wire protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sagemaker {
    pub(crate) account_id: String,
    pub(crate) region: String,
    pub(crate) default_s3_uri: String,
    pub(crate) access_keys: Option<SecretRef>,
}

/// What is said on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) filter: String,
    pub(crate) format: LogFormat,
}

/// Metrics and probes of roles that serve nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metrics {
    pub(crate) listen: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { seeds: vec!["127.0.0.1:7461".to_owned()], shards: 3, replicas: 3, advertise: None }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("granary-data"),
            listen: "127.0.0.1:7461".to_owned(),
            engine: Engine::Sled,
            memory_table_bytes: ByteCount::mib(64),
            sled_cache_bytes: ByteCount::mib(256),
            fjall_cache_bytes: ByteCount::mib(256),
            row_cache_bytes: ByteCount::mib(32),
            change_log_budget_bytes: ByteCount::mib(256),
            seal_interval: Duration::from_millis(500),
            seal_bytes: ByteCount::mib(1),
            expiry_interval: Duration::from_secs(60),
            expiry_grace: Duration::from_secs(60),
            snapshot_after_entries: 20_000,
            // An election must survive a second in which two busy cores schedule nobody: five heartbeats and more.
            raft_heartbeat: Duration::from_millis(300),
            raft_election_min: Duration::from_millis(1_500),
            raft_election_max: Duration::from_millis(3_000),
        }
    }
}

impl Default for Router {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7460".to_owned(),
            deadline: Duration::from_secs(10),
            max_in_flight: 16_384,
            feature_groups_max: 1_000,
        }
    }
}

impl Default for Compactor {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(5),
            flush_bytes: ByteCount::mib(64),
            poll: Duration::from_millis(200),
            foreign_files_interval: Duration::from_secs(30),
            iceberg_interval: Duration::from_secs(5),
            iceberg_snapshots_max: 500,
        }
    }
}

impl Default for Query {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7462".to_owned(),
            memory_limit: ByteCount::mib(2_048),
            spill_bytes: ByteCount::mib(16_384),
            max_in_flight: 16,
        }
    }
}

impl Default for Athena {
    fn default() -> Self {
        Self { output_location: None, queue_max: 100 }
    }
}

impl Default for Sagemaker {
    fn default() -> Self {
        Self {
            account_id: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            default_s3_uri: "s3://granary".to_owned(),
            access_keys: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7463".to_owned() }
    }
}

impl ObjectStore {
    /// The options of the `object_store` crate for an S3 that is not configured by the usual `AWS_` variables.
    ///
    /// # Errors
    /// A referenced secret that cannot be read.
    pub(crate) fn options(&self) -> Result<Vec<(String, String)>, String> {
        let mut options = Vec::new();
        let mut push = |key: &str, value: String| options.push((key.to_owned(), value));
        if let Some(endpoint) = &self.s3_endpoint {
            push("aws_endpoint", endpoint.clone());
        }
        if let Some(region) = &self.s3_region {
            push("aws_region", region.clone());
        }
        if let Some(secret) = &self.s3_access_key_id {
            push("aws_access_key_id", secret.resolve()?);
        }
        if let Some(secret) = &self.s3_secret_access_key {
            push("aws_secret_access_key", secret.resolve()?);
        }
        if self.s3_allow_http {
            push("aws_allow_http", "true".to_owned());
        }
        if self.s3_virtual_hosted {
            push("aws_virtual_hosted_style_request", "true".to_owned());
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_store_options_are_those_that_were_set() {
        assert_eq!(ObjectStore::default().options(), Ok(vec![]));
        let store = ObjectStore {
            s3_endpoint: Some("http://127.0.0.1:9000".to_owned()),
            s3_allow_http: true,
            ..ObjectStore::default()
        };
        let options = store.options().expect("no secrets to read");
        assert_eq!(options.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["aws_endpoint", "aws_allow_http"]);
    }
}
