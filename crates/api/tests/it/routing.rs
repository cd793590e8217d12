//! What a router does when nodes redirect, refuse, lose an answer or say nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use granary_catalog::CatalogView;
use granary_platform::Platform;
use granary_router::{BatchGetCommand, BatchKeys, Consistency, GetCommand, PutCommand, Router, Session, Settings};
use granary_types::record::RawValue;
use granary_types::{ErrorKind, Ttl, TtlUnit};
use prometheus::Registry;
use tokio::sync::watch;

use crate::cluster::{Cluster, Step, orders};

/// Short enough for a test that waits for it, long enough for a slow machine to finish everything else.
const SHORT: Duration = Duration::from_secs(2);

fn put(id: &str, at: &str) -> PutCommand {
    let values = [("id", id), ("at", at), ("total", "15.20")];
    PutCommand {
        group: "orders".into(),
        values: values.map(|(name, text)| (name.to_owned(), RawValue::Text(text.to_owned()))).to_vec(),
        targets: None,
        ttl: None,
        write_id: None,
        timeout: None,
    }
}

fn get(id: &str) -> GetCommand {
    GetCommand { group: "orders".into(), identifier: id.into(), ..GetCommand::default() }
}

/// A cluster with a feature group, made by a router that has all the time it needs, and a router with these settings.
async fn with_orders(settings: Settings) -> (Cluster, Router) {
    let cluster = Cluster::start().await;
    let maker = cluster.router(Settings::default(), &Registry::new());
    maker.create_feature_group(orders()).await.expect("created");
    let router = cluster.router(settings, &Registry::new());
    (cluster, router)
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let (cluster, router) = with_orders(Settings::default()).await;
    cluster.lead(3);
    router.put(put("1", "2024-01-01T00:00:00Z")).await.expect("written");
    let redirected = cluster.writes().len();
    assert!(redirected <= 2, "a redirect names the leader, so one suffices, got {redirected} requests");
    router.put(put("2", "2024-01-01T00:00:00Z")).await.expect("written");
    assert_eq!(cluster.writes().len(), redirected + 1);
    // The leader moves; the guess is wrong once.
    cluster.lead(2);
    router.put(put("3", "2024-01-01T00:00:00Z")).await.expect("written");
    assert_eq!(cluster.writes().len(), redirected + 3);
}

#[tokio::test]
async fn rounds_go_on_while_no_replica_leads() {
    let (cluster, router) = with_orders(Settings::default()).await;
    cluster.script([Step::NotLeader(0); 7]);
    let written = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect("written after an election");
    assert!(written.became_online);
    assert!(cluster.writes().len() >= 8);
}

#[tokio::test]
async fn a_lost_answer_is_retried_with_the_same_write_id() {
    let (cluster, router) = with_orders(Settings::default()).await;
    cluster.script([Step::LoseAnswer]);
    let written = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect("the retry finds it applied");
    assert!(written.raft_index > 0);
    let ids: Vec<_> = cluster.writes().iter().map(|request| request.writes[0].id.clone()).collect();
    assert!(ids.len() >= 2 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(cluster.accepted(), 1);
}

#[tokio::test]
async fn a_wrong_shard_refreshes_the_route() {
    let (cluster, router) = with_orders(Settings::default()).await;
    cluster.script([Step::WrongShard]);
    router.put(put("1", "2024-01-01T00:00:00Z")).await.expect("written at the later epoch");
    let epochs: Vec<_> = cluster.writes().iter().map(|request| request.writes[0].epoch).collect();
    assert_eq!(epochs.last(), Some(&(epochs[0] + 1)));
}

#[tokio::test]
async fn no_word_by_the_deadline_is_unknown() {
    let (cluster, router) = with_orders(Settings { deadline: SHORT, ..Settings::default() }).await;
    cluster.script([Step::Hang; 32]);
    let error = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect_err("nobody answers");
    assert_eq!(error.kind, ErrorKind::Unknown, "{error}");
}

#[tokio::test]
async fn a_refusal_after_a_loss_is_unknown() {
    let (cluster, router) = with_orders(Settings { attempt_timeout: SHORT, ..Settings::default() }).await;
    cluster.script([Step::Hang, Step::ChangeLogFull]);
    let error = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect_err("refused");
    // The node that said nothing may still have it under way.
    assert_eq!(error.kind, ErrorKind::Unknown, "{error}");
    assert_eq!(cluster.writes().len(), 2);
}

#[tokio::test]
async fn a_full_change_log_is_not_retried() {
    let (cluster, router) = with_orders(Settings::default()).await;
    cluster.script([Step::ChangeLogFull]);
    let error = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Overloaded);
    assert_eq!(cluster.writes().len(), 1);
}

