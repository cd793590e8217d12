//! A short run of the chaos suite on bad disks: a leader's disk hangs, a sync of its Raft log fails, snapshots and engines of
//! both kinds find it full; then everything is checked.

use granary_chaos::faults::Fault;
use granary_chaos::network::Kind;
use granary_chaos::{ClusterSettings, run_briefly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_hang_fail_and_fill_up_break_no_promise() {
    let cluster = ClusterSettings::on_faulty_disks(env!("CARGO_BIN_EXE_granary"), Kind::best());
    let faults = [Fault::HangingLeaderDisk, Fault::FailingSync, Fault::FullSnapshots, Fault::FullEngine];
    run_briefly("disks", cluster, &faults).await.unwrap_or_else(|error| panic!("{error:#}"));
}
