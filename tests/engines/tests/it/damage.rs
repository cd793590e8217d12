//! Every file of an engine's directory cut short or with a bit flipped, after a clean stop and after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use granary_test_disk::{Files, Node};
use granary_test_engines::kind::Kind;
use granary_test_engines::oracle::Oracle;
use rand::Rng;
use rand::rngs::StdRng;

use crate::process::{Deed, Process, Stands};
use crate::support::{assert_whole, chance, copy, hush_engines, seed, tempdir, times};

/// For each engine and way of ending: so many damages, half of them cuts, spread over all files.
const DAMAGES: u64 = 48;

#[test]
fn damage_to_sled_is_never_served() {
    damage(Kind::Sled);
}

#[test]
fn damage_to_fjall_is_never_served() {
    damage(Kind::Fjall);
}

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Cut { at: usize },
    Flip { at: usize, bit: u8 },
}

impl Damage {
    fn any(chance: &mut StdRng, len: usize, cut: bool) -> Self {
        // Half of them near the end, where the newest is.
        let from = if chance.random_bool(0.5) { len.saturating_sub(16 << 10) } else { 0 };
        let at = chance.random_range(from..len);
        if cut { Self::Cut { at } } else { Self::Flip { at, bit: chance.random_range(0..8) } }
    }

    fn strike(self, path: &Path) {
        let mut bytes = fs::read(path).expect("reads");
        match self {
            Self::Cut { at } => bytes.truncate(at),
            Self::Flip { at, bit } => bytes[at] ^= 1 << bit,
        }
        fs::write(path, bytes).expect("writes");
    }
}

/// The files of the engine's database, without empty ones.
fn targets(dir: &Path) -> Vec<(PathBuf, usize)> {
    let files = Files::read(&dir.join("engine")).expect("reads").0.into_iter();
    let in_database = files.filter(|(path, _)| path.starts_with("db-1"));
    let sized = in_database.filter_map(|(path, node)| match node {
        Node::File(bytes) if !bytes.is_empty() => Some((Path::new("engine").join(path), bytes.len())),
        _ => None,
    });
    sized.collect()
}

fn damage(kind: Kind) {
    hush_engines();
    let seed = seed(kind.name());
    let mut chance = chance(seed);
    let temp = tempdir();
    let mut seen = BTreeMap::new();
    for closed in [true, false] {
        let (whole, dir) = (temp.path().join(format!("whole-{closed}")), temp.path().join("damaged"));
        fs::create_dir(&whole).expect("makes");
        let deed = if closed { Deed::FillAndClose } else { Deed::Fill };
        assert!(Process::start(deed, kind, &whole, 0, &[]).ends_well());
        let (targets, mut oracle) = (targets(&whole), Oracle::default());
        assert!(targets.len() > 2, "{targets:?}");
        println!("{}: {} files, closed={closed}", kind.name(), targets.len());
        let each = times(DAMAGES).div_ceil(targets.len() as u64).max(2);
        for (path, len) in targets {
            for turn in 0..each {
                let damage = Damage::any(&mut chance, len, turn % 2 == 0);
                copy(&whole, &dir);
                damage.strike(&dir.join(&path));
                let what = format!("{} {damage:?} closed={closed}", path.display());
                let (stands, starts) = assert_whole(kind, &dir, &mut oracle, &what);
                let seen: &mut u64 = seen.entry(outcome(&stands, starts)).or_default();
                *seen += 1;
            }
        }
    }
    println!("{} after damage: {seen:?}", kind.name());
}

fn outcome(stands: &Stands, starts: u32) -> &'static str {
    match &stands.trust[..] {
        _ if starts > 2 => "ended processes until it was given up",
        _ if starts > 1 => "found while running, then rebuilt",
        _ if stands.kept_rows() => "harmless, or an older state that replay brings up to date",
        _ if stands.emptied => "found by the scan",
        "rebuilt" => "found by the engine",
        _ => "older than the snapshot",
    }
}
