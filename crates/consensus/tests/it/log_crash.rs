//! A Raft log whose process is killed, whose machine loses its power, whose disk fails or fills up: whatever was
//! acknowledged is there afterwards, or the log is refused.
//!
//! The tests run this binary again as the process that writes.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use granary_consensus::log_store::LogStore;
use granary_consensus::type_config::Vote;
use granary_test_disk::{Disk, Fault, Journal, Op, Order, PowerCut, Shim, errno, note};
use openraft::storage::RaftLogStorage;
use tempfile::TempDir;

use crate::log_steps::{State, settings};

const DIR: &str = "GRANARY_LOG_TEST_DIR";
const FIRST: &str = "GRANARY_LOG_TEST_FIRST_STEP";
const STEPS: &str = "GRANARY_LOG_TEST_STEPS";

/// The process that writes. As a test of its own it does nothing.
#[tokio::test]
async fn writer() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else { return };
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, steps) = (number(FIRST).unwrap(), number(STEPS).unwrap());
    let mut log = LogStore::open(&dir.join("log"), &settings()).unwrap();
    let mut state = State::read(&mut log).await;
    say("opened");
    for step in first..first + steps {
        if let Err(error) = state.step(&mut log, step).await {
            (log, state) = start_again(&dir, log, &state, step, &error).await;
            continue;
        }
        state = state.after(step);
        say("acked");
    }
    log.close();
}

/// After a failure nothing more is taken. Opened again, what the log holds counts as acknowledged.
async fn start_again(
    dir: &Path,
    mut log: LogStore,
    before: &State,
    step: u64,
    why: &std::io::Error,
) -> (LogStore, State) {
    say(&format!("failed {why}"));
    for _ in 0..3 {
        log.save_vote(&Vote::new_committed(before.term + 100, 1)).await.expect_err("a failed log takes no vote");
        before.step(&mut log, step).await.expect_err("a failed log takes no entries");
    }
    log.close();
    let mut log = LogStore::open(&dir.join("log"), &settings()).expect("opens again");
    let found = State::read(&mut log).await;
    let through = before.through(step).iter().position(|state| found.term == state.term && found == *state);
    say(&format!("reopened {}", through.expect("one of the step's states")));
    (log, found)
}

/// To whoever reads the output, and into the record of the disk.
fn say(what: &str) {
    note(what).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nwriter {what}").and_then(|()| out.flush()).unwrap();
}

/// What was promised, as the writer said it.
#[derive(Default, Clone)]
struct Promised {
    state: State,
    step: u64,
}

impl Promised {
    fn hear(&mut self, said: &str) {
        match said.split_once(' ').unwrap_or((said, "")) {
            ("acked", _) => self.state = self.state.after(self.step),
            ("reopened", n) => self.state = self.state.through(self.step).swap_remove(n.parse().unwrap()),
            _ => return,
        }
        self.step += 1;
    }
}

