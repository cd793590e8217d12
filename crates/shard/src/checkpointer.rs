//! The checkpointer: the one writer of a replica's tree.
//!
//! It sets the memory table aside when enough has gathered or waited, writes that in key order with the marker last,
//! hands the cells to the row cache and drops them. Nothing in apply waits for it; it takes the control lock only to
//! swap a map. It goes on while a snapshot is pinned: what the snapshot still needs it puts by first (see `preserved`).
//!
//! It is a state machine: [`Inner::step`] does one bounded piece of work. A thread of its own drives it
//! ([`Running`]), or whoever owns the store does ([`crate::ShardStore::open_stepped`]), and then a wait for it drives it
//! too. When the engine fails or panics, the store has failed for good and the checkpointer ends.
//!
//! Locks are taken in this order, each optional: worker, control, duty, memory table; the preserved cells' lock last.
//! Engine calls are made under the worker's alone, which also keeps the checkpointer away from a restore.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::MutexGuard;

use crate::marker::{Announced, Marker};
use crate::memory_table::Frozen;
use crate::store::Inner;
use crate::{Error, preserved};

/// What a checkpointer's thread runs. It ends when the store is closed, dropped or fails.
pub type Job = Box<dyn FnOnce() + Send>;

/// How a checkpointer's thread is started. A hook, so that whoever counts threads can do so.
pub type Spawn<'a> = &'a dyn Fn(Job) -> std::io::Result<()>;

/// Starts a job on a thread of its own, called `granary-checkpoint`.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn_thread(job: Job) -> std::io::Result<()> {
    std::thread::Builder::new().name("granary-checkpoint".to_owned()).spawn(job).map(drop)
}

/// What a step of the checkpointer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It did a piece of work; there may be more.
    Worked,
    /// There is nothing to do, unless something happens, before this instant.
    Idle {
        /// When rows will have waited long enough; `None` when the step was not told the time.
        until: Option<Instant>,
    },
    /// The checkpointer has ended: the store was closed or dropped, or has failed.
    Ended,
}

/// How the checkpointer is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stop {
    /// Not at all.
    #[default]
    No,
    /// After it has written everything: a clean stop.
    Drained,
    /// At once, as in a crash.
    AtOnce,
}

/// Who drives the checkpointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    Thread,
    /// The store's owner, and whoever waits for it.
    Steps,
}

/// What the checkpointer is told and what it tells.
#[derive(Debug, Default)]
pub(crate) struct Duty {
    pub(crate) stop: Stop,
    /// It has ended.
    pub(crate) stopped: bool,
    /// A snapshot is pinned; there is one at a time.
    pub(crate) pinned: bool,
    /// A checkpoint is wanted now.
    pub(crate) due: bool,
    /// The tree holds every entry up to this one.
    pub(crate) written_index: u64,
    /// How often something changed that a waiting thread must look at.
    pub(crate) changes: u64,
}

/// What the checkpointer has in hand.
#[derive(Debug)]
pub(crate) struct Worker {
    /// When rows will have waited long enough.
    old_at: Option<Instant>,
    writing: Option<Writing>,
    /// What the rows in the tree are. In the middle of a checkpoint: as after the last part.
    pub(crate) marker: Marker,
    /// Cells put by for a snapshot may be left in the tree.
    pub(crate) untidy: bool,
    ended: bool,
}

impl Worker {
    pub(crate) fn new(marker: Marker) -> Self {
        Self { old_at: None, writing: None, marker, untidy: false, ended: false }
    }

    /// Forgets the checkpoint under way: the rows were replaced.
    pub(crate) fn replaced(&mut self, marker: Marker) {
        (self.writing, self.marker, self.untidy) = (None, marker, false);
    }
}

/// A frozen map on its way into the tree.
#[derive(Debug)]
struct Writing {
    frozen: Arc<Frozen>,
    /// Its cells in key order.
    cells: Vec<(Bytes, Bytes)>,
    /// How many of them are in the tree.
    done: usize,
}

/// What is to be done next.
enum Next {
    Write,
    Freeze,
    Tidy,
    End,
    Nothing { until: Option<Instant>, changes: u64 },
}

