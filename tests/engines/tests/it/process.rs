//! The process that is killed, cut off or recorded: this binary, run again.

use std::convert::Infallible;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use granary_store::disk::Trust;
use granary_test_disk::note;
use granary_test_engines::kind::Kind;
use granary_test_engines::replica::{Ended, Replica, newest_snapshot};
use rand::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{chance, hush_engines};

const DEED: &str = "GRANARY_ENGINES_DEED";
const KIND: &str = "GRANARY_ENGINES_KIND";
const DIR: &str = "GRANARY_ENGINES_DIR";
const SEED: &str = "GRANARY_ENGINES_SEED";

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Recovers and says what it came to.
    Verify,
    /// The same, and goes on until it is killed.
    Endless,
    /// The same, over a disk that fails: says why it ends.
    Failing,
    /// Writes some entries, with a snapshot and a clean stop on the way, and ends as in a crash.
    Fill,
    /// The same, and stops cleanly.
    FillAndClose,
    /// Goes on for a while, with clean stops in between, and ends in the middle.
    Recorded,
}

/// A process with its output.
pub(crate) struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(
        deed: Deed,
        kind: Kind,
        dir: &Path,
        seed: u64,
        envs: &[(std::ffi::OsString, std::ffi::OsString)],
    ) -> Self {
        let mut child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "process::process", "--nocapture", "--test-threads=1"])
            .env(DEED, format!("{deed:?}"))
            .env(KIND, kind.name())
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .envs(envs.iter().cloned())
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(if matches!(deed, Deed::Verify | Deed::Failing) { Stdio::null() } else { Stdio::inherit() })
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// The next thing it says; `None` when it has ended.
    pub(crate) fn said(&mut self) -> Option<String> {
        self.lines.by_ref().find_map(|line| line.expect("text").strip_prefix("process ").map(str::to_owned))
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kills");
    }

    pub(crate) fn ends_well(mut self) -> bool {
        while self.said().is_some() {}
        self.child.wait().expect("ends").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    // A parent that is gone does not listen.
    writeln!(out, "\nprocess {what}").and_then(|()| out.flush()).ok();
}

/// The process. As a test of its own it does nothing.
#[test]
fn process() {
    let Ok(deed) = env::var(DEED) else { return };
    let var = |name| env::var(name).expect("set with the deed");
    let (kind, dir) = (Kind::named(&var(KIND)).expect("an engine"), PathBuf::from(var(DIR)));
    let seed = var(SEED).parse().expect("a number");
    match &deed[..] {
        "Verify" => drop(verified(kind, &dir).expect("stands, or the process ends")),
        "Endless" => panic!("it goes on: {:?}", endless(kind, &dir, seed)),
        "Failing" => {
            say(&format!("ends {:?}", endless(kind, &dir, seed)));
            std::process::exit(1);
        }
        "Fill" => fill(kind, &dir, false),
        "FillAndClose" => fill(kind, &dir, true),
        "Recorded" => recorded(kind, &dir, seed),
        other => panic!("no such deed: {other}"),
    }
}

/// How a replica stands, as it says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stands {
    pub(crate) applied: u64,
    pub(crate) image: u64,
    /// Of the rows that it found in the engine's directory.
    pub(crate) found: u64,
    pub(crate) snapshot: u64,
    /// What the directory was worth.
    pub(crate) trust: String,
    /// The directory was trusted, but not proved.
    pub(crate) emptied: bool,
}

impl Stands {
    /// Understands what [`verified`] says; `None` for other words.
    pub(crate) fn understand(said: &str) -> Option<Self> {
        let ["stands", applied, image, found, snapshot, trust, emptied] = said.split(' ').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let number = |word: &str| word.parse().expect("a number");
        Some(Self {
            applied: number(applied),
            image: number(image),
            found: number(found),
            snapshot: number(snapshot),
            trust: trust.to_owned(),
            emptied: emptied == "true",
        })
    }

    /// Whether the rows that were found were kept.
    pub(crate) fn kept_rows(&self) -> bool {
        self.found > 0 && self.found >= self.snapshot
    }
}

fn verified(kind: Kind, dir: &Path) -> Result<Replica, Ended> {
    hush_engines();
    let replica = Replica::start_with(kind, dir, &mut say)?;
    let image = xxh3_64(&replica.image()?);
    let start = &replica.start;
    let trust = match start.trust {
        Trust::Clean => "clean",
        Trust::SameBootCrash => "same-boot",
        Trust::PowerCut => "power-cut",
        Trust::Fresh => "fresh",
        Trust::Rebuilt { .. } => "rebuilt",
    };
    let (found, snapshot, emptied) = (start.found, start.snapshot, start.emptied.is_some());
    say(&format!("stands {} {image} {found} {snapshot} {trust} {emptied}", replica.applied()));
    Ok(replica)
}

/// Goes on until something fails.
fn endless(kind: Kind, dir: &Path, seed: u64) -> Result<Infallible, Ended> {
    let mut chance = chance(seed);
    let mut replica = verified(kind, dir)?;
    loop {
        for _ in 0..chance.random_range(1..12) {
            replica.advance()?;
        }
        say(&format!("applied {}", replica.applied()));
        if chance.random_range(0..12) == 0 {
            replica.snapshot()?;
            say("snapshot");
        }
    }
}

fn fill(kind: Kind, dir: &Path, close: bool) {
    let mut replica = Replica::start(kind, dir).expect("is new");
    while replica.applied() < 240 {
        replica.advance().expect("goes on");
        if replica.applied() == 120 {
            // Far enough from the end that replay alone would not put stale rows right.
            replica.snapshot().expect("is written");
            // What an engine writes when it is opened is there, too.
            replica.close().expect("closes");
            replica = Replica::start(kind, dir).expect("stands");
        }
    }
    // Nothing is left in memory that replay would write anew.
    replica.store().checkpoint().expect("is written");
    if close {
        replica.close().expect("closes");
    }
    std::process::exit(0);
}

fn recorded(kind: Kind, dir: &Path, seed: u64) {
    let mut chance = chance(seed);
    let mut replica = Replica::start(kind, dir).expect("stands");
    for turn in 1..=500 {
        replica.advance().expect("goes on");
        if turn % 8 == 0 {
            // So that operations of engine and store mix in many ways.
            std::thread::sleep(std::time::Duration::from_micros(chance.random_range(0..3_000)));
        }
        if turn % 90 == 0 {
            replica.snapshot().expect("is written");
            let snapshot = newest_snapshot(dir).expect("lists").expect("just written");
            note(&snapshot.to_string()).expect("notes");
        }
        if turn == 200 {
            replica.close().expect("closes");
            replica = Replica::start(kind, dir).expect("stands after a clean stop");
        }
    }
    say("ends");
    std::process::exit(0);
}
