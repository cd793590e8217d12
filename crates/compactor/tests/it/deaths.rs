//! One of three replicas is away, and events come slowly: they still reach the table in time.

use std::sync::Arc;
use std::time::Duration;

use granary_compactor::{Settings, Step, StepHook};
use granary_types::FeatureGroup;
use tokio::sync::Notify;

use crate::cluster::{Cluster, NODES, group};

/// Much longer than it takes to ask each replica a few times, so that only what is held for long is flushed.
const FLUSH_INTERVAL: Duration = Duration::from_millis(400);
/// Within this an event is in its table and acknowledged, whoever is away.
const BOUND: Duration = Duration::from_secs(4);

/// The usual pauses: doubled at each visit to a dead node, they are soon longer than [`BOUND`].
fn settings() -> Settings {
    Settings {
        flush_interval: FLUSH_INTERVAL,
        poll: Duration::from_millis(10),
        call_timeout: Duration::from_secs(2),
        ..Settings::default()
    }
}

/// Three events, one after the other, the next when the last is acknowledged.
async fn trickle(cluster: &Cluster, group: &FeatureGroup) {
    for hour in 0..3 {
        cluster.put(1, group, "a", hour);
        cluster.seal(1);
        let acknowledged = tokio::time::timeout(BOUND, cluster.all_acknowledged()).await;
        acknowledged.unwrap_or_else(|_| panic!("event {hour} is not acknowledged within {BOUND:?}"));
    }
}

async fn start() -> (Arc<Cluster>, FeatureGroup) {
    let group = group(1, "customers", 1);
    (Cluster::start(1, std::slice::from_ref(&group)).await, group)
}

#[tokio::test]
async fn a_node_that_is_dead_from_the_start_delays_nothing() {
    for node in [1, 3] {
        let (cluster, group) = start().await;
        cluster.kill(node).await;
        let compactor = cluster.compactor_with(settings());
        trickle(&cluster, &group).await;
        cluster.check_exactly_once().await;
        compactor.abort();
    }
}

#[tokio::test]
async fn a_node_that_dies_delays_nothing() {
    let (cluster, group) = start().await;
    let compactor = cluster.compactor_with(settings());
    trickle(&cluster, &group).await;
    cluster.kill(1).await;
    trickle(&cluster, &group).await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

#[tokio::test]
async fn a_node_that_hangs_delays_nothing() {
    let (cluster, group) = start().await;
    cluster.hang(1);
    let compactor = cluster.compactor_with(settings());
    trickle(&cluster, &group).await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

#[tokio::test]
async fn a_node_that_begins_to_hang_delays_nothing() {
    let (cluster, group) = start().await;
    let compactor = cluster.compactor_with(settings());
    trickle(&cluster, &group).await;
    cluster.hang(3);
    trickle(&cluster, &group).await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

/// What was read before all nodes went away is not forgotten, and is flushed when it is time.
#[tokio::test]
async fn what_is_held_is_flushed_while_nobody_answers() {
    let (cluster, group) = start().await;
    let committed = Arc::new(Notify::new());
    let (tell, nodes) = (committed.clone(), cluster.clone());
    let hook = StepHook::new(move |step| {
        match step {
            Step::Fetched => (1..=NODES).for_each(|node| nodes.hang(node)),
            Step::Committed => tell.notify_one(),
            _ => {}
        }
        std::future::ready(())
    });
    cluster.put(1, &group, "a", 1);
    cluster.seal(1);
    let compactor = cluster.compactor_with(Settings { hook: Some(hook), ..settings() });
    tokio::time::timeout(BOUND, committed.notified()).await.expect("a commit in time");
    cluster.check_exactly_once().await;
    compactor.abort();
}
