//! Listings: each record once, in order, whatever page size, wherever its cell is, and while it moves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use granary_proto::internal::shard_list_response::Result as Listed;
use granary_proto::internal::{
    OpenSlots, OwnedSlots, Projection, RecordPlace, ShardListRequest, StreamId, Write, WriteKind,
    shard_command::Command,
};
use granary_shard::{Error, Settings, ShardStore, TreeTrust};
use granary_types::{EventTime, Record, RecordIdentifier, SchemaVersion, Ttl, TtlUnit};

use crate::commands::{EPOCH, SETTINGS, SLOT, apply, batch_within, delete, encode, fresh, open_as, open_slots, put};
use crate::tree::TestTree;

const SLOTS: [u32; 2] = [SLOT, 4000];

fn request(records_max: u32) -> ShardListRequest {
    ShardListRequest {
        shard: 1,
        slots: vec![OwnedSlots { epoch: EPOCH, slots: SLOTS.to_vec() }],
        feature_group: 1,
        records_max,
        ..ShardListRequest::default()
    }
}

/// All pages of a listing: slot and record.
fn list(store: &ShardStore, mut request: ShardListRequest) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    loop {
        let Listed::Listed(page) = store.list(&request).expect("the store is whole") else { panic!("owned slots") };
        assert!(page.records.len() <= request.records_max as usize);
        for record in page.records {
            let RecordPlace { slot, record } = record.place.expect("a place");
            all.push((slot, String::from_utf8(record.to_vec()).expect("UTF-8")));
        }
        match page.end {
            Some(end) => {
                let place = |place: &RecordPlace| (place.slot, place.record.clone());
                assert!(request.after.as_ref().map(place) < Some(place(&end)), "it goes on: {end:?}");
                request.after = Some(end);
            }
            None => return all,
        }
    }
}

fn row(ttl_seconds: Option<u32>) -> Bytes {
    let ttl = ttl_seconds.map(|seconds| Ttl::new(TtlUnit::Seconds, seconds).expect("positive"));
    let identifier = RecordIdentifier::new("r").expect("short");
    granary_row::encode(&Record { identifier, event_time: EventTime::MIN, values: vec![], ttl }, SchemaVersion(1))
}

/// A put whose row is one.
fn put_row(id: u128, slot: u32, record: &str, seconds: i64) -> Write {
    Write { slot, row: row(None), offline: false, ..put(id, record, seconds) }
}

#[test]
fn every_page_size_lists_the_same_in_memory_and_in_the_tree() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let mut expected = Vec::new();
    let mut writes = Vec::new();
    for number in 0..40_u32 {
        let (slot, record) = (SLOTS[number as usize % 2], format!("record {number:02}"));
        writes.push(put_row(u128::from(number), slot, &record, 1));
        // Another group's records and another slot's lie around them.
        writes.push(Write { feature_group: 2, ..put_row(u128::from(number + 1_000), slot, &record, 1) });
        expected.push((slot, record));
    }
    expected.sort();
    let (older, newer) = writes.split_at(40);
    apply(&store, 2, &batch_within(0, 1, older.to_vec()));
    store.checkpoint().expect("is written");
    apply(&store, 3, &batch_within(0, 100, newer.to_vec()));
    // Half of the older ones once more: in tree and memory.
    let again = older.iter().step_by(2).map(|write| Write { id: Bytes::from(vec![write.id[15]; 16]), ..write.clone() });
    apply(&store, 4, &batch_within(0, 200, again.collect()));
    for written in [false, true] {
        if written {
            store.checkpoint().expect("is written");
        }
        for size in [1, 2, 3, 7, 39, 40, 41, 1_000] {
            assert_eq!(list(&store, request(size)), expected, "pages of {size}");
        }
    }
    let from_slot = ShardListRequest { after: Some(RecordPlace { slot: 4, record: Bytes::new() }), ..request(7) };
    let tail: Vec<_> = expected.iter().filter(|(slot, _)| *slot > 4).cloned().collect();
    assert_eq!(list(&store, from_slot), tail);
}

