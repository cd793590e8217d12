//! One run: a phase of faults under load, then healing, and the judgement of the history.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use granary_history::model::{Level, Mark, What};
use granary_history::{Header, History, Promises, Recorder, Report};
use granary_platform::Platform;
use granary_router::{Consistency, Session};
use granary_types::StreamId;

use crate::cluster::{Cluster, Desk};
use crate::nemesis::Nemesis;
use crate::seams;
use crate::tables;
use crate::workload::{GROUPS, Shared, create_groups, keys, read_one};
use crate::world::{MS, World};

const SECOND: u64 = 1_000 * MS;
/// How long a healed cluster may take to do what it should.
const PATIENCE_NS: u64 = 120 * SECOND;
/// So many acknowledged writes have updates among them, an eighth of all calls, unless these never go through.
const WRITES_WITH_UPDATES: u64 = 100;

/// What a run came to.
pub(crate) struct Ran {
    pub(crate) history: History,
    /// What the checkers say; `None` when the run did not come so far.
    pub(crate) report: Option<Report>,
    /// What else went wrong.
    pub(crate) failures: Vec<String>,
    /// Why processes ended by themselves: not wrong as such, as a failed disk ends them.
    pub(crate) ends: Vec<String>,
    pub(crate) summary: String,
}

/// Runs `seed` with `seconds` of faults in simulated time. Belongs on a thread of its own.
///
/// # Errors
/// When the host of the simulation itself fails.
pub(crate) fn run(seed: u64, seconds: u64, file: Option<&Path>) -> anyhow::Result<Ran> {
    seams::take_over(seed);
    let world = World::new(seed)?;
    let header = Header { harness: "sim".to_owned(), seed, build: env!("CARGO_PKG_VERSION").to_owned() };
    let now = Arc::clone(&world.now_ns);
    let out = file.map(File::create).transpose()?.map(|file| Box::new(file) as Box<dyn std::io::Write + Send>);
    let recorder = Recorder::begin(header, Box::new(move || now.load(Ordering::SeqCst)), out)?;
    let mut cluster = Cluster::start_all(world, recorder.clone())?;
    let mut run = Run { recorder: recorder.clone(), failures: Vec::new() };
    let finished = run.phases(&mut cluster, seed, seconds);
    if let Err(error) = finished {
        run.failures.push(format!("{error:#}"));
    }
    let history = recorder.finish()?;
    let report = match granary_history::check(&history, Promises::default()) {
        Ok(report) => {
            if report.counts.acknowledged >= WRITES_WITH_UPDATES && report.counts.updated == 0 {
                run.failures.push("no update was acknowledged".to_owned());
            }
            Some(report)
        }
        Err(malformed) => {
            run.failures.push(format!("the history is malformed: {malformed}"));
            None
        }
    };
    let (net, bucket) = (cluster.world.net.counts(), cluster.world.bucket.faults());
    let summary = format!("network: {net:?}; object store faults: {bucket}");
    Ok(Ran { history, report, failures: run.failures, ends: cluster.ends.clone(), summary })
}

struct Run {
    recorder: Recorder,
    failures: Vec<String>,
}

impl Run {
    fn phases(&mut self, cluster: &mut Cluster, seed: u64, seconds: u64) -> anyhow::Result<()> {
        let desk = cluster.desks[0].clone();
        let created = Arc::new(AtomicBool::new(false));
        let task = create_groups(desk.router.clone(), desk.platform.clone(), Arc::clone(&created));
        anyhow::ensure!(cluster.await_on(&desk, task, PATIENCE_NS), "the cluster does not come up");

        let shared = Shared::new();
        cluster.start_clients(&shared);
        let mut nemesis = Nemesis::new(cluster.world.rng.fork(&format!("nemesis {seed}")), self.recorder.clone());
        let until = cluster.world.now() + seconds * SECOND;
        while cluster.world.now() < until {
            nemesis.tick(cluster);
            cluster.tick();
        }
        nemesis.heal(cluster);
        self.recorder.note(What::Mark(Mark::Healed));
        // Load goes on: a cluster that is whole again must serve.
        let until = cluster.world.now() + 5 * SECOND;
        while cluster.world.now() < until {
            cluster.tick();
        }
        shared.stop.store(true, Ordering::SeqCst);
        anyhow::ensure!(cluster.await_none(&shared.running, PATIENCE_NS), "clients wait for answers for ever");
        self.wait_for(cluster, "replicas converge", Cluster::has_converged)?;
        cluster.sample();
        self.recorder.note(What::Mark(Mark::Final));
        self.final_reads(cluster, &shared)?;
        self.wait_for(cluster, "expired records are removed", Cluster::has_nothing_expired)?;
        self.wait_for(cluster, "every event reaches the offline store", Cluster::is_offline_complete)?;
        self.recorder.note(What::Mark(Mark::OfflineComplete));
        self.read_tables(cluster)
    }

    fn wait_for(
        &self,
        cluster: &mut Cluster,
        what: &str,
        condition: impl Fn(&Cluster) -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let until = cluster.world.now() + PATIENCE_NS;
        loop {
            match condition(cluster) {
                Ok(()) => return Ok(()),
                Err(why) if cluster.world.now() >= until => anyhow::bail!("not within patience: {what}: {why}"),
                Err(_) => cluster.tick(),
            }
        }
    }

    /// Every record by every router at every level.
    fn final_reads(&self, cluster: &mut Cluster, shared: &Shared) -> anyhow::Result<()> {
        let fixed = GROUPS.into_iter().flat_map(|group| keys().into_iter().map(|key| (group.to_owned(), key)));
        let records: Vec<_> = fixed.chain(shared.fleeting()).collect();
        for desk in cluster.desks.clone() {
            let (recorder, records) = (self.recorder.clone(), records.clone());
            let reader = desk.clone();
            let done = cluster.await_on(&desk, async move { read_all(reader, recorder, records).await }, PATIENCE_NS);
            anyhow::ensure!(done, "final reads by {} do not end", desk.host);
        }
        Ok(())
    }

    fn read_tables(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let view = cluster.desks[0].router.catalog();
        let streams: Vec<StreamId> = view.shards().iter().map(|shard| shard.stream).collect();
        for name in GROUPS {
            let group = view.group(name).context("the group is in the catalog")?;
            let found =
                cluster.world.aside(tables::read(&cluster.warehouse, &cluster.world.bucket, group, &streams))?;
            found.into_iter().for_each(|what| self.recorder.note(what));
        }
        Ok(())
    }
}

async fn read_all(desk: Desk, recorder: Recorder, records: Vec<(String, String)>) {
    let mut client = recorder.client(None);
    let levels = [
        (Level::Linearizable, Consistency::Linearizable),
        (Level::Session, Consistency::Session(Session::default())),
        (Level::BoundedStaleness { max_staleness_ms: 100 }, Consistency::BoundedStaleness(100)),
        (Level::Eventual, Consistency::Eventual),
    ];
    for (level, consistency) in levels {
        for (group, key) in &records {
            let again = |platform: Platform| async move { platform.sleep(Duration::from_millis(200)).await };
            // A healed cluster answers, at the latest after an election.
            for _ in 0..20 {
                let (group, key) = (group.clone(), key.clone());
                if read_one(&desk.router, &mut client, group, key, level, consistency.clone()).await {
                    break;
                }
                again(desk.platform.clone()).await;
            }
        }
    }
}

/// Writes a history where a person can look at it.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn keep(history: &History, path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    granary_history::format::write(File::create(path)?, history)?;
    Ok(())
}
