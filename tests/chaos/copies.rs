//! A short run of the chaos suite with directories that are not what they were: an older copy, emptied Raft logs, and two
//! processes that are one node; then everything is checked.

use granary_chaos::faults::Fault;
use granary_chaos::network::Kind;
use granary_chaos::{ClusterSettings, run_briefly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_copies_emptied_logs_and_twins_break_no_promise() {
    let cluster = ClusterSettings::on(env!("CARGO_BIN_EXE_granary"), Kind::best());
    let faults = [Fault::OlderCopy, Fault::EmptiedLogs, Fault::Twins];
    run_briefly("copies", cluster, &faults).await.unwrap_or_else(|error| panic!("{error:#}"));
}
