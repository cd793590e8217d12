//! Starts, kills, pauses and restarts the processes of a cluster.

pub mod directories;
pub mod disks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use granary_proto::internal::meta_client::MetaClient;
use granary_proto::internal::{ReplicaStatus, StatusRequest};
use granary_test_disk::Disk;
use tonic::transport::Endpoint;

use crate::network::{Kind, Network, Party, Port, free_ports};
use crate::{PATIENCE, eventually};

/// The role of a replica that does not run and will not be tried again.
const STOPPED: &str = "stopped";
/// How long a node may take to say how it is: a paused one never answers.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Which cluster.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// The `granary` binary.
    pub binary: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// What connects them.
    pub network: Kind,
    /// The engines under them, taken in turn.
    pub engines: Vec<String>,
    /// What else is set of each node, as `--set` takes it.
    pub set: Vec<String>,
    /// Whether their disks can be faulted, which makes them slower. Needs a C compiler.
    pub faulty_disks: bool,
}

impl ClusterSettings {
    /// Three nodes on loopback.
    pub fn loopback(binary: impl Into<PathBuf>) -> Self {
        Self::on(binary, Kind::Loopback)
    }

    /// Three nodes whose disks can be faulted, with sled and fjall under them. What is bounded is small, so that a few
    /// records come to the bounds: snapshots every few seconds, and a memory table that is full when the engine takes
    /// nothing.
    pub fn on_faulty_disks(binary: impl Into<PathBuf>, network: Kind) -> Self {
        let engines = ["sled", "fjall"].map(str::to_owned).to_vec();
        let set = ["node.snapshot_after_entries=200", "node.memory_table_bytes=4096"].map(str::to_owned).to_vec();
        Self { engines, set, faulty_disks: true, ..Self::on(binary, network) }
    }

    /// Three nodes with the default engine.
    pub fn on(binary: impl Into<PathBuf>, network: Kind) -> Self {
        let engines = vec!["sled".to_owned()];
        Self { binary: binary.into(), nodes: 3, network, engines, set: Vec::new(), faulty_disks: false }
    }
}

/// A process beside the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Takes clients' calls to the nodes.
    Router,
    /// Takes the change log to the offline store.
    Compactor,
    /// Answers SQL.
    Query,
}

impl Service {
    /// The binary's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Compactor => "compactor",
            Self::Query => "query",
        }
    }
}

/// What a node says of its replicas.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The cluster's number for the node, which replicas call their leader by.
    pub id: u64,
    /// Its replicas, shard 0 being the meta group.
    pub replicas: Vec<ReplicaStatus>,
}

impl NodeStatus {
    fn shards_led(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.shard != 0 && replica.role == "leader").count()
    }
}

/// A cluster of separate processes: nodes, a router, a compactor and a query service. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    settings: ClusterSettings,
    dir: tempfile::TempDir,
    network: Network,
    nodes: Vec<Option<Child>>,
    /// The nodes' disks, where they can be faulted.
    disks: Vec<Disk>,
    /// Nodes that have lost replicas for good: those stay stopped.
    crippled: BTreeSet<usize>,
    services: BTreeMap<Service, Child>,
    router_port: Port,
    query_port: Port,
    compactor_metrics_port: Port,
    query_metrics_port: Port,
}

