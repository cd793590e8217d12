//! The checkpointer: the one writer of a replica's tree, on a thread of its own.
//!
//! It sets the memory table aside when enough has gathered or waited, writes that in key order with the marker last,
//! hands the cells to the row cache and drops them. Nothing in apply waits for it; it takes the control lock only to
//! swap a map. Because nobody else writes, the tree is a consistent image whenever it rests:
//!
//! - while a snapshot is **pinned**, it still writes what was set aside up to the pin and then rests at that index;
//! - while the state is **restored**, it keeps its hands off altogether.
//!
//! When the engine fails or panics, the store has failed for good and the thread ends.
//!
//! Locks are taken in this order, each optional: control, duty, memory table. Engine calls are made under none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::memory_table::Frozen;
use crate::store::Inner;

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

/// How the thread is to end.
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

/// What the checkpointer is told and what it tells.
#[derive(Debug, Default)]
pub(crate) struct Duty {
    pub(crate) stop: Stop,
    /// The thread has ended.
    pub(crate) stopped: bool,
    /// It is writing the tree.
    pub(crate) writing: bool,
    /// A snapshot is pinned: nothing more may be set aside.
    pub(crate) pinned: bool,
    /// The state is being replaced: the tree may not be touched.
    pub(crate) restoring: bool,
    /// A checkpoint is wanted now.
    pub(crate) due: bool,
    /// The tree holds every entry up to this one.
    pub(crate) written_index: u64,
}

/// Tells on its drop that the thread has ended, even if it never ran or panicked.
pub(crate) struct Running(pub(crate) Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.duty.lock().stopped = true;
        self.0.changed.notify_all();
        self.0.room.notify_waiters();
    }
}

impl Running {
    /// The thread's life.
    pub(crate) fn run(self) {
        let store = &*self.0;
        loop {
            while let Some(frozen) = store.next_frozen() {
                store.contained(|| store.write_frozen(&frozen));
                let mut duty = store.duty.lock();
                duty.writing = false;
                if !store.has_failed() {
                    duty.written_index = duty.written_index.max(frozen.marker.index);
                }
                drop(duty);
                store.changed.notify_all();
                store.room.notify_waiters();
            }
            if store.finish() {
                return;
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl Inner {
    /// Does something with the engine; an error or a panic fails the store.
    fn contained(&self, work: impl FnOnce() -> Result<(), Error>) {
        let done = catch_unwind(AssertUnwindSafe(work));
        let result = done.unwrap_or_else(|panic| Err(Error::EnginePanicked(panic_text(panic.as_ref()))));
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// The last deed of the thread. `false` when an entry that was under way has left something to write.
    fn finish(&self) -> bool {
        if matches!(self.failure(), Some(Error::RowsAhead { .. })) {
            // Opened again, the store is to be rebuilt.
            self.contained(|| Ok(self.tree.clear()?));
        } else if !self.has_failed() && self.duty.lock().stop == Stop::Drained {
            // The stop was told before: whatever held the control lock until now was the last entry.
            let marker = self.control.lock().marker();
            if !self.memory.read().is_empty() {
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

    /// Waits for the next map to be written; `None` ends the thread.
    fn next_frozen(&self) -> Option<Arc<Frozen>> {
        let age = Duration::from_millis(self.settings.checkpoint_age_ms.max(1));
        let mut old_at = Instant::now() + age;
        loop {
            let mut duty = self.duty.lock();
            loop {
                if self.has_failed() || duty.stop == Stop::AtOnce {
                    return None;
                }
                let (oldest, active_bytes) = {
                    let memory = self.memory.read();
                    (memory.oldest_frozen(), memory.active_bytes())
                };
                let draining = duty.stop == Stop::Drained;
                if duty.restoring {
                    self.changed.wait(&mut duty);
                    continue;
                }
                if oldest.is_some() {
                    duty.writing = true;
                    return oldest;
                }
                if active_bytes == 0 {
                    duty.due = false;
                    if draining {
                        return None;
                    }
                }
                let old = Instant::now() >= old_at;
                let due = draining || duty.due || old || active_bytes >= self.settings.checkpoint_bytes;
                // A pin does not hold up a clean stop: the snapshot gives up.
                if active_bytes > 0 && due && (draining || !duty.pinned) {
                    break;
                }
                if old {
                    old_at = Instant::now() + age;
                }
                self.changed.wait_until(&mut duty, old_at);
            }
            drop(duty);
            self.freeze();
        }
    }

    /// Sets the memory table aside between two entries, so that its marker is exact.
    fn freeze(&self) {
        let control = self.control.lock();
        let mut duty = self.duty.lock();
        let held = duty.restoring || (duty.pinned && duty.stop == Stop::No);
        if !held {
            duty.due = false;
            self.memory.write().freeze(control.marker());
        }
    }

    fn write_frozen(&self, frozen: &Frozen) -> Result<(), Error> {
        let cells = frozen.sorted();
        let mut pairs = cells.iter().map(|(key, cell)| ((*key).clone(), Some((*cell).clone())));
        self.tree.write(&mut pairs, &frozen.marker.encode())?;
        // The cache first, then the memory table: see `row_cache`.
        for (key, cell) in cells {
            self.cache.put(key.clone(), cell.clone());
        }
        self.memory.write().drop_oldest();
        Ok(())
    }

    /// Tells the checkpointer that enough has gathered.
    pub(crate) fn want_checkpoint(&self) {
        let mut duty = self.duty.lock();
        if !duty.due {
            duty.due = true;
            self.changed.notify_all();
        }
    }
}
