//! Expired records: found in the tree, removed only if nothing wrote to them since, and told as a hard delete.

use std::sync::Arc;

use bytes::Bytes;
use granary_proto::internal::row_result::Status as Found;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{Write, WriteKind};
use granary_shard::{ExpiredRecord, ShardStore, TreeTrust, decode_segment};
use granary_types::{EventTime, FeatureGroupId, Slot};

use crate::commands::{
    SLOT, apply, batch, delete, fresh, open, open_slots, put, put_row, read, seal, snapshot, statuses,
};

const SECOND: u64 = 1_000_000_000;

/// The record `r` is put at 10 s with 60 s to live, `lasting` without end; both are in the tree.
fn with_records() -> Arc<ShardStore> {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let lasting = Write { record: Bytes::from_static(b"lasting"), ..put_row(2, 10, &[(0, "lasting")], None) };
    apply(&store, 2, &batch(100, vec![put_row(1, 10, &[(0, "r")], Some(60)), lasting]));
    store.checkpoint().expect("is written");
    store
}

fn found(store: &ShardStore, seconds: u64) -> Vec<ExpiredRecord> {
    store.look_for_expired(&[], 1_000, seconds * SECOND).expect("the tree is whole").expired
}

/// As the leader asks for it: at the time of expiry, by its clock.
fn expiry(id: u128, at: i64, now: u64) -> Write {
    Write { now_nanos: now * SECOND, epoch: 0, ..delete(id, "r", at, WriteKind::Expiry) }
}

fn confirmed(store: &ShardStore, id: u128) -> Write {
    store.confirm_expiry(expiry(id, 70, 70)).expect("the store is whole").expect("it has expired")
}

#[test]
fn what_has_expired_is_found_to_the_second() {
    let store = with_records();
    assert_eq!(found(&store, 69), []);
    let expires_at = EventTime::from_parts(70, 0).expect("in range");
    let slot = Slot(u16::try_from(SLOT).expect("small"));
    let record = ExpiredRecord { slot, group: FeatureGroupId(1), record: Bytes::from_static(b"r"), expires_at };
    assert_eq!(found(&store, 70), [record]);
}

#[test]
fn a_look_goes_on_where_the_last_one_ended() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    for n in 0..25_u32 {
        let ttl = (n % 5 != 0).then_some(60);
        let write = put_row(n.into(), 10, &[(0, "x")], ttl);
        let write = Write { record: Bytes::from(format!("record {n:02}")), offline: false, ..write };
        apply(&store, u64::from(n) + 2, &batch(100, vec![write]));
    }
    store.checkpoint().expect("is written");
    for piece in [1, 7, 24, 25, 26] {
        let (mut after, mut records, mut with_ttl, mut cells) = (Bytes::new(), Vec::new(), 0, 0);
        loop {
            let look = store.look_for_expired(&after, piece, 70 * SECOND).expect("the tree is whole");
            with_ttl += look.with_ttl;
            cells += look.cells;
            records.extend(look.expired.into_iter().map(|expired| expired.record));
            let Some(reached) = look.reached else { break };
            after = reached;
        }
        let expected: Vec<_> = (0..25).filter(|n| n % 5 != 0).map(|n| Bytes::from(format!("record {n:02}"))).collect();
        assert_eq!((records, with_ttl, cells), (expected, 20, 25), "in pieces of {piece}");
    }
}

