//! Clusters of separate processes on loopback, as an operator would run them: nodes, router, compactor, query.
//!
//! The processes are started by `granary_chaos`. Every wait is on a condition with a bound; nothing sleeps for a fixed
//! time. A failing test leaves the processes' logs in its temporary directory and says where.

mod client;

use client::{Client, Load};
use granary_chaos::{Cluster, ClusterSettings};

const GROUP: &str = "users";

async fn start() -> Cluster {
    Cluster::start(ClusterSettings::loopback(env!("CARGO_BIN_EXE_granary"))).await.expect("the cluster starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_node_under_load_loses_nothing_acknowledged() {
    let mut cluster = start().await;
    let client = Client::connect(&cluster.router()).await;
    client.create_group(GROUP).await;

    let load = Load::start(client.clone(), GROUP, 4);
    load.reaches(300, "before the kill").await;
    let victim = cluster.leader_of_most_shards().await.expect("a leader");
    cluster.kill(victim).expect("killed");
    let at_kill = load.acknowledged();
    load.reaches(at_kill + 300, "after the kill: writes go on after an election").await;
    client.expect_all_readable(GROUP, &load.snapshot()).await;

    cluster.restart(victim).expect("restarted");
    let at_restart = load.acknowledged();
    load.reaches(at_restart + 100, "after the restart").await;
    let acknowledged = load.stop().await;
    client.expect_all_readable(GROUP, &acknowledged).await;
    cluster.replicas_agree().await.expect("replicas agree");

    let offline = Client::connect(&cluster.query()).await;
    offline.expect_each_once_offline(GROUP, &acknowledged).await;
    cluster.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_every_process_at_once_loses_nothing_acknowledged() {
    let mut cluster = start().await;
    let client = Client::connect(&cluster.router()).await;
    client.create_group(GROUP).await;
    let load = Load::start(client.clone(), GROUP, 4);
    load.reaches(300, "before the kill").await;
    for node in 0..3 {
        cluster.kill(node).expect("killed");
    }
    let acknowledged = load.stop().await;
    for node in 0..3 {
        cluster.restart(node).expect("restarted");
    }
    cluster.ready().await.expect("ready");
    client.expect_all_readable(GROUP, &acknowledged).await;
    cluster.replicas_agree().await.expect("replicas agree");
    cluster.stop().await.expect("stopped");
}
