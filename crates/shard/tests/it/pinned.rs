//! Snapshots while writes go on: held open at any point of the scan, crashed at any point, and still the state at
//! their index, byte for byte.
//!
//! The checkpointers here are stepped by hand, and writes happen in the middle of the snapshot's scan, on one thread.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use granary_shard::{Error, Settings, ShardStore, Step, TreeTrust};
use granary_store::Engine as _;
use granary_store::memory::MemoryEngine;
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::commands::{SETTINGS, any_entries, apply, batch_within, image, open_slots, put, seal, snapshot};
use crate::tree::TestTree;

/// Little of everything, so that a few records go round all of it.
const TIGHT: Settings = Settings {
    memory_table_bytes: 2_000,
    checkpoint_bytes: 500,
    checkpoint_step_cells: 2,
    snapshot_overlay_bytes: 400,
    ..SETTINGS
};

fn stepped(tree: &Arc<TestTree>, trust: TreeTrust, settings: Settings) -> Arc<ShardStore> {
    ShardStore::open_stepped(Arc::clone(tree) as _, trust, settings).expect("opens")
}

/// Lets the checkpointer work until it has nothing more to do.
fn rest(store: &ShardStore) {
    let now = Instant::now();
    while store.step(now) == Step::Worked {}
}

fn has_room(store: &ShardStore) -> bool {
    pin!(store.room()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

/// The snapshot of a store that stopped at the end of these entries.
fn twin(entries: &[(u64, Bytes)]) -> Vec<u8> {
    let store = stepped(&Arc::default(), TreeTrust::Untrusted, SETTINGS);
    for (index, command) in entries {
        apply(&store, *index, command);
    }
    snapshot(&store)
}

/// Writes the snapshot pinned now while `entries` are applied in the middle of its scan: at each place as many as
/// `plan` says, each followed by some steps. Returns the body and how many entries were applied.
fn write_while(
    tree: &TestTree,
    store: &Arc<ShardStore>,
    entries: &[(u64, Bytes)],
    plan: &[(usize, usize, usize)],
) -> (Result<Vec<u8>, Error>, usize) {
    let pinned = store.pin_snapshot().expect("is pinned");
    let left = Arc::new(Mutex::new(VecDeque::from(entries.to_vec())));
    let (of_hook, queue, plan) = (Arc::clone(store), Arc::clone(&left), plan.to_vec());
    tree.on_scan(move |place| {
        for (_, count, steps) in plan.iter().filter(|(at, ..)| *at == place) {
            let now: Vec<_> = {
                let mut queue = queue.lock();
                let count = queue.len().min(*count);
                queue.drain(..count).collect()
            };
            for (index, command) in now {
                if of_hook.apply(index, &command).is_err() {
                    return;
                }
                for _ in 0..*steps {
                    of_hook.step(Instant::now());
                }
            }
        }
    });
    let mut body = Vec::new();
    let written = pinned.write_to(&mut body);
    tree.forget_scan_hook();
    let applied = entries.len() - left.lock().len();
    (written.map(|()| body), applied)
}

fn any_plan() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    proptest::collection::vec((0_usize..8, 1_usize..12, 0_usize..6), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_is_the_state_at_its_index_whatever_is_written_meanwhile(
        entries in any_entries(), at in any::<prop::sample::Index>(), plan in any_plan(),
        overlay in prop_oneof![Just(0_usize), Just(400), Just(1 << 20)],
    ) {
        let (before, after) = entries.split_at(at.index(entries.len()) + 1);
        let tree = Arc::new(TestTree::default());
        let settings = Settings { snapshot_overlay_bytes: overlay, ..TIGHT };
        let store = stepped(&tree, TreeTrust::Untrusted, settings);
        for (index, command) in before {
            apply(&store, *index, command);
            store.step(Instant::now());
        }
        let (body, applied) = write_while(&tree, &store, after, &plan);
        prop_assert_eq!(body.expect("is written"), twin(before));
        for (index, command) in &after[applied..] {
            apply(&store, *index, command);
        }
        prop_assert_eq!(snapshot(&store), twin(&entries));
        store.close().expect("is written");
        prop_assert_eq!(tree.len() as u64, store.status().cells, "nothing put by is left in the tree");
    }

    /// The process dies at any point of a snapshot; its tree and the newest snapshot before it are what is left.
    #[test]
    fn a_crash_in_the_middle_of_a_snapshot_costs_nothing(
        entries in any_entries(), at in any::<prop::sample::Index>(), plan in any_plan(), tear in 0_usize..60,
    ) {
        let (before, after) = entries.split_at(at.index(entries.len()) + 1);
        let tree = Arc::new(TestTree::default());
        let store = stepped(&tree, TreeTrust::Untrusted, TIGHT);
        for (index, command) in before {
            apply(&store, *index, command);
        }
        let newest = snapshot(&store);
        tree.tear_after(tear);
        let (written, _) = write_while(&tree, &store, after, &plan);
        if let Ok(body) = written {
            prop_assert_eq!(&body, &newest);
        }
        drop(store);
        let snapshot_index = before.last().expect("one at least").0;
        let store = replayed(&tree, &newest, snapshot_index, after)?;
        prop_assert_eq!(image(&store), twin_image(&entries));
        store.close().expect("is written");
        prop_assert_eq!(tree.len() as u64, store.status().cells, "nothing put by is left in the tree");
    }
}

fn twin_image(entries: &[(u64, Bytes)]) -> Vec<u8> {
    let mut body = twin(entries);
    body.drain(8..16);
    body
}

/// The replica's next life: what the tree holds, the newest snapshot, and the entries after it.
fn replayed(
    tree: &Arc<TestTree>,
    newest: &[u8],
    snapshot_index: u64,
    after: &[(u64, Bytes)],
) -> Result<Arc<ShardStore>, TestCaseError> {
    for _ in 0..2 {
        let store = stepped(tree, TreeTrust::Trusted { clean: false }, TIGHT);
        store.restore(snapshot_index, true, &mut &newest[..]).expect("is restored");
        let failed = after.iter().find_map(|(index, command)| store.apply(*index, command).err());
        match failed {
            None => return Ok(store),
            // A record was hard-deleted too often: the rows are rebuilt.
            Some(error) => prop_assert!(matches!(error, Error::RowsAhead { .. }), "{}", error),
        }
    }
    Err(TestCaseError::fail("rebuilt rows are ahead again"))
}

/// Many records, each put again and again, and new ones.
fn round(index: u64, records: u64, round: u64) -> Bytes {
    let writes = (0..20).map(|place| {
        let record = (index * 20 + place) * 7_919 % records;
        let id = u128::from(index) * 100 + u128::from(place);
        let time = i64::try_from(round).expect("small");
        granary_proto::internal::Write { offline: false, ..put(id, &format!("record {record}"), time) }
    });
    batch_within(0, index, writes.collect())
}

/// A snapshot is held open at the first, a middle and the last record of its scan until twenty memory tables of
/// writes have gone through. Apply never waits for more than the checkpointer's own work, and what is put by stays
/// within its bound.
#[test]
fn writes_go_on_however_long_a_snapshot_is_held_open() {
    const RECORDS: u64 = 1_000;
    let settings = Settings {
        memory_table_bytes: 64 << 10,
        checkpoint_bytes: 16 << 10,
        snapshot_overlay_bytes: 20_000,
        checkpoint_step_cells: 32,
        ..SETTINGS
    };
    for held_at in [0, 500, 999] {
        let tree = Arc::new(TestTree::default());
        let store = stepped(&tree, TreeTrust::Untrusted, settings);
        let mut entries = vec![(1, open_slots())];
        entries.extend((2..60).map(|index| (index, round(index, RECORDS, 1))));
        for (index, command) in &entries {
            apply(&store, *index, command);
            rest(&store);
        }
        let pinned = store.pin_snapshot().expect("is pinned");
        let (writer, written) = (Arc::clone(&store), Arc::new(Mutex::new((60_u64, 0_usize, 0_usize))));
        let progress = Arc::clone(&written);
        tree.on_scan(move |place| {
            let mut progress = progress.lock();
            while place == held_at && progress.1 < 20 * settings.memory_table_bytes {
                assert!(has_room(&writer), "apply waits for a snapshot at entry {}", progress.0);
                // Half of the records are new since the pin.
                let command = round(progress.0, 2 * RECORDS, 2);
                progress.1 += command.len();
                apply(&writer, progress.0, &command);
                rest(&writer);
                let status = writer.status();
                assert!(status.memory_table_bytes < settings.checkpoint_bytes, "{status:?}");
                progress.2 = progress.2.max(status.snapshot_overlay_bytes);
                progress.0 += 1;
            }
        });
        let mut body = Vec::new();
        pinned.write_to(&mut body).expect("is written");
        tree.forget_scan_hook();
        let (next, _, overlay_max) = *written.lock();
        assert!(next > 500, "writes went through");
        assert!(overlay_max <= settings.snapshot_overlay_bytes, "{overlay_max}");
        assert!(body == twin(&entries), "held at {held_at}");
        entries.extend((60..next).map(|index| (index, round(index, 2 * RECORDS, 2))));
        assert!(snapshot(&store) == twin(&entries), "held at {held_at}");
        rest(&store);
        assert_eq!(tree.len() as u64, store.status().cells);
    }
}

#[test]
fn a_restore_takes_away_what_was_put_by() {
    let tree = Arc::new(TestTree::default());
    let store = stepped(&tree, TreeTrust::Untrusted, Settings { snapshot_overlay_bytes: 0, ..TIGHT });
    let mut entries = vec![(1, open_slots())];
    entries.extend((2..20).map(|index| (index, round(index, 50, 1))));
    for (index, command) in &entries {
        apply(&store, *index, command);
        rest(&store);
    }
    let old = snapshot(&store);
    let pinned = store.pin_snapshot().expect("is pinned");
    for index in 20..40 {
        apply(&store, index, &round(index, 50, 2));
        rest(&store);
    }
    assert!(tree.len() as u64 > store.status().cells, "old cells are put by in the tree");
    store.restore(19, false, &mut old.as_slice()).expect("is restored");
    assert_eq!(tree.len() as u64, store.status().cells);
    entries.push((20, round(20, 50, 2)));
    apply(&store, 20, &entries[19].1);
    rest(&store);
    assert!(matches!(pinned.write_to(&mut Vec::new()), Err(Error::SnapshotReplaced)));
    assert!(snapshot(&store) == twin(&entries));
}

#[test]
fn an_engine_that_fails_while_old_cells_are_put_by_fails_the_store() {
    let mut outcomes = [0, 0];
    for tear in (0..300).step_by(7) {
        let tree = Arc::new(TestTree::default());
        let store = stepped(&tree, TreeTrust::Untrusted, TIGHT);
        apply(&store, 1, &open_slots());
        (2..6).for_each(|index| drop(apply(&store, index, &round(index, 20, 1))));
        let whole = snapshot(&store);
        tree.tear_after(tear);
        let more: Vec<_> = (6..9).map(|index| (index, round(index, 20, 2))).collect();
        let (written, _) = write_while(&tree, &store, &more, &[(3, 3, 9)]);
        match written {
            Ok(body) => assert_eq!(body, whole),
            Err(error) => assert!(matches!(error, Error::Engine(_)), "{error}"),
        }
        outcomes[usize::from(store.failure().is_some())] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 3), "{outcomes:?}");
}

/// The memory engine keeps a part of what was not flushed, and no marker: the worst that the port allows.
#[test]
fn a_torn_engine_is_replayed_to_the_same_state() {
    let mut entries = vec![(1, open_slots())];
    entries.extend((2..30).map(|index| (index, round(index, 60, index))));
    entries.insert(15, (300, seal(5)));
    entries.iter_mut().zip(1..).for_each(|((index, _), place)| *index = place);
    let expected = twin_image(&entries);
    for seed in 0..60 {
        let engine = MemoryEngine::new();
        let open = |engine: &MemoryEngine, trust| {
            let tree = engine.tree("rows").expect("memory opens");
            ShardStore::open_stepped(tree, trust, TIGHT).expect("opens")
        };
        let store = open(&engine, TreeTrust::Untrusted);
        entries[..10].iter().for_each(|(index, command)| drop(apply(&store, *index, command)));
        let newest = snapshot(&store);
        store.checkpoint().expect("is written");
        engine.flush();
        let _pinned = store.pin_snapshot().expect("is pinned");
        let end = 12 + usize::try_from(seed % 15).expect("small");
        for (index, command) in &entries[10..end] {
            apply(&store, *index, command);
            for _ in 0..seed % 7 {
                store.step(Instant::now());
            }
        }
        let torn = engine.crash_torn(seed);
        let store = open(&torn, TreeTrust::Trusted { clean: false });
        store.restore(10, true, &mut newest.as_slice()).expect("is restored");
        entries[10..].iter().for_each(|(index, command)| drop(apply(&store, *index, command)));
        assert!(image(&store) == expected, "seed {seed}");
    }
}
