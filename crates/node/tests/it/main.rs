//! Three real nodes in one process, each on a runtime of its own, so that it can be killed and paused like a process:
//! retries, updates, reads at every level, the change log's bound, and replicas that compare themselves.

mod change_log;
mod cluster;
mod comparison;
mod reads;
mod retries;
mod updates;
