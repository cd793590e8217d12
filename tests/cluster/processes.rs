//! Starts, kills and restarts the processes of a cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use granary_proto::internal::meta_client::MetaClient;
use granary_proto::internal::{ReplicaStatus, StatusRequest};

use crate::PATIENCE;
use crate::client::eventually;

/// A cluster of separate processes. Dropping it kills them.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    node_ports: Vec<u16>,
    probe_ports: Vec<u16>,
    router_port: u16,
    query_port: u16,
    nodes: Vec<Option<Child>>,
    others: Vec<Child>,
}

impl Cluster {
    /// Starts `count` nodes, a router, a compactor and a query service, and waits until the router can serve.
    pub(crate) async fn start(count: usize) -> Self {
        let ports = free_ports(2 * count + 4);
        let mut cluster = Self {
            dir: tempfile::Builder::new().prefix("granary-cluster-").tempdir().expect("temporary directory"),
            node_ports: ports[..count].to_vec(),
            probe_ports: ports[count..2 * count].to_vec(),
            router_port: ports[2 * count],
            query_port: ports[2 * count + 1],
            nodes: (0..count).map(|_| None).collect(),
            others: Vec::new(),
        };
        for node in 0..count {
            cluster.nodes[node] = Some(cluster.spawn_node(node));
        }
        let seeds = cluster.seeds();
        let store = format!("file://{}", cluster.dir.path().join("offline").display());
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let router = ["router", "--listen", &listen(cluster.router_port), "--seeds", &seeds];
        cluster.others.push(cluster.spawn("router", &router));
        let metrics = listen(ports[2 * count + 2]);
        let compactor = ["compactor", "--seeds", &seeds, "--object-store", &store, "--metrics", &metrics];
        cluster.others.push(cluster.spawn("compactor", &compactor));
        let (metrics, own) = (listen(ports[2 * count + 3]), listen(cluster.query_port));
        let query = ["query", "--listen", &own, "--seeds", &seeds, "--object-store", &store, "--metrics", &metrics];
        cluster.others.push(cluster.spawn("query", &query));
        cluster.ready().await;
        cluster
    }

    /// The router's endpoint.
    pub(crate) fn router(&self) -> String {
        format!("http://127.0.0.1:{}", self.router_port)
    }

    /// The query service's endpoint.
    pub(crate) fn query(&self) -> String {
        format!("http://127.0.0.1:{}", self.query_port)
    }

    /// Waits until every shard has a leader that has opened its slots.
    pub(crate) async fn ready(&self) {
        for (node, port) in self.probe_ports.iter().enumerate() {
            if self.nodes[node].is_some() {
                eventually(PATIENCE, &format!("node {node} is ready"), async || http_ok(*port, "/readyz").await).await;
            }
        }
        let port = self.router_port;
        eventually(PATIENCE, "the router is ready", async || http_ok(port, "/readyz").await).await;
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].take().expect("the node runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// Starts a killed node on its old directory.
    pub(crate) async fn restart(&mut self, node: usize) {
        assert!(self.nodes[node].is_none(), "node {node} runs");
        self.nodes[node] = Some(self.spawn_node(node));
    }

    /// The node that leads most shards.
    pub(crate) async fn leader_of_most_shards(&self) -> usize {
        let mut led: BTreeMap<usize, usize> = BTreeMap::new();
        for node in 0..self.nodes.len() {
            let replicas = self.status(node).await.unwrap_or_default();
            led.insert(node, replicas.iter().filter(|r| r.shard != 0 && r.role == "leader").count());
        }
        led.into_iter().max_by_key(|(_, count)| *count).expect("there are nodes").0
    }

    /// Waits until all replicas of each shard are at one applied index with one state hash (RG-2).
    pub(crate) async fn replicas_agree(&self) {
        eventually(PATIENCE, "replicas agree on index and state hash", async || {
            let mut by_shard: BTreeMap<u32, Vec<(u64, String)>> = BTreeMap::new();
            for node in 0..self.nodes.len() {
                for replica in self.status(node).await.unwrap_or_default() {
                    by_shard.entry(replica.shard).or_default().push((replica.applied_index, replica.state_hash));
                }
            }
            by_shard.remove(&0);
            by_shard.len() >= 3
                && by_shard.values().all(|replicas| {
                    replicas.len() == self.nodes.len()
                        && !replicas[0].1.is_empty()
                        && replicas.iter().all(|replica| *replica == replicas[0])
                })
        })
        .await;
    }

    /// Ctrl-C to all; each must end by itself with exit code 0.
    pub(crate) async fn stop(mut self) {
        let children: Vec<Child> =
            self.others.drain(..).chain(self.nodes.iter_mut().filter_map(Option::take)).collect();
        for child in &children {
            let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
            assert!(told.success(), "a process had ended before it was told to");
        }
        let codes = tokio::task::spawn_blocking(move || {
            children.into_iter().map(|mut child| child.wait().expect("a child ends").code()).collect::<Vec<_>>()
        });
        let codes = tokio::time::timeout(PATIENCE, codes).await.expect("all stop in time").expect("the wait runs");
        assert!(codes.iter().all(|code| *code == Some(0)), "exit codes {codes:?}, logs in {}", self.keep().display());
    }

    async fn status(&self, node: usize) -> Option<Vec<ReplicaStatus>> {
        self.nodes[node].as_ref()?;
        let mut meta = MetaClient::connect(format!("http://127.0.0.1:{}", self.node_ports[node])).await.ok()?;
        Some(meta.status(StatusRequest {}).await.ok()?.into_inner().replicas)
    }

    fn seeds(&self) -> String {
        self.node_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    fn spawn_node(&self, node: usize) -> Child {
        let data = self.dir.path().join(format!("node-{node}"));
        let listen = format!("127.0.0.1:{}", self.node_ports[node]);
        let metrics = format!("127.0.0.1:{}", self.probe_ports[node]);
        let (seeds, data) = (self.seeds(), data.display().to_string());
        self.spawn(
            &format!("node-{node}"),
            &["node", "--data-dir", &data, "--listen", &listen, "--seeds", &seeds, "--metrics", &metrics],
        )
    }

    fn spawn(&self, name: &str, arguments: &[&str]) -> Child {
        let log = self.dir.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("log file");
        Command::new(env!("CARGO_BIN_EXE_granary"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts")
    }

    fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten().chain(&mut self.others) {
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

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

async fn http_ok(port: u16, path: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
