//! A whole cluster in one process: nodes that replicate over real loopback gRPC, a router, a compactor, queries.
//!
//! Nothing is shared behind the parts' backs: nodes have directories and ports of their own, and everything meets
//! through the same gRPC as separate processes do. Data survives Ctrl-C and kill -9.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use granary_api::Readiness;
use granary_api::aws::AwsService;
use granary_compactor::Compactor;
use granary_lake::Lake;
use granary_node::Node;
use granary_platform::{Platform, TaskKind};
use granary_proto::internal::meta_server::MetaServer;
use granary_proto::v1::query_server::QueryServer;
use granary_query::QueryService;
use granary_types::ShardId;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::http;
use super::parts::{Parts, query_runtime};
use super::ports::{bind, serve, until_told_to_stop};
use crate::config::Config;
use crate::telemetry;

/// How long a cluster may take until every shard has a leader: elections take seconds, replay after a crash longer.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const READY_POLL: Duration = Duration::from_millis(50);

/// What a data directory of `dev` was laid out with: peers find each other again at the same ports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    nodes: Vec<String>,
}

/// A cluster in this process.
pub(crate) struct Cluster {
    endpoint: String,
    nodes: Vec<Arc<Node>>,
    platform: Platform,
    tasks: Vec<JoinHandle<()>>,
    ready: Readiness,
    /// Held for as long as queries may run.
    _queries: QueryThreads,
    addresses: Vec<String>,
    data_dir: PathBuf,
    /// The demo's directory goes when its cluster does.
    _temporary: Option<tempfile::TempDir>,
}

/// Serves until Ctrl-C.
pub(crate) async fn serve_until_stopped(config: Config, nodes: u32, platform: Platform) -> anyhow::Result<()> {
    let cluster = tokio::select! {
        cluster = Cluster::start(&config, nodes, None, platform.clone()) => cluster?,
        told = until_told_to_stop(&platform) => return told,
    };
    let told = tokio::select! {
        ready = cluster.wait_until_ready() => match ready.and_then(|()| cluster.greet()) {
            Ok(()) => until_told_to_stop(&platform).await,
            Err(error) => Err(error),
        },
        told = until_told_to_stop(&platform) => told,
    };
    cluster.stop().await;
    told
}

/// A fresh cluster for the demo, on ports that are free; in a temporary directory unless one is given.
pub(crate) async fn start_for_demo(
    mut config: Config,
    nodes: u32,
    data_dir: Option<PathBuf>,
    platform: Platform,
) -> anyhow::Result<Cluster> {
    config.router.listen = "127.0.0.1:0".to_owned();
    // Seconds matter to whoever watches; in production an age of some seconds makes fewer files.
    config.compactor.flush_interval = config.compactor.flush_interval.min(Duration::from_secs(2));
    let temporary = match data_dir {
        Some(dir) => {
            config.node.data_dir = dir;
            None
        }
        None => {
            let temporary = tempfile::Builder::new().prefix("granary-demo-").tempdir()?;
            config.node.data_dir = temporary.path().to_owned();
            Some(temporary)
        }
    };
    let cluster = Cluster::start(&config, nodes, temporary, platform).await?;
    cluster.wait_until_ready().await?;
    Ok(cluster)
}

impl Cluster {
    async fn start(
        config: &Config,
        nodes: u32,
        temporary: Option<tempfile::TempDir>,
        platform: Platform,
    ) -> anyhow::Result<Self> {
        let data_dir = config.node.data_dir.clone();
        fs::create_dir_all(&data_dir).with_context(|| format!("make data directory {}", data_dir.display()))?;
        let api = bind(&config.router.listen).await?;
        let (listeners, addresses) = peer_ports(&data_dir, api.local_addr()?, nodes).await?;
        let registry = telemetry::registry(&platform)?;
        let parts = Parts::new(config, &platform);

        let starts = addresses.iter().zip(listeners).enumerate().map(|(index, (address, listener))| {
            let number = index + 1;
            let settings = parts.node(data_dir.join(format!("node-{number}")), address.clone(), addresses.clone());
            // Apart: the nodes stop after what takes requests has drained.
            let (platform, registry) = (platform.apart(), registry.clone());
            async move {
                let own = node_registry(&registry, number)?;
                anyhow::Ok(Arc::new(Box::pin(Node::start(settings, &platform, listener, &own)).await?))
            }
        });
        let nodes = futures::future::try_join_all(starts).await?;

        let with_meta = nodes.iter().find(|node| node.has_meta()).or_else(|| nodes.first()).context("--nodes")?;
        let with_meta = Arc::clone(with_meta);

        let warehouse = parts.warehouse(&data_dir).await?;
        let catalog = granary_catalog::watch::follow(&platform, addresses.clone());
        let compactor =
            Compactor::new(platform.clone(), catalog.clone(), Arc::clone(&warehouse), parts.compactor(), &registry)?;
        let compactor = platform.spawn(TaskKind::Service, "compactor", compactor.run());
        let queries = QueryThreads(Some(query_runtime()?));
        let settings = parts.query(queries.handle());
        let query = QueryService::new(platform.clone(), catalog.clone(), Arc::clone(&warehouse), settings, &registry)?;
        let lake = parts.lake(&warehouse, true);
        let lake: Arc<dyn AwsService> = Lake::new(platform.clone(), query.clone(), warehouse, lake)?;
        let query = Arc::new(query);

        let router = granary_router::Router::new(platform.clone(), catalog, parts.router(), &registry);
        let ready: Readiness = {
            let (router, nodes) = (router.clone(), nodes.clone());
            Arc::new(move || readiness(&router, &nodes))
        };
        let endpoint = format!("http://{}", api.local_addr()?);
        let service = granary_api::Api::new(router, parts.api()?, registry, Arc::clone(&ready))
            .with_routes(http::routes(&query))
            .with_grpc(QueryServer::from_arc(query))
            .with_aws(&granary_lake::SERVICES, &lake)
            // For `granary status` against this port.
            .with_grpc(MetaServer::new(with_meta.meta_service()))
            .into_service()
            .await?;
        let port = serve(&platform, api, service);
        let tasks = vec![compactor, port];
        Ok(Self {
            endpoint,
            nodes,
            platform,
            tasks,
            ready,
            _queries: queries,
            addresses,
            data_dir,
            _temporary: temporary,
        })
    }

