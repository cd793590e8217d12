//! Refusals and bounds.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use granary_proto::internal::WriteKind::{HardDelete, SoftDelete};
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{RecordKey, ShardCommand, Write, row_result};
use granary_shard::{Error, Pressure, Settings, ShardStore, TreeTrust};
use granary_types::{
    Epoch, EventTime, FeatureOrdinal, FeatureValue, Record, RecordIdentifier, SchemaVersion, Slot, Value,
};
use prost::Message;

use crate::commands::{
    EPOCH, SETTINGS, apply, batch, delete, fresh, key, open_as, open_slots, put, read, seal, statuses, trim,
};
use crate::tree::TestTree;

#[test]
fn a_retry_is_recognised_and_leaves_no_trace() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let first = apply(&store, 2, &batch(100, vec![put(1, "r", 1), put(1, "r", 1)]));
    assert_eq!(statuses(&first), [Status::Applied, Status::Duplicate]);
    assert_eq!((first[0].stamp, first[1].stamp), (100, 100), "a retry learns the stamp of the first try");
    let hash = store.status().state_hash;
    assert_eq!(statuses(&apply(&store, 3, &batch(200, vec![put(1, "r", 9)]))), [Status::Duplicate]);
    assert_eq!((store.status().state_hash, store.change_log().last_sequence), (hash, 1));
    // Pushed out of the window by twelve others, it would count as new.
    apply(&store, 4, &batch(300, (2..14).map(|id| put(id, "other", 1)).collect()));
    assert_eq!(statuses(&apply(&store, 5, &batch(400, vec![put(1, "r", 1)]))), [Status::Applied]);
}

#[test]
fn a_retry_is_recognised_after_a_leaders_clock_jumped() {
    const HOUR: u64 = 3_600_000_000_000;
    let tree = std::sync::Arc::new(TestTree::default());
    // With the window that shards have.
    let store = ShardStore::open(tree, TreeTrust::Untrusted, SETTINGS).expect("opens");
    apply(&store, 1, &open_slots());
    apply(&store, 2, &batch(100, vec![put(1, "r", 1)]));
    let outcomes = apply(&store, 3, &batch(100 + HOUR, vec![put(2, "r", 2), put(1, "r", 1)]));
    assert_eq!(statuses(&outcomes), [Status::Applied, Status::Duplicate]);
    assert_eq!(outcomes[1].stamp, 100);
    assert_eq!(statuses(&apply(&store, 4, &batch(100 + 2 * HOUR, vec![put(1, "r", 1)]))), [Status::Duplicate]);
    assert_eq!(store.change_log().last_sequence, 2);
}

#[test]
fn ownership_is_decided_at_apply() {
    let (_tree, store) = fresh();
    assert_eq!(statuses(&apply(&store, 1, &batch(1, vec![put(1, "r", 1)]))), [Status::WrongShard]);
    apply(&store, 2, &open_slots());
    let stale = Write { epoch: EPOCH - 1, ..put(1, "r", 1) };
    let foreign = Write { slot: 5, ..put(1, "r", 1) };
    let outcomes = apply(&store, 3, &batch(1, vec![stale, foreign, put(1, "r", 1)]));
    assert_eq!(statuses(&outcomes), [Status::WrongShard, Status::WrongShard, Status::Applied]);
    assert_eq!((outcomes[0].epoch, outcomes[1].epoch), (EPOCH, 0));
    assert_eq!(store.owner_epoch(Slot(4000)), Some(Epoch(EPOCH)));
    let stale = store.read(&RecordKey { epoch: 1, ..key("r") }, &[]);
    assert_eq!((stale.status(), stale.epoch), (row_result::Status::WrongShard, EPOCH));
    assert_eq!(store.read(&RecordKey { slot: 1 << 20, ..key("r") }, &[]).epoch, 0);
}

#[test]
fn deletes_do_what_the_contract_says() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let outcomes = apply(
        &store,
        2,
        &batch(
            1,
            vec![
                put(1, "r", 10),
                delete(2, "r", 5, SoftDelete),
                delete(3, "r", 5, HardDelete),
                delete(4, "r", 10, HardDelete),
                put(5, "r", 3),
                delete(6, "r", 7, SoftDelete),
                put(7, "r", 6),
                delete(8, "r", 1, HardDelete),
            ],
        ),
    );
    assert_eq!(
        statuses(&outcomes),
        [
            Status::Applied,
            Status::Superseded,
            Status::StaleHardDelete,
            Status::Applied,
            Status::Applied,
            Status::Applied,
            Status::Superseded,
            // Only a live record makes a hard delete stale.
            Status::Applied,
        ]
    );
    assert_eq!(store.change_log().last_sequence, 7, "all but the refused one");
    assert_eq!(read(&store, "r").status(), row_result::Status::NotFound);
}

