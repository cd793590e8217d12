//! Several client processes: this program started again, each with its share, all beginning at one moment.

use std::process::Stdio;

use anyhow::{Context, bail};
use futures::future::try_join_all;
use granary_bench::{ClassResult, Outcome, mix};
use granary_platform::Platform;
use granary_types::Error;
use serde_json::Value;
use tokio::process::Command;

use super::args::BenchArgs;
use super::report::Report;
use super::setup::{Drive, Setup};

/// What starting a process and connecting takes, and a little: all wait until then.
const START_AFTER_NANOS: u64 = 3_000_000_000;

/// Runs the processes and merges what they measured.
///
/// # Errors
/// When one of them fails.
pub(super) async fn run(
    args: &BenchArgs,
    setup: &Setup,
    endpoint: &str,
    platform: &Platform,
) -> anyhow::Result<Report> {
    let starts_at = platform.now_nanos() + START_AFTER_NANOS;
    let documents =
        try_join_all((0..args.processes).map(|index| child(args, setup, endpoint, index, starts_at))).await?;
    let (mut outcome, mut checksum) = (Outcome::default(), 0);
    for document in documents {
        let classes: Vec<ClassResult> = serde_json::from_value(document["classes"].clone()).context("read classes")?;
        let lag = serde_json::from_value(document["lag"].clone()).context("read the lag")?;
        outcome.merge(&Outcome { classes, lag });
        let own = document["schedule_checksum"].as_str().and_then(|text| u64::from_str_radix(text, 16).ok());
        checksum = mix(checksum, own.context("read the checksum")?);
    }
    Ok(Report { outcome, checksum, started_at_ms: starts_at / 1_000_000 })
}

/// Runs one process. It ends with this one.
async fn child(args: &BenchArgs, setup: &Setup, endpoint: &str, index: u32, starts_at: u64) -> anyhow::Result<Value> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(std::env::args_os().skip(1));
    // Of a flag that is given twice the last counts.
    for (flag, value) in own_flags(args, setup, endpoint, index, starts_at) {
        command.arg(flag).arg(value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = command.spawn().context("start a client process")?.wait_with_output().await?;
    if !done.status.success() {
        bail!("client process {index} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    serde_json::from_slice(&done.stdout).with_context(|| format!("read the result of client process {index}"))
}

/// What a child is told instead of what this process was told.
fn own_flags(
    args: &BenchArgs,
    setup: &Setup,
    endpoint: &str,
    index: u32,
    starts_at: u64,
) -> Vec<(&'static str, String)> {
    let share = 1.0 / f64::from(args.processes);
    let mut flags = vec![
        ("--endpoint", endpoint.to_owned()),
        ("--output", "json".to_owned()),
        ("--processes", "1".to_owned()),
        ("--child", format!("{index}@{starts_at}")),
        ("--write-rate", (args.write_rate * share).to_string()),
    ];
    match setup.drive {
        Drive::Open(rate) => flags.push(("--rate", (rate * share).to_string())),
        Drive::Closed(in_flight) => {
            let (each, more) = (in_flight / args.processes as usize, in_flight % args.processes as usize);
            let own = each + usize::from((index as usize) < more);
            flags.push(("--in-flight", own.to_string()));
        }
    }
    flags
}

/// Whether there is something to do for each process.
///
/// # Errors
/// `Invalid` when not.
pub(super) fn check(args: &BenchArgs, setup: &Setup) -> Result<(), Error> {
    match setup.drive {
        Drive::Closed(in_flight) if in_flight < args.processes as usize => {
            Err(Error::invalid("--in-flight: fewer than --processes"))
        }
        _ => Ok(()),
    }
}
