//! A short run of the chaos suite: a leader killed, a leader paused, a leader cut off; then everything is checked.
//!
//! The long run is `cargo run -p granary-chaos -- --seconds 600`.

use granary_chaos::faults::Fault;
use granary_chaos::network::Kind;
use granary_chaos::{ClusterSettings, run_briefly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_a_paused_and_a_cut_off_leader_break_no_promise() {
    let cluster = ClusterSettings::on(env!("CARGO_BIN_EXE_granary"), Kind::best());
    let faults = [Fault::KillLeader, Fault::PauseLeader, Fault::IsolateLeader];
    run_briefly("network", cluster, &faults).await.unwrap_or_else(|error| panic!("{error:#}"));
}
