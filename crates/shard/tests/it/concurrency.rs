//! Apply, readers, checkpoints and snapshots at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use granary_proto::internal::{Write, row_result};
use granary_shard::{Error, Settings, ShardStore, TreeTrust};
use parking_lot::Mutex;

use crate::commands::{SETTINGS, apply, batch_within, fresh, open_as, open_slots, put, read, snapshot};
use crate::tree::TestTree;

/// Checkpoints all the time.
const BUSY: Settings = Settings { checkpoint_bytes: 2_000, change_log_budget_bytes: 0, ..SETTINGS };

/// Ends the threads of a test also when it fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn busy() -> (Arc<TestTree>, Arc<ShardStore>) {
    let tree = Arc::new(TestTree::default());
    let store = open_as(&tree, TreeTrust::Untrusted, BUSY);
    apply(&store, 1, &open_slots());
    (tree, store)
}

fn write_round(store: &ShardStore, index: u64) {
    let writes = (0..4).map(|place| {
        let record = format!("record {}", (index * 7 + place) % 40);
        let time = i64::try_from(index).expect("small");
        Write { offline: place == 0, ..put(u128::from(index * 4 + place), &record, time) }
    });
    apply(store, index, &batch_within(BUSY.change_log_budget_bytes, index, writes.collect()));
}

#[test]
fn readers_never_see_a_row_go_back() {
    let (_tree, store) = busy();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&done);
        for reader in 0..2_u64 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut newest = HashMap::new();
                let mut turn = reader;
                while !done.load(Ordering::Relaxed) {
                    turn += 1;
                    let record = format!("record {}", turn * 11 % 40);
                    let found = read(store, &record);
                    if found.status() == row_result::Status::Found {
                        let last = newest.insert(record, found.stamp).unwrap_or(0);
                        assert!(found.stamp >= last, "{last} then {}", found.stamp);
                    }
                }
            });
        }
        for index in 2..4_000 {
            write_round(&store, index);
        }
    });
    // Not from memory: what the tree holds after a clean stop is what was accounted for.
    store.close().expect("is written");
}

#[test]
fn a_snapshot_while_writes_go_on_is_the_state_at_its_index() {
    let (_tree, store) = busy();
    let hashes = Mutex::new(HashMap::new());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&done);
        scope.spawn(|| {
            let mut index = 1;
            while !done.load(Ordering::Relaxed) {
                index += 1;
                let mut hashes = hashes.lock();
                write_round(&store, index);
                hashes.insert(index, store.status().state_hash.expect("comparable"));
            }
        });
        for _ in 0..60 {
            let pinned = loop {
                let pinned = store.pin_snapshot().expect("none is pinned");
                if pinned.index() > 1 {
                    break pinned;
                }
            };
            assert!(matches!(store.pin_snapshot(), Err(Error::SnapshotPinned)));
            let (index, mut body) = (pinned.index(), Vec::new());
            pinned.write_to(&mut body).expect("is written");
            let (_tree, other) = fresh();
            other.restore(index, false, &mut body.as_slice()).expect("is restored");
            assert_eq!(other.status().state_hash, hashes.lock().get(&index).copied());
        }
    });
}

#[test]
fn a_restore_under_readers_shows_no_half_of_it() {
    let (_tree, source) = busy();
    for index in 2..60 {
        write_round(&source, index);
    }
    let body = snapshot(&source);
    let (_tree, store) = fresh();
    store.restore(59, false, &mut body.as_slice()).expect("is restored");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&done);
        let (reading, done) = (&store, &done);
        scope.spawn(move || {
            let mut turn = 0_u64;
            while !done.load(Ordering::Relaxed) {
                turn += 1;
                let status = read(reading, &format!("record {}", turn % 40)).status();
                assert!(matches!(status, row_result::Status::Found | row_result::Status::WrongShard), "{status:?}");
            }
        });
        for index in 60..160 {
            let pinned = store.pin_snapshot().expect("none is pinned");
            store.restore(index, false, &mut body.as_slice()).expect("is restored");
            let late = pinned.write_to(&mut Vec::new());
            assert!(matches!(late, Err(Error::SnapshotReplaced)), "{late:?}");
        }
    });
}

#[test]
fn a_clean_stop_does_not_wait_for_a_pinned_snapshot() {
    let (_tree, store) = busy();
    write_round(&store, 2);
    let pinned = store.pin_snapshot().expect("none is pinned");
    write_round(&store, 3);
    store.close().expect("is written");
    assert!(matches!(pinned.write_to(&mut Vec::new()), Err(Error::Closed)));
    assert_eq!(store.status().written_index, 3);
}
