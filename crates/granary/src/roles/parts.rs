//! From the configuration to the settings of each part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use granary_api::aws::signature::AccessKeys;
use granary_offline_store::{Options, Warehouse};
use granary_platform::Platform;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::{Config, Engine};

/// The configuration of one process, as its parts take it.
pub(crate) struct Parts<'a> {
    config: &'a Config,
    platform: &'a Platform,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(config: &'a Config, platform: &'a Platform) -> Self {
        Self { config, platform }
    }

    /// A node that keeps its data in `data_dir` and is reached at `advertise`.
    pub(crate) fn node(&self, data_dir: PathBuf, advertise: String, seeds: Vec<String>) -> granary_node::Settings {
        let (cluster, node) = (&self.config.cluster, &self.config.node);
        let mut settings = granary_node::Settings::new(data_dir, advertise, seeds);
        settings.shards = cluster.shards;
        settings.replicas = cluster.replicas.min(settings.replicas.max(1));
        settings.engine = match node.engine {
            Engine::Sled => granary_node::EngineKind::Sled,
            Engine::Fjall => granary_node::EngineKind::Fjall,
            Engine::Memory => granary_node::EngineKind::Memory,
        };
        settings.sled_cache_bytes = node.sled_cache_bytes.0;
        settings.fjall_cache_bytes = node.fjall_cache_bytes.0;
        settings.seal_interval = node.seal_interval;
        settings.seal_bytes = node.seal_bytes.0;
        settings.expiry_interval = node.expiry_interval;
        settings.expiry_grace = node.expiry_grace;
        settings.shard.memory_table_bytes = size(node.memory_table_bytes.0);
        settings.shard.checkpoint_bytes = settings.shard.memory_table_bytes / 4;
        settings.shard.row_cache_bytes = size(node.row_cache_bytes.0);
        settings.shard.change_log_budget_bytes = node.change_log_budget_bytes.0;
        settings.consensus.snapshot_after_entries = node.snapshot_after_entries;
        settings.consensus.heartbeat_ms = millis(node.raft_heartbeat);
        settings.consensus.election_min_ms = millis(node.raft_election_min);
        settings.consensus.election_max_ms = millis(node.raft_election_max);
        settings
    }

    pub(crate) fn router(&self) -> granary_router::Settings {
        granary_router::Settings {
            deadline: self.config.router.deadline,
            requests_in_flight_max: self.config.router.max_in_flight as usize,
            feature_groups_max: self.config.router.feature_groups_max,
            account_id: self.config.sagemaker.account_id.clone(),
            region: self.config.sagemaker.region.clone(),
            default_s3_uri: self.config.sagemaker.default_s3_uri.clone(),
            ..granary_router::Settings::default()
        }
    }

    /// # Errors
    /// When the access keys cannot be read.
    pub(crate) fn api(&self) -> anyhow::Result<granary_api::Settings> {
        let sagemaker = &self.config.sagemaker;
        let access_keys = match &sagemaker.access_keys {
            Some(reference) => {
                let text = reference.resolve().map_err(anyhow::Error::msg)?;
                Some(AccessKeys::parse(&text).map_err(anyhow::Error::msg).context("read sagemaker.access_keys")?)
            }
            None => None,
        };
        Ok(granary_api::Settings {
            account_id: sagemaker.account_id.clone(),
            region: sagemaker.region.clone(),
            access_keys,
            ..granary_api::Settings::default()
        })
    }

    pub(crate) fn compactor(&self) -> granary_compactor::Settings {
        granary_compactor::Settings {
            flush_interval: self.config.compactor.flush_interval,
            flush_bytes: size(self.config.compactor.flush_bytes.0),
            poll: self.config.compactor.poll,
            foreign_files_interval: self.config.compactor.foreign_files_interval,
            iceberg_interval: self.config.compactor.iceberg_interval,
            ..granary_compactor::Settings::default()
        }
    }

    /// Queries run on `runtime`, apart from what serves.
    pub(crate) fn query(&self, runtime: Option<Handle>) -> granary_query::Settings {
        granary_query::Settings {
            runtime,
            memory_bytes_max: size(self.config.query.memory_limit.0),
            spill_bytes_max: self.config.query.spill_bytes.0,
            queries_max: self.config.query.max_in_flight as usize,
            ..granary_query::Settings::default()
        }
    }

    /// AWS's services over `warehouse`. `alone` is a process that no other runs queries beside.
    pub(crate) fn lake(&self, warehouse: &Warehouse, alone: bool) -> granary_lake::Settings {
        granary_lake::Settings {
            account_id: self.config.sagemaker.account_id.clone(),
            region: self.config.sagemaker.region.clone(),
            s3_enabled: self.config.s3.enabled.unwrap_or(warehouse.is_local()),
            output_location: self.config.athena.output_location.clone(),
            queries_waiting_max: self.config.athena.queue_max as usize,
            alone,
            ..granary_lake::Settings::default()
        }
    }

    /// The offline store: where the configuration says, or below `data_dir` on this disk.
    ///
    /// # Errors
    /// When the object store does not answer, or does not keep the rule that commits depend on.
    pub(crate) async fn warehouse(&self, data_dir: &Path) -> anyhow::Result<Arc<Warehouse>> {
        let url = match &self.config.object_store.url {
            Some(url) => url.clone(),
            None => {
                let offline = std::path::absolute(data_dir.join("offline"))?;
                format!("file://{}", offline.display())
            }
        };
        let store = self.config.object_store.options().map_err(anyhow::Error::msg)?;
        let settings = granary_offline_store::Settings {
            iceberg_snapshots_max: self.config.compactor.iceberg_snapshots_max as usize,
            ..granary_offline_store::Settings::default()
        };
        let options = Options { platform: self.platform.clone(), store: store.into_iter().collect(), settings };
        let warehouse = Warehouse::open(&url, options).await.with_context(|| format!("open object store {url}"))?;
        Ok(Arc::new(warehouse))
    }
}

/// Stack of a query thread: the deepest statement taken needs some 15 KiB for each of its operators in a debug build.
const QUERY_STACK_BYTES: usize = 256 << 20;

/// Threads for queries alone: a heavy join must not hold up a get.
///
/// # Errors
/// When the threads cannot be started.
pub(crate) fn query_runtime() -> anyhow::Result<Runtime> {
    // Planning recurses as deep as the statement's expressions; `granary_query` bounds those to fit. Only what is
    // used of a stack takes memory.
    let builder =
        Builder::new_multi_thread().thread_name("query").thread_stack_size(QUERY_STACK_BYTES).enable_all().build();
    Ok(builder?)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