#[test]
fn what_is_deleted_or_expired_is_not_listed() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let expiring = Write { row: row(Some(60)), ..put_row(4, SLOT, "expiring", 10) };
    let puts =
        [put_row(1, SLOT, "live", 1), put_row(2, SLOT, "soft", 1), put_row(3, SLOT, "hard", 1), expiring].to_vec();
    apply(&store, 2, &batch_within(0, 1, puts));
    let deletes = vec![delete(5, "soft", 2, WriteKind::SoftDelete), delete(6, "hard", 2, WriteKind::HardDelete)];
    apply(&store, 3, &batch_within(0, 100, deletes));
    let names = |request| list(&store, request).into_iter().map(|(_, record)| record).collect::<Vec<_>>();
    let at = |now_nanos| ShardListRequest { now_nanos, ..request(2) };
    assert_eq!(names(at(69_999_999_999)), ["expiring", "live"]);
    assert_eq!(names(at(70_000_000_000)), ["live"]);
    assert_eq!(names(ShardListRequest { soft_deleted: true, ..at(0) }), ["expiring", "live", "soft"]);
    let with_rows = ShardListRequest { rows: Some(Projection::default()), ..request(10) };
    let Listed::Listed(page) = store.list(&with_rows).expect("whole") else { panic!("owned") };
    let found = page.records[1].row.clone().expect("a row");
    assert_eq!((found.row, found.event_seconds, found.stamp), (row(None), 1, 1));
}

#[test]
fn slots_are_listed_only_where_they_are_owned() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let asked = |epoch, slots: &[u32]| ShardListRequest {
        slots: vec![OwnedSlots { epoch, slots: slots.to_vec() }],
        ..request(5)
    };
    for (epoch, slots, wrong) in
        [(EPOCH + 1, &SLOTS[..], (SLOT, EPOCH)), (EPOCH, &[SLOT, 5][..], (5, 0)), (EPOCH, &[1 << 20][..], (1 << 20, 0))]
    {
        let Listed::WrongSlot(found) = store.list(&asked(epoch, slots)).expect("whole") else { panic!("not owned") };
        assert_eq!((found.slot, found.epoch), wrong);
    }
    assert!(store.failure().is_none());
}

#[test]
fn empty_slots_are_passed_a_bounded_piece_at_a_time() {
    const ALL: std::ops::Range<u32> = 0..4096;
    let (_tree, store) = fresh();
    let stream = StreamId { cluster: vec![1; 16].into(), shard: 1, incarnation: 1 };
    let open = OpenSlots { slots: ALL.collect(), epoch: EPOCH, stream: Some(stream) };
    apply(&store, 1, &encode(Command::OpenSlots(open)));
    // Around the ends of the first pieces: a feature group for each, with one record.
    let alone = [0, 1_022, 1_023, 1_024, 1_025, 1_026, 2_046, 2_047, 2_048, 2_049, 2_050, 4_095];
    let puts = alone.map(|slot| Write { feature_group: slot + 1, ..put_row(slot.into(), slot, "alone", 1) });
    apply(&store, 2, &batch_within(0, 1, puts.to_vec()));
    for slot in alone {
        let slots = vec![OwnedSlots { epoch: EPOCH, slots: ALL.collect() }];
        let found = list(&store, ShardListRequest { slots, feature_group: slot + 1, ..request(10) });
        assert_eq!(found, [(slot, "alone".to_owned())]);
    }
}

