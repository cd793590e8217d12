//! Recording from many clients at once.
//!
//! The rules of recording are kept here, so that a harness cannot break them by accident: a call is noted before
//! anything is sent and after everything came back, time is read under the lock that gives the place, and a client whose
//! call had an unknown outcome goes on as a new process.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::format::{Error, Writer};
use crate::model::{Call, Event, Header, History, Outcome, Process, What};

/// Tells the time in nanoseconds since the run began; never falls.
pub type Clock = Box<dyn Fn() -> u64 + Send>;

struct Inner {
    history: History,
    clock: Clock,
    next_process: u64,
    file: Option<Writer<Box<dyn Write + Send>>>,
    /// The first thing that went wrong with the file; told by [`Recorder::finish`].
    failed: Option<Error>,
}

/// A history being recorded. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins a history. Each event is also written to `file` at once, so that a run that dies leaves its history.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(header: Header, clock: Clock, file: Option<Box<dyn Write + Send>>) -> Result<Self, Error> {
        let file = file.map(|file| Writer::begin(file, &header)).transpose()?;
        let inner = Inner { history: History::new(header), clock, next_process: 0, file, failed: None };
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A history is whole after every event, also when a client panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happened.
    pub fn note(&self, what: What) {
        self.lock().note(what);
    }

    /// A client, whose writes belong to `session` if one is given.
    pub fn client(&self, session: Option<u64>) -> Client {
        let process = self.lock().fresh_process();
        Client { recorder: self.clone(), process, session }
    }

    /// The history so far.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn finish(&self) -> Result<History, Error> {
        let mut inner = self.lock();
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        if let Some(file) = inner.file.take() {
            file.finish()?;
        }
        Ok(inner.history.clone())
    }
}

impl Inner {
    fn note(&mut self, what: What) {
        let t_ns = (self.clock)();
        let i = self.history.push(t_ns, what.clone());
        if let Some(file) = &mut self.file
            && let Err(error) = file.write(&Event { i, t_ns, what })
        {
            self.failed.get_or_insert(error);
        }
    }

    fn fresh_process(&mut self) -> Process {
        self.next_process += 1;
        Process(self.next_process)
    }
}

/// One client with one call under way at a time.
#[derive(Debug)]
pub struct Client {
    recorder: Recorder,
    process: Process,
    session: Option<u64>,
}

impl Client {
    /// Notes that a call begins. To be followed by [`Self::end`], unless nobody ever knows.
    pub fn begin(&mut self, call: Call) {
        let (process, session) = (self.process, self.session);
        self.recorder.note(What::Invoke { process, call, session });
    }

    /// Notes how the call ended. After an unknown outcome the client is another process.
    pub fn end(&mut self, outcome: Outcome, node: Option<String>) {
        let is_unknown = matches!(outcome, Outcome::Unknown { .. });
        let mut inner = self.recorder.lock();
        inner.note(What::Return { process: self.process, outcome, node });
        if is_unknown {
            self.process = inner.fresh_process();
        }
    }

    /// The session that its writes belong to.
    pub fn session(&self) -> Option<u64> {
        self.session
    }
}
