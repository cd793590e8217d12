//! Snapshot files: what is damaged or foreign is not used, and an older one takes its place.

use std::fs;
use std::io::Read;
use std::path::Path;

use granary_consensus::snapshot_store::{SnapshotError, SnapshotFile, SnapshotStore};
use granary_consensus::type_config::{LogId, SnapshotMeta};
use granary_types::{ClusterId, ShardId};
use openraft::impls::leader_id_adv::LeaderId;
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId(7);
const GROUP: ShardId = ShardId(3);

fn open(dir: &Path) -> SnapshotStore {
    SnapshotStore::open(dir, CLUSTER, GROUP).unwrap()
}

fn write(store: &SnapshotStore, index: u64, body: &[u8]) -> SnapshotFile {
    let last = LogId::new(LeaderId { term: 1, node_id: 1 }, index);
    let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
    store.write(&meta, |out| out.write_all(body)).unwrap()
}

fn index_and_body(file: &SnapshotFile) -> (u64, Vec<u8>) {
    let mut body = Vec::new();
    file.body().read_to_end(&mut body).unwrap();
    (file.meta().last_log_id.unwrap().index, body)
}

#[test]
fn the_newest_is_found_again_and_two_are_kept() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    assert!(store.newest().is_none());
    for index in [5, 90, 1_000] {
        write(&store, index, format!("state at {index}").as_bytes());
    }
    fs::write(dir.path().join("9.tmp"), b"unfinished").unwrap();
    let store = open(dir.path());
    assert_eq!(index_and_body(&store.newest().unwrap()), (1_000, b"state at 1000".to_vec()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let written = store.write(&SnapshotMeta::default(), |_| Err(std::io::Error::other("disk")));
    assert_eq!(written.unwrap_err().to_string(), "disk");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn any_flipped_bit_is_found_and_the_older_file_is_used() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    write(&store, 5, b"older");
    let newest = write(&store, 6, b"newer");
    let intact = fs::read(newest.path()).unwrap();
    for position in 0..intact.len() {
        let mut damaged = intact.clone();
        damaged[position] ^= 1 << (position % 8);
        fs::write(newest.path(), &damaged).unwrap();
        assert_eq!(index_and_body(&open(dir.path()).newest().unwrap()).0, 5, "flipped bit in byte {position}");
    }
    for len in 0..intact.len() {
        fs::write(newest.path(), &intact[..len]).unwrap();
        assert_eq!(index_and_body(&open(dir.path()).newest().unwrap()).0, 5, "cut after {len} bytes");
    }
}

#[test]
fn a_file_under_anothers_name_is_not_used() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (older, newer) = (write(&store, 5, b"older"), write(&store, 6, b"newer"));
    fs::copy(older.path(), newer.path()).unwrap();
    assert_eq!(index_and_body(&open(dir.path()).newest().unwrap()), (5, b"older".to_vec()));
    let damaged = newer.path().with_extension("damaged");
    assert!(damaged.exists(), "what calls itself 6 is set aside");
    fs::remove_file(older.path()).unwrap();
    assert!(open(dir.path()).newest().is_none(), "nothing is left: a peer's is needed");
}

#[test]
fn a_received_file_is_verified_and_removed_unless_installed() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let sent = write(&open(there.path()), 8, b"theirs");
    let store = open(here.path());

    let path = store.temporary_path();
    fs::copy(sent.path(), &path).unwrap();
    drop(store.receive(&path).unwrap());
    assert!(!path.exists());

    let path = store.temporary_path();
    fs::copy(sent.path(), &path).unwrap();
    let installed = store.install(&store.receive(&path).unwrap()).unwrap();
    assert_eq!(index_and_body(&installed), (8, b"theirs".to_vec()));
    assert_eq!(index_and_body(&open(here.path()).newest().unwrap()), (8, b"theirs".to_vec()));

    let foreign = SnapshotStore::open(here.path(), ClusterId(8), GROUP);
    assert!(foreign.unwrap().newest().is_none(), "the file of another cluster is not used");
}

#[test]
fn a_snapshot_of_another_group_is_refused() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let sent = write(&open(there.path()), 8, b"theirs");
    let store = SnapshotStore::open(here.path(), CLUSTER, ShardId(4)).unwrap();
    let path = store.temporary_path();
    fs::copy(sent.path(), &path).unwrap();
    assert!(matches!(store.receive(&path), Err(SnapshotError::Foreign { group: 3, .. })));
}
