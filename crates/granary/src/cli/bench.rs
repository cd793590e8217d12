//! `granary bench`: prepares a cluster, runs the load of `granary-bench` against it and shows what came of it.

mod args;
mod own;
mod processes;
mod report;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
pub(crate) use args::BenchArgs;
use args::{ChildArg, LoadArg};
use granary_bench::store::{Filling, Store};
use granary_bench::workload::Workload;
use granary_bench::{Live, Outcome, Plan, SystemClock};
use granary_platform::Platform;
use granary_types::{Error, ErrorKind};
use own::Own;
use report::Report;
use serde_json::json;
use setup::{Drive, OFFLINE_DEADLINE, Setup};

use super::args::Global;
use crate::client;
use crate::output::Output;
use crate::progress::{Progress, Step};

/// A run begins this long after all is set up, so that nothing is due before its feeder is there.
const START_AFTER: Duration = Duration::from_millis(50);
/// How often progress is shown.
const WATCH: Duration = Duration::from_millis(200);

pub(super) async fn run(args: BenchArgs, platform: Platform, global: &Global) -> anyhow::Result<()> {
    let output = Output::new(global.output);
    if args.list {
        let workloads = listed(&args);
        return output.answer(|| report::list_text(&workloads), || report::list_json(&workloads));
    }
    let setup = Setup::new(&args)?;
    processes::check(&args, &setup)?;
    if args.child.is_some() {
        return measure_as_child(&args, setup, global, &platform, output).await;
    }
    let mut own = if args.own { Some(Own::start(global)?) } else { None };
    let done = tokio::select! {
        done = prepare_and_measure(&args, setup, global, own.as_mut(), &platform, output) => done,
        () = platform.stop_asked() => Err(anyhow::anyhow!("stopped before the end: nothing was measured")),
    };
    if let Some(own) = own {
        own.stop().await?;
    }
    done
}

/// The workloads as the flags scale and change them.
fn listed(args: &BenchArgs) -> Vec<(Workload, f64)> {
    let workloads = args.workload.clone().map_or_else(Workload::all, |workload| vec![workload]);
    let scaled = |workload: Workload| {
        let scale = args.scale.unwrap_or(workload.default_scale);
        (setup::adapted(workload, args).scaled(scale), scale)
    };
    workloads.into_iter().map(scaled).collect()
}

async fn prepare_and_measure(
    args: &BenchArgs,
    setup: Setup,
    global: &Global,
    own: Option<&mut Own>,
    platform: &Platform,
    output: Output,
) -> anyhow::Result<()> {
    let progress = Progress::new();
    let endpoint = match own {
        Some(own) => {
            let step = progress.wait("starting granary dev");
            let endpoint = own.ready().await?;
            step.done(&endpoint);
            endpoint
        }
        None => global.endpoint.clone(),
    };
    let store = Arc::new(store(args, &setup, &endpoint, platform)?);
    let loaded = load(args, &store, &progress).await.map_err(|error| unmeasured(&endpoint, error))?;
    if args.load == LoadArg::Only {
        return output.answer(|| loaded_text(&loaded), || loaded_json(&loaded));
    }
    let seconds = setup.plan.ends().as_secs();
    let step = progress.time("measuring", seconds);
    let report = if args.processes > 1 {
        let watch = watch(&step, seconds, None, platform);
        tokio::select! {
            report = processes::run(args, &setup, &endpoint, platform) => report?,
            () = watch => unreachable!("it watches for ever"),
        }
    } else {
        store.reach().await.map_err(|error| unmeasured(&endpoint, error))?;
        let live = Arc::new(Live::default());
        tokio::select! {
            report = measure(&setup, &store, None, Arc::clone(&live), platform) => report,
            () = watch(&step, seconds, Some(&live), platform) => unreachable!("it watches for ever"),
        }
    };
    step.done(&format!("{} operations completed", report.outcome.completed()));
    output.answer(|| report.to_text(&setup, args), || report.to_json(&setup, args))?;
    verdict(&report.outcome)
}

/// One of several processes: loads nothing, shows nothing, starts when all do.
async fn measure_as_child(
    args: &BenchArgs,
    setup: Setup,
    global: &Global,
    platform: &Platform,
    output: Output,
) -> anyhow::Result<()> {
    let store = Arc::new(store(args, &setup, &global.endpoint, platform)?);
    store.reach().await.map_err(|error| unmeasured(&global.endpoint, error))?;
    let report = measure(&setup, &store, args.child, Arc::default(), platform).await;
    output.answer(|| report.to_text(&setup, args), || report.to_json(&setup, args))
}

