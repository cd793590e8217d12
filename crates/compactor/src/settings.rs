//! How often, how much, how many at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Settings of a compactor.
#[derive(Debug, Clone)]
pub struct Settings {
    /// An event waits at most this long for others to be written with.
    pub flush_interval: Duration,
    /// As many bytes of events are written at once, however young. Bounds what is held in memory: each stream has an
    /// equal share of it, and one segment more.
    pub flush_bytes: usize,
    /// How often the change logs are asked when there was nothing new.
    pub poll: Duration,
    /// How long a call to a node may take. After a fifth of it another replica is asked as well.
    pub call_timeout: Duration,
    /// How many tables are written at the same time.
    pub tables_in_flight: usize,
    /// How many table handles are kept open, each with the list of its table's files.
    pub tables_open_max: usize,
    /// How often one of the tables that have nothing to be written is looked at, whether it is still there. Each in turn.
    pub audit_interval: Duration,
    /// How often each table's directory is listed for files that other programs wrote; zero means never.
    pub foreign_files_interval: Duration,
    /// How long lies at least between two Iceberg documents of one table.
    pub iceberg_interval: Duration,
    /// The first wait after a failure; doubled with each one more, up to `backoff_max`, and shortened by chance to
    /// half of it at the least.
    pub backoff_min: Duration,
    /// The longest wait after a failure.
    pub backoff_max: Duration,
    /// For tests.
    pub hook: Option<StepHook>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(2),
            flush_bytes: 64 << 20,
            poll: Duration::from_millis(200),
            call_timeout: Duration::from_secs(5),
            tables_in_flight: 4,
            tables_open_max: 256,
            audit_interval: Duration::from_secs(5),
            foreign_files_interval: Duration::from_secs(30),
            iceberg_interval: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            hook: None,
        }
    }
}

/// The moments in a round between which a crash must be harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Segments were read.
    Fetched,
    /// Files of a table were written and not committed.
    FilesWritten,
    /// A table's commit was made and not read back.
    Committed,
    /// All commits were read back; nothing is acknowledged.
    ReadBack,
    /// A shard was told.
    Acknowledged,
}

type HookFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waited for at each [`Step`]: a hook that does not return is a process that stopped there.
#[derive(Clone)]
pub struct StepHook(Arc<dyn Fn(Step) -> HookFuture + Send + Sync>);

impl StepHook {
    /// A hook that calls `hook`.
    pub fn new<F>(hook: impl Fn(Step) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |step| Box::pin(hook(step))))
    }
}

impl fmt::Debug for StepHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepHook")
    }
}

impl Settings {
    pub(crate) async fn reached(&self, step: Step) {
        if let Some(StepHook(hook)) = &self.hook {
            hook(step).await;
        }
    }
}
