//! Updates: merged into the record as it is, and applied only onto that record.

use bytes::Bytes;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{Write, WriteKind};
use granary_row::RowView;
use granary_shard::{Merged, ShardStore, TreeTrust, decode_segment};
use granary_types::record::RecordUpdate;
use granary_types::{RecordIdentifier, SchemaVersion, Slot, Ttl, TtlUnit};

use crate::commands::{
    BUDGET, apply, batch, batch_within, delete, fresh, image, open, open_slots, put, put_row, read, seal, snapshot,
    statuses, values,
};

/// An update as a router sends it.
fn update(id: u128, seconds: Option<i64>, texts: &[(u16, &str)], ttl: Option<u32>) -> Write {
    let update = RecordUpdate {
        identifier: RecordIdentifier::new("r").expect("short"),
        event_time: None,
        values: values(texts),
        ttl: ttl.map(|seconds| Ttl::new(TtlUnit::Seconds, seconds).expect("positive")),
    };
    Write {
        kind: WriteKind::Update.into(),
        row: granary_row::encode_update(&update, SchemaVersion(2)),
        keeps_event_time: seconds.is_none(),
        ..put(id, "r", seconds.unwrap_or(0))
    }
}

fn merged(store: &ShardStore, update: &Write) -> Write {
    match store.merge_update(update).expect("the store is whole") {
        Merged::Write(write) => write,
        Merged::Settled(outcome) => panic!("settled as {:?}", outcome.status()),
    }
}

fn settled(store: &ShardStore, update: &Write) -> Status {
    match store.merge_update(update).expect("the store is whole") {
        Merged::Write(_) => panic!("merged"),
        Merged::Settled(outcome) => outcome.status(),
    }
}

fn texts(row: &[u8]) -> Vec<(u16, String)> {
    RowView::open(row).expect("a row").values().map(|(ordinal, value)| (ordinal.0, value.text())).collect()
}

/// A store whose record `r` is put at 10 seconds with the features 0, 1 and 3.
fn with_record() -> std::sync::Arc<ShardStore> {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    let first = put_row(1, 10, &[(0, "r"), (1, "one"), (3, "three")], Some(60));
    assert_eq!(statuses(&apply(&store, 2, &batch(100, vec![first]))), [Status::Applied]);
    store
}

#[test]
fn an_update_changes_what_it_names_and_its_event_is_the_whole_record() {
    let store = with_record();
    let entry = merged(&store, &update(2, None, &[(1, "uno"), (2, "dos")], None));
    assert_eq!((entry.event_seconds, entry.based_on), (10, 100));
    assert_eq!(statuses(&apply(&store, 3, &batch(200, vec![entry]))), [Status::Applied]);
    let found = read(&store, "r");
    let expected = [(0, "r"), (1, "uno"), (2, "dos"), (3, "three")].map(|(at, text)| (at, text.to_owned()));
    assert_eq!(texts(&found.row), expected);
    let view = RowView::open(&found.row).expect("a row");
    assert_eq!((view.ttl_seconds(), view.schema_version()), (Some(60), SchemaVersion(2)), "the time to live stays");
    assert_eq!((found.event_seconds, found.stamp), (10, 200));

    let entry = merged(&store, &update(3, Some(11), &[(3, "tres")], Some(90)));
    apply(&store, 4, &batch(300, vec![entry]));
    let found = read(&store, "r");
    assert_eq!(RowView::open(&found.row).expect("a row").ttl_seconds(), Some(90));
    assert_eq!(found.event_seconds, 11);

    apply(&store, 5, &seal(400));
    let segments = store.segments_after(0, usize::MAX).segments;
    let events = decode_segment(&segments[0]).expect("whole");
    let written = events[1].write.clone().expect("a write");
    assert_eq!(texts(&written.row), expected);
    assert_eq!((written.kind(), written.based_on, written.event_seconds), (WriteKind::Put, 0, 10));
    assert_eq!(events.len(), 3);
}

