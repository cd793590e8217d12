//! A node whose disk fails or fills up, as a process of its own: it ends with a reason instead of going on with what it
//! may not have written, and what it had acknowledged is there when it starts again.
//!
//! The tests run this binary again as the node. Nodes registered with its meta group are what is written.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use granary_node::{EngineKind, Node, Settings};
use granary_platform::Platform;
use granary_proto::convert::u128_to_wire;
use granary_proto::internal::meta_client::MetaClient;
use granary_proto::internal::{self, meta_command, meta_reply};
use granary_test_disk::{Disk, Fault, Op, Shim, errno};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::Channel;

const DIR: &str = "GRANARY_NODE_TEST_DIR";
/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many nodes are registered before the disk fails.
const REGISTERED: u128 = 20;

/// The node. As a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    let mut settings = Settings::new(dir, address.clone(), vec![address.clone()]);
    settings.engine = EngineKind::Memory;
    (settings.shards, settings.replicas) = (1, 1);
    let raft = &mut settings.consensus;
    (raft.heartbeat_ms, raft.election_min_ms, raft.election_max_ms) = (50, 200, 400);
    let platform = Platform::system();
    let node = match Node::start(settings, &platform, listener, &prometheus::Registry::new()).await {
        Ok(node) => node,
        Err(error) => end(&format!("{error}: {:?}", std::error::Error::source(&error))),
    };
    say(&format!("listening {address}"));
    let why = platform.failed().await;
    node.stop().await;
    end(&format!("the process cannot go on: {why}"));
}

fn end(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1)
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nnode {what}").and_then(|()| out.flush()).expect("parent listens");
}

/// A node that runs, or is about to end.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(disk: &Disk) -> Self {
        let mut child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "process", "--nocapture", "--test-threads=1"])
            .envs(disk.envs())
            .env(DIR, disk.root())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, out }
    }

    /// Its address, or `None` if it ended before it had one.
    fn address(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.out.read_line(&mut line).expect("text") > 0 {
            if let Some(address) = line.trim().strip_prefix("node listening ") {
                return Some(address.to_owned());
            }
            line.clear();
        }
        None
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its child").is_some()
    }

    /// Waits for its end; returns exit code and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (self.child.wait().expect("ends").code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn client(address: &str) -> MetaClient<Channel> {
    MetaClient::connect(format!("http://{address}")).await.expect("connects")
}

/// Registers a node under `uuid` and returns its id; the same one for the same uuid.
async fn register(client: &mut MetaClient<Channel>, uuid: u128) -> Option<u64> {
    let command = meta_command::Command::RegisterNode(internal::RegisterNode {
        node: 0,
        uuid: u128_to_wire(uuid),
        address: format!("127.0.0.1:{uuid}"),
    });
    let mut request = tonic::Request::new(internal::ProposeRequest {
        command: Some(internal::MetaCommand { command: Some(command) }),
    });
    request.set_timeout(Duration::from_secs(2));
    let reply = client.propose(request).await.ok()?.into_inner().reply?.result?;
    match reply {
        meta_reply::Result::Node(node) => Some(node),
        other => panic!("{other:?}"),
    }
}

/// Registers until it works: a node that has just started has no leader yet.
async fn register_surely(client: &mut MetaClient<Channel>, uuid: u128) -> u64 {
    let registered = async {
        loop {
            if let Some(node) = register(client, uuid).await {
                return node;
            }
        }
    };
    tokio::time::timeout(PATIENCE, registered).await.expect("is registered")
}

struct World {
    base: TempDir,
    shim: Shim,
    runs: u32,
}

impl World {
    fn new() -> Self {
        let base = TempDir::new().expect("temp dir");
        let shim = Shim::build(base.path()).expect("compiles");
        Self { base, shim, runs: 0 }
    }

    fn dir(&self) -> PathBuf {
        self.base.path().join("data")
    }

    fn disk(&mut self) -> Disk {
        self.runs += 1;
        Disk::new(&self.shim, &self.dir(), &self.base.path().join(self.runs.to_string())).expect("is taken")
    }

