//! One run: load, faults, healing, a last look, a verdict.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use granary_history::model::{Header, Mark, What};
use granary_history::{Promises, Recorder, Report, check};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::cluster::status_of;
use crate::faults::{Attack, Fault};
use crate::workload::{FEATURES, GROUP, Workload, create_group};
use crate::{Cluster, ClusterSettings, PATIENCE, eventually, finale};

/// How often nodes are asked for their state hashes while the run goes on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Draws faults, victims, lengths and the clients' calls. Real processes keep time of their own: one seed gives one
    /// plan, not one history.
    pub seed: u64,
    /// Which faults, in order, before any are drawn.
    pub faults: Vec<Fault>,
    /// Faults are drawn from these until so much time has gone by.
    pub then_for: Duration,
    /// What is drawn from.
    pub drawn_from: Vec<Fault>,
    /// How long a fault lasts at most.
    pub longest_fault: Duration,
    /// Clients at work.
    pub clients: u64,
    /// Each begins a call at most so often.
    pub pace: Duration,
    /// Where the history is written.
    pub history: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub struct Verdict {
    /// What the checkers say.
    pub report: Report,
    /// The history that they judged.
    pub history: PathBuf,
    /// Data and logs of the processes, kept when something was found.
    pub kept: Option<PathBuf>,
}

/// Runs once. The history is on disk also when this fails.
///
/// # Errors
/// When the cluster does not start, serve after a fault, or become whole; or when the history cannot be written.
pub async fn run(settings: RunSettings) -> anyhow::Result<Verdict> {
    let mut cluster = Cluster::start(settings.cluster.clone()).await?;
    let recorder = record(&settings, &cluster)?;
    let ran = attack_and_heal(&mut cluster, &recorder, &settings).await;
    let history = recorder.finish()?;
    if let Err(error) = ran {
        let kept = cluster.keep();
        return Err(error.context(format!("processes' data and logs: {}", kept.display())));
    }
    let report = check(&history, Promises::default())?;
    let kept = if report.holds() {
        cluster.stop().await?;
        None
    } else {
        Some(cluster.keep())
    };
    Ok(Verdict { report, history: settings.history, kept })
}

/// A short run for a test: each of the faults once, one after the other, each as long as an election takes.
///
/// # Errors
/// As [`run`], and with the report when a promise is broken or something could not be checked; then the history stays.
pub async fn run_briefly(name: &str, cluster: ClusterSettings, faults: &[Fault]) -> anyhow::Result<Report> {
    let seed = std::process::id().into();
    let history = std::env::temp_dir().join(format!("granary-chaos-{name}-{seed}.jsonl"));
    let settings = RunSettings {
        cluster,
        seed,
        faults: faults.to_vec(),
        then_for: Duration::ZERO,
        drawn_from: Vec::new(),
        // Longer than the lease and the election that follow it.
        longest_fault: Duration::from_secs(7),
        clients: 12,
        pace: Duration::from_millis(40),
        history: history.clone(),
    };
    let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
    let again = format!(
        "seed {seed}; again: cargo run -p granary-chaos -- --seed {seed} --faults {}; history {}",
        names.join(","),
        history.display()
    );
    let verdict = run(settings).await.with_context(|| again.clone())?;
    let (report, kept) = (verdict.report, verdict.kept);
    ensure!(report.holds(), "{report}\n{again}; processes' data and logs: {kept:?}");
    ensure!(report.unchecked.is_empty(), "{report}\n{again}");
    let (counts, asked) = (report.counts, faults.len() as u64);
    // After each fault the run waits for 60 acknowledged writes, and in the end each record is read at each level.
    let enough = counts.faults >= asked && counts.acknowledged >= 60 * asked && counts.states_compared > 3;
    let read = counts.reads.iter().all(|reads| *reads > 24);
    // A tenth of the writes, and most of them find a record that they may change.
    let updated = counts.updated >= 2 * asked;
    ensure!(enough && read && updated, "too little was seen: {report}\n{again}");
    std::fs::remove_file(history)?;
    Ok(report)
}

fn record(settings: &RunSettings, cluster: &Cluster) -> anyhow::Result<Recorder> {
    let file = File::create(&settings.history).with_context(|| format!("create {}", settings.history.display()))?;
    let build = format!("{} over {}", env!("CARGO_PKG_VERSION"), cluster.network().name());
    let header = Header { harness: "chaos".to_owned(), seed: settings.seed, build };
    let began = Instant::now();
    let clock = Box::new(move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    Ok(Recorder::begin(header, clock, Some(Box::new(BufWriter::new(file))))?)
}

async fn attack_and_heal(cluster: &mut Cluster, recorder: &Recorder, settings: &RunSettings) -> anyhow::Result<()> {
    let channel = Channel::from_shared(cluster.router())?.connect_lazy();
    let created = async || create_group(channel.clone(), GROUP, FEATURES).await.is_ok();
    eventually(PATIENCE, "the feature group is created", created).await?;
    let watching = watch(cluster.node_addresses(), recorder.clone());
    let workload = Workload::start(&channel, recorder, settings.seed, settings.clients, settings.pace);
    let attacked = attack(cluster, recorder, &workload, settings).await;
    recorder.note(What::Mark(Mark::Healed));
    workload.stop().await?;
    watching.abort();
    attacked?;
    finale::end(cluster, &channel, recorder, settings.clients).await
}

async fn attack(
    cluster: &mut Cluster,
    recorder: &Recorder,
    workload: &Workload,
    settings: &RunSettings,
) -> anyhow::Result<()> {
    eventually(PATIENCE, "clients are at work", async || workload.acknowledged() > 20).await?;
    let mut chance = StdRng::seed_from_u64(settings.seed);
    let longest = settings.longest_fault;
    let mut attack = Attack { cluster, recorder, workload, chance: &mut chance, longest };
    for fault in &settings.faults {
        attack.run(*fault).await?;
    }
    let began = Instant::now();
    while began.elapsed() < settings.then_for {
        let Some(fault) = settings.drawn_from.choose(attack.chance) else { break };
        // After twins a replica is missing for good.
        if fault.needs_a_whole_cluster() && !attack.cluster.is_whole() {
            if settings.drawn_from.iter().all(|fault| fault.needs_a_whole_cluster()) {
                break;
            }
            continue;
        }
        eprintln!("{:>6} s: {}", began.elapsed().as_secs(), fault.name());
        attack.run(*fault).await?;
    }
    Ok(())
}

/// Notes every node's state hashes now and then: replicas that pass the same index are compared (RG-2).
fn watch(nodes: Vec<String>, recorder: Recorder) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            for (node, address) in nodes.iter().enumerate() {
                if let Some(status) = status_of(address).await {
                    finale::note_states(&recorder, node, &status);
                }
            }
        }
    })
}