#[test]
fn a_full_change_log_refuses_and_recovers_after_a_trim() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let mut index = 1;
    let mut next = |write: Write| {
        index += 1;
        statuses(&apply(&store, index, &batch(index, vec![write])))[0]
    };
    let mut id = 0;
    let mut seen = vec![Pressure::Normal];
    while {
        id += 1;
        next(put(id, "r", 1)) == Status::Applied
    } {
        seen.push(store.pressure());
    }
    seen.dedup();
    assert_eq!(seen, [Pressure::Normal, Pressure::Alert, Pressure::Slow, Pressure::Refuse]);
    assert_eq!(next(put(id, "r", 1)), Status::ChangeLogFull, "not remembered as accepted");
    assert_eq!(next(Write { offline: false, ..put(id + 1, "r", 1) }), Status::Applied, "online only goes on");
    assert_eq!(read(&store, "r").status(), row_result::Status::Found);
    let last = store.change_log().last_sequence;
    apply(&store, 9_000, &seal(9_000));
    assert_eq!(store.segments_after(0, 1).segments[0].sealed_at, 9_000);
    apply(&store, 9_001, &trim(last + 1));
    assert_eq!(store.pressure(), Pressure::Refuse, "an offset beyond what is sealed is none");
    apply(&store, 9_002, &trim(last));
    assert_eq!(store.change_log().bytes, 0);
    let outcomes = apply(&store, 9_003, &batch(1, vec![put(id, "r", 1)]));
    assert_eq!(statuses(&outcomes), [Status::Applied]);
    assert_eq!((store.change_log().last_sequence, outcomes[0].stamp), (last + 1, 9_001));
    assert_eq!(store.open_segment().events, 1);
}

#[test]
fn what_is_not_understood_stops_the_replica() {
    let unknown_command = ShardCommand { command: None }.encode_to_vec();
    let unknown_kind = batch(1, vec![Write { kind: 99, ..put(1, "r", 1) }]);
    for command in [unknown_command.into(), unknown_kind, Bytes::from_static(b"\xff\xff")] {
        let (_tree, store) = fresh();
        apply(&store, 1, &open_slots());
        assert!(matches!(store.apply(2, &command), Err(Error::Entry { index: 2, .. })));
        assert!(store.failure().is_some());
        assert!(store.apply(3, &open_slots()).is_err(), "nothing is applied after it");
        assert!(store.pin_snapshot().is_err());
    }
}

#[tokio::test]
async fn a_full_memory_table_makes_apply_wait_for_the_checkpointer() {
    let tree = std::sync::Arc::new(TestTree::default());
    let settings = Settings { memory_table_bytes: 64 << 10, checkpoint_bytes: 16 << 10, ..SETTINGS };
    let store = open_as(&tree, TreeTrust::Untrusted, settings);
    apply(&store, 1, &open_slots());
    tree.hold();
    let mut index = 1;
    while store.status().memory_table_bytes < settings.memory_table_bytes {
        store.room().await;
        index += 1;
        let write = Write { offline: false, ..put(u128::from(index), &format!("r{index}"), 1) };
        apply(&store, index, &batch(1, vec![write]));
    }
    let mut room = pin!(store.room());
    assert_eq!(room.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    tree.release();
    room.await;
    assert!(store.status().memory_table_bytes < settings.memory_table_bytes);
    store.close().expect("is written");
    assert_eq!(tree.len() as u64, store.status().cells);
    assert!(matches!(store.apply(index + 1, &open_slots()), Err(Error::Closed)));
}

#[tokio::test]
async fn a_failed_tree_fails_the_store_and_lets_nobody_wait() {
    let (tree, store) = fresh();
    apply(&store, 1, &open_slots());
    apply(&store, 2, &batch(1, vec![put(1, "r", 1)]));
    tree.tear_after(0);
    assert!(matches!(store.checkpoint(), Err(Error::Engine(_))));
    assert!(matches!(store.failed().await, Error::Engine(_)));
    store.room().await;
    assert!(store.apply(3, &batch(1, vec![put(2, "r", 1)])).is_err());
    assert_eq!(read(&store, "r").status(), row_result::Status::Corrupt);
    assert!(store.close().is_err());
}

#[test]
fn a_read_projects_the_row_and_no_row_means_no_answer() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let identifier = RecordIdentifier::new("r").expect("is one");
    let value = |text: &str| FeatureValue { value: Value::String(text.to_owned()), original: None };
    let values = vec![(FeatureOrdinal(0), value("r")), (FeatureOrdinal(4), value("four"))];
    let event_time = EventTime::from_parts(5, 0).expect("in range");
    let record = Record { identifier, event_time, values, ttl: None };
    let row = granary_row::encode(&record, SchemaVersion(1));
    apply(&store, 2, &batch(9, vec![Write { row: row.clone(), ..put(1, "r", 5) }, put(2, "no row", 5)]));

    let whole = store.read(&key("r"), &[]);
    assert_eq!((whole.row, whole.event_seconds, whole.event_nanos, whole.stamp), (row.clone(), 5, 0, 9));
    let projected = store.read(&key("r"), &[FeatureOrdinal(4)]);
    assert_eq!(projected.row, granary_row::project(&row, &[FeatureOrdinal(4)]).expect("a row"));
    assert_eq!(store.read(&key("no row"), &[FeatureOrdinal(4)]).status(), row_result::Status::Corrupt);
    assert!(store.failure().is_none(), "every replica has that row");
}