fn command(dir: &Path, first: u64, steps: u64) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "log_crash::writer", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .env(STEPS, steps.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Runs the writer, kills it once it has said `lines` lines, and returns what it said, also while it was killed.
fn run_and_kill(dir: &Path, first: u64, lines: usize) -> Vec<String> {
    let mut writer = command(dir, first, u64::MAX - first).spawn().unwrap();
    let out = BufReader::new(writer.stdout.take().unwrap());
    let mut said =
        out.lines().map(|line| line.unwrap()).filter_map(|line| line.strip_prefix("writer ").map(str::to_owned));
    let mut heard: Vec<_> = said.by_ref().take(lines).collect();
    writer.kill().unwrap();
    assert!(!writer.wait().unwrap().success(), "the writer ended by itself: {heard:?}");
    heard.extend(said);
    heard
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut promised = Promised::default();
    for kill in 0..60_u64 {
        let lines = 1 + (kill * kill * 7 % 83) as usize;
        for said in run_and_kill(dir.path(), promised.step, lines) {
            promised.hear(&said);
        }
        let found = promised.state.found_after_crash(&dir.path().join("log"), promised.step).await.unwrap();
        promised.state = found.unwrap_or_else(|| panic!("kill {kill}: refused"));
        promised.step += 1;
    }
    assert!(promised.step > 1_000, "the kills let the writer come far: {}", promised.step);
}

/// A recorded run of the writer.
fn record(base: &Path, steps: u64, faults: &[Fault]) -> (Journal, bool) {
    let shim = Shim::build(base).unwrap();
    let disk = Disk::new(&shim, &base.join("root"), &base.join("run")).unwrap();
    disk.set_faults(faults).unwrap();
    let done = command(disk.root(), 0, steps).envs(disk.envs()).output().unwrap().status.success();
    (disk.journal().unwrap(), done)
}

/// Looks at the log after power cuts; returns how many were refused.
async fn cut_the_power(base: &Path, journal: &Journal, cuts: impl Iterator<Item = (Order, u64)>) -> usize {
    let mut refused = 0;
    for (order, seed) in cuts {
        let cut = PowerCut::random(journal, order, seed);
        let mut promised = Promised::default();
        journal.notes(cut.at).for_each(|said| promised.hear(said));
        let root = base.join(format!("{order:?}-{seed}"));
        cut.build(journal, &root).unwrap();
        match promised.state.found_after_crash(&root.join("log"), promised.step).await {
            Ok(found) => refused += usize::from(found.is_none()),
            Err(error) => panic!("{cut:?}: {error}"),
        }
        std::fs::remove_dir_all(root).unwrap();
    }
    refused
}

#[tokio::test]
async fn a_power_cut_loses_nothing_acknowledged() {
    let base = TempDir::new().unwrap();
    let (journal, done) = record(base.path(), 250, &[]);
    assert!(done);
    let cuts = |order| (0..250).map(move |seed| (order, seed));
    let refused = cut_the_power(base.path(), &journal, cuts(Order::Done)).await;
    assert_eq!(refused, 0, "of writes in order there are only torn tails");
    let refused = cut_the_power(base.path(), &journal, cuts(Order::Any)).await;
    assert!(refused <= 2, "holes are nearly always seen to be unsynced: {refused} of 250 refused");
}

#[tokio::test]
async fn a_failed_sync_is_the_end_of_a_log_and_nothing_it_was_to_cover_is_trusted() {
    for (nth, part) in [(9, "/log/"), (40, "/log/"), (111, "/log/"), (1, "log.note"), (3, "log.note")] {
        let base = TempDir::new().unwrap();
        let (journal, done) = record(base.path(), 150, &[Fault::fail(Op::Sync, errno::EIO, part).nth(nth).times(1)]);
        if !done {
            // It failed while the log was opened, and no log was opened.
            assert_eq!(journal.notes(journal.len()).count(), 0, "{part}");
            continue;
        }
        let failures = journal.notes(journal.len()).filter(|said| said.starts_with("failed")).count();
        assert_eq!(failures, 1, "sync {nth} of {part}");
        let cuts = (0..80).map(|seed| (if seed % 2 == 0 { Order::Any } else { Order::Done }, seed));
        let refused = cut_the_power(base.path(), &journal, cuts).await;
        assert!(refused <= 2, "{refused} refused");
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_log_and_loses_nothing() {
    for bytes in [1, 5_000, 70_000, 200_001, 250_000] {
        let base = TempDir::new().unwrap();
        let (journal, done) = record(base.path(), 200, &[Fault::space(bytes, "/log/")]);
        let mut promised = Promised::default();
        journal.notes(journal.len()).for_each(|said| promised.hear(said));
        assert!(!done, "the disk is full after {bytes} bytes");
        // There is space again.
        let log = base.path().join("root/log");
        let found = promised.state.found_after_crash(&log, promised.step).await.unwrap();
        assert!(found.is_some(), "{bytes} bytes");
    }
}
