//! Replicas agree however they came to their state: straight, by a snapshot, or by replay into rows that are ahead.

use std::sync::Arc;

use bytes::Bytes;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{WriteKind, WriteOutcome};
use granary_shard::{Error, Settings, ShardStore, TreeTrust, decode_segment};
use proptest::prelude::*;

use crate::commands::{
    BUDGET, Oracle, SETTINGS, any_entries, apply, batch, batch_within, delete, fresh, image, open, open_as, open_slots,
    put, read, snapshot,
};
use crate::tree::TestTree;

type Entries = [(u64, Bytes)];

fn apply_all(store: &ShardStore, entries: &Entries) -> Vec<Vec<WriteOutcome>> {
    entries.iter().map(|(index, command)| apply(store, *index, command)).collect()
}

/// Applied straight: the answers and the state at the end.
fn straight(entries: &Entries) -> (Vec<Vec<WriteOutcome>>, Vec<u8>, Option<u128>) {
    let (_tree, store) = fresh();
    let mut oracle = Oracle::default();
    let mut outcomes = Vec::new();
    for (index, command) in entries {
        outcomes.push(apply(&store, *index, command));
        oracle.take(command, outcomes.last().expect("pushed"));
        oracle.check(&store);
    }
    check_change_log(&store);
    (outcomes, image(&store), store.status().state_hash)
}

/// CL-2 and the checksums of all that is sealed.
fn check_change_log(store: &ShardStore) {
    let log = store.segments_after(0, usize::MAX);
    let mut next = log.trimmed_sequence + 1;
    for segment in &log.segments {
        for event in decode_segment(segment).expect("whole") {
            assert_eq!(event.sequence, next);
            assert!(event.stamp <= segment.sealed_at);
            let write = event.write.expect("a write");
            let is_plain = !matches!(write.kind(), WriteKind::Update | WriteKind::Expiry);
            assert!(is_plain && write.based_on == 0, "an update's event is a put, an expiry's a hard delete");
            next += 1;
        }
    }
    assert_eq!(next, log.sealed_sequence + 1);
}

/// What a client may see of an outcome whatever the rows were at the time.
fn accepted(outcomes: &[WriteOutcome]) -> Vec<(Status, u64, u64)> {
    let merged = |status| if status == Status::Superseded { Status::Applied } else { status };
    outcomes.iter().map(|outcome| (merged(outcome.status()), outcome.epoch, outcome.stamp)).collect()
}

/// How the first life of a replica ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Clean,
    /// In the middle of a checkpoint, after so many pairs.
    Torn(usize),
}

#[derive(Debug, Clone)]
struct Life {
    /// How many entries are in the newest snapshot, in the last whole checkpoint, and applied at the end.
    snapshot: usize,
    checkpoint: usize,
    applied: usize,
    end: End,
}

fn any_life() -> impl Strategy<Value = Life> {
    let end = prop_oneof![1 => Just(End::Clean), 3 => (0_usize..5).prop_map(End::Torn)];
    (0_usize..60, 0_usize..60, 0_usize..60, end).prop_map(|(a, b, c, end)| {
        let mut at = [a, b, c];
        at.sort_unstable();
        Life { snapshot: at[0], checkpoint: at[1], applied: at[2], end }
    })
}

/// Lives the life and returns the tree it left behind and its newest snapshot.
fn live(entries: &Entries, life: &Life) -> (Arc<TestTree>, Option<(u64, Vec<u8>)>) {
    let (tree, store) = fresh();
    let mut newest = None;
    for (count, (index, command)) in (1..).zip(&entries[..life.applied]) {
        apply(&store, *index, command);
        if count == life.snapshot {
            newest = Some((*index, snapshot(&store)));
        }
        if count == life.checkpoint {
            store.checkpoint().expect("is written");
        }
    }
    match life.end {
        End::Clean => store.close().expect("is written"),
        End::Torn(pairs) => {
            tree.tear_after(pairs);
            // Nothing to write, nothing to tear.
            store.checkpoint().ok();
        }
    }
    drop(store);
    (tree, newest)
}

