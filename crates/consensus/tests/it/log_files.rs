//! The Raft log over restarts: what was acknowledged stays, a torn tail is cut, damage and loss are refused.

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
    LogStore::open(&dir.join("log"), &Settings::default())
}

/// Files of the log are short.
fn open_short(dir: &Path) -> LogStore {
    LogStore::open(&dir.join("log"), &Settings { log_chunk_bytes: 32 << 10, ..Settings::default() }).unwrap()
}

async fn append(log: &mut LogStore, indexes: std::ops::Range<u64>) {
    log.blocking_append(indexes.map(entry)).await.unwrap();
}

async fn entries(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

/// The files of the log, oldest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("LOCK"));
    files.sort();
    files
}

fn note(dir: &Path) -> PathBuf {
    dir.join("log.note")
}

fn copy_dir(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    fs::create_dir(to.path().join("log")).unwrap();
    for path in files(from) {
        fs::copy(&path, to.path().join("log").join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(note(from), note(to.path())).unwrap();
    to
}

fn flip(path: &Path, position: usize) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1 << (position % 8);
    fs::write(path, &bytes).unwrap();
    bytes
}

fn assert_refused(dir: &Path, what: &str) {
    match open(dir) {
        Err(error) if error.is_final() => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: it opened"),
    }
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
    assert!(matches!(open(dir.path()), Err(Error::Io { .. })), "while another has it");
    let reader = log.clone();
    log.close();
    open(dir.path()).unwrap();
    assert!(reader.purged().is_err(), "a reader of a closed log");
}

#[tokio::test]
async fn purged_files_are_removed() {
    let dir = TempDir::new().unwrap();
    let mut log = open_short(dir.path());
    append(&mut log, 0..2_000).await;
    let before = log.bytes_on_disk();
    log.purge(LogId::new(LeaderId { term: 1, node_id: 1 }, 1_900)).await.unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    assert!(log.bytes_on_disk() < before / 4, "{} of {before} bytes left", log.bytes_on_disk());
    log.close();
    assert!(files(dir.path()).len() < 8);
}

const ACKNOWLEDGED: u64 = 100;

/// A log as a crash leaves it whose first `ACKNOWLEDGED` entries were synced and 50 more written. Returns the length
/// of its file when it was synced.
async fn log_with_a_tail(dir: &Path) -> usize {
    let mut log = open(dir).unwrap();
    append(&mut log, 0..ACKNOWLEDGED).await;
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let synced = fs::metadata(files(dir).last().unwrap()).unwrap().len() as usize;
    let noted = fs::read(note(dir)).unwrap();
    append(&mut log, ACKNOWLEDGED..ACKNOWLEDGED + 50).await;
    log.close();
    fs::write(note(dir), noted).unwrap();
    synced
}

async fn assert_acknowledged(log: &mut LogStore, what: &str) {
    assert_eq!(entries(log).await[..ACKNOWLEDGED as usize], (0..ACKNOWLEDGED).map(entry).collect::<Vec<_>>(), "{what}");
}

#[tokio::test]
async fn a_torn_tail_costs_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    let len = fs::metadata(files(dir.path()).last().unwrap()).unwrap().len() as usize;
    for cut in spread(60, len - synced).map(|n| synced + n) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(cut as u64).unwrap();
        let mut log = open(copy.path()).unwrap();
        assert_acknowledged(&mut log, &format!("cut after {cut} bytes")).await;
        // It goes on from there, and over another restart.
        let next = entries(&mut log).await.len() as u64;
        append(&mut log, next..next + 3).await;
        log.close();
        assert_eq!(entries(&mut open(copy.path()).unwrap()).await.len() as u64, next + 3);
    }
}

#[tokio::test]
async fn a_tail_with_pages_that_were_never_written_is_cut() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    let len = fs::metadata(files(dir.path()).last().unwrap()).unwrap().len() as usize;
    for page in (synced.div_ceil(4_096)..len / 4_096).map(|page| page * 4_096) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[page..page + 4_096].fill(0);
        fs::write(&file, &bytes).unwrap();
        assert_acknowledged(&mut open(copy.path()).unwrap(), &format!("a hole at {page}")).await;
    }
}

