//! The Raft log over restarts: what was acknowledged stays, a torn tail is cut, damage is refused.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use granary_consensus::log_store::LogStore;
use granary_consensus::type_config::{Command, Entry, LogId, Vote};
use granary_consensus::{Error, Settings};
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use tempfile::TempDir;

fn entry(index: u64) -> Entry {
    // Some span pages, most do not.
    let len = if index.is_multiple_of(7) { 9_000 } else { 20 + (index % 200) as usize };
    let command = Command(Bytes::from(vec![index as u8; len]));
    Entry { log_id: LogId::new(LeaderId { term: 1, node_id: 1 }, index), payload: EntryPayload::Normal(command) }
}

fn open(dir: &Path) -> Result<LogStore, Error> {
    LogStore::open(dir, &Settings::default())
}

async fn append(log: &mut LogStore, indexes: std::ops::Range<u64>) {
    log.blocking_append(indexes.map(entry)).await.unwrap();
}

async fn entries(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

/// The files of the log, oldest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("LOCK"));
    files.sort();
    files
}

fn copy_dir(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for path in files(from) {
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// Numbers that look random and are the same in every run.
fn spread(n: usize, below: usize) -> impl Iterator<Item = usize> {
    (0..n).scan(0x9e37_79b9_u64, move |state, _| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(((*state >> 33) as usize) % below)
    })
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let vote = Vote::new_committed(4, 2);
    let committed = LogId::new(LeaderId { term: 1, node_id: 1 }, 150);
    {
        let mut log = open(dir.path()).unwrap();
        log.save_vote(&vote).await.unwrap();
        append(&mut log, 0..200).await;
        log.save_committed(Some(committed)).await.unwrap();
        log.purge(LogId::new(LeaderId { term: 1, node_id: 1 }, 99)).await.unwrap();
        log.truncate_after(Some(LogId::new(LeaderId { term: 1, node_id: 1 }, 179))).await.unwrap();
    }
    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(committed));
    assert_eq!(log.purged().unwrap().unwrap().index, 99);
    assert_eq!(entries(&mut log).await, (100..180).map(entry).collect::<Vec<_>>());
    let limited = log.limited_get_log_entries(100, 180).await.unwrap();
    assert_eq!(limited.len(), 80);
}

#[tokio::test]
async fn a_directory_is_opened_once() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Io { .. })));
    let reader = log.clone();
    log.close();
    open(dir.path()).unwrap();
    assert!(reader.purged().is_err(), "a reader of a closed log");
}

#[tokio::test]
async fn purged_files_are_removed() {
    let dir = TempDir::new().unwrap();
    let settings = Settings { log_chunk_bytes: 64 << 10, ..Settings::default() };
    let mut log = LogStore::open(dir.path(), &settings).unwrap();
    append(&mut log, 0..2_000).await;
    let before = log.bytes_on_disk();
    log.purge(LogId::new(LeaderId { term: 1, node_id: 1 }, 1_900)).await.unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    assert!(log.bytes_on_disk() < before / 4, "{} of {before} bytes left", log.bytes_on_disk());
    log.close();
    assert!(files(dir.path()).len() < 8);
}

/// A log whose first `ACKNOWLEDGED` entries were synced, and the length of its last file at that time.
async fn log_with_a_tail(dir: &Path) -> usize {
    let mut log = open(dir).unwrap();
    append(&mut log, 0..ACKNOWLEDGED).await;
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let synced = fs::metadata(files(dir).last().unwrap()).unwrap().len() as usize;
    append(&mut log, ACKNOWLEDGED..ACKNOWLEDGED + 50).await;
    synced
}

const ACKNOWLEDGED: u64 = 100;

#[tokio::test]
async fn a_torn_tail_costs_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    let len = fs::metadata(files(dir.path()).last().unwrap()).unwrap().len() as usize;
    let acknowledged: Vec<_> = (0..ACKNOWLEDGED).map(entry).collect();
    for cut in spread(60, len - synced).map(|n| synced + n) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(cut as u64).unwrap();
        let mut log = open(copy.path()).unwrap();
        let found = entries(&mut log).await;
        assert_eq!(found[..acknowledged.len()], acknowledged, "cut after {cut} bytes");
        // It goes on from there, and over another restart.
        let next = found.len() as u64;
        append(&mut log, next..next + 3).await;
        log.close();
        assert_eq!(entries(&mut open(copy.path()).unwrap()).await.len() as u64, next + 3);
    }
}

#[tokio::test]
async fn a_tail_with_holes_is_cut_or_refused() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    let acknowledged: Vec<_> = (0..ACKNOWLEDGED).map(entry).collect();
    let (mut cut, mut refused) = (0, 0);
    for hole in spread(40, 20_000).map(|n| synced + n) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        // Pages of one write that did not reach the disk, with something after them that did.
        let end = (hole + 8_192).min(bytes.len());
        bytes[hole..end].fill(0);
        if cut <= refused {
            bytes.truncate(end + 12);
        }
        fs::write(&file, &bytes).unwrap();
        match open(copy.path()) {
            Ok(mut log) => {
                assert_eq!(entries(&mut log).await[..acknowledged.len()], acknowledged);
                cut += 1;
            }
            Err(Error::LogDamaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(cut > 5 && refused > 5, "cut={cut} refused={refused}");
}

#[tokio::test]
async fn a_flipped_bit_before_the_last_record_is_refused() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    for position in spread(300, synced) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[position] ^= 1 << (position % 8);
        fs::write(&file, &bytes).unwrap();
        let opened = open(copy.path());
        assert!(matches!(opened, Err(Error::LogDamaged { .. })), "flipped bit in byte {position}: {opened:?}");
        assert_eq!(fs::read(&file).unwrap(), bytes, "a refused log is left as it is");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_an_older_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let settings = Settings { log_chunk_bytes: 32 << 10, ..Settings::default() };
    let mut log = LogStore::open(dir.path(), &settings).unwrap();
    append(&mut log, 0..200).await;
    log.close();
    let older = files(dir.path()).len() - 1;
    assert!(older > 2);
    for (n, position) in spread(40, 30_000).enumerate() {
        let copy = copy_dir(dir.path());
        let file = &files(copy.path())[n % older];
        let mut bytes = fs::read(file).unwrap();
        bytes[position] ^= 1 << (position % 8);
        fs::write(file, &bytes).unwrap();
        assert!(open(copy.path()).is_err(), "flipped bit in byte {position} of file {n}");
    }
}
