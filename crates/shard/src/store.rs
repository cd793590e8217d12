//! The store of one replica, wired together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use granary_proto::internal::{ReadSegmentsResponse, ShardCommand, ShardReply, TrimmedGroup};
use granary_store::Tree;
use granary_types::WriteStamp;
use parking_lot::{Condvar, Mutex, RwLock};
use prost::Message;
use tokio::sync::Notify;

use crate::apply::Apply;
use crate::change_log::{ChangeLogStatus, OpenSegment, Pressure};
use crate::checkpointer::{Drive, Duty, Running, Spawn, Step, Stop, Worker, spawn_thread};
use crate::control::Control;
use crate::dedup::Window;
use crate::marker::{Marker, Proof};
use crate::memory_table::MemoryTable;
use crate::preserved::{self, Preserved};
use crate::row_cache::RowCache;
use crate::sample::{Sample, Samples};
use crate::slots::Slots;
use crate::{Error, Settings};

/// How far what a tree holds may be trusted (ST-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeTrust {
    /// As far as the scan at the start proves it: after a clean stop, a crash of the process in the same boot of the
    /// machine, or a power cut that the engine survives.
    Trusted {
        /// It was a clean stop. Otherwise the rows may hold parts of entries after the marker.
        clean: bool,
    },
    /// After anything else: the tree is emptied.
    Untrusted,
}

/// A replica's store at a glance.
#[derive(Debug, Clone)]
pub struct Status {
    /// The last entry applied.
    pub applied_index: u64,
    /// The tree holds every entry up to this one.
    pub written_index: u64,
    /// How many cells there are: live, soft-deleted and reset records.
    pub cells: u64,
    /// The state hash, once it belongs to the applied index (RG-2); `None` during replay into rows that are ahead.
    pub state_hash: Option<u128>,
    /// The last write stamp given.
    pub last_stamp: WriteStamp,
    /// How many slots are owned.
    pub slots: usize,
    /// How many write ids are remembered.
    pub recent_writes: usize,
    /// Bytes of rows that are not yet in the tree.
    pub memory_table_bytes: usize,
    /// The bound for them.
    pub memory_table_bytes_max: usize,
    /// Bytes of overwritten rows kept in memory for the snapshot being written.
    pub snapshot_overlay_bytes: usize,
    /// Bytes of rows cached for reads.
    pub row_cache_bytes: usize,
    /// Why the store has failed: the replica must stop.
    pub failure: Option<Error>,
}

/// The store of one replica of a shard: see the crate's documentation.
///
/// One task applies; anybody may read and look at any time. [`Self::close`] is a clean stop. A store that is dropped
/// instead stops as in a crash, and waits for a write of the tree that is under way.
#[derive(Debug)]
pub struct ShardStore {
    pub(crate) inner: Arc<Inner>,
}

/// What the store and its checkpointer share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    window: Window,
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) control: Mutex<Control>,
    /// Locked after the control state only.
    pub(crate) samples: Mutex<Samples>,
    /// The control state's slots, for readers, who must not wait for apply.
    pub(crate) slots: RwLock<Arc<Slots>>,
    /// Likewise, for whoever asks about pressure.
    pub(crate) change_log_bytes: AtomicU64,
    pub(crate) memory: RwLock<MemoryTable>,
    pub(crate) cache: RowCache,
    pub(crate) duty: Mutex<Duty>,
    pub(crate) drive: Drive,
    /// Held by whoever changes the tree.
    pub(crate) worker: Mutex<Worker>,
    /// What is put by for the pinned snapshot.
    pub(crate) preserved: Mutex<Option<Preserved>>,
    /// Something about duty, failure or memory table has changed.
    pub(crate) changed: Condvar,
    /// There may be room again.
    pub(crate) room: Notify,
    /// How many snapshots were pinned.
    pub(crate) pins: AtomicU64,
    /// How often the rows were replaced as a whole.
    pub(crate) replaced: AtomicU64,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    failed_now: Notify,
}