    /// Where the public API is.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Waits until every shard has a leader.
    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = self.platform.instant() + READY_TIMEOUT;
        while let Err(why) = (self.ready)() {
            anyhow::ensure!(
                self.platform.instant() < deadline,
                "the cluster is not ready after {READY_TIMEOUT:?}: {why}; `granary status` and the log lines above say more"
            );
            self.platform.sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Stops everything in order: first what takes requests, then the nodes.
    pub(crate) async fn stop(self) {
        self.platform.begin_shutdown();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "stop");
            }
        }
        futures::future::join_all(self.nodes.iter().map(|node| node.stop())).await;
    }

    /// Says where everything is and what to try.
    fn greet(&self) -> anyhow::Result<()> {
        let (endpoint, nodes) = (&self.endpoint, self.addresses.join(", "));
        let flag = if endpoint.ends_with(":7460") { String::new() } else { format!(" --endpoint {endpoint}") };
        let text = format!(
            "Granary is up.\n\
             \x20 API (SageMaker wire, gRPC, /metrics, /readyz)  {endpoint}\n\
             \x20 nodes                                          {nodes}\n\
             \x20 data                                           {data}\n\
             \n\
             Try, in another terminal:\n\
             \x20 granary{flag} feature-group create users --record-identifier user_id --event-time event_time \\\n\
             \x20     --feature user_id:String --feature trips:Integral --feature event_time:String\n\
             \x20 granary{flag} put users user_id=42 trips=7 event_time=2026-01-01T00:00:00Z\n\
             \x20 granary{flag} get users 42\n\
             \n\
             Ctrl-C stops; the data stays.\n",
            data = self.data_dir.display(),
        );
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }
}

/// Every shard has a leader on one of the nodes; a replica that is damaged or away does not keep the others from it.
fn readiness(router: &granary_router::Router, nodes: &[Arc<Node>]) -> Result<(), String> {
    router.ready().map_err(|error| error.to_string())?;
    let led = |shard: ShardId| nodes.iter().any(|node| node.serves(shard));
    match router.catalog().shards().iter().find(|shard| !led(shard.id)) {
        Some(shard) => Err(format!("shard {} has no leader yet", shard.id)),
        None => Ok(()),
    }
}

/// Threads for queries. Dropping a runtime inside another one would panic; these are left to end by themselves.
struct QueryThreads(Option<Runtime>);

impl QueryThreads {
    fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The nodes' listeners: at the ports the directory was laid out with, else next to the API's, else at free ones.
async fn peer_ports(data_dir: &Path, api: SocketAddr, nodes: u32) -> anyhow::Result<(Vec<TcpListener>, Vec<String>)> {
    let file = data_dir.join("dev.json");
    if file.exists() {
        let layout: Layout = serde_json::from_slice(&fs::read(&file)?)
            .with_context(|| format!("read {}: remove the file if it is damaged and start again", file.display()))?;
        anyhow::ensure!(
            layout.nodes.len() == nodes as usize,
            "{} was laid out for {} nodes: start it with --nodes {}",
            data_dir.display(),
            layout.nodes.len(),
            layout.nodes.len()
        );
        let mut listeners = Vec::new();
        for address in &layout.nodes {
            listeners.push(bind(address).await?);
        }
        return Ok((listeners, layout.nodes));
    }
    let mut listeners = Vec::new();
    for number in 1..=u16::try_from(nodes).context("--nodes")? {
        let wanted = SocketAddr::new(api.ip(), api.port().wrapping_add(number));
        let listener = match TcpListener::bind(wanted).await {
            Ok(listener) => listener,
            Err(_) => bind(&SocketAddr::new(api.ip(), 0).to_string()).await?,
        };
        listeners.push(listener);
    }
    let addresses =
        listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect::<anyhow::Result<Vec<_>>>()?;
    let layout = serde_json::to_vec_pretty(&Layout { nodes: addresses.clone() })?;
    let mut out = fs::File::create(&file)?;
    out.write_all(&layout)?;
    out.sync_all()?;
    Ok((listeners, addresses))
}

/// A registry for one node whose metrics show up in the process's with a label that says which node.
fn node_registry(process: &Registry, number: usize) -> anyhow::Result<Registry> {
    let labels = HashMap::from([("node".to_owned(), number.to_string())]);
    let own = Registry::new_custom(None, Some(labels))?;
    let name = format!("granary_dev_node_{number}");
    let marker = Desc::new(name, "the metrics of one node of this process".to_owned(), vec![], HashMap::new())?;
    process.register(Box::new(NodeMetrics { own: own.clone(), marker }))?;
    Ok(own)
}

struct NodeMetrics {
    own: Registry,
    marker: Desc,
}

impl Collector for NodeMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.marker]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.own.gather()
    }
}
