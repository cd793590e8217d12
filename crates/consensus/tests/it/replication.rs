//! Three replicas: elections, nothing acknowledged lost, catching up by log and by snapshot, reads.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_consensus::{Error, Group, PeerPool, ProposeError, ReadError, Role, Settings, fetch_snapshot};
use granary_platform::Platform;
use granary_proto::convert::cluster_to_wire;
use granary_proto::internal as wire;
use granary_proto::internal::consensus_client::ConsensusClient;
use granary_types::{ClusterId, ReplicaId};
use tokio::task::JoinSet;
use tonic::Code;

use crate::cluster::{CLUSTER, Cluster, GROUP, PATIENCE, settings, snapshot_everything};
use crate::list_machine::{ListMachine, UNAPPLICABLE};

fn command(n: u64) -> Bytes {
    Bytes::from(format!("command {n}"))
}

/// Proposes each of the numbers from its own task; returns the commands that were acknowledged.
async fn propose_all(group: &Group, numbers: std::ops::Range<u64>) -> Vec<Bytes> {
    let mut tasks = JoinSet::new();
    for n in numbers {
        let group = group.clone();
        tasks.spawn(async move { group.propose(command(n)).await.map(|_| command(n)) });
    }
    tasks.join_all().await.into_iter().filter_map(Result::ok).collect()
}

