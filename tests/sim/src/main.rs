//! Deterministic simulation: real routers, nodes and compactors on one thread, with a network, disks, clocks and an object
//! store that misbehave by seed. One seed gives one history.
//!
//! ```console
//! $ cargo build --workspace --bin granary-sim
//! $ target/debug/granary-sim run --seed 7          # one run, judged
//! $ target/debug/granary-sim many --seeds 100      # many, each in a process of its own
//! ```

mod bucket;
mod cluster;
mod disk;
mod host;
mod many;
#[cfg(feature = "mutants")]
mod mutants;
mod nemesis;
mod net;
mod rng;
mod run;
mod seams;
mod tables;
mod workload;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use parking_lot::Mutex;

#[derive(Debug, Parser)]
#[command(about = "Deterministic simulation of a Granary cluster")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one seed and judges its history.
    Run {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Seconds of faults, in simulated time.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Where to write the history; it is written as the run goes.
        #[arg(long)]
        history: Option<PathBuf>,
        /// Shows the log lines of the simulated hosts, by the filter in RUST_LOG.
        #[arg(long)]
        log: bool,
        /// A bug to put in.
        #[cfg(feature = "mutants")]
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Runs many seeds, each in a process of its own.
    Many(many::Args),
    /// Puts one bug after the other in and says by which seed it was caught.
    #[cfg(feature = "mutants")]
    Mutants(mutants::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Many(args) => many::run(&args),
        #[cfg(feature = "mutants")]
        Command::Mutants(args) => mutants::run(&args),
        Command::Run {
            seed,
            seconds,
            history,
            log,
            #[cfg(feature = "mutants")]
            mutant,
        } => {
            #[cfg(feature = "mutants")]
            mutants::plant(mutant.as_deref())?;
            if log {
                let filter = tracing_subscriber::EnvFilter::from_default_env();
                tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
            }
            one(seed, seconds, history)
        }
    }
}

/// Runs one seed on a thread of its own, whose first random numbers nobody drew before.
fn one(seed: u64, seconds: u64, history: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let panics = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| seen.lock().push(panic.to_string())));
    let path = history.clone();
    let running = std::thread::Builder::new()
        .name("simulation".to_owned())
        .stack_size(64 << 20)
        .spawn(move || run::run(seed, seconds, path.as_deref()))?;
    let ran = running.join().map_err(|_| anyhow::anyhow!("the simulation panicked: {:?}", panics.lock()))??;
    let mut failures = ran.failures;
    failures.extend(panics.lock().iter().map(|panic| format!("panic: {panic}")));
    let mut holds = failures.is_empty();
    if let Some(report) = &ran.report {
        println!("{report}");
        holds &= report.holds();
    }
    for end in &ran.ends {
        println!("process ended: {end}");
    }
    for failure in &failures {
        println!("failure: {failure}");
    }
    println!("{}", ran.summary);
    println!("seed {seed}: {} events, history {:016x}", ran.history.events.len(), many::digest(&ran.history)?);
    if holds {
        return Ok(ExitCode::SUCCESS);
    }
    let path = history.unwrap_or_else(|| std::env::temp_dir().join(format!("granary-sim-{seed}.jsonl")));
    run::keep(&ran.history, &path)?;
    println!("FAILED; the history is in {}", path.display());
    println!("again: target/debug/granary-sim run --seed {seed} --seconds {seconds} --log");
    Ok(ExitCode::FAILURE)
}
