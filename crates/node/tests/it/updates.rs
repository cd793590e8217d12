//! Updates of one record from many sides: each is applied once, onto what the one before left, whoever leads.

use std::collections::{BTreeMap, BTreeSet};

use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{Write, WriteKind};
use granary_row::RowView;
use granary_shard::decode_segment;
use granary_types::record::RecordUpdate;
use granary_types::{EventTime, FeatureOrdinal, FeatureValue, Record, RecordIdentifier, SchemaVersion, Value, WriteId};
use tokio::task::JoinSet;

use crate::cluster::{Clients, Cluster, eventually, put, steady};

fn value(ordinal: u16, text: &str) -> (FeatureOrdinal, FeatureValue) {
    (FeatureOrdinal(ordinal), FeatureValue { value: Value::String(text.to_owned()), original: None })
}

fn put_row(id: u128, record: &str) -> Write {
    let identifier = RecordIdentifier::new(record.to_owned()).expect("short");
    let values = vec![value(0, record)];
    let row = Record { identifier, event_time: EventTime::MIN, values, ttl: None };
    Write { row: granary_row::encode(&row, SchemaVersion(1)), ..put(id, record, 5) }
}

/// Gives the record its own feature.
fn update(id: u128, record: &str, ordinal: u16) -> Write {
    let identifier = RecordIdentifier::new(record.to_owned()).expect("short");
    let update = RecordUpdate { identifier, event_time: None, values: vec![value(ordinal, "there")], ttl: None };
    Write {
        kind: WriteKind::Update.into(),
        row: granary_row::encode_update(&update, SchemaVersion(1)),
        keeps_event_time: true,
        ..put(id, record, 0)
    }
}

fn ordinals(row: &[u8]) -> BTreeSet<u16> {
    RowView::open(row).expect("a row").present().map(|ordinal| ordinal.0).collect()
}

/// Whether an update was applied: by this attempt, or by one before whose answer did not come.
fn is_applied(status: Status) -> bool {
    matches!(status, Status::Applied | Status::Duplicate)
}

/// Updates until it is known what became of it.
async fn settle(clients: Clients, write: Write) -> Status {
    loop {
        let (status, _) = clients.write(std::slice::from_ref(&write)).await[0];
        if status != Status::Raced {
            return status;
        }
    }
}

