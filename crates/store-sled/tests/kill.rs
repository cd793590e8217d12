//! A process killed at any point leaves what the port promises: a marker and all that it speaks of, at most with
//! pairs of the one write after it.
//!
//! The parent runs this test binary again as the writer and kills it after a number of lines of its output.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use granary_store::{Engine, Tree};
use granary_store_sled::{Settings, Trust, open};

const DIR: &str = "GRANARY_KILL_TEST_DIR";
/// Batch `n` overwrites the rows of group `n % GROUPS`.
const GROUPS: u64 = 7;
const ROWS: u64 = 64;
/// Each restart clears and refills a second tree of this many rows.
const REFILLED_ROWS: u64 = 200;

fn key(group: u64, row: u64) -> Bytes {
    [group.to_be_bytes(), row.to_be_bytes()].concat().into()
}

fn value(batch: u64) -> Bytes {
    batch.to_be_bytes().repeat(50).into()
}

fn batch_of(value: &[u8]) -> u64 {
    let batch = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
    assert_eq!(self::value(batch), value, "a value is whole");
    batch
}

fn marker(tree: &dyn Tree) -> Option<u64> {
    let marker = tree.marker().expect("reads")?;
    Some(u64::from_be_bytes(marker[..].try_into().expect("a marker is whole")))
}

fn write_batch(tree: &dyn Tree, group: u64, rows: u64, batch: u64) {
    let mut pairs = (0..rows).map(|row| (key(group, row), Some(value(batch))));
    tree.write(&mut pairs, &batch.to_be_bytes()).expect("writes");
}

/// The writer. As a test of its own it does nothing.
#[test]
fn writer() {
    let Some(dir) = env::var_os(DIR) else { return };
    let mut out = std::io::stdout();
    let mut say = |what: String| writeln!(out, "\n{what}").and_then(|()| out.flush()).expect("parent listens");
    say("writer opens".into());
    let engine = open(Path::new(&dir), &Settings::default()).expect("opens").engine;
    let (batches, refilled) = (engine.tree("batches").expect("tree"), engine.tree("refilled").expect("tree"));
    let next = marker(&*batches).map_or(1, |batch| batch + 1);
    for batch in next.. {
        write_batch(&*batches, batch % GROUPS, ROWS, batch);
        say(format!("writer wrote {batch}"));
        if (batch - next).is_multiple_of(10) {
            refilled.clear().expect("clears");
            say(format!("writer cleared {batch}"));
            write_batch(&*refilled, 0, REFILLED_ROWS, batch);
        }
    }
}

/// Runs the writer and kills it once it has said `lines` lines.
fn run_and_kill(dir: &Path, lines: usize) {
    let mut writer = Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let out = BufReader::new(writer.stdout.take().expect("piped"));
    let said = out.lines().map(|line| line.expect("text")).filter(|line| line.starts_with("writer "));
    assert_eq!(said.take(lines).count(), lines, "the writer ended by itself");
    writer.kill().expect("kills");
    assert!(!writer.wait().expect("ends").success());
}

fn check_batches(tree: &dyn Tree) -> u64 {
    let marked = marker(tree).unwrap_or(0);
    for group in 0..GROUPS {
        let expected = (1..=marked).rev().take(7).find(|batch| batch % GROUPS == group);
        for row in 0..ROWS {
            let found = tree.get(&key(group, row)).expect("reads").map(|value| batch_of(&value));
            let of_next_write = found == Some(marked + 1) && (marked + 1) % GROUPS == group;
            assert!(found == expected || of_next_write, "group={group} row={row} marker={marked} found={found:?}");
        }
    }
    let scanned: Vec<_> = tree.scan(&[]).map(|pair| pair.expect("scans")).collect();
    assert!(scanned.is_sorted_by(|(a, _), (b, _)| a < b));
    for (key, value) in scanned {
        assert_eq!(tree.get(&key).expect("reads"), Some(value), "scan and read agree");
    }
    marked
}

fn check_refilled(tree: &dyn Tree) {
    if let Some(marked) = marker(tree) {
        let batches: Vec<_> = tree.scan(&[]).map(|pair| batch_of(&pair.expect("scans").1)).collect();
        assert_eq!(batches, vec![marked; usize::try_from(REFILLED_ROWS).expect("small")]);
    }
}

#[test]
fn a_killed_process_leaves_what_its_marker_says() {
    let parent = tempfile::tempdir().expect("temp dir");
    let dir = parent.path().join("engine");
    assert_eq!(open(&dir, &Settings::default()).expect("opens").trust, Trust::Fresh);
    let mut reached = 0;
    // Killed while opening (1), while clearing and refilling (3), and further and further on.
    for lines in [2, 40, 1, 3, 1, 100, 14, 15, 300, 1, 3, 77, 700, 2, 25, 500] {
        run_and_kill(&dir, lines);
        let opened = open(&dir, &Settings::default()).expect("opens");
        assert_eq!(opened.trust, Trust::SameBootCrash, "killed after {lines} lines");
        let engine: Arc<dyn Engine> = opened.engine;
        let marked = check_batches(&*engine.tree("batches").expect("tree"));
        check_refilled(&*engine.tree("refilled").expect("tree"));
        assert!(marked >= reached, "what was found once stays: {marked} after {reached}");
        reached = marked;
    }
    assert!(reached > 100, "the kills let the writer come far: {reached}");
}