#[tokio::test]
async fn a_tail_that_was_synced_is_missed() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    let file = files(dir.path()).pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    // At a whole record too: the vote is the last one, of 29 bytes.
    for cut in [synced - 29, synced - 1].into_iter().chain(spread(60, synced)) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        fs::write(&file, &bytes[..cut]).unwrap();
        assert_refused(copy.path(), &format!("cut after {cut} of {synced} synced bytes"));
        let mut zeroed = bytes.clone();
        zeroed[cut..].fill(0);
        fs::write(&file, &zeroed).unwrap();
        assert_refused(copy.path(), &format!("zeroed after {cut} of {synced} synced bytes"));
        assert_eq!(fs::read(&file).unwrap(), zeroed, "a refused log is left as it is");
    }
}

#[tokio::test]
async fn a_flipped_bit_before_the_end_of_what_was_synced_is_refused() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    for position in spread(200, synced) {
        let copy = copy_dir(dir.path());
        let file = files(copy.path()).pop().unwrap();
        let bytes = flip(&file, position);
        assert_refused(copy.path(), &format!("flipped bit in byte {position}"));
        assert_eq!(fs::read(&file).unwrap(), bytes, "a refused log is left as it is");
    }
}

#[tokio::test]
async fn a_flipped_bit_behind_what_was_synced_costs_no_more_than_the_rest() {
    let dir = TempDir::new().unwrap();
    let synced = log_with_a_tail(dir.path()).await;
    let len = fs::metadata(files(dir.path()).last().unwrap()).unwrap().len() as usize;
    for position in spread(60, len - synced).map(|n| synced + n) {
        let copy = copy_dir(dir.path());
        flip(&files(copy.path()).pop().unwrap(), position);
        match open(copy.path()) {
            Ok(mut log) => assert_acknowledged(&mut log, &format!("flipped bit in byte {position}")).await,
            Err(error) => assert!(error.is_final(), "{error}"),
        }
    }
}

/// Six files or more, closed in order.
async fn log_of_many_files(dir: &Path) {
    let mut log = open_short(dir);
    append(&mut log, 0..200).await;
    log.close();
    assert!(files(dir).len() > 5);
}

#[tokio::test]
async fn a_flipped_bit_in_any_file_is_refused() {
    let dir = TempDir::new().unwrap();
    log_of_many_files(dir.path()).await;
    for (n, position) in spread(60, 30_000).enumerate() {
        let copy = copy_dir(dir.path());
        let all = files(copy.path());
        let file = &all[n % all.len()];
        let position = position % fs::metadata(file).unwrap().len() as usize;
        flip(file, position);
        assert_refused(copy.path(), &format!("flipped bit in byte {position} of file {}", n % all.len()));
    }
}

#[tokio::test]
async fn a_file_removed_exchanged_or_doubled_is_missed() {
    let dir = TempDir::new().unwrap();
    log_of_many_files(dir.path()).await;
    let count = files(dir.path()).len();
    for n in 0..count {
        let copy = copy_dir(dir.path());
        fs::remove_file(&files(copy.path())[n]).unwrap();
        assert_refused(copy.path(), &format!("without file {n}"));
        for other in (0..count).filter(|other| *other != n) {
            let copy = copy_dir(dir.path());
            fs::copy(&files(dir.path())[other], &files(copy.path())[n]).unwrap();
            assert_refused(copy.path(), &format!("file {other} in the place of {n}"));
        }
    }
    let copy = copy_dir(dir.path());
    files(copy.path()).iter().for_each(|file| fs::remove_file(file).unwrap());
    assert_refused(copy.path(), "without any file");
}

#[tokio::test]
async fn a_note_has_two_slots_and_one_is_enough() {
    let dir = TempDir::new().unwrap();
    log_with_a_tail(dir.path()).await;
    for position in 0..37 {
        let copy = copy_dir(dir.path());
        flip(&note(copy.path()), position);
        assert_acknowledged(&mut open(copy.path()).unwrap(), "one slot is damaged").await;
        let copy = copy_dir(dir.path());
        flip(&note(copy.path()), position);
        flip(&note(copy.path()), 4_096 + position);
        assert_refused(copy.path(), "both slots are damaged");
    }
    let copy = copy_dir(dir.path());
    fs::write(note(copy.path()), b"").unwrap();
    assert_refused(copy.path(), "an empty note");
}