impl ShardStore {
    /// Opens the store over a tree that nobody else writes, and starts its checkpointer. The control state is that of
    /// a shard that never applied anything: restore the newest snapshot, if there is one, and replay the Raft log.
    ///
    /// Takes a scan of the whole tree, which proves that every row is there as the marker says.
    ///
    /// # Errors
    /// `Corrupt` when a trusted tree is not proved: open it again as untrusted. `Engine`.
    pub fn open(tree: Arc<dyn Tree>, trust: TreeTrust, settings: Settings) -> Result<Arc<Self>, Error> {
        Self::open_with(tree, trust, settings, &spawn_thread)
    }

    /// [`Self::open`] with another way to start the checkpointer's thread.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(
        tree: Arc<dyn Tree>,
        trust: TreeTrust,
        settings: Settings,
        spawn: Spawn<'_>,
    ) -> Result<Arc<Self>, Error> {
        Self::open_with_window(tree, trust, settings, spawn, Window::OF_FORMAT)
    }

    /// [`Self::open_with`] with another window of remembered ids, which makes it another state machine: for this
    /// crate's own tests only, which could not fill the real one.
    #[doc(hidden)]
    pub fn open_with_window(
        tree: Arc<dyn Tree>,
        trust: TreeTrust,
        settings: Settings,
        spawn: Spawn<'_>,
        window: Window,
    ) -> Result<Arc<Self>, Error> {
        let inner = Arc::new(Inner::open(tree, trust, settings, window, Drive::Thread)?);
        let running = Running(Arc::clone(&inner));
        spawn(Box::new(move || running.run()))
            .map_err(|error| Error::Engine(Arc::new(granary_store::Error::Io(error.to_string()))))?;
        Ok(Arc::new(Self { inner }))
    }

    /// [`Self::open`] without a thread: the checkpointer does something only in [`Self::step`], and in what waits for
    /// it. For a simulation on one thread.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_stepped(tree: Arc<dyn Tree>, trust: TreeTrust, settings: Settings) -> Result<Arc<Self>, Error> {
        let inner = Inner::open(tree, trust, settings, Window::OF_FORMAT, Drive::Steps)?;
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }

    /// Lets the checkpointer of a store opened by [`Self::open_stepped`] do one piece of work. `now` decides whether
    /// rows have waited long enough.
    pub fn step(&self, now: Instant) -> Step {
        self.inner.step(Some(now))
    }

    /// Applies a committed entry, an encoded `ShardCommand`, and returns the encoded `ShardReply`. An entry at or
    /// below the applied index is skipped.
    ///
    /// A pure function of (state, entry). It may read the tree but never waits for it to be written: call
    /// [`Self::room`] before.
    ///
    /// # Errors
    /// Any error means that the store has failed and the replica must stop, for what it did not apply it must never
    /// skip. `Entry`: this program does not understand the entry. `Corrupt`, `Engine`, `RowsAhead`: the rows must be
    /// rebuilt. `Closed`.
    pub fn apply(&self, index: u64, command: &Bytes) -> Result<Bytes, Error> {
        let inner = &*self.inner;
        let mut control = inner.control.lock();
        inner.check_usable()?;
        if index <= control.applied_index {
            return Ok(ShardReply::default().encode_to_vec().into());
        }
        inner.samples.lock().before(index, &control);
        let window = inner.window;
        let applied = ShardCommand::decode(command.clone())
            .map_err(|error| Error::Entry { index, detail: error.to_string() })
            .and_then(|command| Apply { control: &mut control, rows: inner, window, index }.command(command));
        let reply = applied.inspect_err(|error| inner.fail(error.clone()))?;
        if !Arc::ptr_eq(&inner.slots.read(), &control.slots) {
            *inner.slots.write() = Arc::clone(&control.slots);
        }
        inner.change_log_bytes.store(control.change_log.bytes(), Ordering::Relaxed);
        drop(control);
        if inner.memory.read().active_bytes() >= inner.settings.checkpoint_bytes {
            inner.want_checkpoint();
        }
        Ok(reply.encode_to_vec().into())
    }

    /// Returns when the memory table is below its bound, or when the store has failed or is closed: then apply says so.
    pub async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.inner.room.notified());
            // Listens before it looks, so that nothing is missed in between.
            freed.as_mut().enable();
            // A lock a statement: the order of locks is duty, then memory table.
            let bytes = self.inner.memory.read().bytes();
            if bytes < self.inner.settings.memory_table_bytes || self.inner.check_usable().is_err() {
                return;
            }
            freed.await;
        }
    }

    /// Sealed segments with events after `sequence`, oldest first: as many as fit `max_bytes`, but at least one if
    /// there is one.
    pub fn segments_after(&self, sequence: u64, max_bytes: usize) -> ReadSegmentsResponse {
        self.inner.control.lock().change_log.segments_after(sequence, max_bytes)
    }

    /// The last trimmed event of each feature group, where it comes after `sequence`: the group's offline table holds
    /// it, or has lost history.
    pub fn groups_trimmed_after(&self, sequence: u64) -> Vec<TrimmedGroup> {
        self.inner.control.lock().change_log.groups_trimmed_after(sequence)
    }

    /// The change log at a glance.
    pub fn change_log(&self) -> ChangeLogStatus {
        self.inner.control.lock().change_log.status(self.change_log_budget())
    }

    /// What the state was at some recent indexes, the same ones on every replica, and what it is now: rising by index.
    /// Without what is not comparable with other replicas.
    pub fn samples(&self) -> Vec<Sample> {
        let control = self.inner.control.lock();
        self.inner.samples.lock().with_now(&control)
    }

    /// The open segment at a glance.
    pub fn open_segment(&self) -> OpenSegment {
        self.inner.control.lock().change_log.open_segment()
    }

    /// The budget of the change log that this replica puts into the entries it proposes, in bytes; 0 for no bound.
    pub fn change_log_budget(&self) -> u64 {
        self.inner.settings.change_log_budget_bytes
    }

    /// How full the change log is, by this replica's setting. Takes no lock: for the path of every write.
    pub fn pressure(&self) -> Pressure {
        let bytes = self.inner.change_log_bytes.load(Ordering::Relaxed);
        Pressure::of(bytes, self.change_log_budget())
    }

    /// The store at a glance.
    pub fn status(&self) -> Status {
        let inner = &*self.inner;
        let control = inner.control.lock();
        let written_index = inner.duty.lock().written_index;
        Status {
            applied_index: control.applied_index,
            written_index,
            cells: control.rows.hash.cells(),
            state_hash: control.is_comparable().then(|| control.rows.hash.value()),
            last_stamp: control.last_stamp,
            slots: control.slots.count(),
            recent_writes: control.recent.len(),
            memory_table_bytes: inner.memory.read().bytes(),
            memory_table_bytes_max: inner.settings.memory_table_bytes,
            snapshot_overlay_bytes: inner.preserved.lock().as_ref().map_or(0, Preserved::bytes),
            row_cache_bytes: inner.cache.bytes(),
            failure: inner.failure(),
        }
    }

    /// Why the store has failed, if it has: it applies and serves nothing any more, and the replica must stop.
    pub fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }

    /// Returns when the store has failed.
    pub async fn failed(&self) -> Error {
        loop {
            let mut failed = std::pin::pin!(self.inner.failed_now.notified());
            failed.as_mut().enable();
            if let Some(error) = self.failure() {
                return error;
            }
            failed.await;
        }
    }

    /// Writes everything applied so far to the tree and returns when it is there.
    ///
    /// # Errors
    /// `Closed` or the store's failure.
    pub fn checkpoint(&self) -> Result<(), Error> {
        let wanted = self.inner.control.lock().applied_index;
        self.inner.want_checkpoint();
        let unwritten = || !self.inner.memory.read().is_empty();
        let duty = self.inner.wait_while(|duty| !duty.stopped && duty.written_index < wanted && unwritten());
        let stopped = duty.stopped;
        drop(duty);
        self.inner.check_usable()?;
        if stopped { Err(Error::Closed) } else { Ok(()) }
    }

    /// Stops cleanly: writes everything to the tree and ends the checkpointer. A pinned snapshot gives up. After it,
    /// and only if it succeeds, the tree may be opened as `Trusted { clean: true }`.
    ///
    /// # Errors
    /// The store's failure.
    pub fn close(&self) -> Result<(), Error> {
        self.inner.stop(Stop::Drained);
        self.inner.failure().map_or(Ok(()), Err)
    }
}