/// The thread's part. Tells on its drop that the checkpointer has ended, even if it never ran or panicked.
pub(crate) struct Running(pub(crate) Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended();
    }
}

impl Running {
    /// The thread's life.
    pub(crate) fn run(self) {
        let store = &*self.0;
        loop {
            let (step, seen) = store.step_and_look(Some(Instant::now()));
            match step {
                Step::Worked | Step::Idle { until: None } => {}
                Step::Ended => return,
                Step::Idle { until: Some(until) } => {
                    let mut duty = store.duty.lock();
                    // What changed since it looked is not missed.
                    while duty.changes == seen && !store.changed.wait_until(&mut duty, until).timed_out() {}
                }
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl Inner {
    /// Does one piece of work. `now` decides whether rows have waited long enough; without it they have not.
    pub(crate) fn step(&self, now: Option<Instant>) -> Step {
        self.step_and_look(now).0
    }

    /// A step, and up to which change it has seen.
    fn step_and_look(&self, now: Option<Instant>) -> (Step, u64) {
        let mut worker = self.worker.lock();
        let step = match self.next(&mut worker, now) {
            Next::Nothing { until, changes } => return (Step::Idle { until }, changes),
            Next::Write => self.work(|| self.write_some(&mut worker)),
            Next::Tidy => self.work(|| self.tidy(&mut worker)),
            Next::Freeze => self.work(|| {
                self.freeze();
                Ok(())
            }),
            Next::End if worker.ended || self.finish(&mut worker) => Step::Ended,
            Next::End => Step::Worked,
        };
        if step == Step::Ended {
            worker.ended = true;
            self.ended();
        }
        (step, 0)
    }

    fn work(&self, work: impl FnOnce() -> Result<(), Error>) -> Step {
        self.contained(work);
        self.notify(&mut self.duty.lock());
        self.room.notify_waiters();
        Step::Worked
    }

    fn ended(&self) {
        let mut duty = self.duty.lock();
        duty.stopped = true;
        self.notify(&mut duty);
        drop(duty);
        self.room.notify_waiters();
    }

    /// Wakes everybody who waits for a change.
    pub(crate) fn notify(&self, duty: &mut Duty) {
        duty.changes += 1;
        self.changed.notify_all();
    }

    /// Waits while `condition` holds; what the checkpointer does must end it.
    pub(crate) fn wait_while(&self, condition: impl Fn(&Duty) -> bool) -> MutexGuard<'_, Duty> {
        let mut duty = self.duty.lock();
        while condition(&duty) {
            match self.drive {
                Drive::Thread => self.changed.wait(&mut duty),
                Drive::Steps => {
                    MutexGuard::unlocked(&mut duty, || self.step(None));
                }
            }
        }
        duty
    }

    /// Does something with the engine; an error or a panic fails the store.
    fn contained(&self, work: impl FnOnce() -> Result<(), Error>) {
        let done = catch_unwind(AssertUnwindSafe(work));
        let result = done.unwrap_or_else(|panic| Err(Error::EnginePanicked(panic_text(panic.as_ref()))));
        if let Err(error) = result {
            self.fail(error);
        }
    }

    fn next(&self, worker: &mut Worker, now: Option<Instant>) -> Next {
        let mut duty = self.duty.lock();
        if worker.ended || self.has_failed() || duty.stop == Stop::AtOnce {
            return Next::End;
        }
        let (frozen, active_bytes) = {
            let memory = self.memory.read();
            (memory.oldest_frozen().is_some(), memory.active_bytes())
        };
        let old = self.is_old(worker, now);
        let draining = duty.stop == Stop::Drained;
        if draining {
            // A pin does not hold up a clean stop: the snapshot gives up.
            *self.preserved.lock() = None;
        }
        if frozen {
            return Next::Write;
        }
        if active_bytes == 0 {
            duty.due = false;
        } else if draining || duty.due || old || active_bytes >= self.settings.checkpoint_bytes {
            return Next::Freeze;
        }
        if worker.untidy && self.preserved.lock().is_none() {
            return Next::Tidy;
        }
        if draining { Next::End } else { Next::Nothing { until: worker.old_at, changes: duty.changes } }
    }

    /// Whether what is in memory now has waited long enough; then a new wait begins.
    fn is_old(&self, worker: &mut Worker, now: Option<Instant>) -> bool {
        let Some(now) = now else { return false };
        let old = worker.old_at.is_some_and(|old_at| now >= old_at);
        if old || worker.old_at.is_none() {
            worker.old_at = Some(now + Duration::from_millis(self.settings.checkpoint_age_ms.max(1)));
        }
        old
    }

    /// The last deed. `false` when an entry that was under way has left something to write.
    fn finish(&self, worker: &mut Worker) -> bool {
        if matches!(self.failure(), Some(Error::RowsAhead { .. })) {
            // Opened again, the store is to be rebuilt.
            self.contained(|| Ok(self.tree.clear()?));
        } else if !self.has_failed() && self.duty.lock().stop == Stop::Drained {
            // The stop was told before: whatever held the control lock until now was the last entry.
            let marker = self.control.lock().marker();
            if !self.memory.read().is_empty() || worker.untidy {
                return false;
            }
            // Even if no row was written: after a crash, the marker in the tree does not speak for what a torn
            // checkpoint left behind it, and a clean stop says that it does.
            self.contained(|| Ok(self.tree.write(&mut std::iter::empty(), &marker.encode())?));
            if !self.has_failed() {
                self.duty.lock().written_index = marker.index;
            }
        }
        true
    }

    /// Sets the memory table aside between two entries, so that its marker is exact.
    fn freeze(&self) {
        let control = self.control.lock();
        self.duty.lock().due = false;
        self.memory.write().freeze(control.marker());
    }

    /// Writes a part of the oldest frozen map, and with its last part the marker.
    fn write_some(&self, worker: &mut Worker) -> Result<(), Error> {
        if worker.writing.is_none() {
            let frozen = self.memory.read().oldest_frozen();
            worker.writing = frozen.map(|frozen| Writing { cells: frozen.sorted(), frozen, done: 0 });
        }
        let Some(mut writing) = worker.writing.take() else { return Ok(()) };
        let step = self.settings.checkpoint_step_cells.max(1);
        let end = writing.cells.len().min(writing.done + step);
        let part = &writing.cells[writing.done..end];
        preserved::before_writing(self, worker, &writing.frozen.marker, part)?;
        let whole = end == writing.cells.len();
        let announced = Announced::of(&*self.tree, part)?;
        // Before any of it is written: what a crash leaves of this part may hold entries up to there, and nobody else
        // could tell, for the Raft log's own end may be lost.
        worker.marker.comparable_from = worker.marker.comparable_from.max(writing.frozen.marker.index);
        self.tree.write(&mut std::iter::empty(), &worker.marker.announcing(&announced))?;
        worker.marker.hash = announced.applied_to(worker.marker.hash);
        if whole {
            // What apply accounted for cell by cell; the tree under it may have lost some since.
            if worker.marker.hash != writing.frozen.marker.hash {
                return Err(Error::corrupt("rows do not add up to what apply accounted for", &[]));
            }
            worker.marker = writing.frozen.marker;
        }
        let mut pairs = part.iter().map(|(key, cell)| (key.clone(), Some(cell.clone())));
        self.tree.write(&mut pairs, &worker.marker.encode())?;
        // The cache first, then the memory table: see `row_cache`.
        for (key, cell) in part {
            self.cache.put(key.clone(), cell.clone());
        }
        writing.done = end;
        if whole {
            self.memory.write().drop_oldest();
            let mut duty = self.duty.lock();
            duty.written_index = duty.written_index.max(writing.frozen.marker.index);
        } else {
            worker.writing = Some(writing);
        }
        Ok(())
    }

    /// Tells the checkpointer that enough has gathered.
    pub(crate) fn want_checkpoint(&self) {
        let mut duty = self.duty.lock();
        if !duty.due {
            duty.due = true;
            self.notify(&mut duty);
        }
    }
}
