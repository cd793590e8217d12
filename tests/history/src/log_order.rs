//! The order that acknowledgements tell: log indexes and stamps of one shard rise with real time.
//!
//! Of two writes to one shard, if the first was acknowledged before the second began, the second has the later log
//! index and the later stamp. (A retry is told the index of the entry that recognised it, which is later than the
//! first one's and still before the acknowledgement, so this holds for it too.) And no two writes have one stamp. It
//! is an oracle of its own: it sees a log that went back even where no read looked.

use std::collections::BTreeMap;

use crate::operations::{At, Operations, Write};
use crate::verdict::{Rule, Violation};

/// Checks every shard whose acknowledgements tell an index or a stamp.
pub fn log_order(operations: &Operations) -> Vec<Violation> {
    let mut indexes: BTreeMap<u32, Vec<Told<'_>>> = BTreeMap::new();
    let mut stamps: BTreeMap<u32, Vec<Told<'_>>> = BTreeMap::new();
    for write in operations.keys.values().flat_map(|key| &key.writes) {
        let Some((acked, ack)) = write.acked else { continue };
        let Some(shard) = ack.shard else { continue };
        let told = |number| Told { number, acked, write };
        indexes.entry(shard).or_default().extend(ack.log_index.map(told));
        stamps.entry(shard).or_default().extend(ack.stamp.map(told));
    }
    let backwards = indexes.values().filter_map(|told| backwards(told, "log index"));
    let backwards = backwards.chain(stamps.values().filter_map(|told| backwards_or_twice(told)));
    backwards.collect()
}

#[derive(Clone, Copy)]
struct Told<'a> {
    number: u64,
    acked: At,
    write: &'a Write,
}

fn backwards(told: &[Told<'_>], what: &str) -> Option<Violation> {
    let mut by_end: Vec<&Told<'_>> = told.iter().collect();
    let mut by_begin = by_end.clone();
    by_end.sort_by_key(|told| told.acked);
    by_begin.sort_by_key(|told| told.write.invoked);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Told<'_>> = None;
    for later in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.acked < later.write.invoked) {
            highest = highest.filter(|highest| highest.number >= earlier.number).or(Some(earlier));
        }
        if let Some(earlier) = highest.filter(|earlier| earlier.number >= later.number) {
            let claim = format!("a write began after another of its shard was acknowledged and has no later {what}");
            return Some(violation(claim, [earlier, later]));
        }
    }
    None
}

fn backwards_or_twice(told: &[Told<'_>]) -> Option<Violation> {
    let mut by_stamp = BTreeMap::new();
    let twice = told.iter().find_map(|later| {
        let earlier = by_stamp.insert(later.number, later)?;
        Some(violation("two writes of one shard have the same stamp".to_owned(), [earlier, later]))
    });
    twice.or_else(|| backwards(told, "stamp"))
}

fn violation(claim: String, told: [&Told<'_>; 2]) -> Violation {
    let story = told.map(|told| (told.write.invoked.i, told.write.told())).to_vec();
    Violation::new(Rule::LogOrder, None, claim, story)
}