#[tokio::test]
async fn nothing_sent_is_unavailable_and_not_unknown() {
    let (_cluster, router) = with_orders(Settings::default()).await;
    // The same catalog with nodes where nobody listens.
    let dead = router.catalog();
    let mut wire = granary_proto::internal::Catalog {
        version: dead.version,
        cluster: granary_proto::convert::cluster_to_wire(dead.cluster),
        next_node: 10,
        next_replica: 10,
        next_feature_group: 10,
        slot_shards: vec![1; 4_096],
        slot_epochs: vec![1; 4_096],
        feature_groups: dead.groups().map(|group| granary_proto::convert::feature_group_to_wire(group)).collect(),
        ..Default::default()
    };
    for shard in dead.shards() {
        wire.shards.push(granary_proto::internal::ShardInfo {
            id: shard.id.0,
            replicas: vec![granary_proto::internal::ReplicaInfo { replica: 1, node: 1 }],
            stream: Some(granary_proto::convert::stream_to_wire(shard.stream)),
        });
    }
    let uuid = granary_proto::convert::u128_to_wire(1);
    wire.nodes.push(granary_proto::internal::Node { id: 1, uuid, address: "127.0.0.1:1".into() });
    let (_sender, catalog) = watch::channel(Arc::new(CatalogView::from_wire(&wire).expect("a whole catalog")));
    let router =
        Router::new(Platform::system(), catalog, Settings { deadline: SHORT, ..Settings::default() }, &Registry::new());
    let error = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect_err("nobody is there");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let error = router.get(get("1")).await.expect_err("nobody is there");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn concurrent_puts_travel_together() {
    let (cluster, router) = with_orders(Settings::default()).await;
    let puts = (0..300).map(|id| router.put(put(&id.to_string(), "2024-01-01T00:00:00Z")));
    for written in join_all(puts).await {
        assert!(written.expect("written").became_online);
    }
    assert_eq!(cluster.accepted(), 300);
    assert!(cluster.writes().len() < 30, "{} requests for 300 puts", cluster.writes().len());
}

#[tokio::test]
async fn a_full_queue_refuses_before_anything_happened() {
    let settings = Settings { queued_writes_max: 4, batches_in_flight_max: 1, deadline: SHORT, ..Settings::default() };
    let (cluster, router) = with_orders(settings).await;
    cluster.script([Step::Hang; 64]);
    let results = join_all((0..64).map(|id| router.put(put(&id.to_string(), "2024-01-01T00:00:00Z")))).await;
    let refused = |result: &&Result<_, granary_types::Error>| {
        result.as_ref().err().is_some_and(|error| error.kind == ErrorKind::Overloaded)
    };
    assert!(results.iter().filter(refused).count() >= 32);
}

#[tokio::test]
async fn reads_find_what_was_put_at_every_level() {
    let (cluster, router) = with_orders(Settings::default()).await;
    cluster.lead(2);
    let written = router.put(put("1", "2024-01-01T00:00:00Z")).await.expect("written");
    let tokens = [written.session().to_token()];
    let session = Session::from_tokens(&tokens).expect("a token");
    for consistency in [
        Consistency::Linearizable,
        Consistency::Session(session),
        Consistency::BoundedStaleness(100),
        Consistency::Eventual,
    ] {
        let found = router.get(GetCommand { consistency, ..get("1") }).await.expect("read").expect("it was put");
        let named: Vec<_> = found.named().map(|(name, value)| (name, value.clone())).collect();
        assert_eq!(named[2], ("total", RawValue::Text("15.20".into())));
    }
    let projected = GetCommand { features: vec!["total".into()], ..get("1") };
    assert_eq!(router.get(projected).await.expect("read").expect("it was put").values.len(), 1);
    let unknown = GetCommand { features: vec!["price".into()], ..get("1") };
    assert_eq!(router.get(unknown).await.expect_err("no such feature").kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_batch_answers_each_key_on_its_own() {
    let settings = Settings { read_request_keys_max: 7, ..Settings::default() };
    let (_cluster, router) = with_orders(settings).await;
    let puts = (0..50).map(|id| router.put(put(&id.to_string(), "2024-01-01T00:00:00Z")));
    for written in join_all(puts).await {
        assert!(written.expect("written").became_online);
    }
    let keys = |group: &str, count: u32| BatchKeys {
        group: group.into(),
        identifiers: (0..count).map(|id| (id * 2).to_string()).collect(),
        features: Vec::new(),
    };
    let command = BatchGetCommand { keys: vec![keys("orders", 50), keys("nowhere", 2)], ..Default::default() };
    let answer = router.batch_get(command).await.expect("answered");
    let found: Vec<_> = answer.records.iter().map(|record| record.identifier).collect();
    assert_eq!(found, (0..25).collect::<Vec<_>>());
    assert_eq!(answer.failures.len(), 2);
    assert!(answer.failures.iter().all(|failure| failure.entry == 1 && failure.error.kind == ErrorKind::NotFound));
}

#[tokio::test]
async fn an_expired_record_is_not_found() {
    let (_cluster, router) = with_orders(Settings::default()).await;
    let ttl = Ttl::new(TtlUnit::Days, 1).ok();
    router.put(PutCommand { ttl, ..put("old", "2020-01-01T00:00:00Z") }).await.expect("written");
    assert_eq!(router.get(get("old")).await.expect("read"), None);
    router.put(PutCommand { ttl, ..put("new", "9990-01-01T00:00:00Z") }).await.expect("written");
    let found = router.get(get("new")).await.expect("read").expect("not expired");
    assert_eq!(found.expires_at.map(|time| time.to_string()).as_deref(), Some("9990-01-02T00:00:00Z"));
}
