//! Many seeds, each in a process of its own, as many at a time as there are cores.

use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use granary_history::History;
use parking_lot::Mutex;

/// Which seeds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first seed; by default a fresh one.
    #[arg(long)]
    from: Option<u64>,
    /// How many.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Seconds of faults in each, in simulated time.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Begins no further seed after so many seconds of real time.
    #[arg(long, default_value_t = 3_600)]
    limit: u64,
    /// Runs each seed twice and compares the histories.
    #[arg(long)]
    twice: bool,
}

/// A number that tells histories apart.
pub(crate) fn digest(history: &History) -> anyhow::Result<u64> {
    let bytes = granary_history::format::write(Vec::new(), history)?;
    // Not the default hasher's keys but fixed ones: equal in every process.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&bytes);
    Ok(hasher.finish())
}

/// Runs them and says which failed.
///
/// # Errors
/// When this program cannot start itself.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let from = args.from.unwrap_or_else(fresh_seed);
    println!("seeds from {from} on");
    let began = Instant::now();
    let program = std::env::current_exe()?;
    let next = AtomicU64::new(0);
    let (failed, passed) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(args.limit) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= args.seeds {
                        return;
                    }
                    let seed = from + number;
                    match one(&program, seed, args) {
                        Ok(line) => {
                            passed.fetch_add(1, Ordering::SeqCst);
                            println!("ok   {line}");
                        }
                        Err(output) => {
                            println!("FAIL seed {seed}\n{output}");
                            failed.lock().push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{} passed, {} failed", passed.load(Ordering::SeqCst), failed.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A seed that was hardly tried before.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_micros()) + since.as_secs() % 1_000_000 * 1_000_000
}

/// The last line of a run that passed; all it said if it failed.
fn one(program: &std::path::Path, seed: u64, args: &Args) -> Result<String, String> {
    let line = last_line(program, seed, args)?;
    if args.twice {
        let again = last_line(program, seed, args)?;
        if line != again {
            return Err(format!("one seed gave two histories:\n{line}\n{again}"));
        }
    }
    Ok(line)
}

fn last_line(program: &std::path::Path, seed: u64, args: &Args) -> Result<String, String> {
    let output = Command::new(program)
        .args(["run", "--seed", &seed.to_string(), "--seconds", &args.seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said.lines().last().unwrap_or_default().to_owned());
    }
    let _ = write!(said, "{}", String::from_utf8_lossy(&output.stderr));
    Err(said)
}
