//! Nodes over loopback with one shard of three replicas.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use granary_consensus::{Logs, MemoryDisk};
use granary_node::replica::Replica;
use granary_node::{EngineKind, Node, Settings, Simulated};
use granary_platform::Platform;
use granary_proto::internal::change_log_client::ChangeLogClient;
use granary_proto::internal::shard_client::ShardClient;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{
    ReadLevel, ReadSegmentsRequest, RecordKey, RowResult, Segment, ShardReadRequest, ShardRows, ShardWriteRequest,
    ShardWritten, Write, shard_read_response, shard_write_response,
};
use granary_shard::TreeTrust;
use granary_store::memory::MemoryEngine;
use granary_types::ShardId;
use prometheus::Registry;
use prometheus::proto::Metric;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

pub(crate) const SHARD: ShardId = ShardId(1);
/// Generous: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const SLOT: u32 = 7;
const EPOCH: u64 = 1;

struct Running {
    runtime: Runtime,
    node: Arc<Node>,
    registry: Registry,
}

struct Host {
    dir: TempDir,
    address: String,
    /// Bound to the address and never listening: nobody else is given the port while the node does not run.
    _port: TcpSocket,
    /// Where its Raft logs are, if not in the directory.
    logs: Option<MemoryDisk>,
    running: Option<Running>,
}

pub(crate) struct Cluster {
    hosts: Vec<Host>,
    configure: fn(&mut Settings),
}

/// Until it is dropped, a node's threads stand still, as under SIGSTOP.
pub(crate) struct Paused {
    _resume: mpsc::Sender<()>,
}

/// Short times, few entries between snapshots.
fn settings(host: &Host, seeds: Vec<String>) -> Settings {
    let mut settings = Settings::new(host.dir.path().to_owned(), host.address.clone(), seeds);
    settings.shards = 1;
    settings.engine = EngineKind::Memory;
    settings.simulated = host.logs.clone().map(|logs| Simulated {
        engine: Arc::new(MemoryEngine::new()),
        trust: TreeTrust::Untrusted,
        logs: Logs::Memory(logs),
    });
    settings.seal_interval = Duration::from_millis(50);
    settings.read_wait = Duration::from_millis(500);
    settings.compare_interval = Duration::from_millis(200);
    settings.consensus = granary_consensus::Settings {
        heartbeat_ms: 100,
        election_min_ms: 500,
        election_max_ms: 1_000,
        read_round_timeout_ms: 1_000,
        propose_timeout_ms: 3_000,
        snapshot_after_entries: 40,
        log_entries_kept: 10,
        ..granary_consensus::Settings::default()
    };
    settings
}

/// The first leader stays, also on a machine that stands still for seconds: nobody stands for election before nine of
/// them. For tests in which leaders do not die, or all at once.
pub(crate) fn steady(settings: &mut Settings) {
    (settings.consensus.election_min_ms, settings.consensus.election_max_ms) = (3_000, 6_000);
}

/// A socket bound to an address that this process may bind more than once.
fn shared_socket(address: &str) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("is set");
    socket.bind(address.parse().expect("an address")).expect("the port is free");
    socket
}

/// Starts nodes on their directories; they need each other to become ready.
async fn start(hosts: &mut [Host], seeds: &[String], configure: fn(&mut Settings)) {
    let mut starting = Vec::new();
    for host in hosts.iter().filter(|host| host.running.is_none()) {
        let mut settings = settings(host, seeds.to_vec());
        configure(&mut settings);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (registry, address) = (Registry::new(), host.address.clone());
        let of_node = registry.clone();
        let started = runtime.spawn(async move {
            let listener = shared_socket(&address).listen(1_024).expect("listens");
            Node::start(settings, &Platform::system(), listener, &of_node).await.expect("starts")
        });
        starting.push((runtime, started, registry));
    }
    for (host, (runtime, started, registry)) in hosts.iter_mut().filter(|host| host.running.is_none()).zip(starting) {
        let node = Arc::new(started.await.expect("no panic"));
        host.running = Some(Running { runtime, node, registry });
    }
}

impl Cluster {
    pub(crate) async fn start(configure: fn(&mut Settings)) -> Self {
        Self::start_on([None, None, None], configure).await
    }

