//! What reads are promised, key by key.

use std::collections::BTreeMap;

use crate::model::{Level, Mark, Seen};
use crate::operations::{At, KeyOperations, Operations, Read, Write};
use crate::register::Register;
use crate::resets;
use crate::verdict::{Rule, Violation};

/// A read returns what was put, before the read ended, by a write that may have been applied, and with its event time.
pub fn no_phantoms(operations: &Operations) -> Vec<Violation> {
    operations.keys.values().filter_map(phantom).collect()
}

fn phantom(operations: &KeyOperations) -> Option<Violation> {
    let puts: BTreeMap<&str, &Write> =
        operations.writes.iter().filter_map(|write| Some((write.call.change.value()?.as_str(), write))).collect();
    operations.reads.iter().find_map(|read| {
        let Seen::Value { value, event_time } = &read.seen else { return None };
        let told = vec![(read.invoked.i, read.told())];
        let violation = |claim: String, mut story: Vec<(u64, String)>, put: Option<&&Write>| {
            story.extend(put.map(|put| (put.invoked.i, put.told())));
            Some(Violation::new(Rule::NoPhantom, Some(&read.key), claim, story))
        };
        let put = puts.get(value.as_str());
        let Some(write) = put else {
            let failed = |call: &&crate::model::WriteCall| call.change.value() == Some(value);
            let claim = match operations.failed.iter().find(failed) {
                Some(call) => {
                    format!("a read saw {value}, whose put (write id {}) certainly had no effect", call.write_id)
                }
                None => format!("a read saw {value}, which nobody put"),
            };
            return violation(claim, told, None);
        };
        if write.invoked > read.returned {
            return violation("a read saw a value that was put later".to_owned(), told, put);
        }
        if event_time.is_some_and(|seen| seen != write.call.event_time) {
            let claim = format!("the value came with the event time {}", event_time.unwrap_or_default());
            return violation(claim, told, put);
        }
        None
    })
}

/// How the check of linearizability went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Linearizability {
    /// What was found, at most one for each key.
    pub violations: Vec<Violation>,
    /// Keys with hard deletes that only the weaker rule could be used on.
    pub weakly_checked: u64,
}

/// Linearizable reads and acknowledged writes fit one order that real time allows.
pub fn linearizable(operations: &Operations) -> Linearizability {
    let mut found = Linearizability::default();
    for operations in operations.keys.values() {
        let (violation, exact) = check_strong(operations, |read| read.level == Level::Linearizable);
        found.violations.extend(violation);
        found.weakly_checked += u64::from(!exact);
    }
    found
}

fn check_strong(operations: &KeyOperations, is_strong: impl Fn(&Read) -> bool) -> (Option<Violation>, bool) {
    let reads: Vec<&Read> = operations.reads.iter().filter(|read| is_strong(read)).collect();
    if resets::has_resets(operations) {
        return resets::check(operations, &reads);
    }
    (register_of(operations, &reads).check(), true)
}

fn register_of<'a>(operations: &'a KeyOperations, reads: &[&'a Read]) -> Register<'a> {
    Register::new(&operations.writes.iter().collect::<Vec<_>>(), reads)
}

fn strong_register(operations: &KeyOperations) -> Register<'_> {
    let strong: Vec<&Read> = operations.reads.iter().filter(|read| read.level == Level::Linearizable).collect();
    register_of(operations, &strong)
}

fn keys_without_resets(operations: &Operations) -> impl Iterator<Item = &KeyOperations> {
    operations.keys.values().filter(|operations| !resets::has_resets(operations))
}

/// Reads at bounded staleness see what was acknowledged or seen longer ago than the bound; and reads at every weaker
/// level see only what was current at some time before they ended.
pub fn bounded_staleness(operations: &Operations) -> Vec<Violation> {
    let check = |operations: &KeyOperations| {
        let register = strong_register(operations);
        operations.reads.iter().find_map(|read| match read.level {
            Level::Linearizable => None,
            Level::BoundedStaleness { max_staleness_ms } => {
                let earliest = read.invoked.t_ns.saturating_sub(max_staleness_ms.saturating_mul(1_000_000));
                register.check_weak(read, Rule::BoundedStaleness, |end| end.t_ns < earliest)
            }
            Level::Session | Level::Eventual => register.check_weak(read, Rule::Linearizable, |_| false),
        })
    };
    keys_without_resets(operations).filter_map(check).collect()
}

