//! Snapshots whose process is killed at any operation, whose machine loses its power, whose disk fails: the newest that
//! was finished is there, whole, and nothing between two.
//!
//! The tests run this binary again as the process that writes.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use granary_consensus::snapshot_store::SnapshotStore;
use granary_consensus::type_config::{LogId, SnapshotMeta};
use granary_test_disk::{Disk, Fault, Journal, Op, Order, PowerCut, Shim, errno, note};
use granary_types::{ClusterId, ShardId};
use openraft::impls::leader_id_adv::LeaderId;
use tempfile::TempDir;

const DIR: &str = "GRANARY_SNAPSHOT_TEST_DIR";
/// More than one write's worth.
const BODY_LEN: usize = 2_500_000;

fn open(dir: &Path) -> SnapshotStore {
    SnapshotStore::open(&dir.join("snapshots"), ClusterId(7), ShardId(3)).unwrap()
}

fn write(store: &SnapshotStore, index: u64) -> std::io::Result<()> {
    let last = LogId::new(LeaderId { term: 1, node_id: 1 }, index);
    let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
    store.write(&meta, |out| out.write_all(&vec![index as u8; BODY_LEN])).map(drop)
}

/// Takes the file that a peer has sent.
fn install(store: &SnapshotStore, sent: &Path) -> std::io::Result<()> {
    let path = store.temporary_path();
    fs::copy(sent, &path)?;
    store.install(&store.receive(&path)?).map(drop)
}

/// The process that writes. As a test of its own it does nothing.
#[test]
fn builder() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else { return };
    let store = open(&dir);
    for index in [1, 2, 3, 4] {
        let build = || if index == 3 { install(&store, &dir.join("sent")) } else { write(&store, index) };
        if build().is_err() {
            assert_eq!(newest(&store), index - 1, "the one before stays");
            note("failed").unwrap();
            build().expect("the disk works again");
        }
        note(&index.to_string()).unwrap();
    }
}

/// The index of the newest snapshot, whose body is looked at; 0 for none.
fn newest(store: &SnapshotStore) -> u64 {
    let Some(newest) = store.newest() else { return 0 };
    let index = newest.meta().last_log_id.unwrap().index;
    let mut body = Vec::new();
    newest.body().read_to_end(&mut body).unwrap();
    assert!(body.len() == BODY_LEN && body.iter().all(|byte| *byte == index as u8), "snapshot {index} is whole");
    index
}

fn record(shim: &Shim, base: &Path, faults: &[Fault]) -> (Journal, ExitStatus) {
    let root = base.join("root");
    fs::create_dir(&root).unwrap();
    let there = TempDir::new().unwrap();
    let store = open(there.path());
    write(&store, 3).unwrap();
    fs::copy(store.newest().unwrap().path(), root.join("sent")).unwrap();
    let disk = Disk::new(shim, &root, &base.join("run")).unwrap();
    disk.set_faults(faults).unwrap();
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "snapshot_crash::builder", "--test-threads=1"])
        .envs(disk.envs())
        .env(DIR, &root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    (disk.journal().unwrap(), status)
}

/// What must be there after the first `at` operations.
fn finished(journal: &Journal, at: usize) -> u64 {
    journal.notes(at).filter_map(|said| said.parse().ok()).max().unwrap_or(0)
}

fn check(dir: &Path, finished: u64, what: &str) {
    let found = newest(&open(dir));
    assert!((finished..=finished + 1).contains(&found), "{what}: found {found} after {finished} was finished");
    let leftovers = fs::read_dir(dir.join("snapshots")).unwrap().filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        !name.to_string_lossy().ends_with(".snapshot")
    });
    assert_eq!(leftovers.count(), 0, "{what}: nothing half done is left");
}

#[test]
fn a_kill_at_any_operation_leaves_the_old_or_the_new_one() {
    let parent = TempDir::new().unwrap();
    let shim = Shim::build(parent.path()).unwrap();
    for op in [Op::Open, Op::Write, Op::Truncate, Op::Sync, Op::Rename, Op::Remove, Op::MakeDir] {
        for nth in 1.. {
            let base = TempDir::new().unwrap();
            let (journal, status) = record(&shim, base.path(), &[Fault::kill(op, "snapshots").nth(nth)]);
            if status.success() {
                break; // there are not so many
            }
            assert_eq!(status.signal(), Some(9), "{op:?} {nth}");
            check(&base.path().join("root"), finished(&journal, journal.len()), &format!("killed at {op:?} {nth}"));
        }
    }
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new_one() {
    let base = TempDir::new().unwrap();
    let shim = Shim::build(base.path()).unwrap();
    let (journal, status) = record(&shim, base.path(), &[]);
    assert!(status.success());
    for seed in 0..60 {
        let order = if seed % 2 == 0 { Order::Any } else { Order::Done };
        let cut = PowerCut::random(&journal, order, seed);
        let root = base.path().join("after");
        cut.build(&journal, &root).unwrap();
        check(&root, finished(&journal, cut.at), &format!("{cut:?}"));
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn a_failing_or_full_disk_costs_only_the_snapshot_that_was_being_written() {
    let parent = TempDir::new().unwrap();
    let shim = Shim::build(parent.path()).unwrap();
    let faults =
        [(Op::Write, errno::ENOSPC), (Op::Sync, errno::EIO), (Op::Rename, errno::EIO), (Op::Open, errno::ENOSPC)];
    for (op, errno) in faults {
        for nth in [2, 3, 5, 9] {
            let base = TempDir::new().unwrap();
            let (journal, status) = record(&shim, base.path(), &[Fault::fail(op, errno, ".tmp").nth(nth).times(1)]);
            assert!(status.success(), "{op:?} {nth}: {status:?}");
            let root = base.path().join("root");
            check(&root, finished(&journal, journal.len()), &format!("{op:?} {nth}"));
        }
    }
}
