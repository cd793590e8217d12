//! Snapshots between replicas: under load, interrupted and resumed, damaged on the way, on a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use granary_consensus::{Group, PeerPool, Settings, fetch_snapshot};
use granary_platform::Platform;
use granary_proto::convert::cluster_to_wire;
use granary_proto::internal as wire;
use granary_proto::internal::consensus_client::ConsensusClient;
use tonic::Code;

use crate::cluster::{CLUSTER, Cluster, GROUP, PATIENCE, settings, snapshot_everything};

fn short_logs() -> Settings {
    Settings { snapshot_after_entries: 50, log_entries_kept: 10, ..settings() }
}

fn command(n: u8) -> Bytes {
    Bytes::from(vec![n; 30_000])
}

/// Proposes until the log is purged beyond `index`.
async fn purge_beyond(group: &Group, index: u64) {
    let purged = async {
        while group.status().purged <= index {
            group.propose(command(1)).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, purged).await.expect("the log is purged");
}

/// A cluster with a stopped follower whose next entries the leader has no more, only its newest snapshot.
async fn cluster_with_one_behind() -> (Cluster, usize, usize) {
    let mut cluster = Cluster::start(short_logs()).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.nodes[leader].group().propose(command(0)).await.unwrap();
    cluster.stop_replica(behind).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group();
    purge_beyond(group, group.applied_index()).await;
    snapshot_everything(group).await;
    (cluster, leader, behind)
}

/// The newest snapshot file of a replica.
fn newest_file(cluster: &Cluster, n: usize) -> PathBuf {
    let files = fs::read_dir(cluster.spec(n).dir.join("snapshots")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|suffix| suffix == "snapshot")).max().unwrap()
}

/// Leaves the beginning of a file as an interrupted transfer does.
fn leave_partial(dir: &Path, bytes: &[u8], part: &[u8]) {
    let checksum = u64::from_be_bytes(bytes[bytes.len() - 8..].try_into().unwrap());
    fs::create_dir_all(dir.join("snapshots")).unwrap();
    fs::write(dir.join("snapshots").join(format!("{}-{checksum:016x}.partial", bytes.len())), part).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_a_purged_log_catches_up_under_load() {
    let (mut cluster, leader, behind) = cluster_with_one_behind().await;
    let (group, stop) = (cluster.nodes[leader].group().clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let load = tokio::spawn(async move {
        let mut last = 0;
        while !stopped.load(Ordering::Relaxed) {
            last = group.propose(command(2)).await.expect("writes go on").index;
        }
        last
    });
    cluster.start_replica(behind).await;
    let late = cluster.nodes[behind].group().clone();
    // What is proposed only after its start, and while the load goes on.
    let index = cluster.nodes[leader].group().propose(command(3)).await.unwrap().index;
    late.wait_applied(index + 50, PATIENCE).await.expect("it catches up under load");
    assert!(!load.is_finished());
    stop.store(true, Ordering::Relaxed);
    let last = load.await.unwrap();
    for node in &cluster.nodes {
        node.group().wait_applied(last, PATIENCE).await.unwrap();
    }
    assert!(cluster.nodes[behind].machine.commands() == cluster.nodes[leader].machine.commands());
    assert!(late.status().stats.snapshots_installed >= 1, "{:?}", late.status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_where_it_was_interrupted() {
    let (mut cluster, leader, behind) = cluster_with_one_behind().await;
    let bytes = fs::read(newest_file(&cluster, leader)).unwrap();
    leave_partial(&cluster.spec(behind).dir, &bytes, &bytes[..bytes.len() / 3 * 2]);
    cluster.start_replica(behind).await;
    let late = cluster.nodes[behind].group();
    late.wait_applied(cluster.nodes[leader].group().applied_index(), PATIENCE).await.unwrap();
    let stats = late.status().stats;
    assert_eq!((stats.snapshots_resumed, stats.snapshots_installed), (1, 1), "{stats:?}");
    assert!(stats.snapshot_bytes_received <= bytes.len() as u64 / 3 + 3, "{stats:?}");
    assert!(cluster.nodes[behind].machine.commands() == cluster.nodes[leader].machine.commands());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_goes_on_from_damage_begins_anew() {
    let (cluster, leader, behind) = cluster_with_one_behind().await;
    let bytes = fs::read(newest_file(&cluster, leader)).unwrap();
    let mut part = bytes[..bytes.len() / 2].to_vec();
    part[1_000] ^= 1;
    let spec = cluster.spec(behind);
    leave_partial(&spec.dir, &bytes, &part);
    let peer = cluster.members().remove(leader);
    let platform = Platform::system();
    let fetch = || fetch_snapshot(&spec, &cluster.nodes[behind].peers, &peer, &platform);
    let refused = fetch().await.unwrap_err().to_string();
    assert!(refused.contains("checksum"), "{refused}");
    fetch().await.unwrap();
    assert!(fs::read(newest_file(&cluster, behind)).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_chunk_is_refused_and_what_came_before_it_is_kept() {
    let (cluster, leader, _) = cluster_with_one_behind().await;
    let bytes = fs::read(newest_file(&cluster, leader)).unwrap();
    let to = cluster.nodes[leader].group().spec().replica.0;
    let header = Some(wire::PeerHeader {
        cluster: cluster_to_wire(CLUSTER),
        group: GROUP.0,
        from_replica: 99,
        to_replica: to,
        ..Default::default()
    });
    let vote = Some(wire::RaftVote { term: 1, replica: 99, committed: true });
    let (total_bytes, checksum) = (bytes.len() as u64, 7);
    let data: Bytes = bytes[..1_000].to_vec().into();
    let crc = crc32fast::hash(&data);
    let first =
        wire::SnapshotChunk { header: header.clone(), vote, total_bytes, checksum, crc, offset: 0, data: data.clone() };
    let second = wire::SnapshotChunk { offset: 1_000, data, crc: crc ^ 1, ..Default::default() };
    let mut client = ConsensusClient::new(PeerPool::default().channel(&cluster.nodes[leader].address).unwrap());
    let refused = client.install_snapshot(tokio_stream::iter([first, second])).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    let known = wire::SnapshotProgressRequest { header, total_bytes, checksum };
    assert_eq!(client.snapshot_progress(known).await.unwrap().into_inner().offset, 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_keeps_the_older_snapshot_and_the_log() {
    let cluster = Cluster::start(short_logs()).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group();
    purge_beyond(group, 0).await;
    cluster.nodes[leader].machine.fill_disk(true);
    let failing = async {
        while group.status().stats.snapshots_failed < 3 {
            group.propose(command(1)).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, failing).await.expect("snapshots fail");
    let before = group.status();
    for _ in 0..200 {
        group.propose(command(1)).await.unwrap();
    }
    let after = group.status();
    assert_eq!(after.snapshot, before.snapshot, "{after:?}");
    // What the older one covers may have been purged only now: a slow follower holds that up.
    assert!(after.purged + cluster.settings.log_entries_kept <= after.snapshot, "{after:?}");
    assert!(after.stats.snapshots_failed > before.stats.snapshots_failed);
    cluster.nodes[leader].machine.fill_disk(false);
    purge_beyond(group, after.purged).await;
}