#[test]
fn what_does_not_exist_or_is_newer_is_not_updated() {
    let store = with_record();
    assert_eq!(settled(&store, &update(2, Some(9), &[(1, "x")], None)), Status::OlderEventTime);
    assert_eq!(merged(&store, &update(2, Some(10), &[(1, "x")], None)).event_seconds, 10, "an equal time is taken");
    let absent = Write { record: Bytes::from_static(b"nobody"), ..update(2, None, &[(1, "x")], None) };
    assert_eq!(settled(&store, &absent), Status::NoRecord);
    let elsewhere = Write { epoch: 99, ..update(2, None, &[(1, "x")], None) };
    assert_eq!(settled(&store, &elsewhere), Status::WrongShard);
    // The time to live of 60 s ends with the 70th second.
    let at = |nanos| Write { now_nanos: nanos, ..update(2, None, &[(1, "x")], None) };
    assert_eq!(merged(&store, &at(69_999_999_999)).event_seconds, 10);
    assert_eq!(settled(&store, &at(70_000_000_000)), Status::NoRecord);
    let long = "x".repeat(granary_types::record::RECORD_LEN_MAX - 5);
    assert_eq!(settled(&store, &update(2, None, &[(1, &long)], None)), Status::RecordTooLong);
    merged(&store, &update(2, None, &[(1, &long[1..])], None));

    apply(&store, 3, &batch(200, vec![delete(5, "r", 11, WriteKind::SoftDelete)]));
    assert_eq!(settled(&store, &update(2, Some(12), &[(1, "x")], None)), Status::NoRecord);
    apply(&store, 4, &batch(300, vec![delete(6, "r", 12, WriteKind::HardDelete)]));
    assert_eq!(settled(&store, &update(2, Some(13), &[(1, "x")], None)), Status::NoRecord);
    assert!(store.failure().is_none());
}

#[test]
fn a_row_that_cannot_be_read_is_no_missing_record() {
    let (_tree, store) = fresh();
    apply(&store, 1, &open_slots());
    apply(&store, 2, &batch(100, vec![put(1, "r", 10)]));
    assert_eq!(settled(&store, &update(2, None, &[(1, "x")], None)), Status::RowUnreadable);
    let store = with_record();
    let garbled = Write { row: Bytes::from_static(b"no row"), ..update(2, None, &[], None) };
    assert_eq!(settled(&store, &garbled), Status::RowUnreadable);
    assert!(store.failure().is_none(), "every replica has it");
}

#[test]
fn nothing_is_merged_while_rows_are_replaced() {
    let (tree, store) = fresh();
    apply(&store, 1, &open_slots());
    apply(&store, 2, &batch(100, vec![put_row(1, 10, &[(0, "r")], None)]));
    let body = snapshot(&store);
    let meanwhile = std::thread::scope(|scope| {
        tree.hold();
        scope.spawn(|| store.restore(2, false, &mut body.as_slice()).expect("is restored"));
        while store.owner_epoch(Slot(3)).is_some() {
            std::thread::yield_now();
        }
        let meanwhile = store.merge_update(&update(2, None, &[(1, "x")], None));
        tree.release();
        meanwhile
    });
    let Ok(Merged::Settled(outcome)) = meanwhile else { panic!("{meanwhile:?}") };
    assert_eq!(outcome.status(), Status::WrongShard);
    merged(&store, &update(2, None, &[(1, "x")], None));
}

#[test]
fn a_retry_is_told_before_anything_else() {
    let store = with_record();
    let first = update(2, Some(20), &[(1, "x")], None);
    let entry = merged(&store, &first);
    apply(&store, 3, &batch(200, vec![entry.clone()]));
    assert_eq!(settled(&store, &first), Status::Duplicate);
    // An attempt that was merged before the first one was applied.
    assert_eq!(statuses(&apply(&store, 4, &batch(300, vec![entry]))), [Status::Duplicate]);
    apply(&store, 5, &batch(400, vec![delete(5, "r", 30, WriteKind::HardDelete)]));
    assert_eq!(settled(&store, &first), Status::Duplicate, "also when the record is gone");
}

