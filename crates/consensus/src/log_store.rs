//! The Raft log of one group on disk: entries, vote, committed and purged positions, one directory per group.
//!
//! Records go through the `raft-log` crate: appended to a file, synced on its own thread, which then tells openraft.
//! While one sync runs, further appends queue and share the next (group commit). Nothing is acknowledged before its
//! sync (WR-1). After an I/O error every further write fails: openraft stops the replica, and the process restarts.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;
use tokio::sync::oneshot;

use crate::codec::{StoredLogId, StoredPayload, StoredVote};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};
use crate::{Error, Settings, dirs, log_repair};

/// How long the sync thread looks for further appends before it syncs. It must not be nought, or it would sync every
/// append by itself; a few microseconds take in all that queued up meanwhile and cost a lone append nothing.
const FLUSH_BATCH_WAIT: Duration = Duration::from_micros(5);
const READ_BUFFER_BYTES: usize = 4 << 20;
const FLUSH_QUEUE_BYTES: usize = 64 << 20;

/// The types that the `raft-log` crate stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = StoredLogId;
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = Flushed;
    type UserData = String;

    fn log_index(log_id: &StoredLogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &StoredPayload) -> u64 {
        StoredPayload::len(&payload.0) as u64
    }
}

/// Who is to be told that a write is on disk. Dropped unsent, it reports a failure: nobody waits for ever.
pub struct Flushed(Option<Waiter>);

enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Task(oneshot::Sender<io::Result<()>>),
}

impl Debug for Flushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Flushed").field(&self.0.is_some()).finish()
    }
}

impl Flushed {
    fn raft(callback: IOFlushed<TypeConfig>) -> Self {
        Self(Some(Waiter::Raft(callback)))
    }

    fn task() -> (Self, oneshot::Receiver<io::Result<()>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(Waiter::Task(sender))), receiver)
    }

    fn tell(&mut self, result: io::Result<()>) {
        match self.0.take() {
            Some(Waiter::Raft(callback)) => callback.io_completed(result),
            // A task that stopped waiting has nothing to be told.
            Some(Waiter::Task(sender)) => drop(sender.send(result)),
            None => {}
        }
    }
}

impl raft_log::Callback for Flushed {
    fn send(mut self, result: io::Result<()>) {
        self.tell(result);
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        self.tell(Err(io::Error::other("raft log stopped before the write was synced")));
    }
}

/// The Raft log of one group. Cheap to clone; clones are the readers.
#[derive(Debug, Clone)]
pub struct LogStore {
    /// None once closed: readers of a stopped group must not keep the directory locked.
    log: Arc<Mutex<Option<RaftLog<LogTypes>>>>,
    read_bytes_max: usize,
}