impl Drop for ShardStore {
    fn drop(&mut self) {
        self.inner.stop(Stop::AtOnce);
    }
}

impl Inner {
    fn open(
        tree: Arc<dyn Tree>,
        trust: TreeTrust,
        settings: Settings,
        window: Window,
        drive: Drive,
    ) -> Result<Self, Error> {
        let rows = open_rows(tree.as_ref(), trust)?;
        Ok(Self {
            settings,
            window,
            tree,
            control: Mutex::new(Control { rows, ..Control::default() }),
            samples: Mutex::default(),
            slots: RwLock::default(),
            change_log_bytes: AtomicU64::new(0),
            memory: RwLock::default(),
            cache: RowCache::new(settings.row_cache_bytes),
            duty: Mutex::new(Duty { written_index: rows.index, ..Duty::default() }),
            drive,
            worker: Mutex::new(Worker::new(rows)),
            preserved: Mutex::new(None),
            changed: Condvar::new(),
            room: Notify::new(),
            pins: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            failed_now: Notify::new(),
        })
    }

    /// Ends the checkpointer and waits for its end.
    fn stop(&self, how: Stop) {
        let mut duty = self.duty.lock();
        if duty.stop == Stop::No {
            duty.stop = how;
        }
        self.notify(&mut duty);
        drop(duty);
        drop(self.wait_while(|duty| !duty.stopped));
        self.room.notify_waiters();
    }

