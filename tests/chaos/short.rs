//! A short run of the chaos suite: a leader killed, a leader paused, a leader cut off; then everything is checked.
//!
//! The long run is `cargo run -p granary-chaos -- --seconds 600`.

use std::time::Duration;

use granary_chaos::faults::Fault;
use granary_chaos::network::Kind;
use granary_chaos::run::RunSettings;
use granary_chaos::{ClusterSettings, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_a_paused_and_a_cut_off_leader_break_no_promise() {
    let seed = std::process::id().into();
    let history = std::env::temp_dir().join(format!("granary-chaos-short-{seed}.jsonl"));
    let settings = RunSettings {
        cluster: ClusterSettings { binary: env!("CARGO_BIN_EXE_granary").into(), nodes: 3, network: Kind::best() },
        seed,
        faults: vec![Fault::KillLeader, Fault::PauseLeader, Fault::IsolateLeader],
        then_for: Duration::ZERO,
        drawn_from: Vec::new(),
        // Longer than the lease and the election that follow it.
        longest_fault: Duration::from_secs(7),
        clients: 12,
        pace: Duration::from_millis(40),
        history: history.clone(),
    };
    let again =
        format!("seed {seed}; again: cargo run -p granary-chaos -- --seed {seed}; history {}", history.display());
    let verdict = run(settings).await.unwrap_or_else(|error| panic!("{error:#}; {again}"));
    let report = verdict.report;
    assert!(report.holds(), "{report}\n{again}; processes' data and logs: {:?}", verdict.kept);
    assert!(report.unchecked.is_empty(), "{report}\n{again}");
    let counts = report.counts;
    // After each fault the run waits for 60 acknowledged writes, and in the end each record is read at each level.
    assert!(counts.faults >= 3 && counts.acknowledged >= 180 && counts.states_compared > 3, "{report}\n{again}");
    assert!(counts.reads.iter().all(|reads| *reads > 24), "{report}\n{again}");
    std::fs::remove_file(history).expect("a history that nobody needs");
}
