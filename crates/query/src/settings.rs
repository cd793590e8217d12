//! What bounds the query service.

use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Handle;

/// Bounds and places of one query service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where queries run, on threads other than those that serve. `None` takes the runtime of the caller, which is
    /// for tests and for a process that does nothing else.
    pub runtime: Option<Handle>,
    /// The memory of all queries together, in bytes: DataFusion's operators, which spill to disk or fail when it is
    /// spent, and what point-in-time joins hold.
    pub memory_bytes_max: usize,
    /// The temporary files of all queries together, in bytes.
    pub spill_bytes_max: u64,
    /// Where they are; `None` is the system's directory for temporary files.
    pub spill_dir: Option<PathBuf>,
    /// Queries at work at the same time, waits included; one more is refused as overloaded.
    pub queries_max: usize,
    /// Threads' worth of parallelism of one query.
    pub partitions: usize,
    /// The longest a query may take, however far off the caller's deadline is.
    pub query_time_max: Duration,
    /// About the largest message of an answer, in bytes. Half of the 4 MiB that a gRPC client takes unless told
    /// otherwise.
    pub message_bytes_max: usize,
    /// Messages of one answer that wait for a slow reader.
    pub messages_waiting_max: usize,
    /// Offline tables kept open between queries.
    pub tables_open_max: usize,
    /// Feature groups of one join.
    pub joins_max: usize,
    /// How long `WaitForOffline` waits when its caller does not say.
    pub wait_default: Duration,
    /// How often it looks.
    pub wait_poll_interval: Duration,
    /// How long one question to one node may take while it waits.
    pub node_call_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runtime: None,
            memory_bytes_max: 2 << 30,
            spill_bytes_max: 16 << 30,
            spill_dir: None,
            queries_max: 16,
            partitions: std::thread::available_parallelism().map_or(2, usize::from),
            query_time_max: Duration::from_secs(30 * 60),
            message_bytes_max: 2 << 20,
            messages_waiting_max: 2,
            tables_open_max: 256,
            joins_max: 64,
            wait_default: Duration::from_secs(60),
            wait_poll_interval: Duration::from_millis(75),
            node_call_timeout: Duration::from_secs(2),
        }
    }
}
