//! kill -9 at random moments: while opening, restoring, replaying, checkpointing, merging, writing a snapshot.

use granary_test_engines::kind::Kind;
use granary_test_engines::oracle::Oracle;
use rand::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::process::{Deed, Process, Stands};
use crate::support::{assert_whole, chance, seed, tempdir, times};

/// For each engine.
const KILLS: u64 = 105;
/// A directory grows with each kill; begun anew so often, opening stays quick.
const KILLS_PER_DIRECTORY: u64 = 35;

#[test]
fn sled_comes_through_kills() {
    kills(Kind::Sled);
}

#[test]
fn fjall_comes_through_kills() {
    kills(Kind::Fjall);
}

fn kills(kind: Kind) {
    let seed = seed(kind.name());
    let mut chance = chance(seed);
    let (mut killed, mut stood, mut kept) = (0, 0, 0);
    let total = times(KILLS);
    while killed < total {
        let dir = tempdir();
        let (mut oracle, mut reached) = (Oracle::default(), 0);
        for _ in 0..KILLS_PER_DIRECTORY.min(total - killed) {
            let mut process = Process::start(Deed::Endless, kind, dir.path(), chance.random(), &[]);
            let lines = if chance.random_bool(0.4) { chance.random_range(1..5) } else { chance.random_range(5..60) };
            for _ in 0..lines {
                let said = process.said().unwrap_or_else(|| panic!("it ended by itself after {killed} kills"));
                if let Some(stands) = Stands::understand(&said) {
                    assert!(stands.applied >= reached, "the log is as long as it was");
                    let expected = xxh3_64(&oracle.image(stands.applied));
                    assert_eq!(stands.image, expected, "after {killed} kills the state differs silently: {stands:?}");
                    (reached, stood, kept) = (stands.applied, stood + 1, kept + u64::from(stands.kept_rows()));
                }
            }
            std::thread::sleep(std::time::Duration::from_micros(chance.random_range(0..2_000)));
            process.kill();
            killed += 1;
        }
        assert_whole(kind, dir.path(), &mut oracle, "after the last kill");
    }
    println!("{}: {killed} kills; stood {stood} times between them, {kept} times on the rows it had", kind.name());
    // Mostly they are; on a busy machine more kills fall into what makes a replica begin anew.
    assert!(kept * 5 > stood, "rows are hardly ever kept: {kept} of {stood}");
}