/// Every event of a record has one feature more than the one before.
async fn check_events(cluster: &Cluster, record: &str, count: u16) {
    let segments = cluster.sealed_segments().await;
    let events = segments.iter().flat_map(|segment| decode_segment(segment).expect("whole"));
    let writes = events.map(|event| event.write.expect("a write")).filter(|write| write.record == record.as_bytes());
    let mut ids = BTreeMap::new();
    let mut before: Option<BTreeSet<u16>> = None;
    for write in writes {
        let now = ordinals(&write.row);
        if let Some(before) = &before {
            assert!(before.is_subset(&now) && now.len() == before.len() + 1, "{before:?} then {now:?}");
        }
        before = Some(now);
        *ids.entry(write.id.clone()).or_insert(0) += 1;
    }
    assert!(ids.values().all(|count| *count == 1), "each once");
    assert_eq!(before, Some((0..=count).collect()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_updates_of_one_record_all_count() {
    // More in one call than are merged on an async thread.
    const COUNT: u16 = 80;
    let cluster = Cluster::start(steady).await;
    let clients = cluster.clients();
    clients.write(&[put_row(1, "r")]).await;
    let mut under_way = JoinSet::new();
    for ordinal in 1..=COUNT / 2 {
        under_way.spawn(settle(clients.clone(), update(u128::from(100 + ordinal), "r", ordinal)));
    }
    // And as many in one call, which the leader takes apart.
    let many: Vec<_> = (COUNT / 2 + 1..=COUNT).map(|ordinal| update(u128::from(100 + ordinal), "r", ordinal)).collect();
    let outcomes = clients.write(&many).await;
    let mut raced = 0;
    for (write, (status, _)) in many.into_iter().zip(outcomes) {
        raced += usize::from(status == Status::Raced);
        let status = if status == Status::Raced { settle(clients.clone(), write).await } else { status };
        assert!(is_applied(status), "{status:?}");
    }
    assert!(raced < usize::from(COUNT / 2), "the leader applies some of them by itself");
    while let Some(status) = under_way.join_next().await {
        assert!(is_applied(status.expect("no panic")));
    }
    check_events(&cluster, "r", COUNT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_a_race_in_its_own_entry_is_not_proposed() {
    const COUNT: u16 = 12;
    let cluster = Cluster::start(steady).await;
    let clients = cluster.clients();
    clients.write(&[put_row(1, "r")]).await;
    let leader = cluster.leader().await;
    let proposed = || cluster.metric(leader, "granary_node_writes_per_entry_count").expect("is registered");
    let before = proposed();
    let updates: Vec<_> = (1..=COUNT).map(|ordinal| update(u128::from(100 + ordinal), "r", ordinal)).collect();
    let outcomes = clients.write(&updates).await;
    assert!(outcomes.iter().all(|(status, _)| *status == Status::Applied), "{outcomes:?}");
    assert_eq!(proposed() - before, f64::from(COUNT), "each once");
    check_events(&cluster, "r", COUNT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_go_through_under_puts_to_the_same_record() {
    let cluster = Cluster::start(steady).await;
    let clients = cluster.clients();
    clients.write(&[put_row(1, "r")]).await;
    let puts = clients.clone();
    // As fast as they are answered, eight at a time.
    let mut busy = JoinSet::new();
    for worker in 0..8_u128 {
        let puts = puts.clone();
        busy.spawn(async move {
            for number in 0_u128.. {
                puts.write(&[put_row(WriteId((worker + 1) << 64 | number).0, "r")]).await;
            }
        });
    }
    for ordinal in 1..=10_u16 {
        // One call each: the leader's own rounds are enough.
        let outcomes = clients.write(&[update(u128::from(100 + ordinal), "r", ordinal)]).await;
        assert!(is_applied(outcomes[0].0), "{outcomes:?}");
    }
    busy.abort_all();
    cluster.linearizable("r").await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_is_tried_again_after_its_leader_died_is_applied_once() {
    const ROUNDS: u16 = 3;
    const EACH: u16 = 12;
    let mut cluster = Cluster::start(|_| {}).await;
    cluster.clients().write(&[put_row(1, "r")]).await;
    for round in 0..ROUNDS {
        // Whoever leads has applied what was before; the witness may still be catching up with it.
        cluster.linearizable("r").await;
        let (leader, clients) = (cluster.leader().await, cluster.clients());
        let witness = (leader + 1) % 3;
        let before = cluster.replica(leader).store().change_log().last_sequence;
        let updates: Vec<_> = (1 + round * EACH..=(round + 1) * EACH)
            .map(|ordinal| update(u128::from(100 + ordinal), "r", ordinal))
            .collect();
        let mut under_way = JoinSet::new();
        for write in updates.clone() {
            let client = cluster.client(leader);
            under_way.spawn(async move { client.write(vec![write]).await.map(drop) });
        }
        eventually("another replica has applied some of them", async || {
            cluster.replica(witness).store().change_log().last_sequence > before
        })
        .await;
        cluster.kill(leader).await;
        under_way.abort_all();
        for write in updates {
            let status = settle(clients.clone(), write).await;
            assert!(is_applied(status), "{status:?}");
        }
        if round == 1 {
            // Everybody starts anew, from snapshot and Raft log.
            for n in (0..3).filter(|n| *n != leader) {
                cluster.kill(n).await;
            }
        }
        cluster.restart().await;
    }
    check_events(&cluster, "r", ROUNDS * EACH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_told_and_only_leaders_merge() {
    let cluster = Cluster::start(steady).await;
    let clients = cluster.clients();
    assert_eq!(clients.write(&[update(1, "nobody", 1)]).await[0].0, Status::NoRecord);
    clients.write(&[put_row(2, "r")]).await;
    let older = Write { keeps_event_time: false, event_seconds: 4, ..update(3, "r", 1) };
    let mixed = clients.write(&[older, put(4, "other", 1), update(5, "r", 2), update(6, "nobody", 1)]).await;
    let statuses: Vec<_> = mixed.into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses, [Status::OlderEventTime, Status::Applied, Status::Applied, Status::NoRecord]);
    let leader = cluster.client(cluster.leader().await);
    assert!(leader.write(vec![Write { based_on: 7, ..update(7, "r", 3) }]).await.is_none(), "merged by whoever");
    let row = cluster.linearizable("r").await;
    assert_eq!(ordinals(&row.row), BTreeSet::from([0, 2]));
}