    /// [`Self::start`] with the Raft logs of each node on a disk of its own.
    pub(crate) async fn start_on(logs: [Option<MemoryDisk>; 3], configure: fn(&mut Settings)) -> Self {
        let host = |logs| {
            let port = shared_socket("127.0.0.1:0");
            let address = port.local_addr().expect("is bound").to_string();
            Host { dir: TempDir::new().expect("a directory"), address, _port: port, logs, running: None }
        };
        let mut cluster = Self { hosts: logs.into_iter().map(host).collect(), configure };
        cluster.restart().await;
        cluster
    }

    /// Starts every node that does not run, and waits until all are ready.
    pub(crate) async fn restart(&mut self) {
        let seeds: Vec<_> = self.hosts.iter().map(|host| host.address.clone()).collect();
        start(&mut self.hosts, &seeds, self.configure).await;
        eventually("all nodes are ready", async || {
            self.hosts.iter().all(|host| host.running.as_ref().is_some_and(|running| running.node.is_ready()))
        })
        .await;
    }

    /// Ends a node at once: nothing is handed over, flushed or closed.
    pub(crate) async fn kill(&mut self, n: usize) {
        let Running { runtime, node, .. } = self.hosts[n].running.take().expect("runs");
        let ended = tokio::task::spawn_blocking(move || {
            drop(node);
            runtime.shutdown_timeout(PATIENCE);
        });
        ended.await.expect("no panic");
    }

    pub(crate) fn pause(&self, n: usize) -> Paused {
        let (resume, resumed) = mpsc::channel::<()>();
        let (stand, stands) = mpsc::channel();
        // The node has one thread, and this takes it.
        self.running(n).runtime.spawn(async move {
            stand.send(()).ok();
            resumed.recv().ok();
        });
        stands.recv_timeout(PATIENCE).expect("the thread stands");
        Paused { _resume: resume }
    }

    fn running(&self, n: usize) -> &Running {
        self.hosts[n].running.as_ref().expect("runs")
    }

    pub(crate) fn replica(&self, n: usize) -> Arc<Replica> {
        self.running(n).node.replicas().get(SHARD).expect("has a replica")
    }

    /// Waits for a leader that serves, other than `not`.
    pub(crate) async fn leader_but(&self, not: Option<usize>) -> usize {
        let mut found = None;
        eventually("somebody leads", async || {
            let serves =
                |n: &usize| Some(*n) != not && self.hosts[*n].running.as_ref().is_some_and(|it| it.node.serves(SHARD));
            found = (0..self.hosts.len()).find(serves);
            found.is_some()
        })
        .await;
        found.expect("found above")
    }

    pub(crate) async fn leader(&self) -> usize {
        self.leader_but(None).await
    }

    /// The row as whoever leads reads it.
    pub(crate) async fn linearizable(&self, record: &str) -> RowResult {
        let mut row = None;
        eventually("the row is read", async || {
            row = self.client(self.leader().await).row(record, ReadLevel::Linearizable).await;
            row.is_some()
        })
        .await;
        row.expect("read above")
    }

    pub(crate) fn client(&self, n: usize) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.hosts[n].address)).expect("an address");
        Client { channel: endpoint.timeout(Duration::from_secs(4)).connect_lazy() }
    }

    pub(crate) fn clients(&self) -> Clients {
        Clients((0..self.hosts.len()).map(|n| self.client(n)).collect())
    }

    /// Waits until all three replicas are at one applied index with one state, and returns how many cells that has.
    pub(crate) async fn agree(&self) -> u64 {
        eventually("replicas agree", async || {
            let now: Vec<_> = (0..3).filter_map(|n| self.replica(n).store().samples().pop()).collect();
            let written: Vec<_> = (0..3).map(|n| self.replica(n).store().change_log().last_sequence).collect();
            now.len() == 3 && written.iter().all(|last| *last == written[0]) && now.iter().all(|it| *it == now[0])
        })
        .await;
        self.replica(0).store().status().cells
    }

    /// The shard's segments once every event is sealed, which are byte-identical on all three replicas.
    pub(crate) async fn sealed_segments(&self) -> Vec<Segment> {
        eventually("all is sealed", async || {
            let logs: Vec<_> = (0..3).map(|n| self.replica(n).store().change_log()).collect();
            let last = logs[0].last_sequence;
            logs.iter().all(|log| (log.last_sequence, log.sealed_sequence) == (last, last))
        })
        .await;
        self.agree().await;
        let segments = self.client(0).segments(0).await;
        for n in 1..3 {
            assert!(self.client(n).segments(0).await == segments, "segments are byte-identical");
        }
        segments
    }

    /// The value of a metric at a node; of a histogram, the sum of what it saw.
    pub(crate) fn metric(&self, n: usize, name: &str) -> Option<f64> {
        let families = self.running(n).registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let value = |it: &Metric| {
            it.get_gauge().get_value() + it.get_counter().get_value() + it.get_histogram().get_sample_sum()
        };
        Some(family.get_metric().iter().map(value).sum())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            if let Some(Running { runtime, .. }) = host.running.take() {
                runtime.shutdown_background();
            }
        }
    }
}