impl Cluster {
    /// Starts all processes and waits until the router can serve.
    ///
    /// # Errors
    /// When something does not start in time.
    pub async fn start(settings: ClusterSettings) -> anyhow::Result<Self> {
        ensure!(!settings.engines.is_empty(), "nodes need an engine");
        let mut ports = free_ports(4)?.into_iter();
        let mut port = || ports.next().context("as many ports as were asked for");
        let mut cluster = Self {
            dir: tempfile::Builder::new().prefix("granary-cluster-").tempdir()?,
            network: Network::start(settings.network, settings.nodes).await?,
            nodes: (0..settings.nodes).map(|_| None).collect(),
            disks: Vec::new(),
            crippled: BTreeSet::new(),
            services: BTreeMap::new(),
            router_port: port()?,
            query_port: port()?,
            compactor_metrics_port: port()?,
            query_metrics_port: port()?,
            settings,
        };
        if cluster.settings.faulty_disks {
            cluster.make_disks()?;
        }
        for node in 0..cluster.settings.nodes {
            cluster.nodes[node] = Some(cluster.spawn_node(node)?);
        }
        for service in [Service::Router, Service::Compactor, Service::Query] {
            cluster.restart_service(service)?;
        }
        if let Err(error) = cluster.ready().await {
            let kept = cluster.keep();
            return Err(error.context(format!("start a cluster; processes' data and logs: {}", kept.display())));
        }
        Ok(cluster)
    }

    /// The router's endpoint.
    pub fn router(&self) -> String {
        format!("http://127.0.0.1:{}", self.router_port.number)
    }

    /// The query service's endpoint.
    pub fn query(&self) -> String {
        format!("http://127.0.0.1:{}", self.query_port.number)
    }

    /// How many nodes there are, running or not.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// What connects the nodes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where data and logs are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The object store's directory.
    pub fn offline_dir(&self) -> PathBuf {
        self.dir.path().join("offline")
    }

