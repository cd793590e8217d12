//! What a Raft log goes through before it is opened: a torn tail is cut off, damage is refused.
//!
//! A crash may leave the last write of the last file half done, and not only short: pages of one write reach the disk
//! in any order. Such a tail was never synced, so nothing in it was acknowledged. The `raft-log` crate cuts only
//! tails that are short or zero, and it would also cut at a damaged *length* in the middle, acknowledged entries
//! included. So it is opened with its own cutting switched off, after this step has decided:
//!
//! - every record of the last file can be read: nothing to do;
//! - a record cannot be read and no later place in the file holds one that can: a torn tail, cut;
//! - a later record can be read: damage. Acknowledged entries may follow it, so the log is refused and the replica
//!   rejoins from a peer.
//!
//! Damage to the very last record looks like a torn write and cannot be told from it; neither can a lost tail.
//! Damage in an older file is found when the log is opened, and refused.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use codeq::Decode;
use raft_log::chunked_wal::{self, ChunkedWal};
use raft_log::{ChunkId, RaftLogRecord, RaftWalTypes};

use crate::Error;
use crate::log_store::LogTypes;

/// Cuts a torn tail or refuses a damaged log.
///
/// # Errors
/// [`Error::LogDamaged`] when a readable record follows one that cannot be read; [`Error::Io`].
pub(crate) fn repair(config: &chunked_wal::Config) -> Result<(), Error> {
    let dir = PathBuf::from(&config.dir);
    let lock =
        ChunkedWal::<RaftWalTypes<LogTypes>>::acquire_lock(config).map_err(Error::io("lock raft log", dir.clone()))?;
    let mut chunks =
        ChunkedWal::<RaftWalTypes<LogTypes>>::load_chunk_ids(config, &lock).map_err(Error::io("list raft log", dir))?;
    while let Some(chunk) = chunks.pop() {
        let path = PathBuf::from(config.chunk_path(chunk));
        let keep = readable_prefix(&path)?;
        if keep > 0 {
            return Ok(());
        }
        // Not even the first record: the file was begun and never synced, and the one before it may be torn as well.
        remove(&path, chunk, config)?;
    }
    Ok(())
}

/// Cuts what cannot be read off the end of the file. Returns how many bytes are left.
fn readable_prefix(path: &Path) -> Result<usize, Error> {
    let bytes = fs::read(path).map_err(Error::io("read raft log", path))?;
    let mut end = 0;
    while end < bytes.len() {
        match record_len(&bytes[end..]) {
            Some(len) => end += len,
            None => break,
        }
    }
    if end == bytes.len() {
        return Ok(end);
    }
    if (end + 1..bytes.len()).any(|at| record_len(&bytes[at..]).is_some()) {
        return Err(Error::LogDamaged { path: path.to_owned(), offset: end as u64 });
    }
    tracing::warn!(path = %path.display(), keep = end, cut = bytes.len() - end, "cutting the torn tail of a raft log");
    cut(path, end as u64).map_err(Error::io("cut raft log", path))?;
    Ok(end)
}

/// The length of the record that the bytes begin with, if it is whole and its checksum right.
fn record_len(bytes: &[u8]) -> Option<usize> {
    // Every record begins with its type, a u32 up to 5: rejects nearly every place without decoding.
    let [0, 0, 0, 0..=5, ..] = bytes else { return None };
    let mut cursor = Cursor::new(bytes);
    RaftLogRecord::<LogTypes>::decode(&mut cursor).ok()?;
    usize::try_from(cursor.position()).ok()
}

fn cut(path: &Path, len: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}

fn remove(path: &Path, chunk: ChunkId, config: &chunked_wal::Config) -> Result<(), Error> {
    tracing::warn!(path = %path.display(), chunk = chunk.0, "removing a raft log file without a whole record");
    fs::remove_file(path).map_err(Error::io("remove raft log file", path))?;
    config.sync_dir().map_err(Error::io("sync raft log directory", &config.dir))
}
