//! Three nodes in one process, with real gRPC over loopback. Stopping a replica leaves its node's listener up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use granary_consensus::{ConsensusService, Group, GroupSpec, Leadership, Member, PeerPool, Settings};
use granary_platform::Platform;
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::list_machine::ListMachine;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);
pub(crate) const GROUP: ShardId = ShardId(1);
/// Generous: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) group: Option<Group>,
    pub(crate) machine: Arc<ListMachine>,
    service: ConsensusService,
    pub(crate) peers: Arc<PeerPool>,
    dir: TempDir,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) settings: Settings,
}

/// Short times, and yet a leader stays one on a machine that stands still for seconds: nobody stands for election
/// before three of them, and a read waits for its round.
pub(crate) fn settings() -> Settings {
    Settings {
        heartbeat_ms: 100,
        election_min_ms: 1_000,
        election_max_ms: 2_000,
        read_round_timeout_ms: 20_000,
        ..Settings::default()
    }
}

/// Takes snapshots until the newest holds all that was applied: no later one is on its way then.
pub(crate) async fn snapshot_everything(group: &Group) {
    let everything = async {
        while group.status().snapshot < group.applied_index() {
            group.trigger_snapshot().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, everything).await.expect("a snapshot of everything");
}

impl Cluster {
    /// Three nodes, one replica each, initialised.
    pub(crate) async fn start(settings: Settings) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(listen().await);
        }
        let mut cluster = Self { nodes, settings };
        for n in 0..3 {
            cluster.start_replica(n).await;
        }
        let members = cluster.members();
        for node in &cluster.nodes {
            node.group().initialize(members.clone()).await.unwrap();
        }
        cluster
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let members = self.nodes.iter().zip(1..);
        members
            .map(|(node, n)| Member { replica: ReplicaId(n + 10), node: NodeId(n), address: node.address.clone() })
            .collect()
    }

    /// The replica on node `n`.
    pub(crate) fn spec(&self, n: usize) -> GroupSpec {
        let dir = self.nodes[n].dir.path().to_owned();
        GroupSpec { cluster: CLUSTER, group: GROUP, replica: ReplicaId(n as u64 + 11), dir }
    }

    /// Starts the replica on node `n`, with whatever is on its disk and an empty state machine.
    pub(crate) async fn start_replica(&mut self, n: usize) {
        let spec = self.spec(n);
        let node = &mut self.nodes[n];
        node.machine = Arc::default();
        let peers = Arc::clone(&node.peers);
        let group = Group::start(spec, self.settings.clone(), node.machine.clone(), peers, Platform::system()).await;
        let group = group.unwrap();
        node.service.register(group.clone());
        node.group = Some(group);
    }

    pub(crate) async fn stop_replica(&mut self, n: usize) {
        self.nodes[n].service.unregister(GROUP);
        self.nodes[n].group.take().unwrap().shutdown().await;
    }

    /// Puts a copy in the place of the stopped replica's directory, and returns what was there.
    pub(crate) fn put_back(&mut self, n: usize, copy: TempDir) -> TempDir {
        assert!(self.nodes[n].group.is_none(), "the replica runs");
        std::mem::replace(&mut self.nodes[n].dir, copy)
    }

    /// Waits until one of the running replicas leads, and returns its node.
    pub(crate) async fn leader(&self) -> usize {
        let waits = self.nodes.iter().enumerate().filter_map(|(n, node)| {
            let mut leadership: watch::Receiver<Leadership> = node.group.as_ref()?.leadership();
            Some(Box::pin(async move {
                leadership.wait_for(|now| now.leads).await.unwrap();
                n
            }))
        });
        let (leader, ..) = tokio::time::timeout(PATIENCE, futures::future::select_all(waits)).await.expect("no leader");
        leader
    }
}

impl Node {
    pub(crate) fn group(&self) -> &Group {
        self.group.as_ref().expect("the replica is stopped")
    }
}

async fn listen() -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = ConsensusService::new();
    let server = Server::builder().add_service(service.clone().into_server());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Node {
        address,
        group: None,
        machine: Arc::default(),
        service,
        peers: Arc::new(PeerPool::default()),
        dir: TempDir::new().unwrap(),
    }
}

/// A copy of a directory, as `cp -r` makes it, maybe while it is written. The note beside the Raft log comes before
/// the log: a note that is newer than its log is a torn tail, and another story.
pub(crate) fn copy_dir(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    let entries = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let copied = |path: &Path| to.join(path.file_name().unwrap());
    for file in files {
        std::fs::copy(&file, copied(&file)).unwrap();
    }
    for dir in dirs {
        std::fs::create_dir(copied(&dir)).unwrap();
        copy_into(&dir, &copied(&dir));
    }
}
