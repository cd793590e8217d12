//! The Raft log for simulation: in memory, on a disk that syncs when simulated time says so and can lose the rest.
//!
//! A [`MemoryDisk`] outlives the process that is simulated on it. What was appended is readable at once and durable
//! when its sync has ended: syncs take the time that the disk's [`SyncTimes`] say, one after the other, and one sync takes in
//! everything written before it began (group commit), as on the real log's own thread. [`MemoryDisk::crash`] loses
//! writes that were not synced, all or all but a first part of them. A sync that fails fails the log for good.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_types::mutants::{Mutant, is_planted};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::codec::StoredPayload;
use crate::log_store::half_open;
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

/// How long syncs take, and which of them fail.
pub trait SyncTimes: Send + Sync + fmt::Debug {
    /// The time of the next sync, or why it fails.
    ///
    /// # Errors
    /// To have the sync fail.
    fn next(&self) -> io::Result<Duration>;
}

/// The Raft logs of one simulated host. Cheap to clone; clones are the same disk.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    logs: Arc<Mutex<BTreeMap<PathBuf, Arc<Mutex<Data>>>>>,
    times: Arc<dyn SyncTimes>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new(times: Arc<dyn SyncTimes>) -> Self {
        Self { logs: Arc::default(), times }
    }

    /// Opens the log in `dir`, or begins one. Must be called on a runtime, which runs its syncs.
    pub(crate) fn open(&self, dir: &Path, read_bytes_max: usize) -> MemoryLog {
        let data = Arc::clone(self.logs.lock().entry(dir.to_owned()).or_default());
        data.lock().begin();
        let (wanted, wants) = mpsc::unbounded_channel();
        tokio::spawn(sync_in_turn(Arc::clone(&data), Arc::clone(&self.times), wants));
        MemoryLog { data, wanted: Arc::new(Mutex::new(Some(wanted))), read_bytes_max }
    }

    /// Loses what was not synced. Of each log's writes since the last sync the first few may have come to the disk:
    /// `kept(n)` says how many of `n`.
    pub fn crash(&self, mut kept: impl FnMut(usize) -> usize) {
        for data in self.logs.lock().values() {
            let mut data = data.lock();
            let (count, generation) = (data.unsynced.len(), data.generation + 1);
            let kept = kept(count).min(count);
            let survived: Vec<_> = data.unsynced.drain(..).take(kept).collect();
            let mut durable = data.durable.clone();
            survived.into_iter().for_each(|write| durable.take(write));
            *data = Data { live: durable.clone(), durable, generation, ..Data::default() };
        }
    }

    /// How many logs there are.
    pub fn len(&self) -> usize {
        self.logs.lock().len()
    }

    /// Whether there is no log.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One change to a log.
#[derive(Debug, Clone)]
enum Write {
    Append(Vec<Entry>),
    Vote(Vote),
    TruncateFrom(u64),
    PurgeTo(LogId),
    Commit(LogId),
    About(String),
}

#[derive(Debug, Clone, Default)]
struct State {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// What the replica says about itself.
    about: Option<String>,
    /// How many writes there were: the log's position.
    writes: u64,
}

impl State {
    fn take(&mut self, write: Write) {
        self.writes += 1;
        match write {
            Write::About(text) => self.about = Some(text),
            Write::Append(entries) => self.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry))),
            Write::Vote(vote) => self.vote = Some(vote),
            Write::TruncateFrom(index) => drop(self.entries.split_off(&index)),
            Write::PurgeTo(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Write::Commit(committed) => self.committed = self.committed.max(Some(committed)),
        }
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

#[derive(Debug, Default)]
struct Data {
    live: State,
    durable: State,
    /// Writes that are in `live` and not in `durable`, in order.
    unsynced: Vec<Write>,
    /// Rises with each crash and each opening: a sync of an earlier process changes nothing any more.
    generation: u64,
    /// The position up to which a sync was asked for.
    wanted: u64,
    failed: bool,
    closed: bool,
}

impl Data {
    fn begin(&mut self) {
        self.generation += 1;
        (self.failed, self.closed) = (false, false);
    }

    fn write(&mut self, write: Write) -> io::Result<()> {
        if self.failed || self.closed {
            return Err(io::Error::other("raft log failed before or is closed"));
        }
        self.live.take(write.clone());
        self.unsynced.push(write);
        Ok(())
    }

    fn sync(&mut self, count: usize) {
        let writes: Vec<_> = self.unsynced.drain(..count).collect();
        writes.into_iter().for_each(|write| self.durable.take(write));
    }
}

