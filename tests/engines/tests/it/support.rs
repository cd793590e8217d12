//! Seeds, numbers and directories.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::Once;

use granary_test_disk::Files;
use granary_test_engines::kind::Kind;
use granary_test_engines::oracle::Oracle;
use granary_test_engines::replica::{Replica, Start};
use rand::SeedableRng;
use rand::rngs::StdRng;
use xxhash_rust::xxh3::xxh3_64;

use crate::process::{Deed, Process, Stands};

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// So many in a normal run, more in a longer one.
pub(crate) fn times(normal: u64) -> u64 {
    normal * number("GRANARY_CRASHES").unwrap_or(1)
}

/// The seed of a test, printed so that a failure says it.
pub(crate) fn seed(of: &str) -> u64 {
    let seed = number("GRANARY_SEED").unwrap_or_else(rand::random);
    println!("{of}: again with GRANARY_SEED={seed}");
    seed
}

pub(crate) fn chance(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// What an engine's own panics say belongs to the containment, not to the output of a test.
pub(crate) fn hush_engines() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let engines = ["/sled-", "/fjall-", "/lsm-tree-", "/sfa-"];
            let from = panic.location().map_or("", |location| location.file());
            if !engines.iter().any(|engine| from.contains(engine)) {
                told(panic);
            }
        }));
    });
}

/// A directory in memory where there is one: what is durable is decided by the tests, not by a disk.
pub(crate) fn tempdir() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).expect("temp dir")
}

/// Copies a directory to where nothing is.
pub(crate) fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("removes");
    }
    Files::read(from).and_then(|files| files.write(to)).expect("copies");
}

/// Makes what was open look as if the machine had been started again since.
pub(crate) fn forget_boot(dir: &Path) {
    let boot_id = dir.join("engine/boot_id");
    if boot_id.exists() {
        fs::write(boot_id, "another boot\n").expect("writes");
    }
}

/// A process is started over a directory so often before it must stand: one that meets damage ends, and the engines'
/// directory is given up at the latest when five have.
const STARTS_MAX: u32 = 7;

/// Recovers the directory in processes of their own, and compares with the replica that was never interrupted. Says how
/// it stands and how many starts it took.
pub(crate) fn assert_whole(kind: Kind, dir: &Path, oracle: &mut Oracle, what: &str) -> (Stands, u32) {
    for starts in 1..=STARTS_MAX {
        let mut process = Process::start(Deed::Verify, kind, dir, 0, &[]);
        let Some(stands) = std::iter::from_fn(|| process.said()).find_map(|said| Stands::understand(&said)) else {
            continue;
        };
        assert!(
            xxh3_64(&oracle.image(stands.applied)) == stands.image,
            "{what}: the state differs silently; {stands:?}"
        );
        return (stands, starts);
    }
    panic!("{what}: no process stands");
}

/// The same in this process, to go on with.
pub(crate) fn recovered(kind: Kind, dir: &Path, oracle: &mut Oracle) -> (Replica, Start) {
    let replica = Replica::start(kind, dir).expect("stands");
    let start = replica.start.clone();
    assert!(oracle.image(replica.applied()) == replica.image().expect("is written"), "the state differs; {start:?}");
    (replica, start)
}