    /// Waits until every running node that has all its replicas, and the router, answer that they can serve.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let whole = |node: &usize| self.nodes[*node].is_some() && !self.crippled.contains(node);
        for node in (0..self.nodes.len()).filter(whole) {
            let probe = self.network.metrics(node);
            eventually(PATIENCE, &format!("node {node} is ready"), async || http_ok(&probe, "/readyz").await).await?;
        }
        let router = format!("127.0.0.1:{}", self.router_port.number);
        eventually(PATIENCE, "the router is ready", async || http_ok(&router, "/readyz").await).await
    }

    /// kill -9. Returns how the node ended.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn kill(&mut self, node: usize) -> anyhow::Result<String> {
        let child = self.nodes[node].take().context("the node runs")?;
        self.network.node_runs(node, None);
        killed(child)
    }

    /// Starts a killed node on its old directory.
    ///
    /// # Errors
    /// When it runs or cannot be started.
    pub fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        ensure!(self.nodes[node].is_none(), "node {node} runs");
        self.nodes[node] = Some(self.spawn_node(node)?);
        Ok(())
    }

    /// kill -9 of a process beside the nodes. Returns how it ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_service(&mut self, service: Service) -> anyhow::Result<String> {
        let child = self.services.remove(&service).with_context(|| format!("the {} runs", service.name()))?;
        killed(child)
    }

    /// Starts a killed process beside the nodes.
    ///
    /// # Errors
    /// When it runs or cannot be started.
    pub fn restart_service(&mut self, service: Service) -> anyhow::Result<()> {
        ensure!(!self.services.contains_key(&service), "the {} runs", service.name());
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let seeds = self.seeds();
        let mut arguments = vec![service.name().to_owned(), "--seeds".to_owned(), seeds];
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        let store = format!("file://{}", self.offline_dir().display());
        match service {
            Service::Router => add("--listen", listen(self.router_port.number)),
            Service::Compactor => {
                add("--object-store", store);
                add("--metrics", listen(self.compactor_metrics_port.number));
            }
            Service::Query => {
                add("--listen", listen(self.query_port.number));
                add("--object-store", store);
                add("--metrics", listen(self.query_metrics_port.number));
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let child = self.spawn(service.name(), &arguments, None)?;
        self.services.insert(service, child);
        Ok(())
    }

    /// SIGSTOP. Returns the state that the kernel tells of the process.
    ///
    /// # Errors
    /// When the node does not run, or does not stop.
    pub async fn pause(&self, node: usize) -> anyhow::Result<String> {
        self.signal(node, "STOP")?;
        let state = async || matches!(self.process_state(node), Some('T'));
        eventually(Duration::from_secs(5), "the process stands still", state).await?;
        Ok(format!("process {} is in state T", self.pid(node)?))
    }

    /// SIGCONT. Returns the state that the kernel tells of the process.
    ///
    /// # Errors
    /// When the node does not run, or does not go on.
    pub async fn resume(&self, node: usize) -> anyhow::Result<String> {
        self.signal(node, "CONT")?;
        let state = async || !matches!(self.process_state(node), Some('T'));
        eventually(Duration::from_secs(5), "the process goes on", state).await?;
        Ok(format!("process {} left state T", self.pid(node)?))
    }

    fn pid(&self, node: usize) -> anyhow::Result<u32> {
        Ok(self.nodes[node].as_ref().context("the node runs")?.id())
    }

    fn signal(&self, node: usize, signal: &str) -> anyhow::Result<()> {
        let told = Command::new("kill").args([&format!("-{signal}"), &self.pid(node)?.to_string()]).status()?;
        ensure!(told.success(), "node {node} had ended before it was told to {signal}");
        Ok(())
    }

    /// The letter after the process's name in `/proc/PID/stat`.
    fn process_state(&self, node: usize) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid(node).ok()?)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// The node that leads most shards, once one leads any.
    ///
    /// # Errors
    /// When none does in time.
    pub async fn leader_of_most_shards(&self) -> anyhow::Result<usize> {
        let mut leader = None;
        eventually(PATIENCE, "a node leads", async || {
            let mut led = BTreeMap::new();
            for node in 0..self.nodes.len() {
                if let Some(status) = self.status(node).await {
                    led.insert(node, status.shards_led());
                }
            }
            let most = led.into_iter().filter(|(_, count)| *count > 0).max_by_key(|(_, count)| *count);
            leader = most.map(|(node, _)| node);
            leader.is_some()
        })
        .await?;
        leader.context("a node leads")
    }

    /// Waits until all replicas of each shard are at one applied index with one state hash (RG-2), and returns what
    /// each node said then.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn replicas_agree(&self) -> anyhow::Result<Vec<NodeStatus>> {
        let mut agreed = Vec::new();
        eventually(PATIENCE, "replicas agree on index and state hash", async || {
            agreed.clear();
            for node in 0..self.nodes.len() {
                agreed.extend(self.status(node).await);
            }
            agreed.len() == self.nodes.len() && self.agree(&agreed)
        })
        .await?;
        Ok(agreed)
    }

    fn agree(&self, nodes: &[NodeStatus]) -> bool {
        let mut by_shard: BTreeMap<u32, Vec<(u64, &str)>> = BTreeMap::new();
        for replica in nodes.iter().flat_map(|node| &node.replicas) {
            if replica.shard != 0 && replica.role != STOPPED {
                by_shard.entry(replica.shard).or_default().push((replica.applied_index, &replica.state_hash));
            }
        }
        let expected = nodes.len() - self.crippled.len();
        by_shard.len() >= 3
            && by_shard.values().all(|replicas| {
                replicas.len() >= expected && !replicas[0].1.is_empty() && replicas.iter().all(|r| *r == replicas[0])
            })
    }

    /// Ctrl-C to all; each must end by itself with exit code 0.
    ///
    /// # Errors
    /// When one does not.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let children: Vec<Child> = std::mem::take(&mut self.services)
            .into_values()
            .chain(self.nodes.iter_mut().filter_map(Option::take))
            .collect();
        for child in &children {
            let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
            ensure!(told.success(), "a process had ended before it was told to, logs in {}", self.keep().display());
        }
        let codes = tokio::task::spawn_blocking(move || {
            children.into_iter().map(|mut child| child.wait().ok()?.code()).collect::<Vec<_>>()
        });
        let codes = tokio::time::timeout(PATIENCE, codes).await.context("all stop in time")??;
        if codes.iter().any(|code| *code != Some(0)) {
            bail!("exit codes {codes:?}, logs in {}", self.keep().display());
        }
        Ok(())
    }

    /// What a node says; `None` when it does not answer.
    pub async fn status(&self, node: usize) -> Option<NodeStatus> {
        self.nodes[node].as_ref()?;
        status_of(&self.network.listen(node)).await
    }

    /// What a node says, once it answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn answer(&self, node: usize) -> anyhow::Result<NodeStatus> {
        let mut said = None;
        eventually(PATIENCE, &format!("node {node} answers"), async || {
            said = self.status(node).await;
            said.is_some()
        })
        .await?;
        said.context("it answered")
    }

    /// Where each node answers, for an observer beside the cluster.
    pub fn node_addresses(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|node| self.network.listen(node)).collect()
    }

    fn seeds(&self) -> String {
        (0..self.nodes.len()).map(|node| self.network.advertise(node)).collect::<Vec<_>>().join(",")
    }

    fn spawn_node(&self, node: usize) -> anyhow::Result<Child> {
        let (name, listen, metrics) = (node_name(node), self.network.listen(node), self.network.metrics(node));
        let child = self.spawn_as(node, &name, &self.data_dir(node), [&listen, &metrics])?;
        self.network.node_runs(node, Some(child.id()));
        Ok(child)
    }

    /// Starts a process where the node is, on a directory, that listens for peers and for probes at `[listen, metrics]`.
    fn spawn_as(&self, node: usize, name: &str, data: &Path, [listen, metrics]: [&str; 2]) -> anyhow::Result<Child> {
        let (advertise, seeds, data) = (self.network.advertise(node), self.seeds(), data.display().to_string());
        let engines = &self.settings.engines;
        let engine = format!("node.engine={}", engines[node % engines.len()]);
        let mut arguments = vec!["node", "--data-dir", &data, "--listen", listen, "--seeds", &seeds];
        arguments.extend(["--metrics", metrics, "--advertise", &advertise, "--set", &engine]);
        arguments.extend(self.settings.set.iter().flat_map(|key| ["--set", key]));
        self.spawn(name, &arguments, Some(node))
    }

    fn spawn(&self, name: &str, arguments: &[&str], node: Option<usize>) -> anyhow::Result<Child> {
        let log = self.dir.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).context("open a log file")?;
        let place = node.map_or(Party::Clients, Party::Node);
        let mut command = match node.and_then(|node| self.disks.get(node)) {
            None => self.network.command(place, &self.settings.binary),
            Some(disk) => {
                // Not into whatever puts it into its place; `env` becomes the program.
                let mut command = self.network.command(place, Path::new("env"));
                for (mut name, value) in disk.envs() {
                    name.push("=");
                    name.push(value);
                    command.arg(name);
                }
                command.arg(&self.settings.binary);
                command
            }
        };
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("start {}", self.settings.binary.display()))
    }

    /// Leaves data and logs when the cluster is dropped, and says where.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }
}

fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// kill -9; an error if the process had ended before.
fn killed(mut child: Child) -> anyhow::Result<String> {
    child.kill().context("kill a process")?;
    let status = child.wait().context("wait for a killed process")?;
    ensure!(status.signal() == Some(9), "the process ended before it was killed: {status}");
    Ok(format!("process {} ended by signal 9", child.id()))
}

/// What the node at `address` says; `None` when it does not answer.
pub async fn status_of(address: &str) -> Option<NodeStatus> {
    let ask = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint.connect_timeout(STATUS_PATIENCE).connect().await.ok()?;
        let answer = MetaClient::new(channel).status(StatusRequest {}).await.ok()?.into_inner();
        Some(NodeStatus { id: answer.node, replicas: answer.replicas })
    };
    tokio::time::timeout(STATUS_PATIENCE, ask).await.ok()?
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten().chain(self.services.values_mut()) {
            // One that ended already cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let kept = self.keep();
            eprintln!("the processes' logs are in {}", kept.display());
        }
    }
}

async fn http_ok(address: &str, path: &str) -> bool {
    let ask = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return false };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && answer.starts_with("HTTP/1.1 200")
    };
    tokio::time::timeout(STATUS_PATIENCE, ask).await.unwrap_or(false)
}
