//! Damage is found before it is served (ST-1).

use std::sync::Arc;

use granary_proto::internal::row_result;
use granary_shard::{Error, ShardStore, TreeTrust};

use crate::commands::{SETTINGS, apply, batch, fresh, open, open_slots, put, read, snapshot};
use crate::tree::TestTree;

/// A tree with two records and a store over it that has nothing in memory.
fn cold() -> (Arc<TestTree>, Arc<ShardStore>, Vec<u8>) {
    let (tree, store) = fresh();
    apply(&store, 1, &open_slots());
    apply(&store, 2, &batch(1, vec![put(1, "a", 1), put(2, "b", 1)]));
    let body = snapshot(&store);
    store.close().expect("is written");
    let store = open(&tree, TreeTrust::Trusted { clean: true });
    store.restore(2, true, &mut body.as_slice()).expect("is restored");
    (tree, store, body)
}

#[test]
fn a_read_finds_a_damaged_cell_and_fails_the_store() {
    let (tree, store, body) = cold();
    assert_eq!(read(&store, "a").status(), row_result::Status::Found);
    tree.damage();
    assert_eq!(read(&store, "a").status(), row_result::Status::Found, "cached");
    assert_eq!(read(&store, "b").status(), row_result::Status::Corrupt);
    assert!(matches!(store.failure(), Some(Error::Corrupt { .. })));
    assert_eq!(read(&store, "a").status(), row_result::Status::Corrupt, "nothing is served any more");
    // The rebuild.
    drop(store);
    let store = open(&tree, TreeTrust::Untrusted);
    store.restore(2, true, &mut body.as_slice()).expect("is restored");
    assert_eq!(read(&store, "b").status(), row_result::Status::Found);
}

#[test]
fn apply_finds_a_damaged_cell() {
    let (tree, store, _) = cold();
    tree.damage();
    assert!(matches!(store.apply(3, &batch(5, vec![put(9, "a", 1)])), Err(Error::Corrupt { .. })));
}

#[test]
fn the_scan_after_a_crash_finds_a_damaged_cell() {
    let (tree, store, _) = cold();
    drop(store);
    tree.damage();
    let opened = ShardStore::open(Arc::clone(&tree) as _, TreeTrust::Trusted { clean: false }, SETTINGS);
    assert!(opened.expect_err("is damaged").wants_rebuild());
}

#[test]
fn the_scan_finds_rows_that_an_engine_lost_or_put_back() {
    let reopened = |tree: &Arc<TestTree>, clean| {
        let opened = ShardStore::open(Arc::clone(tree) as _, TreeTrust::Trusted { clean }, SETTINGS);
        opened.map(drop).map_err(|error| error.wants_rebuild())
    };
    for clean in [true, false] {
        let (tree, store, _) = cold();
        let old = tree.lose_one();
        tree.put_back(old.clone());
        apply(&store, 3, &batch(2, vec![put(3, "a", 2), put(4, "b", 2)]));
        store.close().expect("is written");
        assert_eq!(reopened(&tree, clean), Ok(()));
        let new = tree.lose_one();
        assert_eq!(reopened(&tree, clean), Err(true), "a row is missing");
        tree.put_back(old);
        assert_eq!(reopened(&tree, clean), Err(true), "a row is of an earlier checkpoint");
        tree.put_back(new);
        assert_eq!(reopened(&tree, clean), Ok(()));
    }
}

#[test]
fn a_checkpoint_finds_that_the_row_it_replaces_was_lost() {
    let (tree, store, _) = cold();
    assert_eq!(read(&store, "a").status(), row_result::Status::Found, "and cached");
    tree.lose_one();
    apply(&store, 3, &batch(2, vec![put(3, "a", 2)]));
    assert!(matches!(store.checkpoint(), Err(Error::Corrupt { .. })));
}

#[test]
fn a_snapshot_finds_a_damaged_cell() {
    let (tree, store, _) = cold();
    tree.damage();
    let written = store.pin_snapshot().expect("is pinned").write_to(&mut Vec::new());
    assert!(matches!(written, Err(Error::Corrupt { .. })));
    assert!(store.failure().is_some());
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "RG-2")]
fn a_snapshot_finds_a_lost_row() {
    let (tree, store, _) = cold();
    tree.lose_one();
    store.pin_snapshot().expect("is pinned").write_to(&mut Vec::new()).ok();
}

#[test]
fn a_damaged_or_cut_body_is_refused_and_leaves_no_trusted_rows() {
    let (_, _, body) = cold();
    for cut in [0, 7, 20, body.len() / 2, body.len() - 1] {
        let (tree, store) = fresh();
        assert!(store.restore(2, false, &mut &body[..cut]).is_err(), "cut at {cut}");
        drop(store);
        let store = open(&tree, TreeTrust::Trusted { clean: false });
        assert_eq!(store.status().cells, 0);
    }
    for at in 0..body.len() {
        let mut damaged = body.clone();
        damaged[at] ^= 1;
        let (_tree, store) = fresh();
        // Scalars of the control state carry no checksum of their own; the snapshot file does.
        if store.restore(2, false, &mut damaged.as_slice()).is_ok() {
            assert_eq!(read(&store, "a").row.is_empty(), read(&store, "b").row.is_empty(), "byte {at}");
        }
    }
}