#[test]
fn a_slot_with_many_cells_in_memory_and_in_the_tree_is_listed_whole() {
    const RECORDS: u32 = 5_000;
    let roomy = Settings { memory_table_bytes: 64 << 20, checkpoint_bytes: 64 << 20, ..SETTINGS };
    let store = open_as(&std::sync::Arc::new(TestTree::default()), TreeTrust::Untrusted, roomy);
    apply(&store, 1, &open_slots());
    let record = |number: u32| format!("record {number:04}");
    let puts = |id: u128, numbers: Vec<u32>| {
        let put = |number: u32| put_row(id << 64 | u128::from(number), SLOT, &record(number), 1);
        batch_within(0, 1, numbers.into_iter().map(put).collect())
    };
    // Every third only in the tree, every third only in memory, every third in both.
    apply(&store, 2, &puts(1, (0..RECORDS).filter(|number| number % 3 != 1).collect()));
    store.checkpoint().expect("is written");
    apply(&store, 3, &puts(2, (0..RECORDS).filter(|number| number % 3 != 0).collect()));
    let expected: Vec<_> = (0..RECORDS).map(|number| (SLOT, record(number))).collect();
    for size in [700, 1_024, 1_366, 10_000] {
        assert_eq!(list(&store, request(size)), expected, "pages of {size}");
    }
}

#[test]
fn a_store_that_is_closed_lists_nothing_and_has_not_failed() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    store.close().expect("is written");
    assert!(matches!(store.list(&request(10)), Err(Error::Closed)));
    assert!(store.failure().is_none());
}

#[test]
fn many_tombstones_are_passed_a_bounded_piece_at_a_time() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    for chunk in 0..20_u128 {
        let deletes = (0..2_000_u128).map(|place| {
            let id = chunk * 2_000 + place;
            Write { offline: false, ..delete(id, &format!("gone {id:06}"), 1, WriteKind::HardDelete) }
        });
        apply(&store, 2 + u64::try_from(chunk).expect("small"), &batch_within(0, 1, deletes.collect()));
    }
    apply(&store, 50, &batch_within(0, 1, vec![put_row(1 << 40, SLOT, "last", 1)]));
    let Listed::Listed(page) = store.list(&request(10)).expect("whole") else { panic!("owned") };
    assert!(page.records.is_empty() && page.end.is_some());
    assert_eq!(list(&store, request(10)), [(SLOT, "last".to_owned())]);
}

#[test]
fn a_record_that_is_there_all_the_while_is_listed_once_while_others_come_and_go() {
    let tree = std::sync::Arc::new(TestTree::default());
    let busy = Settings { checkpoint_bytes: 2_000, change_log_budget_bytes: 0, ..SETTINGS };
    let store = open_as(&tree, TreeTrust::Untrusted, busy);
    apply(&store, 1, &open_slots());
    let stays: BTreeSet<String> = (0..60).map(|number| format!("record {:03}", number * 5)).collect();
    let puts = (0_u128..).zip(&stays).map(|(id, record)| put_row(id, SLOT, record, 1));
    apply(&store, 2, &batch_within(0, 1, puts.collect()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut listings = 0;
            while !done.load(Ordering::Relaxed) || listings == 0 {
                let listed = list(&store, request(1 + listings % 9));
                let names: BTreeSet<_> = listed.iter().map(|(_, record)| record.clone()).collect();
                assert_eq!(names.len(), listed.len(), "nothing twice");
                assert!(stays.is_subset(&names), "{:?}", stays.difference(&names));
                listings += 1;
            }
        });
        for index in 3..3_000_u64 {
            if lister.is_finished() {
                break;
            }
            let number = index * 7 % 300;
            let record = format!("record {number:03}");
            let id = u128::from(1_000 + index);
            // What stays is written, too, so that its cells move between memory and tree.
            let write = match index % 3 {
                0 if number % 5 != 0 => Write { offline: false, ..delete(id, &record, 1 << 30, WriteKind::HardDelete) },
                _ => put_row(id, SLOT, &record, i64::try_from(index).expect("small")),
            };
            apply(&store, index, &batch_within(0, index, vec![write]));
        }
        done.store(true, Ordering::Relaxed);
        lister.join().expect("listings are right");
    });
}
