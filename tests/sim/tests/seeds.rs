//! What every run of the tests asks of the simulation: all seeds that ever failed, some fresh ones, and that one seed
//! gives one history.

use std::path::Path;
use std::process::Command;

/// How many seeds nobody has tried before.
const FRESH: &str = "10";

fn many(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_granary-sim")).arg("many").args(args).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "granary-sim many {args:?}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

#[test]
fn seeds_that_failed_once_hold() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("failed-seeds.txt");
    let listed = std::fs::read_to_string(file).expect("the list is there");
    for line in listed.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (seed, seconds) = (words.next().expect("a seed"), words.next().expect("seconds"));
        many(&["--from", seed, "--seeds", "1", "--seconds", seconds]);
    }
}

#[test]
fn fresh_seeds_hold() {
    many(&["--seeds", FRESH]);
}

#[test]
fn one_seed_gives_one_history() {
    many(&["--from", "7", "--seeds", "3", "--twice"]);
}
