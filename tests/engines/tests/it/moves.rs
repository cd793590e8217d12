//! A replica moves from one engine to the other, and an old tree is not taken for a new one.

use std::path::Path;

use granary_test_engines::kind::Kind;
use granary_test_engines::oracle::Oracle;
use granary_test_engines::replica::Replica;

use crate::support::{copy, recovered, tempdir};

fn advance_to(replica: &mut Replica, index: u64) {
    while replica.applied() < index {
        replica.advance().expect("goes on");
    }
}

/// What a node does when its engine is another one: see `granary_node`'s `engine`.
fn without_engine(dir: &Path) {
    assert!(granary_store::disk::remove(&dir.join("engine")).expect("removes"));
    assert!(!granary_store::disk::remove(&dir.join("engine")).expect("nothing is left"));
}

#[test]
fn a_replica_moves_to_the_other_engine_and_back() {
    let temp = tempdir();
    let dir = temp.path();
    let mut oracle = Oracle::default();
    for (turn, kind) in (1_u64..).zip([Kind::Sled, Kind::Fjall, Kind::Sled]) {
        let (mut replica, start) = recovered(kind, dir, &mut oracle);
        assert_eq!(start.found, 0, "the new engine starts empty");
        advance_to(&mut replica, turn * 200);
        replica.snapshot().expect("is written");
        advance_to(&mut replica, turn * 200 + 50);
        replica.close().expect("closes");
        without_engine(dir);
    }
}

#[test]
fn an_old_tree_is_used_only_if_it_is_not_older_than_the_snapshot() {
    for kind in Kind::ALL {
        let temp = tempdir();
        let (dir, old) = (temp.path().join("replica"), temp.path().join("old"));
        std::fs::create_dir(&dir).expect("makes");
        let mut replica = Replica::start(kind, &dir).expect("is new");
        advance_to(&mut replica, 100);
        replica.close().expect("closes");
        copy(&dir.join("engine"), &old);
        let mut replica = Replica::start(kind, &dir).expect("stands");
        advance_to(&mut replica, 150);
        replica.close().expect("closes");
        // No snapshot yet: replay goes from the first entry, and the old rows are as good as any.
        copy(&old, &dir.join("engine"));
        let mut oracle = Oracle::default();
        let (mut replica, start) = recovered(kind, &dir, &mut oracle);
        assert!(start.kept_rows() && start.found == 100, "{start:?}");
        replica.snapshot().expect("is written");
        advance_to(&mut replica, 200);
        replica.close().expect("closes");
        // The Raft log before the snapshot is gone: rows from before it cannot be brought up to date.
        copy(&old, &dir.join("engine"));
        let (_, start) = recovered(kind, &dir, &mut oracle);
        assert!(!start.kept_rows() && start.found == 100 && start.snapshot == 150, "{start:?}");
    }
}