fn store(args: &BenchArgs, setup: &Setup, endpoint: &str, platform: &Platform) -> anyhow::Result<Store> {
    // Deadlines are the run's; a connection's own are only not to be shorter.
    let timeout = args.deadline.max(OFFLINE_DEADLINE) * 2;
    let connections = (0..args.connections).map(|_| client::channel(endpoint, timeout));
    let connections = connections.collect::<anyhow::Result<_>>()?;
    let (workload, draws, settings) = (setup.workload.clone(), setup.draws.clone(), setup.settings.clone());
    Ok(Store::new(connections, workload, draws, settings, platform.clone()))
}

/// Puts what is missing. Returns the groups as they were before.
async fn load(args: &BenchArgs, store: &Store, progress: &Progress) -> Result<Vec<Filling>, Error> {
    let fillings = store.prepare().await?;
    for filling in fillings.iter().filter(|filling| args.load != LoadArg::Skip && filling.loaded < filling.entities) {
        let count = usize::try_from(filling.entities - filling.loaded).unwrap_or(usize::MAX);
        let step = progress.count(&filling.name, count, "records");
        store.fill(filling, |records| step.add(usize::try_from(records).unwrap_or(usize::MAX))).await?;
        step.done(&format!("{count} records put"));
    }
    Ok(fillings)
}

/// Runs the load.
async fn measure(
    setup: &Setup,
    store: &Arc<Store>,
    child: Option<ChildArg>,
    live: Arc<Live>,
    platform: &Platform,
) -> Report {
    let plan = setup.plan.clone();
    let checksum = checksum(&plan, setup.drive, store);
    let (now, now_nanos) = (platform.instant(), platform.now_nanos());
    let wait = match child {
        // One that comes too late starts at once.
        Some(child) => Duration::from_nanos(child.starts_at_nanos.saturating_sub(now_nanos)),
        None => START_AFTER,
    };
    let clock = SystemClock::starting_at(now + wait);
    let started_at_ms = (now_nanos + u64::try_from(wait.as_nanos()).unwrap_or(0)) / 1_000_000;
    let target = Arc::clone(store);
    let outcome = match setup.drive {
        Drive::Open(_) => granary_bench::open(clock, plan, target, live).await,
        Drive::Closed(in_flight) => {
            platform.sleep(wait).await;
            granary_bench::closed(clock, plan, in_flight, target, live).await
        }
    };
    Report { outcome, checksum, started_at_ms }
}

fn checksum(plan: &Plan, drive: Drive, store: &Store) -> u64 {
    plan.checksum(matches!(drive, Drive::Closed(_)), |operation| store.keys(operation))
}

/// Shows how far a run is, until it is dropped.
async fn watch(step: &Step, seconds: u64, live: Option<&Live>, platform: &Platform) {
    let started = platform.instant();
    loop {
        platform.sleep(WATCH).await;
        let note = live.map_or_else(String::new, |live| format!("{} done, {} failed", live.ended(), live.failed()));
        step.reach(started.elapsed().as_secs().min(seconds), &note);
    }
}

/// A run without one operation that completed has measured nothing.
fn verdict(outcome: &Outcome) -> anyhow::Result<()> {
    if outcome.completed() == 0 {
        bail!("nothing could be measured: no operation completed");
    }
    Ok(())
}

/// A server that is away is no figure; what is wrong with the flags or a group stays what it is.
fn unmeasured(endpoint: &str, error: Error) -> anyhow::Error {
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Overloaded => {
            anyhow::anyhow!("nothing could be measured at {endpoint}: {error}")
        }
        _ => error.into(),
    }
}

fn loaded_text(fillings: &[Filling]) -> String {
    let line =
        |it: &Filling| format!("{}: {} records, {} of them put now\n", it.name, it.entities.max(it.loaded), put(it));
    fillings.iter().map(line).collect()
}

fn loaded_json(fillings: &[Filling]) -> serde_json::Value {
    let one = |it: &Filling| json!({ "feature_group": it.name, "records": it.entities.max(it.loaded), "put": put(it) });
    json!({ "loaded": fillings.iter().map(one).collect::<Vec<_>>() })
}

fn put(filling: &Filling) -> u64 {
    filling.entities.saturating_sub(filling.loaded)
}
