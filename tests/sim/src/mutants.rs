//! Bugs put in on purpose: each must be caught within the number of seeds that the tests run.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use granary_types::mutants::{self, Mutant};

/// How the mutants are hunted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seeds to try for each, at the most.
    #[arg(long, default_value_t = 12)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seconds of faults in each, in simulated time.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Only this one.
    #[arg(long)]
    only: Option<String>,
}

/// Puts a bug into this process.
///
/// # Errors
/// When there is none of that name.
pub(crate) fn plant(name: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = name else { return Ok(()) };
    let mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    mutants::plant(mutant.with_context(|| format!("there is no mutant {name}: {:?}", Mutant::ALL))?);
    Ok(())
}

/// Hunts each mutant.
///
/// # Errors
/// When this program cannot start itself.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut alive = 0;
    for mutant in Mutant::ALL.map(|mutant| format!("{mutant:?}")) {
        if args.only.as_ref().is_some_and(|only| *only != mutant) {
            continue;
        }
        let caught = (args.from..args.from + args.seeds).find_map(|seed| Some((seed, caught_by(&mutant, seed, args)?)));
        match caught {
            Some((seed, how)) => println!("caught  {mutant:24} seed {seed:3}  {how}"),
            None => {
                alive += 1;
                println!("ALIVE   {mutant:24} after {} seeds", args.seeds);
            }
        }
    }
    Ok(if alive == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a run with the bug said was wrong, if it did.
fn caught_by(mutant: &str, seed: u64, args: &Args) -> Option<String> {
    let output = Command::new(std::env::current_exe().ok()?)
        .args(["run", "--seed", &seed.to_string(), "--seconds", &args.seconds.to_string(), "--mutant", mutant])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let telling = |line: &&str| line.contains(" is broken") || line.starts_with("failure:");
    let line = said.lines().find(telling).map_or_else(|| format!("ended with {}", output.status), str::to_owned);
    Some(line.chars().take(140).collect())
}
