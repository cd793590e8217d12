//! Replicas whose directory is not what it was: an older copy, nothing at all, the same one twice. They refuse
//! themselves before they vote or acknowledge, and the others do not suffer.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_consensus::{Error, Group, Role};
use granary_platform::Platform;
use tempfile::TempDir;

use crate::cluster::{Cluster, PATIENCE, copy_dir, settings};
use crate::list_machine::ListMachine;

fn command(n: u64) -> Bytes {
    Bytes::from(format!("command {n}"))
}

/// A cluster with a follower that has acknowledged some entries.
async fn cluster() -> (Cluster, usize, usize) {
    let cluster = Cluster::start(settings()).await;
    let leader = cluster.leader().await;
    propose(&cluster, leader, 30).await;
    (cluster, leader, (leader + 1) % 3)
}

/// Proposes, and waits until all running replicas have applied it.
async fn propose(cluster: &Cluster, leader: usize, count: u64) {
    let mut index = 0;
    for n in 0..count {
        index = cluster.nodes[leader].group().propose(command(n)).await.unwrap().index;
    }
    for node in cluster.nodes.iter().filter(|node| node.group.is_some()) {
        node.group().wait_applied(index, PATIENCE).await.unwrap();
    }
}

/// Waits until both others remember how far the replica's log reaches, and it writes no more. Before that a copy may
/// lack what is about to be remembered, and the other follower takes an older copy for a newer start: it remembers no
/// more than the leader's last heartbeat told it.
async fn remembered_by_all(cluster: &Cluster, replica: usize) {
    let (id, group) = (cluster.spec(replica).replica, cluster.nodes[replica].group());
    let remembered = async {
        let settled = || {
            let end = group.log_end();
            let mut others = cluster.nodes.iter().enumerate().filter(|(n, _)| *n != replica);
            group.log_wanted_end() == end && others.all(|(_, node)| node.group().remembered_end(id) == Some(end))
        };
        while !settled() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, remembered).await.expect("the others remember all of it");
}

/// A second process of a replica, on a copy of its directory as it is now.
async fn start_on_copy(cluster: &Cluster, copied: usize) -> (Group, TempDir) {
    let copy = copy_dir(&cluster.spec(copied).dir);
    let spec = granary_consensus::GroupSpec { dir: copy.path().to_owned(), ..cluster.spec(copied) };
    let machine = Arc::new(ListMachine::default());
    let twin = Group::start(spec, settings(), machine, Arc::default(), Platform::system()).await.unwrap();
    (twin, copy)
}

async fn refusal(group: &Group) -> String {
    tokio::time::timeout(PATIENCE, group.refused()).await.expect("it refuses itself")
}

