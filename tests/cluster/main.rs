//! Clusters of separate processes on loopback, as an operator would run them: nodes, router, compactor, query.
//!
//! Every wait is on a condition with a bound; nothing sleeps for a fixed time. A failing test leaves the processes'
//! logs in its temporary directory and says where.

mod client;
mod processes;

use std::time::Duration;

use client::{Client, Load};
use processes::Cluster;

const GROUP: &str = "users";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_node_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    let client = Client::connect(&cluster.router()).await;
    client.create_group(GROUP).await;

    let load = Load::start(client.clone(), GROUP, 4);
    load.reaches(300, "before the kill").await;
    let victim = cluster.leader_of_most_shards().await;
    cluster.kill(victim);
    let at_kill = load.acknowledged();
    load.reaches(at_kill + 300, "after the kill: writes go on after an election").await;
    client.expect_all_readable(GROUP, &load.snapshot()).await;

    cluster.restart(victim).await;
    let at_restart = load.acknowledged();
    load.reaches(at_restart + 100, "after the restart").await;
    let acknowledged = load.stop().await;
    client.expect_all_readable(GROUP, &acknowledged).await;
    cluster.replicas_agree().await;

    let offline = Client::connect(&cluster.query()).await;
    offline.expect_each_once_offline(GROUP, &acknowledged).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_every_process_at_once_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    let client = Client::connect(&cluster.router()).await;
    client.create_group(GROUP).await;
    let load = Load::start(client.clone(), GROUP, 4);
    load.reaches(300, "before the kill").await;
    for node in 0..3 {
        cluster.kill(node);
    }
    let acknowledged = load.stop().await;
    for node in 0..3 {
        cluster.restart(node).await;
    }
    cluster.ready().await;
    client.expect_all_readable(GROUP, &acknowledged).await;
    cluster.replicas_agree().await;
    cluster.stop().await;
}

/// What a wait may take on two busy cores: an election is 3 to 6 seconds, a start with replay a few more.
const PATIENCE: Duration = Duration::from_secs(90);
