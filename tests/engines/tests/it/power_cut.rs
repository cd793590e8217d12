//! Power cuts: what was not synced is dropped in order, or page by page.

use std::collections::BTreeMap;
use std::fs;

use granary_test_disk::{Disk, Order, PowerCut, Shim};
use granary_test_engines::kind::Kind;
use granary_test_engines::oracle::Oracle;
use granary_test_engines::replica::newest_snapshot;
use rand::Rng;

use crate::process::{Deed, Process};
use crate::support::{assert_whole, chance, forget_boot, hush_engines, seed, tempdir, times};

/// For each engine and order.
const CUTS: u64 = 24;

#[test]
fn sled_is_rebuilt_after_power_cuts() {
    let seen = cuts(Kind::Sled);
    assert!(!seen.contains_key("kept"), "only a closed directory of sled's is trusted: {seen:?}");
}

#[test]
fn fjall_comes_through_power_cuts() {
    let seen = cuts(Kind::Fjall);
    assert!(seen["kept"] > 0, "{seen:?}");
}

fn cuts(kind: Kind) -> BTreeMap<&'static str, u64> {
    hush_engines();
    let seed = seed(kind.name());
    let mut chance = chance(seed);
    let temp = tempdir();
    let base = fs::canonicalize(temp.path()).expect("is there");
    let root = base.join("root");
    let disk = Disk::new(&Shim::build(&base).expect("compiles"), &root, &base.join("run")).expect("is taken");
    assert!(Process::start(Deed::Recorded, kind, &root, chance.random(), &disk.envs()).ends_well());
    let journal = disk.journal().expect("reads");
    let files = granary_test_disk::Files::read(&root).expect("reads");
    assert!(journal.files(journal.len()) == files, "everything that {} does is recorded", kind.name());

    let mut seen = BTreeMap::new();
    for cut in 0..times(CUTS) * 2 {
        let order = if cut % 2 == 0 { Order::Done } else { Order::Any };
        let cut = PowerCut::random(&journal, order, chance.random());
        let dir = base.join("cut");
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("removes");
        }
        cut.build(&journal, &dir).expect("builds");
        forget_boot(&dir);
        let noted = journal.notes(cut.at).last().map_or(0, |noted| noted.parse().expect("an index"));
        let found = newest_snapshot(&dir).expect("lists").unwrap_or(0);
        assert!(found >= noted, "{cut:?}: a snapshot is durable: {found} {noted}");
        // The Raft log is synced before anything is applied, and here it is a function: all of it is there.
        fs::write(dir.join("log"), 500_u64.to_be_bytes()).expect("writes");
        let (stands, starts) = assert_whole(kind, &dir, &mut Oracle::default(), &format!("{cut:?}"));
        let what = match &stands.trust[..] {
            "clean" if stands.kept_rows() => "closed",
            _ if stands.kept_rows() => "kept",
            _ if stands.emptied => "emptied by the scan",
            "rebuilt" if kind == Kind::Sled => "moved aside",
            "rebuilt" => "refused by the engine",
            _ => "older than its snapshot, or new",
        };
        *seen.entry(what).or_default() += 1;
        assert!(starts == 1, "{cut:?}: it ended {} times before it stood", starts - 1);
    }
    println!("{} after power cuts: {seen:?}", kind.name());
    seen
}