/// The leader goes on as if nothing had happened, without the replica that was refused.
async fn assert_unharmed(cluster: &Cluster, leader: usize, refused: usize) {
    let group = cluster.nodes[leader].group();
    let index = group.propose(command(99)).await.unwrap().index;
    let other = cluster.nodes[3 - leader - refused].group();
    other.wait_applied(index, PATIENCE).await.unwrap();
    let status = group.status();
    assert_eq!((status.role, status.failure, status.refusal), (Role::Leader, None, None));
    let refused = cluster.nodes[refused].group();
    assert!(refused.applied_index() < index);
    assert!(refused.propose(command(0)).await.is_err());
    assert!(refused.read_index().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_running_replica_is_refused() {
    let (mut cluster, leader, copied) = cluster().await;
    let copy = copy_dir(&cluster.spec(copied).dir);
    propose(&cluster, leader, 30).await;
    cluster.stop_replica(copied).await;
    cluster.put_back(copied, copy);
    cluster.start_replica(copied).await;
    let why = refusal(cluster.nodes[copied].group()).await;
    assert!(why.contains("older copy"), "{why}");
    assert_unharmed(&cluster, leader, copied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_stopped_replica_is_refused() {
    let (mut cluster, leader, copied) = cluster().await;
    cluster.stop_replica(copied).await;
    let copy = copy_dir(&cluster.spec(copied).dir);
    cluster.start_replica(copied).await;
    propose(&cluster, leader, 1).await;
    cluster.stop_replica(copied).await;
    cluster.put_back(copied, copy);
    cluster.start_replica(copied).await;
    let why = refusal(cluster.nodes[copied].group()).await;
    assert!(why.contains("another process"), "its start has the number of one that is remembered: {why}");
    assert_unharmed(&cluster, leader, copied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_original_takes_part_again_after_an_older_copy_was_refused() {
    let (mut cluster, leader, copied) = cluster().await;
    let copy = copy_dir(&cluster.spec(copied).dir);
    propose(&cluster, leader, 30).await;
    remembered_by_all(&cluster, copied).await;
    cluster.stop_replica(copied).await;
    let original = cluster.put_back(copied, copy);
    cluster.start_replica(copied).await;
    let why = refusal(cluster.nodes[copied].group()).await;
    assert!(why.contains("older copy"), "{why}");
    cluster.stop_replica(copied).await;
    drop(cluster.put_back(copied, original));
    cluster.start_replica(copied).await;
    propose(&cluster, leader, 3).await;
    assert_eq!(cluster.nodes[copied].group().status().refusal, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_on_an_older_copy_does_not_harm_the_original() {
    let (cluster, leader, copied) = cluster().await;
    let copy = copy_dir(&cluster.spec(copied).dir);
    propose(&cluster, leader, 30).await;
    let spec = granary_consensus::GroupSpec { dir: copy.path().to_owned(), ..cluster.spec(copied) };
    let machine = Arc::new(ListMachine::default());
    let twin = Group::start(spec, settings(), machine, Arc::default(), Platform::system()).await.unwrap();
    let why = refusal(&twin).await;
    assert!(why.contains("older copy"), "{why}");
    twin.shutdown().await;
    propose(&cluster, leader, 3).await;
    assert_eq!(cluster.nodes[copied].group().status().refusal, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_is_refused_by_what_a_follower_heard_from_the_leader() {
    let (mut cluster, leader, copied) = cluster().await;
    let copy = copy_dir(&cluster.spec(copied).dir);
    propose(&cluster, leader, 30).await;
    // Heartbeats pass on what the leader remembers.
    let (replica, reached) = (cluster.spec(copied).replica, cluster.nodes[copied].group().log_end());
    let other = cluster.nodes[3 - leader - copied].group().clone();
    let heard = async {
        while other.remembered_end(replica) < Some(reached) {
            propose(&cluster, leader, 1).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the follower hears of it");
    cluster.stop_replica(copied).await;
    cluster.stop_replica(leader).await;
    cluster.put_back(copied, copy);
    cluster.start_replica(copied).await;
    let why = refusal(cluster.nodes[copied].group()).await;
    assert!(why.contains("older copy"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_directory_is_refused() {
    let (mut cluster, leader, emptied) = cluster().await;
    cluster.stop_replica(emptied).await;
    let spec = cluster.spec(emptied);
    fs::remove_dir_all(spec.dir.join("log")).unwrap();
    let machine = Arc::new(ListMachine::default());
    let started = Group::start(spec, settings(), machine, Arc::default(), Platform::system()).await;
    assert!(matches!(started, Err(Error::LogShort { .. })), "the note is there and the log is not: {started:?}");

    cluster.put_back(emptied, TempDir::new().unwrap());
    cluster.start_replica(emptied).await;
    let why = refusal(cluster.nodes[emptied].group()).await;
    assert!(why.contains("another process"), "{why}");
    assert_unharmed(&cluster, leader, emptied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_with_one_identity_the_later_start_stays() {
    let (cluster, leader, copied) = cluster().await;
    let original = cluster.nodes[copied].group();
    remembered_by_all(&cluster, copied).await;
    let begun = tokio::time::Instant::now();
    let twin = loop {
        assert!(begun.elapsed() < PATIENCE, "no copy had everything");
        let twin = start_on_copy(&cluster, copied).await;
        tokio::select! {
            why = refusal(original) => {
                assert!(why.contains("started again elsewhere"), "{why}");
                break twin;
            }
            // What was still on its way to the file is missing in a copy: that twin is an older copy.
            why = refusal(&twin.0) => {
                assert!(why.contains("older copy"), "{why}");
                twin.0.shutdown().await;
            }
        }
    };
    assert_unharmed(&cluster, leader, copied).await;
    twin.0.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_with_as_many_starts_the_later_one_is_refused() {
    let (mut cluster, leader, copied) = cluster().await;
    let copy = copy_dir(&cluster.spec(copied).dir);
    cluster.stop_replica(copied).await;
    cluster.start_replica(copied).await;
    propose(&cluster, leader, 1).await;
    let spec = granary_consensus::GroupSpec { dir: copy.path().to_owned(), ..cluster.spec(copied) };
    let machine = Arc::new(ListMachine::default());
    let twin = Group::start(spec, settings(), machine, Arc::default(), Platform::system()).await.unwrap();
    let why = refusal(&twin).await;
    assert!(why.contains("another process"), "{why}");
    twin.shutdown().await;
    propose(&cluster, leader, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_restarts_and_a_lone_replica_waits() {
    let (mut cluster, _, _) = cluster().await;
    for n in 0..3 {
        cluster.stop_replica(n).await;
    }
    cluster.start_replica(0).await;
    let alone = tokio::time::timeout(Duration::from_secs(2), cluster.nodes[0].group().admitted()).await;
    assert!(alone.is_err() && cluster.nodes[0].group().status().asking, "nobody has answered");
    cluster.start_replica(1).await;
    tokio::time::timeout(PATIENCE, cluster.nodes[0].group().admitted()).await.expect("a majority has answered");
    let leader = cluster.leader().await;
    propose(&cluster, leader, 3).await;
    cluster.start_replica(2).await;
    propose(&cluster, leader, 3).await;
    assert!(cluster.nodes[2].group().status().refusal.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_another_replica_or_without_its_note_is_refused() {
    let (mut cluster, _, one) = cluster().await;
    cluster.stop_replica(one).await;
    let spec = cluster.spec(one);
    let start =
        |spec| Group::start(spec, settings(), Arc::new(ListMachine::default()), Arc::default(), Platform::system());
    let other = granary_consensus::GroupSpec { replica: cluster.spec((one + 1) % 3).replica, ..spec.clone() };
    let started = start(other).await;
    assert!(matches!(started, Err(Error::LogForeign { .. })), "{started:?}");
    fs::remove_file(spec.dir.join("log.note")).unwrap();
    let started = start(spec).await;
    assert!(matches!(started, Err(Error::LogNoteMissing { .. })), "{started:?}");
}