fn reopen(tree: &Arc<TestTree>, trust: TreeTrust, newest: Option<&(u64, Vec<u8>)>) -> Arc<ShardStore> {
    let store = open(tree, trust);
    if let Some((index, body)) = newest {
        store.restore(*index, true, &mut body.as_slice()).expect("is restored");
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(entries in any_entries(), at in any::<prop::sample::Index>()) {
        let (outcomes, end, hash) = straight(&entries);
        let (before, after) = entries.split_at(at.index(entries.len()) + 1);
        let (_tree, first) = fresh();
        apply_all(&first, before);
        let body = snapshot(&first);
        let (_tree, second) = fresh();
        let last = before.last().expect("at least one").0;
        second.restore(last, false, &mut body.as_slice()).expect("is restored");
        prop_assert_eq!(second.status().state_hash, first.status().state_hash);
        prop_assert_eq!(&apply_all(&second, after)[..], &outcomes[before.len()..]);
        prop_assert_eq!(second.status().state_hash, hash);
        check_change_log(&second);
        prop_assert_eq!(image(&second), end);
    }

    #[test]
    fn replay_into_rows_that_are_ahead_changes_nothing(entries in any_entries(), life in any_life()) {
        let (outcomes, end, hash) = straight(&entries);
        let len = entries.len();
        let life = Life { snapshot: life.snapshot.min(len), checkpoint: life.checkpoint.min(len),
            applied: life.applied.min(len), ..life };
        let (tree, newest) = live(&entries, &life);
        let trust = TreeTrust::Trusted { clean: matches!(life.end, End::Clean) };
        let mut store = reopen(&tree, trust, newest.as_ref());
        let replay = if newest.is_some() { life.snapshot } else { 0 };
        let mut place = replay;
        while place < len {
            let (index, command) = &entries[place];
            if let Err(error) = store.apply(*index, command) {
                // A record was hard-deleted too often for its cell to remember: the rows are rebuilt.
                prop_assert!(matches!(error, Error::RowsAhead { .. }), "{}", error);
                drop(store);
                prop_assert_eq!(tree.len(), 0);
                store = reopen(&tree, TreeTrust::Trusted { clean: false }, newest.as_ref());
                place = replay;
                continue;
            }
            // Applied at or below the index: skipped.
            place += 1;
            if place > life.applied {
                prop_assert!(store.status().state_hash.is_some());
            }
        }
        drop(store);
        // Once more from the same rows, now looking at the answers.
        let (tree, newest) = live(&entries, &life);
        let store = reopen(&tree, trust, newest.as_ref());
        for (place, (index, command)) in entries.iter().enumerate().skip(replay) {
            let Ok(reply) = store.apply(*index, command) else { return Ok(()) };
            let reply: granary_proto::internal::ShardReply = prost::Message::decode(reply).expect("a reply");
            prop_assert_eq!(accepted(&reply.outcomes), accepted(&outcomes[place]), "entry {}", index);
            if place >= life.applied {
                prop_assert_eq!(&reply.outcomes, &outcomes[place]);
            }
        }
        prop_assert_eq!(store.status().state_hash, hash);
        check_change_log(&store);
        prop_assert_eq!(image(&store), end);
    }
}

#[test]
fn many_hard_deletes_of_one_record_make_the_rows_be_rebuilt() {
    use WriteKind::HardDelete;
    let mut entries = vec![(1, open_slots()), (2, batch(10, vec![put(1, "r", 5)]))];
    for index in 3..30 {
        entries.push((index, batch(10, vec![delete(u128::from(index), "r", 6, HardDelete)])));
    }
    let (_, end, hash) = straight(&entries);
    let (tree, _) = live(&entries, &Life { snapshot: 99, checkpoint: 99, applied: 29, end: End::Clean });
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    let failed = entries.iter().find_map(|(index, command)| store.apply(*index, command).err());
    assert!(matches!(failed, Some(Error::RowsAhead { index: 3 })), "{failed:?}");
    assert!(failed.is_some_and(|error| error.wants_rebuild()));
    drop(store);
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    apply_all(&store, &entries);
    assert_eq!(store.status().state_hash, hash);
    assert_eq!(image(&store), end);
}

#[test]
fn the_state_hash_is_told_only_when_it_belongs_to_the_applied_index() {
    let entries: Vec<_> = (1..=6)
        .map(|index| (index, if index == 1 { open_slots() } else { batch(0, vec![put(u128::from(index), "r", 1)]) }))
        .collect();
    let (tree, _) = live(&entries, &Life { snapshot: 99, checkpoint: 4, applied: 6, end: End::Torn(1) });
    let store = open(&tree, TreeTrust::Trusted { clean: false });
    apply_all(&store, &entries[..5]);
    assert_eq!(store.status().state_hash, None, "the caller has not told the end of the Raft log");
    assert_eq!(store.status().state_hash, None);
    apply_all(&store, &entries[5..]);
    assert!(store.status().state_hash.is_some());
    // A clean stop in the middle of a replay must not be taken for more than it is.
    drop(store);
    let (tree, _) = live(&entries, &Life { snapshot: 99, checkpoint: 4, applied: 6, end: End::Torn(1) });
    let store = open(&tree, TreeTrust::Trusted { clean: false });
    apply_all(&store, &entries[..2]);
    store.close().expect("is written");
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    apply_all(&store, &entries[..5]);
    assert_eq!(store.status().state_hash, None);
    apply_all(&store, &entries[5..]);
    assert_eq!(store.status().state_hash, straight(&entries).2);
}

#[test]
fn replay_under_another_budget_setting_changes_nothing() {
    let write = |index: u64| vec![put(u128::from(index), "r", 1)];
    // The first leader's budget is soon full; the second one's is larger, the third one has none.
    let mut entries = vec![(1, open_slots())];
    entries.extend((2..100).map(|index| (index, batch(index, write(index)))));
    entries.extend((100..200).map(|index| (index, batch_within(2 * BUDGET, index, write(index)))));
    entries.extend((200..220).map(|index| (index, batch_within(0, index, write(index)))));
    entries.extend((220..230).map(|index| (index, batch(index, write(index)))));
    let (outcomes, end, hash) = straight(&entries);
    let full = |outcomes: &[Vec<WriteOutcome>]| {
        outcomes.iter().flatten().filter(|outcome| outcome.status() == Status::ChangeLogFull).count()
    };
    assert!(full(&outcomes[..99]) > 0 && full(&outcomes[99..199]) > 0 && full(&outcomes[199..219]) == 0);
    assert_eq!(full(&outcomes[219..]), 10);
    for budget in [1, BUDGET / 2, BUDGET, 1 << 40, 0] {
        let settings = Settings { change_log_budget_bytes: budget, ..SETTINGS };
        // Into rows that are ahead, and into none.
        let (tree, _) = live(&entries, &Life { snapshot: 999, checkpoint: 999, applied: 150, end: End::Clean });
        for tree in [tree, Arc::default()] {
            let store = open_as(&tree, TreeTrust::Trusted { clean: true }, settings);
            assert_eq!(store.change_log_budget(), budget);
            let replayed = apply_all(&store, &entries);
            assert_eq!(replayed.len(), outcomes.len());
            for (replayed, first) in replayed.iter().zip(&outcomes) {
                assert_eq!(accepted(replayed), accepted(first), "budget {budget}");
            }
            assert_eq!(replayed[150..], outcomes[150..], "budget {budget}");
            assert_eq!(store.status().state_hash, hash);
            assert!(image(&store) == end, "budget {budget}");
        }
    }
}

#[test]
fn no_snapshot_is_pinned_while_rows_are_ahead() {
    let entries: Vec<_> = (1..=6)
        .map(|index| (index, if index == 1 { open_slots() } else { batch(0, vec![put(u128::from(index), "r", 1)]) }))
        .collect();
    let (_, end, _) = straight(&entries);
    // A part of a checkpoint that was torn says up to which entry it reaches, whatever the Raft log still has.
    for (life_end, clean) in [(End::Clean, true), (End::Torn(1), false)] {
        let (tree, _) = live(&entries, &Life { snapshot: 99, checkpoint: 4, applied: 6, end: life_end });
        let store = open(&tree, TreeTrust::Trusted { clean });
        for (index, command) in &entries {
            let refused = store.pin_snapshot();
            assert!(
                matches!(refused, Err(Error::Replaying { ahead_to: 6, .. })),
                "{life_end:?} before {index}: {refused:?}"
            );
            assert!(refused.is_err_and(|error| !error.wants_rebuild()));
            apply(&store, *index, command);
        }
        assert!(store.failure().is_none());
        assert!(image(&store) == end, "{life_end:?}");
    }
}

#[test]
fn a_clean_stop_in_the_middle_of_a_replay_keeps_what_is_known_of_the_rows() {
    let entries: Vec<_> = (1..=6)
        .map(|index| {
            (
                index,
                if index == 1 { open_slots() } else { batch(0, vec![put(u128::from(index), "r", 10 - index as i64)]) },
            )
        })
        .collect();
    let (tree, _) = live(&entries, &Life { snapshot: 99, checkpoint: 99, applied: 6, end: End::Clean });
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    apply_all(&store, &entries[..3]);
    store.close().expect("is written");
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    apply_all(&store, &entries[..4]);
    assert_eq!(store.status().state_hash, None);
    apply_all(&store, &entries[4..]);
    assert_eq!(store.status().state_hash, straight(&entries).2);
}

#[test]
fn a_tree_older_than_the_own_snapshot_is_loaded_from_it() {
    let (tree, store) = fresh();
    apply(&store, 1, &open_slots());
    apply(&store, 2, &batch(1, vec![put(1, "r", 1)]));
    let body = snapshot(&store);
    drop(store);
    tree.lose_one();
    let store = open(&tree, TreeTrust::Untrusted);
    // Entry 3 was blank: consensus counts it, apply never saw it.
    store.restore(3, true, &mut body.as_slice()).expect("is restored");
    assert_eq!(store.status().applied_index, 3);
    assert_eq!(read(&store, "r").stamp, 1);
    assert_eq!(apply(&store, 3, &batch(1, vec![put(2, "r", 2)])), [], "in the snapshot already");
}
