//! Records with hard deletes: what is checked where a reset lets the event time fall.
//!
//! Two rules, both sound:
//!
//! - *Gone is gone*, for every such record: a put is applied once, so the time in which its value is current is one
//!   interval. From the first end of an operation on the value to the last beginning of a read of it, it was current.
//!   No other value may claim a moment in between, and no acknowledged hard delete, nor an acknowledged write with an
//!   event time that is not older, may lie inside. So a value never comes back, neither from before a reset nor after
//!   it was replaced.
//! - *Generations*, where every hard delete was acknowledged and no other write was under way beside it: between two
//!   resets the record is a register that begins absent, and the exact rule holds (see `register`). This is
//!   what sees that a reset forgot the event time. Writes of unknown outcome may land in any later generation. A read
//!   that overlaps a reset is counted only where its value says to which side it belongs.
//!
//! Not checked on such records: reads at weaker levels, except for phantoms; and the exact rule where hard deletes
//! overlap other writes or have unknown outcomes.

use std::collections::BTreeMap;

use crate::model::{Change, Seen};
use crate::operations::{At, KeyOperations, Read, Write};
use crate::register::Register;
use crate::verdict::{Rule, Violation};

/// Whether a record's writes need this module.
pub(crate) fn has_resets(operations: &KeyOperations) -> bool {
    operations.writes.iter().any(|write| write.call.change == Change::HardDelete)
}

/// What was found, and whether the exact rule could be used.
pub(crate) fn check(operations: &KeyOperations, reads: &[&Read]) -> (Option<Violation>, bool) {
    let generations = generations(operations, reads);
    let exact = generations.is_some();
    let violation = gone_is_gone(operations, reads).or_else(|| {
        generations.into_iter().flatten().find_map(|(writes, reads)| Register::new(&writes, &reads).check())
    });
    (violation, exact)
}

/// The time in which a value was current for certain.
struct Reign<'a> {
    write: &'a Write,
    from: (At, String),
    to: (At, &'a Read),
}

fn gone_is_gone(operations: &KeyOperations, reads: &[&Read]) -> Option<Violation> {
    let mut reigns = reigns(operations, reads);
    reigns.sort_by_key(|reign| reign.from.0);
    let violation = |reign: &Reign<'_>, told: Vec<(u64, String)>, claim: &str| {
        let mut story = vec![
            (reign.write.invoked.i, reign.write.told()),
            (reign.from.0.i, reign.from.1.clone()),
            (reign.to.0.i, reign.to.1.told()),
        ];
        story.extend(told);
        Some(Violation::new(Rule::Linearizable, Some(&reign.write.call.key), claim, story))
    };
    for pair in reigns.windows(2) {
        if pair[1].from.0 < pair[0].to.0 {
            let second = &pair[1];
            let told = vec![(second.write.invoked.i, second.write.told()), (second.to.0.i, second.to.1.told())];
            return violation(&pair[0], told, "two values were each current while the other was");
        }
    }
    let around = |invoked: At, returned: At| {
        let after = reigns.partition_point(|reign| reign.from.0 < invoked);
        let reign = reigns.get(after.checked_sub(1)?)?;
        (returned < reign.to.0).then_some(reign)
    };
    for read in reads {
        let Some(reign) = around(read.invoked, read.returned) else { continue };
        if value_of(read) != value_put(reign.write) {
            return violation(reign, vec![(read.invoked.i, read.told())], "a value was gone and came back");
        }
    }
    for write in &operations.writes {
        let Some((acked, _)) = write.acked else { continue };
        let Some(reign) = around(write.invoked, acked) else { continue };
        let replaces = write.call.change == Change::HardDelete || write.call.event_time >= reign.write.call.event_time;
        if replaces && write.call.write_id != reign.write.call.write_id {
            return violation(reign, vec![(write.invoked.i, write.told())], "a value was replaced and came back");
        }
    }
    None
}

fn reigns<'a>(operations: &'a KeyOperations, reads: &[&'a Read]) -> Vec<Reign<'a>> {
    let mut seen: BTreeMap<&str, Vec<&Read>> = BTreeMap::new();
    for read in reads {
        if let Some(value) = value_of(read) {
            seen.entry(value).or_default().push(read);
        }
    }
    let reign = |write: &'a Write| {
        let reads = seen.get(value_put(write)?)?;
        let last = reads.iter().copied().max_by_key(|read| read.invoked)?;
        let first = reads.iter().copied().min_by_key(|read| read.returned)?;
        let from = match write.acked {
            Some((at, _)) if at < first.returned => (at, write.told()),
            _ => (first.returned, first.told()),
        };
        (from.0 < last.invoked).then_some(Reign { write, from, to: (last.invoked, last) })
    };
    operations.writes.iter().filter_map(reign).collect()
}

fn value_of(read: &Read) -> Option<&str> {
    match &read.seen {
        Seen::Value { value, .. } => Some(value),
        Seen::Absent | Seen::Error => None,
    }
}

fn value_put(write: &Write) -> Option<&str> {
    write.call.change.value().map(String::as_str)
}

type Generation<'a> = (Vec<&'a Write>, Vec<&'a Read>);

/// The record's writes and reads between its resets; `None` where they cannot be told apart.
fn generations<'a>(operations: &'a KeyOperations, reads: &[&'a Read]) -> Option<Vec<Generation<'a>>> {
    let (resets, others): (Vec<&Write>, Vec<&Write>) =
        operations.writes.iter().partition(|write| write.call.change == Change::HardDelete);
    let resets: Vec<(At, At)> =
        resets.into_iter().map(|reset| Some((reset.invoked, reset.acked?.0))).collect::<Option<_>>()?;
    if resets.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return None;
    }
    let mut generations: Vec<Generation<'a>> = vec![(Vec::new(), Vec::new()); resets.len() + 1];
    let mut generation_of_value = BTreeMap::new();
    for write in others {
        // Resets that are over when the write begins, and those that began before it ended.
        let first = resets.partition_point(|(_, ended)| *ended < write.invoked);
        let last = write.acked.map_or(resets.len(), |(at, _)| resets.partition_point(|(begun, _)| *begun < at));
        if write.acked.is_some() && first != last {
            return None;
        }
        if write.acked.is_none() && resets.get(first).is_some_and(|(begun, _)| *begun < write.invoked) {
            return None;
        }
        for generation in &mut generations[first..=last] {
            generation.0.push(write);
        }
        if let Some(value) = value_put(write).filter(|_| write.acked.is_some()) {
            generation_of_value.insert(value, first);
        }
    }
    for read in reads {
        let first = resets.partition_point(|(_, ended)| *ended < read.invoked);
        let last = resets.partition_point(|(begun, _)| *begun < read.returned);
        let by_value = value_of(read).and_then(|value| generation_of_value.get(value).copied());
        let fits = by_value.filter(|own| (first..=last).contains(own));
        if let Some(own) = if first == last { Some(first) } else { fits } {
            generations[own].1.push(read);
        }
    }
    Some(generations)
}
