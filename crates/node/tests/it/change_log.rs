//! The change log's bound, and its events after every replica came back from a snapshot.

use granary_node::Settings;
use granary_proto::internal::change_log_client::ChangeLogClient;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{AcknowledgeRequest, Write, acknowledge_response, row_result};
use granary_shard::{Pressure, decode_segment};

use crate::cluster::{Clients, Cluster, SHARD, eventually, put, steady};

/// As a compactor does after its commit.
async fn acknowledge(cluster: &Cluster, sequence: u64) {
    eventually("the acknowledgement is taken", async || {
        let leader = cluster.leader().await;
        let stream = cluster.replica(leader).stream();
        let request = AcknowledgeRequest { stream: Some(granary_proto::convert::stream_to_wire(stream)), sequence };
        let answer = ChangeLogClient::new(cluster.client(leader).channel).acknowledge(request).await;
        let result = answer.ok().and_then(|answer| answer.into_inner().result);
        matches!(result, Some(acknowledge_response::Result::TrimmedSequence(trimmed)) if trimmed >= sequence)
    })
    .await;
}

async fn fill(clients: &Clients, first_id: u128) -> u128 {
    for id in first_id.. {
        let outcome = clients.write(&[Write { row: vec![7; 400].into(), ..put(id, "filler", 1) }]).await[0];
        if outcome.0 == Status::ChangeLogFull {
            return id;
        }
    }
    unreachable!("the change log is bounded")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_change_log_refuses_offline_writes_only_and_recovers_without_hands() {
    let configure = |settings: &mut Settings| {
        settings.shard.change_log_budget_bytes = 40_000;
        steady(settings);
    };
    let mut cluster = Cluster::start(configure).await;
    let clients = cluster.clients();
    let refused = fill(&clients, 1).await;
    let leader = cluster.leader().await;
    let log = cluster.replica(leader).store().change_log();
    assert_eq!(log.pressure, Pressure::Refuse);
    assert!(log.bytes <= log.budget_bytes, "{log:?}");
    assert_eq!(log.last_sequence, refused as u64 - 1, "a refused write makes no event");

    // Reads and online-only writes go on.
    let online = Write { offline: false, ..put(9_000, "online", 5) };
    assert_eq!(clients.write(&[online]).await[0].0, Status::Applied);
    let row = cluster.linearizable("online").await;
    assert_eq!((row.status(), row.event_seconds), (row_result::Status::Found, 5));
    eventually("the metrics say so", async || {
        cluster.metric(leader, "granary_node_change_log_pressure_level") == Some(3.0)
    })
    .await;
    assert!(cluster.metric(leader, "granary_node_writes_refused_total") >= Some(1.0));
    assert!(cluster.metric(leader, "granary_node_entries_slowed_total") >= Some(1.0), "slowed before it was refused");
    assert_eq!(cluster.metric(leader, "granary_node_change_log_budget_bytes"), Some(40_000.0));

    // Everybody dies and comes back from snapshot and Raft log: the events are older than what is left of the log.
    let made = cluster.replica(leader).group().applied_index();
    eventually("all have purged what the events were made of", async || {
        // Entries that make no events drive the snapshots.
        clients.write(&[Write { offline: false, ..put(rand_id(), "online", 6) }]).await;
        (0..3).all(|n| cluster.replica(n).group().status().purged >= made)
    })
    .await;
    for n in 0..3 {
        cluster.kill(n).await;
    }
    cluster.restart().await;
    let leader = cluster.leader().await;
    assert!(cluster.replica(leader).group().status().snapshot > 0);
    let last = cluster.replica(leader).store().change_log().last_sequence;
    eventually("all is sealed", async || cluster.replica(leader).store().change_log().sealed_sequence == last).await;
    let segments = cluster.client(leader).segments(0).await;
    let events: Vec<_> = segments.iter().flat_map(|it| decode_segment(it).expect("whole")).collect();
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    assert_eq!(last, refused as u64 - 1);
    let still = clients.write(&[put(refused, "filler", 1)]).await[0].0;
    assert_eq!(still, Status::ChangeLogFull, "the bound survives a restart");

    acknowledge(&cluster, last).await;
    let taken = clients.write(&[put(refused, "filler", 1)]).await[0].0;
    assert!(matches!(taken, Status::Applied | Status::Superseded), "{taken:?}");
    cluster.agree().await;
    assert!((0..3).all(|n| cluster.replica(n).store().pressure() == Pressure::Normal));
    let leader = cluster.leader().await;
    eventually("the metrics say so", async || {
        cluster.metric(leader, "granary_node_change_log_pressure_level") == Some(0.0)
    })
    .await;
    assert_eq!(cluster.replica(0).stream().shard, SHARD);
}

/// An id of no other write here.
fn rand_id() -> u128 {
    granary_platform::Platform::system().fresh_id()
}
