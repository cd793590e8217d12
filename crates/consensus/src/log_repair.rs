//! What a Raft log goes through before it is opened: a torn tail is cut off, damage is refused, and what is left is
//! made durable.
//!
//! A crash may leave the last write of the last file half done, and not only short: pages of one write reach the disk
//! in any order. Such a tail was never synced, so nothing in it was acknowledged. The `raft-log` crate cuts only
//! tails that are short or zero, and it would also cut at a damaged *length* in the middle, acknowledged entries
//! included. So it is opened with its own cutting switched off, after this step has decided:
//!
//! - every record of the last file can be read: nothing to do;
//! - a record cannot be read although the note beside the log ([`crate::log_note`]) says that it was synced: a loss,
//!   and the log is refused;
//! - no later place in the file holds a record that can be read: a torn tail, cut;
//! - a later record can be read, and where the unreadable one should lie there is a page of zeros: a page of a write
//!   that was never synced, and so is all that follows it; cut;
//! - otherwise damage: acknowledged entries may follow it, and the log is refused.
//!
//! A file that a crashed process left is then written anew and synced. What was read from it may be in the page cache
//! only: never synced, or given up on by a sync that failed, after which later syncs succeed without having written
//! it. From here on openraft takes the whole log for durable, so it must be.
//!
//! Damage in an older file is found when the log is opened, and refused.

use std::fs::{self, File};
use std::io::{self, Cursor, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use codeq::Decode;
use raft_log::chunked_wal::{self, ChunkedWal};
use raft_log::{ChunkId, RaftLogRecord, RaftWalTypes};

use crate::Error;
use crate::log_note::Noted;
use crate::log_store::LogTypes;

const PAGE_LEN: usize = 4_096;
/// Type, log id, kind and length of the payload: what says how long an entry's record is.
const ENTRY_HEADER_LEN: usize = 4 + 24 + 1 + 4;
const CHECKSUM_LEN: usize = 8;
const ENTRY_TYPE: [u8; 4] = [0, 0, 0, 1];
/// A record begins with no more zeros than a vote's type and most of its term.
const ZEROS_IN_A_RECORD: usize = 4 + 7;
/// A file on its way to replace one of the log's.
const SUFFIX_TEMPORARY: &str = "rewritten";

/// Cuts a torn tail or refuses a damaged log, and makes durable what is left.
///
/// # Errors
/// [`Error::LogDamaged`] when a readable record follows one that cannot be read, [`Error::LogShort`] when the log
/// ends before what was noted of it, [`Error::Io`].
pub(crate) fn repair(config: &chunked_wal::Config, noted: Noted) -> Result<(), Error> {
    let dir = PathBuf::from(&config.dir);
    let lock =
        ChunkedWal::<RaftWalTypes<LogTypes>>::acquire_lock(config).map_err(Error::io("lock raft log", dir.clone()))?;
    remove_temporary(&dir).map_err(Error::io("clear raft log", dir.clone()))?;
    let mut chunks = ChunkedWal::<RaftWalTypes<LogTypes>>::load_chunk_ids(config, &lock)
        .map_err(Error::io("list raft log", dir.clone()))?;
    while let Some(chunk) = chunks.pop() {
        let path = PathBuf::from(config.chunk_path(chunk));
        let bytes = fs::read(&path).map_err(Error::io("read raft log", &path))?;
        let keep = readable_prefix(&bytes);
        check_cut(&path, &bytes, keep, chunk.0, noted)?;
        if keep == 0 {
            // Not even the first record: the file was begun and never synced. The one before it was synced in full
            // before this one was written to, but maybe not before it was created.
            remove(&path, chunk, config)?;
            continue;
        }
        if keep < bytes.len() {
            tracing::warn!(path = %path.display(), keep, cut = bytes.len() - keep, "cutting the torn tail of a raft log");
        }
        if keep < bytes.len() || !noted.clean {
            rewrite(&path, &bytes[..keep]).map_err(Error::io("rewrite raft log", &path))?;
        }
        return Ok(());
    }
    match noted.end {
        0 => Ok(()),
        noted => Err(Error::LogShort { path: dir, noted, found: 0 }),
    }
}

/// Whether what lies behind the readable records may be cut. `start` is the file's position in the log.
fn check_cut(path: &Path, bytes: &[u8], keep: usize, start: u64, noted: Noted) -> Result<(), Error> {
    let found = start + keep as u64;
    let later = || (keep + 1..bytes.len()).any(|at| record_len(&bytes[at..]).is_some());
    if found < noted.end {
        return Err(match keep < bytes.len() && later() {
            true => Error::LogDamaged { path: path.to_owned(), offset: keep as u64 },
            false => Error::LogShort { path: path.to_owned(), noted: noted.end, found },
        });
    }
    if keep < bytes.len() && !lies_in_a_hole(bytes, keep) && later() {
        return Err(Error::LogDamaged { path: path.to_owned(), offset: keep as u64 });
    }
    Ok(())
}

/// How many bytes of whole records the file begins with.
fn readable_prefix(bytes: &[u8]) -> usize {
    let mut end = 0;
    while end < bytes.len() {
        match record_len(&bytes[end..]) {
            Some(len) => end += len,
            None => break,
        }
    }
    end
}

/// Whether the record that should begin at `at` touches a page that was never written: zeros up to the page's end.
fn lies_in_a_hole(bytes: &[u8], at: usize) -> bool {
    let page_end = (at / PAGE_LEN + 1) * PAGE_LEN;
    let zeros = |range: Range<usize>| bytes.get(range.start..range.end.min(bytes.len())).is_some_and(all_zero);
    if zeros(at..page_end) {
        // So few may be the beginning of a record in a page that was written.
        let told = page_end - at > ZEROS_IN_A_RECORD || page_end >= bytes.len();
        return told || zeros(page_end..page_end + PAGE_LEN);
    }
    let header = bytes.get(at..at + ENTRY_HEADER_LEN);
    let len = header.filter(|header| header[..4] == ENTRY_TYPE).map_or(0, |header| {
        u32::from_be_bytes([header[29], header[30], header[31], header[32]]) as usize + CHECKSUM_LEN
    });
    let end = (at + ENTRY_HEADER_LEN).saturating_add(len).min(bytes.len());
    (page_end..end).step_by(PAGE_LEN).any(|page| zeros(page..page + PAGE_LEN))
}

fn all_zero(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0)
}

/// The length of the record that the bytes begin with, if it is whole and its checksum right.
fn record_len(bytes: &[u8]) -> Option<usize> {
    // Every record begins with its type, a u32 up to 5: rejects nearly every place without decoding.
    let [0, 0, 0, 0..=5, ..] = bytes else { return None };
    let mut cursor = Cursor::new(bytes);
    RaftLogRecord::<LogTypes>::decode(&mut cursor).ok()?;
    usize::try_from(cursor.position()).ok()
}

/// Replaces the file by one that holds `bytes` on disk, not only in the page cache.
fn rewrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(SUFFIX_TEMPORARY);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    crate::dirs::sync_parent(path)
}

fn remove_temporary(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX_TEMPORARY) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path, chunk: ChunkId, config: &chunked_wal::Config) -> Result<(), Error> {
    tracing::warn!(path = %path.display(), chunk = chunk.0, "removing a raft log file without a whole record");
    fs::remove_file(path).map_err(Error::io("remove raft log file", path))?;
    config.sync_dir().map_err(Error::io("sync raft log directory", &config.dir))
}
