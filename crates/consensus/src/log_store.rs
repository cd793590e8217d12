//! The Raft log of one group on disk: entries, vote, committed and purged positions, one directory per group.
//!
//! Records go through the `raft-log` crate: appended to a file, synced on its own thread, which then tells openraft.
//! While one sync runs, further appends queue and share the next (group commit). Nothing is acknowledged before its
//! sync (WR-1), nor before the note beside the log says so (`log_note`).
//!
//! After the first failed write or sync every further write fails: what is on disk then is not known, and a second sync
//! would succeed without having written anything. openraft stops the replica, and the process ends; the next one reads
//! what is there, and writes it anew before it trusts it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use codeq::OffsetSize;
use futures::Stream;
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{RaftLog, Segment};
use tokio::sync::{oneshot, watch};

use crate::codec::{StoredLogId, StoredPayload, StoredVote};
use crate::log_note::{Note, Noted};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};
use crate::{Error, Settings, log_files};

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

/// What is known of the log's way to the disk; shared with the thread that syncs.
#[derive(Debug)]
struct Progress {
    note: Note,
    /// The position up to which the log was synced.
    durable: watch::Sender<u64>,
    /// The position up to which a sync was asked for.
    wanted: AtomicU64,
    failed: AtomicBool,
}

impl Progress {
    /// A sync reached `end`, or failed.
    fn settle(&self, synced: io::Result<()>, end: u64) -> io::Result<()> {
        let settled = synced.and_then(|()| self.check()).and_then(|()| self.note.reached(end));
        match &settled {
            Ok(()) => drop(self.durable.send_if_modified(|durable| {
                let further = end > *durable;
                *durable = end.max(*durable);
                further
            })),
            Err(_) => self.failed.store(true, Ordering::Release),
        }
        settled
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.load(Ordering::Acquire) {
            true => Err(io::Error::other("raft log failed before, only a restart can tell what it holds")),
            false => Ok(()),
        }
    }
}

/// Who is to be told that a write is on disk. Dropped unsent, it reports a failure: nobody waits for ever.
pub struct Flushed(Option<(Waiter, Arc<Progress>, u64)>);

enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Task(oneshot::Sender<io::Result<()>>),
    Nobody,
}

impl Debug for Flushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Flushed").field(&self.0.is_some()).finish()
    }
}

