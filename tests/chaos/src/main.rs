//! `granary-chaos --seconds N --seed N`: faults against real processes for as long as you like.
//!
//! Ends with 0 when every promise holds, with 1 and the proof when one does not, with 2 when the run could not be made.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use granary_chaos::cluster::disks;
use granary_chaos::faults::Fault;
use granary_chaos::network::Kind;
use granary_chaos::run::RunSettings;
use granary_chaos::{ClusterSettings, run};

/// Faults against real processes, judged by a recorded history.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults go on.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Draws faults, victims and calls; a fresh one is drawn and printed without it.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these faults, by name.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// `namespaces` (needs root, ip and nft) or `proxies`; the first that works without it.
    #[arg(long)]
    network: Option<String>,
    /// The engines under the nodes, taken in turn.
    #[arg(long, value_delimiter = ',', default_value = "sled,fjall")]
    engines: Vec<String>,
    /// Clients at work.
    #[arg(long, default_value_t = 8)]
    clients: u64,
    /// Calls of each client in a second, at most.
    #[arg(long, default_value_t = 25)]
    rate: u64,
    /// How long a fault lasts at most, in seconds. Lease and election take up to 6.
    #[arg(long, default_value_t = 12)]
    longest: u64,
    /// The history's file.
    #[arg(long)]
    history: Option<PathBuf>,
    /// The granary binary; built first without it.
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match judge(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("the run could not be made: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn judge(arguments: &Arguments) -> anyhow::Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let network = match arguments.network.as_deref() {
        None => Kind::best(),
        Some("namespaces") => Kind::Namespaces,
        Some("proxies") => Kind::Proxies,
        Some(other) => anyhow::bail!("no such network: {other}"),
    };
    let faults = arguments.faults.iter().map(|name| Fault::named(name).with_context(|| format!("no fault {name}")));
    let mut drawn_from = faults.collect::<anyhow::Result<Vec<_>>>()?;
    if drawn_from.is_empty() {
        drawn_from = Fault::ALL.to_vec();
        if !disks::can_be_faulted() {
            eprintln!("no C compiler (cc): disks are not faulted");
            drawn_from.retain(|fault| !fault.is_of_a_disk());
        }
    }
    let binary = binary(arguments)?;
    let cluster = match drawn_from.iter().any(|fault| fault.is_of_a_disk()) {
        true => ClusterSettings::on_faulty_disks(binary, network),
        false => ClusterSettings::on(binary, network),
    };
    let history = arguments.history.clone();
    let history = history.unwrap_or_else(|| std::env::temp_dir().join(format!("granary-chaos-{seed}.jsonl")));
    eprintln!("seed {seed}, network {network:?}, history {}", history.display());
    let settings = RunSettings {
        cluster: ClusterSettings { engines: arguments.engines.clone(), ..cluster },
        seed,
        faults: Vec::new(),
        then_for: Duration::from_secs(arguments.seconds),
        drawn_from,
        longest_fault: Duration::from_secs(arguments.longest),
        clients: arguments.clients,
        pace: Duration::from_millis(1_000 / arguments.rate.max(1)),
        history: history.clone(),
    };
    let mut given: Vec<String> = std::env::args().skip(1).collect();
    if arguments.seed.is_none() {
        given.extend(["--seed".to_owned(), seed.to_string()]);
    }
    let again = format!("again: cargo run -p granary-chaos -- {}", given.join(" "));
    let verdict = run(settings).await.with_context(|| format!("{again}; history: {}", history.display()))?;
    eprintln!("{}", verdict.report);
    if let Some(kept) = &verdict.kept {
        eprintln!("{again}\nhistory: {}\nprocesses' data and logs: {}", history.display(), kept.display());
    }
    Ok(verdict.report.holds())
}

/// The binary that was named, or the one that cargo builds now, beside this one.
fn binary(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    if let Some(binary) = &arguments.binary {
        return Ok(binary.clone());
    }
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "-p", "granary", "--bin", "granary"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "the granary binary cannot be built");
    }
    let beside = std::env::current_exe()?.with_file_name("granary");
    ensure!(beside.exists(), "{} is missing: cargo build, or --binary", beside.display());
    Ok(beside)
}
