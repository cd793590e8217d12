//! The engines behind the port, in one run: load, overwrite, get, scan, close and open. `cargo bench -p granary-benches
//! --bench engines`; `GRANARY_BENCH_ROWS` sets how many rows.
//!
//! No criterion: each phase changes what the next one meets, so each is timed once, over many operations.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use granary_store::disk::Opened;
use granary_store::{Engine, Tree};

const ROWS: u64 = 200_000;
const VALUE_LEN: usize = 400;
/// As many cells as the checkpointer writes in one step.
const BATCH: u64 = 1_024;
const GETS: u64 = 200_000;
const CACHE_BYTES: u64 = 256 << 20;

fn main() {
    let rows = std::env::var("GRANARY_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(ROWS);
    println!("{rows} rows of {VALUE_LEN} bytes, cache {} MiB", CACHE_BYTES >> 20);
    println!("| engine | load | overwrite | get, 1 thread | 2 threads | scan | size | close | open |");
    println!("|---|---|---|---|---|---|---|---|---|");
    run("sled", rows, &|dir| {
        let settings = granary_store_sled::Settings { cache_capacity_bytes: CACHE_BYTES, ..Default::default() };
        granary_store_sled::open(dir, &settings).expect("opens")
    });
    run("fjall", rows, &|dir| {
        let settings = granary_store_fjall::Settings { cache_capacity_bytes: CACHE_BYTES, ..Default::default() };
        granary_store_fjall::open(dir, &settings).expect("opens")
    });
}

/// Spreads numbers over all keys, each once: odd and a bijection of 64 bits.
fn key(number: u64) -> Bytes {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Bytes::from([&b"sixteen-letters!"[..], &mixed.to_be_bytes()].concat())
}

fn value(number: u64) -> Bytes {
    number.to_be_bytes().repeat(VALUE_LEN / 8).into()
}

/// Writes the rows, each once, batch by batch in key order as the checkpointer does.
fn write(tree: &dyn Tree, rows: u64, round: u64) {
    // Another order than the last round's: neighbours in a batch are not neighbours in the tree.
    let order = |place: u64| (place * 7_919 + round) % rows;
    for first in (0..rows).step_by(usize::try_from(BATCH).expect("small")) {
        let numbers = (first..rows.min(first + BATCH)).map(order);
        let mut pairs: Vec<_> = numbers.map(|number| (key(number), Some(value(number + round)))).collect();
        pairs.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        tree.write(&mut pairs.into_iter(), &first.to_be_bytes()).expect("writes");
    }
}

fn get(tree: &dyn Tree, rows: u64, seed: u64) {
    let mut state = seed;
    for _ in 0..GETS {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        assert!(tree.get(&key((state >> 20) % rows)).expect("reads").is_some());
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn rate(count: u64, took: Duration) -> String {
    format!("{:.0} k/s", count as f64 / took.as_secs_f64() / 1_000.0)
}

fn run(name: &str, rows: u64, open: &dyn Fn(&Path) -> Opened) {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = temp.path().join(name);
    let engine: Arc<dyn Engine> = open(&dir).engine;
    let tree = engine.tree("bench").expect("opens");
    let load = timed(|| write(&*tree, rows, 0));
    let overwrite = timed(|| write(&*tree, rows, 1));
    // Once to fill the cache.
    get(&*tree, rows, 1);
    let one = timed(|| get(&*tree, rows, 2));
    let two = timed(|| {
        std::thread::scope(|scope| {
            let tree = &tree;
            for seed in [3, 4] {
                scope.spawn(move || get(&**tree, rows, seed));
            }
        });
    });
    let scan = timed(|| assert_eq!(tree.scan(&[]).count() as u64, rows));
    let size = engine.size_on_disk();
    let close = timed(|| engine.close().expect("closes"));
    let raw = rows * (24 + VALUE_LEN as u64);
    let reopen = timed(|| assert!(open(&dir).engine.tree("bench").expect("opens").marker().expect("reads").is_some()));
    println!(
        "| {name} | {} | {} | {} | {} | {} | {:.1} x | {} ms | {} ms |",
        rate(rows, load),
        rate(rows, overwrite),
        rate(GETS, one),
        rate(2 * GETS, two),
        rate(rows, scan),
        size as f64 / raw as f64,
        close.as_millis(),
        reopen.as_millis(),
    );
}