    /// After a failure: everything acknowledged is there on a disk that works.
    async fn assert_whole(&mut self, acknowledged: &[(u128, u64)]) {
        let disk = self.disk();
        let mut node = Running::start(&disk);
        let address = node.address().expect("starts again");
        let mut client = client(&address).await;
        for (uuid, node) in acknowledged {
            assert_eq!(register_surely(&mut client, *uuid).await, *node, "{uuid} was acknowledged");
        }
        register_surely(&mut client, 9_999).await;
    }
}

/// Lets the disk fail under a node that runs, and looks at its end and at what is there afterwards.
async fn fail_under_load(fault: Fault, said: &str) {
    let mut world = World::new();
    let disk = world.disk();
    let mut node = Running::start(&disk);
    let address = node.address().expect("starts");
    let mut client = client(&address).await;
    let mut acknowledged = Vec::new();
    for uuid in 1..=REGISTERED {
        acknowledged.push((uuid, register_surely(&mut client, uuid).await));
    }
    disk.set_faults(&[fault]).expect("is set");
    // No answer in time may also mean a slow machine: the load goes on until the node has ended.
    let begun = Instant::now();
    for uuid in REGISTERED + 1.. {
        if let Some(id) = register(&mut client, uuid).await {
            acknowledged.push((uuid, id));
        }
        if node.has_ended() || begun.elapsed() > PATIENCE {
            break;
        }
    }
    let (code, stderr) = node.end_within_patience().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
    world.assert_whole(&acknowledged).await;
}

impl Running {
    async fn end_within_patience(self) -> (Option<i32>, String) {
        let ended = tokio::task::spawn_blocking(|| self.end());
        tokio::time::timeout(PATIENCE, ended).await.expect("the node ends").expect("waits")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_node() {
    let fault = Fault::fail(Op::Sync, errno::EIO, "/meta/log/").nth(5).times(1);
    fail_under_load(fault, "the raft log failed under the meta group").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_node() {
    // Whichever log comes to the end of the disk first: on a busy machine the shard has not opened its slots yet.
    fail_under_load(Fault::space(1_500, ""), "the raft log failed under").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shards_log_that_fails_ends_the_node() {
    let mut world = World::new();
    let disk = world.disk();
    disk.set_faults(&[Fault::fail(Op::Sync, errno::EIO, "/shards/1-1/log/r-").nth(3).times(1)]).expect("is set");
    let node = Running::start(&disk);
    let (code, stderr) = node.end_within_patience().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("the raft log failed under shard 1"), "{stderr}");
    world.assert_whole(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_is_not_on_disk_is_nobodys() {
    for (op, errno, nth) in [(Op::Sync, errno::EIO, 1), (Op::Sync, errno::EIO, 2), (Op::Write, errno::ENOSPC, 1)] {
        let mut world = World::new();
        let disk = world.disk();
        disk.set_faults(&[Fault::fail(op, errno, "identity.json").nth(nth).times(1)]).expect("is set");
        let mut node = Running::start(&disk);
        if nth == 1 {
            assert_eq!(node.address(), None, "{op:?} {nth}");
            let (code, stderr) = node.end_within_patience().await;
            assert_eq!(code, Some(1), "{stderr}");
            assert!(stderr.contains("open data directory"), "{stderr}");
        } else {
            // Founding is tried again; until it is on disk the node is nobody.
            assert!(node.address().is_some());
            drop(node);
        }
        world.assert_whole(&[]).await;
    }
}

/// A node over a copy of a directory does not start, and the original does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_directory_is_refused() {
    let mut world = World::new();
    let disk = world.disk();
    let mut node = Running::start(&disk);
    let address = node.address().expect("starts");
    let id = register_surely(&mut client(&address).await, 5).await;
    drop(node);
    let copy = world.base.path().join("copy");
    copy_dir(&world.dir(), &copy);
    let copied = Disk::new(&world.shim, &copy, &world.base.path().join("copied")).expect("is taken");
    let (code, stderr) = Running::start(&copied).end_within_patience().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("Copied"), "{stderr}");
    world.assert_whole(&[(5, id)]).await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("reads") {
        let (from, to) = (entry.as_ref().expect("reads").path(), to.join(entry.expect("reads").file_name()));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copies");
        }
    }
}
