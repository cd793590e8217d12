//! Replicas compare themselves and tell of a difference (RG-2).

use std::time::Duration;

use granary_node::Settings;
use granary_proto::internal::replica_client::ReplicaClient;
use granary_proto::internal::{ScrubRequest, ShardCommand, WriteBatch, shard_command::Command};
use prost::Message as _;

use crate::cluster::{Cluster, SHARD, eventually, put, steady};

fn rg2_violations() -> u64 {
    granary_types::invariants::violations().find(|(id, _)| *id == "RG-2").expect("is counted").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_found_and_told_of() {
    // Far apart, so that nothing but this test's own comparisons is waited for.
    let configure = |settings: &mut Settings| {
        settings.compare_interval = Duration::from_millis(100);
        steady(settings);
    };
    let cluster = Cluster::start(configure).await;
    let clients = cluster.clients();
    for id in 0..30 {
        clients.write(&[put(id, &format!("r{id}"), 1)]).await;
    }
    let cells = cluster.agree().await;
    let leader = cluster.leader().await;
    eventually("the leader has compared the others with itself", async || {
        cluster.metric(leader, "granary_node_compared_index") > Some(0.0)
    })
    .await;
    assert_eq!((cluster.metric(leader, "granary_node_different_replicas_count"), rg2_violations()), (Some(0.0), 0));
    for n in 0..3 {
        let scrubbed = ReplicaClient::new(cluster.client(n).channel).scrub(ScrubRequest { shard: SHARD.0 }).await;
        assert_eq!(scrubbed.expect("rows are whole").into_inner().cells, cells);
    }

    // One replica applies something that nobody committed, in place of the next entry. None is on its way: all is sealed,
    // and nothing else is proposed but what is written.
    cluster.sealed_segments().await;
    let wrong = cluster.replica((leader + 1) % 3);
    let batch = WriteBatch { stamp: 1, writes: vec![put(777, "r0", 99)], change_log_budget: 0 };
    let command = ShardCommand { command: Some(Command::Write(batch)) }.encode_to_vec();
    wrong.store().apply(wrong.group().applied_index() + 1, &command.into()).expect("is applied");
    clients.write(&[put(31, "r1", 2)]).await;
    eventually("the leader tells of the difference", async || {
        cluster.metric(cluster.leader().await, "granary_node_different_replicas_count") == Some(1.0)
    })
    .await;
    assert!(rg2_violations() >= 1);
    // Its rows are whole, they are only others.
    ReplicaClient::new(cluster.client((leader + 1) % 3).channel)
        .scrub(ScrubRequest { shard: SHARD.0 })
        .await
        .expect("rows add up to their own hash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_hashes_are_exported_with_their_index() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.clients().write(&[put(1, "r", 1)]).await;
    cluster.agree().await;
    eventually("the metrics of all replicas are equal", async || {
        let exported = |n| {
            let value = |name| cluster.metric(n, name).filter(|value| *value > 0.0);
            Some((value("granary_shard_state_hash")?, value("granary_shard_state_hash_index")?))
        };
        let now = cluster.replica(0).store().samples().pop().expect("comparable");
        let expected = Some(((now.state_hash & ((1 << 52) - 1)) as f64, now.index as f64));
        (0..3).all(|n| exported(n) == expected)
    })
    .await;
}