/// One node's peer port.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
}

impl Client {
    /// `None` when the outcome is not known or somebody else leads.
    pub(crate) async fn write(&self, writes: Vec<Write>) -> Option<ShardWritten> {
        let request = ShardWriteRequest { shard: SHARD.0, writes };
        match ShardClient::new(self.channel.clone()).write(request).await.ok()?.into_inner().result? {
            shard_write_response::Result::Written(written) => Some(written),
            shard_write_response::Result::NotLeader(_) => None,
        }
    }

    pub(crate) async fn read(&self, read: ShardReadRequest) -> Result<Option<ShardRows>, tonic::Status> {
        let answer = ShardClient::new(self.channel.clone()).read(read).await?;
        Ok(match answer.into_inner().result {
            Some(shard_read_response::Result::Rows(rows)) => Some(rows),
            _ => None,
        })
    }

    /// The row at a level; `None` when this node cannot answer.
    pub(crate) async fn row(&self, record: &str, level: ReadLevel) -> Option<RowResult> {
        self.read(read(record, level)).await.ok()??.rows.pop()
    }

    /// Everything sealed after `sequence`.
    pub(crate) async fn segments(&self, mut sequence: u64) -> Vec<Segment> {
        let mut all = Vec::new();
        loop {
            let request = ReadSegmentsRequest {
                shard: SHARD.0,
                after_sequence: sequence,
                max_bytes: 1 << 20,
                ..Default::default()
            };
            let answer = ChangeLogClient::new(self.channel.clone()).read_segments(request).await.expect("is read");
            let segments = answer.into_inner().segments;
            let Some(last) = segments.last() else { return all };
            sequence = last.last_sequence;
            all.extend(segments);
        }
    }
}

/// All nodes' peer ports.
#[derive(Clone)]
pub(crate) struct Clients(pub(crate) Vec<Client>);

impl Clients {
    /// Writes, with the same ids, until it is known that it happened, and returns each write's status and stamp.
    pub(crate) async fn write(&self, writes: &[Write]) -> Vec<(Status, u64)> {
        let begun = Instant::now();
        for client in self.0.iter().cycle() {
            if let Some(written) = client.write(writes.to_vec()).await {
                return written.outcomes.iter().map(|it| (it.status(), it.stamp)).collect();
            }
            assert!(begun.elapsed() < PATIENCE, "nobody takes a write");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("the nodes come round and round")
    }
}

pub(crate) fn read(record: &str, level: ReadLevel) -> ShardReadRequest {
    let record = Bytes::copy_from_slice(record.as_bytes());
    let key = RecordKey { slot: SLOT, epoch: EPOCH, feature_group: 1, record };
    ShardReadRequest { shard: SHARD.0, keys: vec![key], level: level.into(), ..Default::default() }
}

/// A put to both stores; the event time is the value.
pub(crate) fn put(id: u128, record: &str, value: i64) -> Write {
    Write {
        id: Bytes::copy_from_slice(&id.to_be_bytes()),
        slot: SLOT,
        epoch: EPOCH,
        feature_group: 1,
        record: Bytes::copy_from_slice(record.as_bytes()),
        event_seconds: value,
        online: true,
        offline: true,
        row: Bytes::from(format!("row of write {id}")),
        ..Write::default()
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
