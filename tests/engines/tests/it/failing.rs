//! A disk that fails under the engine (EIO), once or from then on: at work, and while a directory is opened.
//!
//! The replica ends and says so, or was not touched by it. What it is worth then is decided at the next start on a disk
//! that works, as after any other crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use granary_test_disk::{Disk, Fault, Op, Shim, errno};
use granary_test_engines::kind::Kind;
use granary_test_engines::oracle::Oracle;
use rand::Rng;
use rand::rngs::StdRng;
use xxhash_rust::xxh3::xxh3_64;

use crate::process::{Deed, Process, Stands};
use crate::support::{assert_whole, chance, copy, hush_engines, seed, tempdir, times};

/// For each engine and operation, at work.
const AT_WORK: u64 = 6;
/// For each engine, way of ending and operation, at the start.
const AT_START: u64 = 12;
/// A process that says so much after its disk began to fail goes on: checkpoints come every few lines.
const LINES_MAX: usize = 600;
/// Only the engine's files: the Raft log and the snapshots are the test's own.
const ENGINE: &str = "/engine/";

#[test]
fn sled_ends_on_a_disk_that_fails() {
    let seen = failures(Kind::Sled);
    assert_eq!(seen.get(&("at work", "Write", "went on")), None, "{seen:?}");
}

#[test]
fn fjall_ends_on_a_disk_that_fails() {
    let seen = failures(Kind::Fjall);
    assert_eq!(seen.get(&("at work", "Write", "went on")), None, "{seen:?}");
}

/// How often each operation, failing at work or at the start, was followed by what.
type Seen = BTreeMap<(&'static str, &'static str, &'static str), u64>;

fn name(op: Op) -> &'static str {
    match op {
        Op::Read => "Read",
        Op::Write => "Write",
        Op::SyncRange => "SyncRange",
        _ => "Sync",
    }
}

/// A directory on a disk that can fail.
struct Place {
    kind: Kind,
    root: PathBuf,
    disk: Disk,
}

impl Place {
    fn new(kind: Kind, shim: &Shim, base: &Path) -> Self {
        let root = base.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).expect("removes");
        }
        let disk = Disk::unrecorded(shim, &root, &base.join("run")).expect("is taken");
        Self { kind, root, disk }
    }

    fn start(&self, deed: Deed, seed: u64) -> Process {
        Process::start(deed, self.kind, &self.root, seed, &self.disk.envs())
    }

    fn fail(&self, op: Op, nth: u64, once: bool) {
        let fault = Fault::fail(op, errno::EIO, ENGINE).nth(nth).times(u64::from(once));
        self.disk.set_faults(&[fault]).expect("sets");
    }

    fn has_struck(&self) -> bool {
        !self.disk.strikes().expect("reads").is_empty()
    }

    /// The disk works again.
    fn assert_whole(&self, oracle: &mut Oracle, what: &str) {
        self.disk.set_faults(&[]).expect("sets");
        assert_whole(self.kind, &self.root, oracle, what);
    }
}

fn failures(kind: Kind) -> Seen {
    hush_engines();
    let seed = seed(kind.name());
    let mut chance = chance(seed);
    let temp = tempdir();
    let base = fs::canonicalize(temp.path()).expect("is there");
    let shim = Shim::build(&base).expect("compiles");
    let mut seen = Seen::new();
    for op in [Op::Read, Op::Write, Op::Sync, Op::SyncRange] {
        for turn in 0..times(AT_WORK) {
            let outcome = at_work(&Place::new(kind, &shim, &base), op, turn % 2 == 0, &mut chance);
            *seen.entry(("at work", name(op), outcome)).or_default() += 1;
        }
    }
    for deed in [Deed::Fill, Deed::FillAndClose] {
        let whole = base.join(format!("{deed:?}"));
        fs::create_dir(&whole).expect("makes");
        assert!(Process::start(deed, kind, &whole, 0, &[]).ends_well());
        for op in [Op::Read, Op::Write] {
            for turn in 0..times(AT_START) {
                let place = Place::new(kind, &shim, &base);
                copy(&whole, &place.root);
                let outcome = at_the_start(&place, op, turn % 2 == 0, &mut chance);
                *seen.entry(("at the start", name(op), outcome)).or_default() += 1;
            }
        }
    }
    println!("{} on a disk that fails: {seen:?}", kind.name());
    seen
}

fn at_work(place: &Place, op: Op, once: bool, chance: &mut StdRng) -> &'static str {
    let (mut process, mut oracle) = (place.start(Deed::Failing, chance.random()), Oracle::default());
    for _ in 0..chance.random_range(10..60) {
        process.said().expect("the disk works yet");
    }
    place.fail(op, chance.random_range(1..12), once);
    let (mut last, mut lines) = (String::new(), 0);
    while let Some(said) = (lines < LINES_MAX).then(|| process.said()).flatten() {
        (last, lines) = (said, lines + 1);
    }
    let struck = place.has_struck();
    process.kill();
    place.assert_whole(&mut oracle, &format!("{op:?} failed at work, once: {once}; last: {last}"));
    match (struck, lines < LINES_MAX) {
        (true, true) if last.starts_with("ends ") => "ended",
        (true, true) => "ended without a word",
        (true, false) => "went on",
        (false, ended) => {
            assert!(!ended, "nothing failed, and it ended: {last}");
            "did not come to it"
        }
    }
}

fn at_the_start(place: &Place, op: Op, once: bool, chance: &mut StdRng) -> &'static str {
    place.fail(op, chance.random_range(1..30), once);
    let (mut process, mut oracle) = (place.start(Deed::Verify, 0), Oracle::default());
    let stands = std::iter::from_fn(|| process.said()).find_map(|said| Stands::understand(&said));
    drop(process);
    let struck = place.has_struck();
    if let Some(stands) = &stands {
        assert_eq!(
            stands.image,
            xxh3_64(&oracle.image(stands.applied)),
            "{op:?} failed, and the state differs: {stands:?}"
        );
    }
    place.assert_whole(&mut oracle, &format!("{op:?} failed at the start, once: {once}"));
    match stands {
        Some(_) if !struck => "did not come to it",
        Some(stands) if stands.kept_rows() => "went on",
        Some(_) => "stood without the rows",
        None => "ended",
    }
}