/// Reads at session level see the acknowledged writes of their session, and with `monotonic_reads` also what the
/// session's reads saw before.
///
/// Granary's sessions are made of writes, so it promises the first and not the second.
pub fn sessions(operations: &Operations, monotonic_reads: bool) -> Vec<Violation> {
    keys_without_resets(operations).filter_map(|operations| session_of_key(operations, monotonic_reads)).collect()
}

/// Since when a session must see a write, and why.
struct Floor {
    since: At,
    write: usize,
    claim: &'static str,
}

fn session_of_key(operations: &KeyOperations, monotonic_reads: bool) -> Option<Violation> {
    let register = strong_register(operations);
    let mut floors: BTreeMap<u64, Vec<Floor>> = BTreeMap::new();
    for (index, write) in register.writes().iter().enumerate() {
        if let (Some(session), Some((at, _))) = (write.session, write.acked) {
            let claim = "a read did not see a write that its session had acknowledged before";
            floors.entry(session).or_default().push(Floor { since: at, write: index, claim });
        }
    }
    let session_reads = || operations.reads.iter().filter(|read| read.level == Level::Session);
    for read in session_reads().filter(|_| monotonic_reads) {
        if let (Some(session), Some(put)) = (read.session, register.put_of(read)) {
            let claim = "a read saw less than an earlier read of its session";
            floors.entry(session).or_default().push(Floor { since: read.returned, write: put, claim });
        }
    }
    for floors in floors.values_mut() {
        rise(floors, &register);
    }
    session_reads().find_map(|read| {
        let floors = floors.get(&read.session?)?;
        let known = floors.partition_point(|floor| floor.since < read.invoked);
        let floor = &floors[known.checked_sub(1)?];
        register.check_floor(read, floor.write, Rule::Session, floor.claim)
    })
}

/// Puts floors into the order of time, each the highest so far: by event time, then by the later beginning.
fn rise(floors: &mut [Floor], register: &Register<'_>) {
    floors.sort_by_key(|floor| floor.since);
    let height = |floor: &Floor| {
        let write = register.writes()[floor.write];
        (write.call.event_time, write.invoked)
    };
    for next in 1..floors.len() {
        if height(&floors[next]) < height(&floors[next - 1]) {
            (floors[next].write, floors[next].claim) = (floors[next - 1].write, floors[next - 1].claim);
        }
    }
}

/// After [`Mark::Final`] a read at any level is as good as a linearizable one.
pub fn eventual(operations: &Operations) -> Vec<Violation> {
    let Some(end) = operations.marks.get(&Mark::Final) else { return Vec::new() };
    let check = |operations: &KeyOperations| {
        let as_promised = check_strong(operations, |read| read.level == Level::Linearizable).0;
        if as_promised.is_some() {
            return None;
        }
        let is_strong = |read: &Read| read.level == Level::Linearizable || read.invoked > *end;
        let mut violation = check_strong(operations, is_strong).0?;
        violation.rule = Rule::Eventual;
        Some(violation)
    };
    operations.keys.values().filter_map(check).collect()
}

/// The final linearizable reads hold every acknowledged write: each key with one has such a read, and it saw the
/// newest acknowledged version or a newer one. `None` without [`Mark::Final`].
pub fn durable(operations: &Operations) -> Option<Vec<Violation>> {
    let end = *operations.marks.get(&Mark::Final)?;
    Some(operations.keys.values().filter_map(|operations| lost(operations, end)).collect())
}

fn lost(operations: &KeyOperations, end: At) -> Option<Violation> {
    let acked = operations.writes.iter().filter(|write| write.acked.is_some());
    let newest = acked.max_by_key(|write| (write.call.event_time, write.invoked))?;
    let is_final = |read: &&Read| read.level == Level::Linearizable && read.invoked > end;
    let finals: Vec<&Read> = operations.reads.iter().filter(is_final).collect();
    if finals.is_empty() {
        let claim = "an acknowledged write is not proved to have survived: its key has no final linearizable read";
        let story = vec![(newest.invoked.i, newest.told())];
        return Some(Violation::new(Rule::Durable, Some(&newest.call.key), claim, story));
    }
    if resets::has_resets(operations) {
        return None;
    }
    let register = strong_register(operations);
    let floor = register.writes().iter().position(|write| write.call.write_id == newest.call.write_id)?;
    let claim = "an acknowledged write is lost: the final read saw an older version";
    finals.into_iter().find_map(|read| register.check_floor(read, floor, Rule::Durable, claim))
}
