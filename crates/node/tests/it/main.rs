//! Three real nodes in one process, each on a runtime of its own, so that it can be killed and paused like a process:
//! retries, updates, reads at every level, the change log's bound, replicas that compare themselves, and a disk that hangs.

mod change_log;
mod cluster;
mod comparison;
mod reads;
mod retries;
mod standstill;
mod updates;