impl Flushed {
    fn tell(&mut self, result: io::Result<()>) {
        let Some((waiter, progress, end)) = self.0.take() else { return };
        let result = progress.settle(result, end);
        match waiter {
            Waiter::Raft(callback) => callback.io_completed(result),
            // A task that stopped waiting has nothing to be told.
            Waiter::Task(sender) => drop(sender.send(result)),
            Waiter::Nobody => {}
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
    progress: Arc<Progress>,
    read_bytes_max: usize,
}

impl LogStore {
    /// Opens the log in `dir`, or begins one; its note stands beside `dir`. Blocks. Cuts a torn tail first, and makes
    /// durable what a crashed process left.
    ///
    /// # Errors
    /// Those of [`Error`] that speak of the log when it is damaged or not whole ([`Error::is_final`]); [`Error::Io`]
    /// when the disk refuses.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Self, Error> {
        let (log, note) = log_files::open(dir, settings)?;
        let durable = watch::channel(log_files::end(&log)).0;
        let (wanted, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let progress = Arc::new(Progress { note, durable, wanted, failed });
        Ok(Self { log: Arc::new(Mutex::new(Some(log))), progress, read_bytes_max: settings.append_bytes_max })
    }

    /// The last entry that was purged.
    ///
    /// # Errors
    /// When the log is closed.
    pub fn purged(&self) -> io::Result<Option<LogId>> {
        self.with(|log| Ok(log.log_state().purged().map(|id| id.0)))
    }

    /// What the replica wrote into its log about itself, if it did.
    pub(crate) fn user_data(&self) -> io::Result<Option<String>> {
        self.with(|log| Ok(log.log_state().user_data.clone()))
    }

    /// Writes what the replica says about itself; durable when this returns.
    pub(crate) async fn save_user_data(&self, text: String) -> io::Result<()> {
        let synced = self.write_and_wait(|log| log.save_user_data(Some(text)))?;
        synced.await.map_err(|_| io::Error::other("raft log stopped before the record was synced"))?
    }

    /// The position up to which the log is synced. Positions count bytes since the log began, and never go back.
    pub(crate) fn durable_end(&self) -> u64 {
        *self.progress.durable.borrow()
    }

    /// The position up to which syncs were asked for: beyond [`Self::durable_end`] while one is under way.
    pub(crate) fn wanted_end(&self) -> u64 {
        self.progress.wanted.load(Ordering::Relaxed)
    }

    /// Size of the log's files, in bytes; nought once closed.
    pub fn bytes_on_disk(&self) -> u64 {
        self.log.lock().as_ref().map_or(0, RaftLog::on_disk_size)
    }

    /// Writes and syncs what is pending, stops the sync thread and releases the directory. Blocks.
    pub fn close(&self) {
        let Some(mut log) = self.log.lock().take() else { return };
        // Not under the lock, which readers take on async threads: closing joins the sync thread.
        let flushed = Flushed(Some((Waiter::Nobody, Arc::clone(&self.progress), log_files::end(&log))));
        let flushed = log.flush(true, Some(flushed)).and_then(|()| log.wait_worker_idle());
        let end = log_files::end(&log);
        drop(log);
        let closed = flushed.and_then(|()| self.progress.check());
        let closed =
            closed.and_then(|()| self.progress.note.settle(Noted { end, clean: true }).map_err(io::Error::other));
        if let Err(error) = closed {
            tracing::warn!(%error, "raft log is left as after a crash");
        }
    }

    fn with<T>(&self, use_log: impl FnOnce(&mut RaftLog<LogTypes>) -> io::Result<T>) -> io::Result<T> {
        let mut log = self.log.lock();
        use_log(log.as_mut().ok_or_else(|| io::Error::other("raft log is closed"))?)
    }

    /// Writes to the log unless it failed before. A write that fails is the last.
    fn write(&self, write: impl FnOnce(&mut RaftLog<LogTypes>) -> io::Result<()>) -> io::Result<()> {
        self.with(|log| {
            self.progress.check()?;
            write(log).inspect_err(|_| self.progress.failed.store(true, Ordering::Release))
        })
    }

    /// Writes, and has the waiter told once that is on disk.
    fn write_synced(
        &self,
        waiter: Waiter,
        write: impl FnOnce(&mut RaftLog<LogTypes>) -> io::Result<Segment>,
    ) -> io::Result<()> {
        self.write(|log| {
            let end = write(log)?.end().0;
            self.progress.wanted.fetch_max(end, Ordering::Relaxed);
            let flushed = Flushed(Some((waiter, Arc::clone(&self.progress), end)));
            log.flush(true, Some(flushed))
        })
    }

    fn write_and_wait(
        &self,
        write: impl FnOnce(&mut RaftLog<LogTypes>) -> io::Result<Segment>,
    ) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (sender, synced) = oneshot::channel();
        self.write_synced(Waiter::Task(sender), write).map(|()| synced)
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
        let synced = self.write_and_wait(|log| log.save_vote(StoredVote(*vote)))?;
        synced.await.map_err(|_| io::Error::other("raft log stopped before the vote was synced"))?
    }

    /// Not synced: only saves applying entries again after a restart. What is saved is never ahead of the log.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed.map(StoredLogId) else { return Ok(()) };
        self.write(|log| {
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
        let entries = entries.into_iter();
        self.write_synced(Waiter::Raft(callback), |log| {
            log.append(entries.map(|entry| (StoredLogId(entry.log_id), StoredPayload(entry.payload))))
        })
    }

    /// Not synced by itself: what was cut off was never committed, and the entries that replace it are synced after
    /// this record, in the same file order.
    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.write(|log| {
            if last.map(StoredLogId).as_ref() >= log.log_state().last() {
                return Ok(());
            }
            log.truncate(last.map_or(0, |last| last.index + 1)).map(drop)
        })
    }

    /// The files that hold only purged entries are removed by the sync thread, after the purge was synced.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.write_synced(Waiter::Nobody, |log| log.purge(StoredLogId(upto)))
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