#[test]
fn whatever_was_written_in_between_makes_it_be_merged_again() {
    type Between = (&'static str, Write);
    let between: [Between; 5] = [
        ("a newer put", put(5, "r", 11)),
        ("an older put, which the row does not show", put(5, "r", 3)),
        ("a soft delete", delete(5, "r", 11, WriteKind::SoftDelete)),
        ("a hard delete", delete(5, "r", 11, WriteKind::HardDelete)),
        ("a hard delete that is refused as stale", delete(5, "r", 3, WriteKind::HardDelete)),
    ];
    for (what, write) in between {
        let store = with_record();
        let entry = merged(&store, &update(2, Some(20), &[(1, "x")], None));
        apply(&store, 3, &batch(200, vec![write.clone()]));
        let before = (read(&store, "r"), store.status());
        assert_eq!(statuses(&apply(&store, 4, &batch(300, vec![entry.clone()]))), [Status::Raced], "{what}");
        let after = (read(&store, "r"), store.status());
        assert_eq!(after.0, before.0, "{what}");
        assert_eq!(after.1.recent_writes, before.1.recent_writes, "{what}");
        assert_eq!((after.1.state_hash, after.1.last_stamp), (before.1.state_hash, before.1.last_stamp), "{what}");
        // In one entry, too.
        let store = with_record();
        let outcomes = apply(&store, 3, &batch(200, vec![write, entry]));
        assert_eq!(outcomes[1].status(), Status::Raced, "{what}");
    }
    // What is not written to the record's own online value does not count.
    let store = with_record();
    let entry = merged(&store, &update(2, Some(20), &[(1, "x")], None));
    let others = vec![put(5, "another", 11), Write { online: false, ..put(6, "r", 30) }];
    apply(&store, 3, &batch(200, others));
    assert_eq!(statuses(&apply(&store, 4, &batch(300, vec![entry]))), [Status::Applied]);
}

#[test]
fn of_two_updates_of_one_record_in_one_entry_the_first_is_applied() {
    let store = with_record();
    let entries =
        vec![merged(&store, &update(2, None, &[(1, "a")], None)), merged(&store, &update(3, None, &[(3, "b")], None))];
    assert_eq!(statuses(&apply(&store, 3, &batch(200, entries))), [Status::Applied, Status::Raced]);
    let again = merged(&store, &update(3, None, &[(3, "b")], None));
    assert_eq!(statuses(&apply(&store, 4, &batch(300, vec![again]))), [Status::Applied]);
    let expected = [(0, "r"), (1, "a"), (3, "b")].map(|(at, text)| (at, text.to_owned()));
    assert_eq!(texts(&read(&store, "r").row), expected);
}

/// The case that the row cannot decide: on replay it holds what came later.
#[test]
fn replay_into_a_row_that_is_ahead_decides_and_logs_as_the_first_time() {
    let live = |end_at: usize| {
        let (tree, store) = fresh();
        let mut entries = vec![(1_u64, open_slots())];
        let mut newest = None;
        let first = put_row(1, 10, &[(0, "r"), (1, "one")], None);
        entries.push((2, batch(100, vec![first])));
        for (index, command) in &entries {
            apply(&store, *index, command);
        }
        for round in 0_u64..12 {
            let index = 3 + round;
            let one = merged(&store, &update(u128::from(10 + 2 * round), None, &[(1, "winner")], None));
            let two = merged(&store, &update(u128::from(11 + 2 * round), Some(50), &[(1, "loser")], None));
            let mut writes = vec![one, two];
            if round % 4 == 3 {
                writes.push(delete(u128::from(100 + round), "r", 60, WriteKind::HardDelete));
                writes.push(put_row(u128::from(200 + round), 10, &[(0, "r"), (1, "again")], None));
            }
            let command = batch_within(BUDGET, 1_000 * (round + 1), writes);
            apply(&store, index, &command);
            entries.push((index, command));
            if entries.len() == end_at {
                newest = Some((index, snapshot(&store)));
            }
        }
        entries.push((15, seal(20_000)));
        apply(&store, 15, &entries.last().expect("pushed").1);
        let end = (image(&store), store.status().state_hash, store.segments_after(0, usize::MAX));
        store.close().expect("is written");
        (tree, entries, newest, end)
    };
    for end_at in [0, 3, 5, 8, 13] {
        let (tree, entries, newest, end) = live(end_at);
        let store = open(&tree, TreeTrust::Trusted { clean: true });
        if let Some((index, body)) = &newest {
            store.restore(*index, true, &mut body.as_slice()).expect("is restored");
        }
        for (index, command) in &entries {
            let raced = apply(&store, *index, command);
            let updates = raced.iter().filter(|outcome| outcome.status() == Status::Raced).count();
            let skipped = newest.as_ref().is_some_and(|(snapshot, _)| index <= snapshot);
            assert_eq!(updates, usize::from(!skipped && (3..15).contains(index)), "entry {index}");
        }
        assert_eq!(store.segments_after(0, usize::MAX), end.2, "snapshot after {end_at}");
        assert_eq!(store.status().state_hash, end.1);
        assert!(image(&store) == end.0, "snapshot after {end_at}");
    }
}