/// Who is to be told that a write is on disk.
enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Task(oneshot::Sender<io::Result<()>>),
    Nobody,
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Raft(callback) => callback.io_completed(result),
            // A task that stopped waiting has nothing to be told.
            Self::Task(sender) => drop(sender.send(result)),
            Self::Nobody => {}
        }
    }
}

/// Bounded by openraft, which waits for the sync of what it appended, and by the budget of proposals.
type Wanted = mpsc::UnboundedSender<Waiter>;

/// One sync after the other while any is wanted.
async fn sync_in_turn(data: Arc<Mutex<Data>>, times: Arc<dyn SyncTimes>, mut wants: mpsc::UnboundedReceiver<Waiter>) {
    let mut joined = Vec::new();
    while wants.recv_many(&mut joined, usize::MAX).await > 0 {
        let (count, generation) = {
            let data = data.lock();
            (data.unsynced.len(), data.generation)
        };
        let result = match times.next() {
            Ok(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        {
            let mut data = data.lock();
            if data.generation != generation {
                return;
            }
            match result {
                Ok(()) if !data.failed => data.sync(count),
                _ => data.failed = true,
            }
        }
        let failed = data.lock().failed;
        for waiter in joined.drain(..) {
            waiter.tell(if failed { Err(io::Error::other("sync of the raft log failed")) } else { Ok(()) });
        }
    }
}

/// A Raft log on a [`MemoryDisk`]. Cheap to clone; clones are the readers.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    data: Arc<Mutex<Data>>,
    wanted: Arc<Mutex<Option<Wanted>>>,
    read_bytes_max: usize,
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog").finish_non_exhaustive()
    }
}

impl MemoryLog {
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.data.lock().live.purged
    }

    pub(crate) fn user_data(&self) -> Option<String> {
        self.data.lock().live.about.clone()
    }

    /// Durable when this returns.
    pub(crate) async fn save_user_data(&self, text: String) -> io::Result<()> {
        self.write_and_wait(Write::About(text)).await
    }

    pub(crate) fn durable_end(&self) -> u64 {
        self.data.lock().durable.writes
    }

    pub(crate) fn wanted_end(&self) -> u64 {
        self.data.lock().wanted
    }

    /// Syncs what is pending; nothing can be written after it.
    pub(crate) fn close(&self) {
        let mut data = self.data.lock();
        let count = data.unsynced.len();
        if !data.failed {
            data.sync(count);
        }
        data.closed = true;
        drop(data);
        self.wanted.lock().take();
    }

    fn write_and_sync(&self, write: Write, waiter: Waiter) -> io::Result<()> {
        let written = {
            let mut data = self.data.lock();
            let written = data.write(write);
            data.wanted = data.live.writes;
            written
        };
        if let Err(error) = written {
            waiter.tell(Err(io::Error::other(error.to_string())));
            return Err(error);
        }
        let waiter = match waiter {
            waiter if is_planted(Mutant::AcknowledgesBeforeSync) => {
                waiter.tell(Ok(()));
                Waiter::Nobody
            }
            waiter => waiter,
        };
        let wanted = self.wanted.lock();
        let wanted = wanted.as_ref().ok_or_else(|| io::Error::other("raft log is closed"))?;
        wanted.send(waiter).map_err(|_| io::Error::other("raft log is closed"))
    }

    async fn write_and_wait(&self, write: Write) -> io::Result<()> {
        let (sender, synced) = oneshot::channel();
        self.write_and_sync(write, Waiter::Task(sender))?;
        synced.await.map_err(|_| io::Error::other("raft log stopped before the write was synced"))?
    }

    fn read(&self, range: &impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
        let (start, end) = half_open(range);
        let data = self.data.lock();
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (_, entry) in data.live.entries.range(start..end.max(start)) {
            bytes += StoredPayload::len(&entry.payload);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.read(&range, usize::MAX))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.data.lock().live.vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        Ok(self.read(&(start..end), self.read_bytes_max))
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let data = self.data.lock();
        Ok(LogState { last_purged_log_id: data.live.purged, last_log_id: data.live.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write_and_wait(Write::Vote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        let mut data = self.data.lock();
        if Some(committed) > data.live.last() || Some(committed) <= data.live.committed {
            return Ok(());
        }
        data.write(Write::Commit(committed))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.data.lock().live.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.write_and_sync(Write::Append(entries.into_iter().collect()), Waiter::Raft(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut data = self.data.lock();
        if last >= data.live.last() {
            return Ok(());
        }
        data.write(Write::TruncateFrom(last.map_or(0, |last| last.index + 1)))
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.write_and_sync(Write::PurgeTo(upto), Waiter::Nobody)
    }
}