    /// Marks the store as failed. The first reason stays.
    pub(crate) fn fail(&self, error: Error) {
        {
            let mut failure = self.failure.lock();
            if failure.is_some() {
                return;
            }
            tracing::error!(error = &error as &dyn std::error::Error, "shard store has failed, its replica must stop");
            *failure = Some(error);
        }
        self.failed.store(true, Ordering::SeqCst);
        // Under the lock, so that nobody is between looking and waiting.
        self.notify(&mut self.duty.lock());
        self.failed_now.notify_waiters();
        self.room.notify_waiters();
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// # Errors
    /// The store's failure, or `Closed`.
    pub(crate) fn check_usable(&self) -> Result<(), Error> {
        if self.has_failed() {
            return self.failure().map_or(Ok(()), Err);
        }
        if self.duty.lock().stop == Stop::No { Ok(()) } else { Err(Error::Closed) }
    }
}

/// What the rows of a tree are (ST-1): proved by a scan, or thrown away.
fn open_rows(tree: &dyn Tree, trust: TreeTrust) -> Result<Marker, Error> {
    let stored = match trust {
        TreeTrust::Trusted { .. } => tree.marker()?.map(|stored| Marker::decode(&stored)).transpose()?.flatten(),
        TreeTrust::Untrusted => None,
    };
    let Some((marker, announced)) = stored else {
        tree.clear()?;
        return Ok(Marker::default());
    };
    if trust == (TreeTrust::Trusted { clean: true }) && !announced.is_empty() {
        return Err(Error::corrupt("a tree that was closed is in the middle of a write", &[]));
    }
    let mut proof = Proof::new(&marker, &announced);
    for pair in tree.scan(&[]) {
        let (key, cell) = pair?;
        if !preserved::is_spilled(&key) {
            proof.take(&key, &cell)?;
        }
    }
    let hash = proof.hash()?;
    let marker = match trust {
        TreeTrust::Trusted { clean: true } => marker,
        // The crash may have left a part of the next checkpoint, whose last entry the marker tells.
        _ => Marker { hash, ..marker },
    };
    preserved::remove_all_spilled(tree, &marker.encode())?;
    Ok(marker)
}
