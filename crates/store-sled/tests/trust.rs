//! What an engine directory is worth when it is opened again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use granary_store::Engine;
use granary_store_sled::{Error, Opened, Settings, Trust, open};

fn opened(dir: &Path) -> Opened {
    open(dir, &Settings::default()).expect("opens")
}

fn fill(engine: &Arc<dyn Engine>, marker: &[u8]) {
    let pair = |number: u32| (Bytes::copy_from_slice(&number.to_be_bytes()), Some(Bytes::from(vec![1; 400])));
    engine.tree("t").expect("tree").write(&mut (0..500).map(pair), marker).expect("writes");
}

fn marker(engine: &Arc<dyn Engine>) -> Option<Bytes> {
    engine.tree("t").expect("tree").marker().expect("reads")
}

fn assert_filled(engine: &Arc<dyn Engine>, marked: &[u8]) {
    assert_eq!(marker(engine).as_deref(), Some(marked));
    assert_eq!(engine.tree("t").expect("tree").scan(&[]).count(), 500);
}

fn assert_rebuilt(opened: &Opened, why: &str) {
    let Trust::Rebuilt { why: said } = &opened.trust else { panic!("trusted: {:?}", opened.trust) };
    assert!(said.contains(why), "{said:?} does not say {why:?}");
    assert_eq!(marker(&opened.engine), None);
}

/// Leaves the directory as a process does that ends without closing.
fn abandon(engine: Arc<dyn Engine>) {
    drop(engine);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("lists");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("utf-8")).collect();
    names.sort();
    names
}

fn database(dir: &Path) -> PathBuf {
    let name = names(dir).into_iter().find(|name| name.starts_with("db-")).expect("a database");
    dir.join(name)
}

#[test]
fn a_closed_directory_is_clean_once() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("deep/engine");
    let first = opened(&dir);
    assert_eq!(first.trust, Trust::Fresh);
    fill(&first.engine, b"1");
    first.engine.close().expect("closes");
    assert!(first.engine.close().is_err(), "a second close is an error");
    assert!(first.engine.tree("t").is_err());

    let second = opened(&dir);
    assert_eq!(second.trust, Trust::Clean);
    assert_filled(&second.engine, b"1");
    fill(&second.engine, b"2");
    abandon(second.engine);

    let third = opened(&dir);
    assert_eq!(third.trust, Trust::SameBootCrash);
    assert_filled(&third.engine, b"2");
}

#[test]
fn a_directory_opens_once_at_a_time() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    let first = opened(&dir);
    fill(&first.engine, b"1");
    let error = open(&dir, &Settings::default()).expect_err("it is open");
    assert!(matches!(error, Error::InUse { .. }));
    assert!(error.to_string().contains("is open already"));
    let tree = first.engine.tree("t").expect("tree");
    drop(first);
    assert!(open(&dir, &Settings::default()).is_err(), "a tree of it is still held");
    drop(tree);
    assert_eq!(opened(&dir).trust, Trust::SameBootCrash);
}

#[test]
fn closing_frees_the_directory_though_a_tree_is_held() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    let first = opened(&dir);
    fill(&first.engine, b"1");
    let tree = first.engine.tree("t").expect("tree");
    let mut scan = tree.scan(&[]);
    assert!(scan.next().is_some());
    first.engine.close().expect("closes");
    let second = opened(&dir);
    assert_eq!(second.trust, Trust::Clean);
    assert_filled(&second.engine, b"1");
    assert!(tree.get(b"k").is_err());
    assert!(scan.any(|pair| pair.is_err()), "a scan that was under way does not end as if it were whole");
}

#[test]
fn another_boot_without_a_clean_stop_is_not_trusted() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    let first = opened(&dir);
    fill(&first.engine, b"1");
    abandon(first.engine);
    fs::write(dir.join("boot_id"), "another boot\n").expect("writes");
    let second = opened(&dir);
    assert_rebuilt(&second, "not closed before the machine stopped");
    fill(&second.engine, b"2");
    second.engine.close().expect("closes");
    drop(second);

    fs::write(dir.join("boot_id"), "another boot\n").expect("writes");
    let third = opened(&dir);
    assert_eq!(third.trust, Trust::Clean, "after a clean stop the boot does not matter");
    assert_filled(&third.engine, b"2");
    abandon(third.engine);

    fs::remove_file(dir.join("boot_id")).expect("removes");
    assert_rebuilt(&opened(&dir), "not closed before the machine stopped");
    let aside: Vec<_> = names(parent.path()).into_iter().filter(|name| name.contains("untrusted")).collect();
    assert_eq!(aside.len(), 1, "only the newest is kept: {aside:?}");
    assert!(parent.path().join(&aside[0]).join("boot_id").metadata().is_err());
}

#[test]
fn a_half_written_snapshot_is_survived() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    let first = opened(&dir);
    fill(&first.engine, b"1");
    abandon(first.engine);
    let half = database(&dir).join("snap.00000000FFFFFFFF.generating");
    fs::write(&half, [7; 100]).expect("writes");
    let second = opened(&dir);
    assert_eq!(second.trust, Trust::SameBootCrash);
    assert_filled(&second.engine, b"1");
    assert!(!half.exists());
}

#[test]
fn garbage_is_moved_aside() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    let first = opened(&dir);
    fill(&first.engine, b"1");
    first.engine.close().expect("closes");
    drop(first);
    let database = database(&dir);
    for name in names(&database).into_iter().filter(|name| name != "blobs") {
        fs::write(database.join(name), [0xa5; 9_000]).expect("writes");
    }
    let second = opened(&dir);
    assert_rebuilt(&second, "sled");
    fill(&second.engine, b"2");
    assert_filled(&second.engine, b"2");
}

#[test]
fn a_directory_of_something_else_is_moved_aside() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    fs::create_dir(&dir).expect("makes");
    fs::write(dir.join("letter"), "dear reader").expect("writes");
    assert_rebuilt(&opened(&dir), "no database");
    assert_eq!(fs::read(parent.path().join("engine.untrusted-1/letter")).expect("kept"), b"dear reader");
}
