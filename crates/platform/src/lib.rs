//! The only door to clocks, randomness, fresh ids, task spawning and other processes, so that a simulation can stand in
//! for them.
//!
//! What needs one of these is given a [`Platform`]; nothing calls `SystemTime::now` or `tokio::spawn` itself.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use granary_link::{Dial, Links, Tcp};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Wall-clock time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Nanoseconds since the Unix epoch.
    fn now_nanos(&self) -> u64;
}

/// Randomness.
pub trait Randomness: Send + Sync + fmt::Debug {
    /// 128 fresh bits.
    fn fresh(&self) -> u128;
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now_nanos(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fresh(&self) -> u128 {
        rand::random()
    }
}

/// What a task is, which decides what its end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Runs until shutdown. If it ends or panics before, the process fails: half a process helps nobody.
    Service,
    /// Ends by itself; dropping it loses nothing.
    Request,
}

/// Where work runs that must not run on an async thread.
#[derive(Debug, Clone)]
enum Threads {
    /// On the runtime's own threads for it.
    Many,
    /// On the caller's thread, so that it comes at one moment of simulated time. What owns threads itself runs on this
    /// runtime, while simulated time stands still.
    One(Handle),
}

/// Time, chance, tasks and shutdown of one process (or of one simulated host). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Platform {
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    threads: Threads,
    dial: Arc<dyn Dial>,
    shutdown: CancellationToken,
    stop_asked: CancellationToken,
    failure: Arc<Failure>,
}

/// Why the process cannot go on, once it cannot.
#[derive(Debug, Default)]
struct Failure {
    why: OnceLock<String>,
    happened: CancellationToken,
}

impl Platform {
    /// The real thing.
    pub fn system() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemRandomness))
    }

    /// A platform of the given parts.
    pub fn new(clock: Arc<dyn Clock>, randomness: Arc<dyn Randomness>) -> Self {
        let (shutdown, stop_asked) = (CancellationToken::new(), CancellationToken::new());
        let (threads, dial) = (Threads::Many, Arc::new(Tcp));
        Self { clock, randomness, threads, dial, shutdown, stop_asked, failure: Arc::default() }
    }

    /// The platform of a simulated host: everything happens on the one thread that runs the simulation. Libraries that
    /// own threads ([`Self::apart_from_time`]) run on `foreign`, a runtime with threads of its own, and other hosts are
    /// reached by `dial`.
    pub fn simulated(
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        foreign: Handle,
        dial: Arc<dyn Dial>,
    ) -> Self {
        Self { threads: Threads::One(foreign), dial, ..Self::new(clock, randomness) }
    }

    /// Whether this is a simulated host.
    pub fn is_simulated(&self) -> bool {
        matches!(self.threads, Threads::One(_))
    }

    /// The same platform with a shutdown of its own below this one's: for a part that can be stopped alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { shutdown: self.shutdown.child_token(), ..self.clone() }
    }

    /// The same platform with a shutdown of its own that this one's does not reach: for what is stopped later.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { shutdown: CancellationToken::new(), ..self.clone() }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now_nanos(&self) -> u64 {
        self.clock.now_nanos()
    }

    /// Microseconds since the Unix epoch.
    pub fn now_micros(&self) -> i64 {
        i64::try_from(self.clock.now_nanos() / 1_000).expect("u64 nanoseconds in microseconds fit i64")
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_millis(&self) -> u64 {
        self.clock.now_nanos() / 1_000_000
    }

    /// 128 fresh random bits: ids of writes, nodes, clusters.
    pub fn fresh_id(&self) -> u128 {
        self.randomness.fresh()
    }

    /// The time now on a clock that never goes back.
    pub fn instant(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    /// Waits; a part that waits for a condition uses a channel instead.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Starts a task under `name`.
    pub fn spawn<F>(&self, kind: TaskKind, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let platform = self.clone();
        tokio::spawn(async move {
            // The panic hook has told what it was.
            let panicked = AssertUnwindSafe(future).catch_unwind().await.is_err();
            if kind == TaskKind::Service && (panicked || !platform.is_shutting_down()) {
                let how = if panicked { "panicked" } else { "ended before shutdown" };
                platform.fail(format!("task {name} {how}"));
            }
        })
    }

    /// A pool of links to other processes.
    pub fn links(&self, settings: granary_link::Settings) -> Links {
        Links::new(Arc::clone(&self.dial), settings)
    }

    /// Runs what waits for a disk or computes for long, on a thread that may.
    ///
    /// # Errors
    /// When the work panicked, or the runtime is being shut down.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let done = match self.threads {
            Threads::Many => tokio::task::spawn_blocking(work).await.ok(),
            Threads::One(_) => std::panic::catch_unwind(AssertUnwindSafe(work)).ok(),
        };
        done.ok_or_else(|| io::Error::other("blocking work panicked or was cancelled"))
    }

    /// Runs a future of a library that owns threads or timers of its own. In a simulation it takes no simulated time and
    /// nothing else happens meanwhile, so that its threads cannot be seen; otherwise it is just awaited.
    pub async fn apart_from_time<F>(&self, future: F) -> F::Output
    where
        F: Future + Send,
        F::Output: Send,
    {
        match &self.threads {
            Threads::Many => future.await,
            Threads::One(foreign) => std::thread::scope(|scope| {
                let joined = scope.spawn(|| foreign.block_on(future)).join();
                joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }),
        }
    }

    /// Says that somebody wants the process to end: a signal, an operator.
    pub fn ask_to_stop(&self) {
        self.stop_asked.cancel();
    }

    /// Returns once somebody wants the process to end.
    pub async fn stop_asked(&self) {
        self.stop_asked.cancelled().await;
    }

    /// Says that the process cannot go on: whoever runs it stops it with an error ([`Self::failed`]).
    pub fn fail(&self, why: String) {
        tracing::error!(why, "the process cannot go on");
        // The first reason is the one to tell.
        let _ = self.failure.why.set(why);
        self.failure.happened.cancel();
    }

    /// Returns why the process cannot go on, once it cannot.
    pub async fn failed(&self) -> String {
        self.failure.happened.cancelled().await;
        self.failure.why.get().cloned().unwrap_or_default()
    }

    /// Asks everything started from this platform to stop.
    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Whether shutdown has begun.
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Returns when shutdown begins.
    pub async fn shutdown_begun(&self) {
        self.shutdown.cancelled().await;
    }
}