impl LogStore {
    /// Opens the log in `dir`, or begins one. Blocks; cuts a torn tail first.
    ///
    /// # Errors
    /// [`Error::LogDamaged`] when the last file is damaged; [`Error::Io`], also for damage in an older file.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Self, Error> {
        dirs::create_synced(dir).map_err(Error::io("create raft log directory", dir))?;
        let config = raft_log::Config {
            wal: raft_log::chunked_wal::Config {
                dir: dir.to_string_lossy().into_owned(),
                read_buffer_size: Some(READ_BUFFER_BYTES),
                chunk_max_records: None,
                chunk_max_size: Some(settings.log_chunk_bytes),
                // `log_repair` decides what may be cut.
                truncate_incomplete_record: Some(false),
                flush_batch_wait: Some(FLUSH_BATCH_WAIT),
                flush_batch_max_items: None,
                flush_queue_max_bytes: Some(FLUSH_QUEUE_BYTES),
            },
            log_cache_max_items: Some(settings.log_cache_entries),
            log_cache_capacity: Some(settings.log_cache_bytes),
        };
        log_repair::repair(&config.wal)?;
        let log = RaftLog::open(Arc::new(config)).map_err(Error::io("open raft log", dir))?;
        Ok(Self { log: Arc::new(Mutex::new(Some(log))), read_bytes_max: settings.append_bytes_max })
    }

    /// The last entry that was purged.
    ///
    /// # Errors
    /// When the log is closed.
    pub fn purged(&self) -> io::Result<Option<LogId>> {
        self.with(|log| Ok(log.log_state().purged().map(|id| id.0)))
    }

    /// Size of the log's files, in bytes; nought once closed.
    pub fn bytes_on_disk(&self) -> u64 {
        self.log.lock().as_ref().map_or(0, RaftLog::on_disk_size)
    }

    /// Writes and syncs what is pending, stops the sync thread and releases the directory. Blocks.
    pub fn close(&self) {
        let log = self.log.lock().take();
        // Dropping it joins its thread; not under the lock, which readers take on async threads.
        drop(log);
    }

    fn with<T>(&self, use_log: impl FnOnce(&mut RaftLog<LogTypes>) -> io::Result<T>) -> io::Result<T> {
        let mut log = self.log.lock();
        use_log(log.as_mut().ok_or_else(|| io::Error::other("raft log is closed"))?)
    }

    /// Entries of `start..end` that the log has, until they hold `bytes_max`; at least one.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        self.with(|log| {
            let mut entries = Vec::new();
            let mut bytes = 0;
            for record in log.read(start, end) {
                let (StoredLogId(log_id), StoredPayload(payload)) = record?;
                bytes += StoredPayload::len(&payload);
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(Entry { log_id, payload });
            }
            Ok(entries)
        })
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.with(|log| Ok(log.log_state().vote().map(|vote| vote.0)))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, self.read_bytes_max)
    }

    /// Reads a few megabytes at a time, so that a long range to apply is never in memory as a whole.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let log = self.clone();
        let batches = futures::stream::try_unfold(start, move |next| {
            let read = log.read(next, end, log.read_bytes_max);
            async move {
                let entries = read?;
                let Some(last) = entries.last() else { return Ok::<_, io::Error>(None) };
                let after = last.index() + 1;
                Ok(Some((futures::stream::iter(entries.into_iter().map(Ok)), after)))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(batches))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.with(|log| {
            let state = log.log_state();
            Ok(LogState { last_purged_log_id: state.purged().map(|id| id.0), last_log_id: state.last().map(|id| id.0) })
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (flushed, synced) = Flushed::task();
        self.with(|log| {
            log.save_vote(StoredVote(*vote))?;
            log.flush(true, Some(flushed))
        })?;
        synced.await.map_err(|_| io::Error::other("raft log stopped before the vote was synced"))?
    }

    /// Not synced: only saves applying entries again after a restart. What is saved is never ahead of the log.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed.map(StoredLogId) else { return Ok(()) };
        self.with(|log| {
            let state = log.log_state();
            if Some(&committed) > state.last() || Some(&committed) <= state.committed() {
                return Ok(());
            }
            log.commit(committed)?;
            log.flush(false, None)
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.with(|log| Ok(log.log_state().committed().map(|id| id.0)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let flushed = Flushed::raft(callback);
        self.with(|log| {
            log.append(entries.into_iter().map(|entry| (StoredLogId(entry.log_id), StoredPayload(entry.payload))))?;
            log.flush(true, Some(flushed))
        })
    }

    /// Not synced by itself: what was cut off was never committed, and the entries that replace it are synced after
    /// this record, in the same file order.
    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.with(|log| {
            if last.map(StoredLogId).as_ref() >= log.log_state().last() {
                return Ok(());
            }
            log.truncate(last.map_or(0, |last| last.index + 1)).map(drop)
        })
    }

    /// The files that hold only purged entries are removed by the sync thread, after the purge was synced.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.with(|log| {
            log.purge(StoredLogId(upto))?;
            log.flush(true, None)
        })
    }
}

pub(crate) fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