#[test]
fn an_expired_record_is_reset_and_its_event_is_a_hard_delete_at_its_expiry() {
    let store = with_records();
    let write = confirmed(&store, 5);
    assert_eq!((write.based_on, write.epoch, write.now_nanos), (101, crate::commands::EPOCH, 0));
    assert_eq!(statuses(&apply(&store, 3, &batch(200, vec![write]))), [Status::Applied]);
    assert_eq!(read(&store, "r").status(), Found::NotFound);
    assert_eq!(read(&store, "lasting").status(), Found::Found);
    store.checkpoint().expect("is written");
    assert_eq!(found(&store, 1_000), []);

    apply(&store, 4, &seal(300));
    let events = decode_segment(&store.segments_after(0, usize::MAX).segments[0]).expect("whole");
    let told = events.last().and_then(|event| event.write.clone()).expect("a write");
    assert_eq!((told.kind(), told.event_seconds, told.based_on), (WriteKind::HardDelete, 70, 0));
    assert_eq!(events.len(), 3);
    // An older event time is a first one again.
    assert_eq!(statuses(&apply(&store, 5, &batch(400, vec![put(6, "r", 5)]))), [Status::Applied]);
    assert_eq!(read(&store, "r").event_seconds, 5);
}

#[test]
fn what_was_written_meanwhile_stays() {
    let between = [
        put_row(6, 11, &[(0, "r")], Some(60)),
        // The same event time, as an update has that gives it more time.
        put_row(6, 10, &[(0, "r")], Some(600)),
        put_row(6, 3, &[(0, "r")], None),
        delete(6, "r", 11, WriteKind::SoftDelete),
        delete(6, "r", 11, WriteKind::HardDelete),
    ];
    for write in between {
        let store = with_records();
        let expiry = confirmed(&store, 5);
        apply(&store, 3, &batch(200, vec![write.clone()]));
        let before = (read(&store, "r"), store.status().state_hash, store.change_log().last_sequence);
        assert_eq!(statuses(&apply(&store, 4, &batch(300, vec![expiry]))), [Status::Raced], "{write:?}");
        let after = (read(&store, "r"), store.status().state_hash, store.change_log().last_sequence);
        assert_eq!(after, before, "{write:?}");
    }
}

#[test]
fn only_a_record_that_expires_as_is_said_is_confirmed() {
    let store = with_records();
    let asked = |write: Write| store.confirm_expiry(write).expect("the store is whole");
    assert!(asked(expiry(5, 70, 70)).is_some());
    assert_eq!(asked(expiry(5, 70, 69)), None, "not yet");
    assert_eq!(asked(expiry(5, 71, 80)), None, "another time");
    assert_eq!(asked(Write { record: Bytes::from_static(b"lasting"), ..expiry(5, 70, 70) }), None);
    assert_eq!(asked(Write { record: Bytes::from_static(b"nobody"), ..expiry(5, 70, 70) }), None);
    assert_eq!(asked(Write { slot: SLOT + 1, ..expiry(5, 70, 70) }), None, "not this shard's");
    apply(&store, 3, &batch(200, vec![put_row(6, 20, &[(0, "r")], Some(60))]));
    assert_eq!(asked(expiry(5, 70, 79)), None, "the tree's row is not the latest one");
    assert!(asked(expiry(5, 80, 80)).is_some());
    assert!(store.failure().is_none());
}

#[test]
fn replayed_into_rows_that_are_ahead_it_changes_nothing() {
    let (tree, store) = fresh();
    let first = put_row(1, 10, &[(0, "r")], Some(60));
    let mut entries = vec![open_slots(), batch(100, vec![first])];
    apply_all(&store, &entries);
    store.checkpoint().expect("is written");
    let expired = batch(200, vec![confirmed(&store, 5)]);
    let later = batch(300, vec![put_row(6, 5, &[(0, "r")], None), delete(7, "r", 6, WriteKind::HardDelete)]);
    entries.extend([expired, later, batch(400, vec![put(8, "r", 9)])]);
    apply_all(&store, &entries);
    let image = snapshot(&store);
    store.close().expect("is written");
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    apply_all(&store, &entries);
    assert_eq!(snapshot(&store), image);
}

fn apply_all(store: &ShardStore, entries: &[Bytes]) {
    for (index, entry) in (1..).zip(entries) {
        store.apply(index, entry).expect("is applied");
    }
}