fn assert_contains(commands: &[Bytes], acknowledged: &[Bytes]) {
    let commands: HashSet<_> = commands.iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|command| !commands.contains(command)).collect();
    assert!(lost.is_empty(), "{} acknowledged commands are lost: {lost:?}", lost.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_leader() {
    let mut cluster = Cluster::start(settings()).await;
    let first = cluster.leader().await;
    let mut acknowledged = propose_all(cluster.nodes[first].group(), 0..1_000).await;
    assert_eq!(acknowledged.len(), 1_000);

    // The leader goes away with proposals under way.
    let group = cluster.nodes[first].group().clone();
    let under_way = tokio::spawn(async move { propose_all(&group, 1_000..1_500).await });
    cluster.stop_replica(first).await;
    acknowledged.extend(under_way.await.unwrap());

    let second = cluster.leader().await;
    assert_ne!(first, second);
    let group = cluster.nodes[second].group();
    let index = group.read_index().await.unwrap();
    group.wait_applied(index, PATIENCE).await.unwrap();
    assert_contains(&cluster.nodes[second].machine.commands(), &acknowledged);
    acknowledged.extend(propose_all(group, 1_500..1_600).await);

    cluster.start_replica(first).await;
    let index = cluster.nodes[second].group().applied_index();
    cluster.nodes[first].group().wait_applied(index, PATIENCE).await.unwrap();
    let commands = cluster.nodes[first].machine.commands();
    assert_contains(&commands, &acknowledged);
    assert_eq!(commands, cluster.nodes[second].machine.commands()[..commands.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_the_log_gets_a_snapshot() {
    let settings = Settings { snapshot_after_entries: 50, log_entries_kept: 10, ..settings() };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    propose_all(cluster.nodes[leader].group(), 0..10).await;
    cluster.stop_replica(away).await;
    let last_seen = cluster.nodes[leader].group().applied_index();

    // Long commands, so that the snapshot takes several chunks.
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group().clone();
    for n in 0..200_u8 {
        group.propose(Bytes::from(vec![n; 40_000])).await.unwrap();
    }
    let purged = async {
        let mut applied = group.applied();
        while group.status().purged <= last_seen {
            // Purging follows a snapshot, which follows entries.
            group.propose(command(0)).await.unwrap();
            applied.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, purged).await.expect("the log is purged");
    snapshot_everything(&group).await;

    cluster.start_replica(away).await;
    let index = group.propose(command(1)).await.unwrap().index;
    let caught_up = cluster.nodes[away].group();
    caught_up.wait_applied(index, PATIENCE).await.unwrap();
    assert_eq!(cluster.nodes[away].machine.commands(), cluster.nodes[leader].machine.commands());
    let status = caught_up.status();
    // One, or a second one if the leader had begun to send an older one.
    assert!((1..=2).contains(&status.stats.snapshots_installed), "{status:?}");
    assert!(status.stats.snapshot_bytes_received > 4 << 20, "{status:?}");

    // What it installed is its own now: it restarts from it.
    cluster.stop_replica(away).await;
    cluster.start_replica(away).await;
    cluster.nodes[away].group().wait_applied(index, PATIENCE).await.unwrap();
    let commands = cluster.nodes[leader].machine.commands();
    assert_eq!(cluster.nodes[away].machine.commands(), commands);
    assert_eq!(cluster.nodes[away].group().status().stats.snapshots_installed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_index_covers_every_acknowledged_proposal() {
    let cluster = Cluster::start(settings()).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group();
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let group = group.clone();
        tasks.spawn(async move {
            let written = group.propose(command(n)).await.unwrap().index;
            let index = group.read_index().await.unwrap();
            assert!(index >= written, "read index {index} is before the write at {written}");
            group.wait_applied(index, PATIENCE).await.unwrap();
        });
    }
    tasks.join_all().await;
    let stats = group.status().stats;
    assert_eq!(stats.reads_joined, 200);
    assert!(stats.read_rounds < 200, "reads share rounds: {stats:?}");

    let follower = cluster.nodes[(leader + 1) % 3].group();
    let expected = group.leadership().borrow().leader;
    // The others may have been majority enough so far.
    follower.wait_applied(group.applied_index(), PATIENCE).await.unwrap();
    let mut followed = follower.leadership();
    let told = tokio::time::timeout(PATIENCE, followed.wait_for(|now| now.leader == expected));
    told.await.expect("the follower knows the leader").unwrap();
    assert_eq!(follower.read_index().await, Err(ReadError::NotLeader { leader: expected }));
    assert_eq!(follower.propose(command(0)).await, Err(ProposeError::NotLeader { leader: expected }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_under_way_keep_their_order() {
    let cluster = Cluster::start(settings()).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group();
    let mut pending = Vec::new();
    for n in 0..100 {
        pending.push(group.try_start_propose(command(n)).await.unwrap());
    }
    let mut last = 0;
    for (n, proposal) in pending.into_iter().enumerate() {
        let proposed = proposal.wait_for(PATIENCE).await.unwrap();
        assert!(proposed.index > last);
        assert_eq!(proposed.reply, (n + 1).to_string());
        last = proposed.index;
    }
    let status = group.status();
    assert_eq!((status.role, status.applied, status.stats.proposals), (Role::Leader, last, 100));
    assert_eq!(status.members.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_and_length_of_commands_are_bounded() {
    let settings = Settings {
        proposals_bytes_max: 8 << 10,
        command_bytes_max: 8 << 10,
        read_round_timeout_ms: 1_000,
        ..settings()
    };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group().clone();
    let long = group.propose(Bytes::from(vec![0; 8_193])).await;
    assert_eq!(long, Err(ProposeError::TooLarge { len: 8_193, max: 8_192 }));

    // Without a majority nothing gets done, and what is under way uses up the budget.
    for n in (0..3).filter(|n| *n != leader) {
        cluster.stop_replica(n).await;
    }
    let first = group.try_start_propose(command(1)).await.unwrap();
    let second = group.try_start_propose(command(2)).await.unwrap();
    assert_eq!(group.try_start_propose(command(3)).await.err(), Some(ProposeError::Overloaded));
    assert_eq!(group.read_index().await, Err(ReadError::Unavailable));
    group.shutdown().await;
    assert_eq!(first.wait().await, Err(ProposeError::Unknown));
    assert_eq!(second.wait().await, Err(ProposeError::Unknown));
    assert_eq!(group.propose(command(4)).await, Err(ProposeError::Stopped));
    assert_eq!(group.read_index().await, Err(ReadError::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let cluster = Cluster::start(settings()).await;
    let first = cluster.leader().await;
    cluster.nodes[first].group().propose(command(1)).await.unwrap();
    let before = cluster.nodes[first].group().leadership().borrow().term;
    let follower = cluster.nodes[(first + 1) % 3].group();
    assert!(!follower.transfer_leadership().await, "who does not lead has nobody to hand over to");
    assert!(cluster.nodes[first].group().transfer_leadership().await);
    let handed_over = async {
        let mut leadership = cluster.nodes[first].group().leadership();
        let me = cluster.nodes[first].group().spec().replica;
        let other = |now: &granary_consensus::Leadership| now.leader.is_some_and(|(replica, _)| replica != me);
        leadership.wait_for(|now| now.term > before && other(now)).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, handed_over).await.expect("somebody else leads");
    let second = cluster.leader().await;
    assert_ne!(first, second);
    cluster.nodes[second].group().propose(command(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_on_request_and_started_from() {
    let mut cluster = Cluster::start(settings()).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group().clone();
    let index = group.propose(command(1)).await.unwrap().index;
    group.trigger_snapshot().await.unwrap();
    let taken = async {
        while group.status().snapshot < index {
            group.propose(command(2)).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("a snapshot is taken");
    let commands = cluster.nodes[leader].machine.commands();
    cluster.stop_replica(leader).await;
    cluster.start_replica(leader).await;
    assert!(cluster.nodes[leader].group().applied_index() >= index, "restored before it starts");
    let applied = cluster.nodes[leader].machine.commands();
    assert_eq!(applied[..], commands[..applied.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_of_four_groups_stay_under_load() {
    let mut groups = Vec::new();
    for _ in 0..4 {
        let cluster = Cluster::start(Settings::default()).await;
        let leader = cluster.leader().await;
        let term = cluster.nodes[leader].group().status().term;
        groups.push((cluster, leader, term));
    }
    let mut tasks = JoinSet::new();
    for (cluster, leader, _) in &groups {
        for _ in 0..16 {
            let group = cluster.nodes[*leader].group().clone();
            tasks.spawn(async move {
                for n in 0..40_u8 {
                    let proposed = group.propose(Bytes::from(vec![n; 20_000])).await;
                    assert!(proposed.is_ok(), "{proposed:?}: {:?}", group.status());
                }
            });
        }
    }
    tasks.join_all().await;
    for (cluster, leader, term) in &groups {
        let status = cluster.nodes[*leader].group().status();
        assert_eq!((status.role, status.term), (Role::Leader, *term));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_apply_stops() {
    let cluster = Cluster::start(settings()).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group();
    let before = group.propose(command(1)).await.unwrap().index;
    assert_eq!(group.propose(Bytes::from_static(UNAPPLICABLE)).await, Err(ProposeError::Unknown));
    let failure = tokio::time::timeout(PATIENCE, group.failed()).await.expect("the replica stops");
    assert!(failure.contains("command cannot be applied"), "{failure}");
    let status = group.status();
    assert_eq!((status.role, status.applied), (Role::Stopped, before), "no entry is skipped");
    assert_eq!(group.read_index().await, Err(ReadError::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_meant_for_somebody_else_are_refused() {
    let cluster = Cluster::start(settings()).await;
    let to = cluster.nodes[0].group().spec().replica;
    let mut client = ConsensusClient::new(PeerPool::default().channel(&cluster.nodes[0].address).unwrap());
    let header = |cluster: ClusterId, group: u32, to: ReplicaId| wire::PeerHeader {
        cluster: cluster_to_wire(cluster),
        group,
        from_replica: 99,
        to_replica: to.0,
        ..Default::default()
    };
    let refused = [
        (header(ClusterId(0xbad), GROUP.0, to), Code::FailedPrecondition),
        (header(CLUSTER, 77, to), Code::NotFound),
        (header(CLUSTER, GROUP.0, ReplicaId(12)), Code::FailedPrecondition),
    ];
    for (header, code) in refused {
        let vote = wire::RaftVote { term: 1_000_000, replica: 99, committed: true };
        let request = wire::RaftVoteRequest { header: Some(header), vote: Some(vote), ..Default::default() };
        assert_eq!(client.vote(request).await.unwrap_err().code(), code);
    }
    assert!(cluster.nodes[0].group().status().term < 1_000_000);
    let slow = tokio::time::timeout(Duration::from_secs(10), client.vote(wire::RaftVoteRequest::default()));
    assert_eq!(slow.await.unwrap().unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_snapshots_takes_a_peers() {
    let settings = Settings { snapshot_after_entries: 50, log_entries_kept: 10, ..settings() };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    let group = cluster.nodes[leader].group().clone();
    let robbed = (leader + 1) % 3;
    let purged = async {
        while cluster.nodes[robbed].group().status().purged == 0 {
            group.propose(command(3)).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, purged).await.expect("the log is purged");
    cluster.stop_replica(robbed).await;
    // The leader's own may have been behind: what it sends must cover what the robbed one has purged.
    snapshot_everything(&group).await;
    let snapshots = cluster.spec(robbed).dir.join("snapshots");
    std::fs::remove_dir_all(&snapshots).unwrap();

    let spec = cluster.spec(robbed);
    let started = Group::start(
        spec.clone(),
        cluster.settings.clone(),
        Arc::new(ListMachine::default()),
        Arc::default(),
        Platform::system(),
    );
    assert!(matches!(started.await, Err(Error::SnapshotMissing { .. })), "it must not start without");

    let peer = cluster.members().remove(leader);
    fetch_snapshot(&spec, &PeerPool::default(), &peer, &Platform::system()).await.unwrap();
    cluster.start_replica(robbed).await;
    let index = group.propose(command(4)).await.unwrap().index;
    cluster.nodes[robbed].group().wait_applied(index, PATIENCE).await.unwrap();
    assert_eq!(cluster.nodes[robbed].machine.commands(), cluster.nodes[leader].machine.commands());
}
