//! All checkers over one history, and what they had to go by.

use std::fmt;

use crate::levels::{bounded_staleness, durable, eventual, linearizable, no_phantoms, sessions};
use crate::log_order::log_order;
use crate::model::{Call, Change, History, Level, Mark, Outcome, What};
use crate::offline::offline;
use crate::operations::{Malformed, Operations, Write};
use crate::replicas::replicas_equal;
use crate::verdict::Violation;

/// What the system is held to beyond what every history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promises {
    /// Reads of one session never see less than its reads before them. Granary's sessions are made of writes only.
    pub monotonic_reads: bool,
}

/// How much there was to go by: a check of nothing finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records.
    pub keys: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Those of them that are updates.
    pub updated: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Writes that certainly failed.
    pub failed: u64,
    /// Completed reads of one key by level: linearizable, session, bounded staleness, eventual.
    pub reads: [u64; 4],
    /// Reads that failed.
    pub reads_failed: u64,
    /// Faults that were seen to be in force.
    pub faults: u64,
    /// Offline rows.
    pub rows: u64,
    /// Shard states seen on more than one replica.
    pub states_compared: u64,
    /// Keys with hard deletes whose linearizability could only be checked by the weaker rule.
    pub weakly_checked: u64,
}

/// What the checkers say of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How much there was to go by.
    pub counts: Counts,
    /// What was found.
    pub violations: Vec<Violation>,
    /// What could not be checked, and why.
    pub unchecked: Vec<&'static str>,
}

/// Runs every checker.
///
/// # Errors
/// A history that was recorded wrongly.
pub fn check(history: &History, promises: Promises) -> Result<Report, Malformed> {
    let operations = Operations::of(history)?;
    let mut counts = count(history, &operations);
    let mut unchecked = Vec::new();
    let mut violations = no_phantoms(&operations);
    let linearizability = linearizable(&operations);
    counts.weakly_checked = linearizability.weakly_checked;
    violations.extend(linearizability.violations);
    violations.extend(sessions(&operations, promises.monotonic_reads));
    violations.extend(bounded_staleness(&operations));
    violations.extend(eventual(&operations));
    match durable(&operations) {
        Some(found) => violations.extend(found),
        None => unchecked.push("durability and final equality: the history has no final mark"),
    }
    violations.extend(log_order(&operations));
    match offline(history, &operations) {
        Some(found) => violations.extend(found),
        None => unchecked.push("the offline store: no table was read"),
    }
    if !operations.marks.contains_key(&Mark::OfflineComplete) {
        unchecked.push("that acknowledged writes reached the offline store: it was not waited for");
    }
    let replicas = replicas_equal(history);
    counts.states_compared = replicas.compared;
    violations.extend(replicas.violations);
    if counts.states_compared == 0 {
        unchecked.push("replicas: no two were seen at one applied index");
    }
    Ok(Report { counts, violations, unchecked })
}

fn count(history: &History, operations: &Operations) -> Counts {
    let mut counts = Counts { keys: operations.keys.len() as u64, ..Counts::default() };
    for key in operations.keys.values() {
        let acknowledged = || key.writes.iter().filter(|write| write.acked.is_some());
        counts.acknowledged += acknowledged().count() as u64;
        let is_update = |write: &&Write| matches!(write.call.change, Change::Update { .. });
        counts.updated += acknowledged().filter(is_update).count() as u64;
        counts.unknown += key.writes.iter().filter(|write| write.acked.is_none()).count() as u64;
        counts.failed += key.failed.len() as u64;
        for read in &key.reads {
            counts.reads[place(read.level)] += 1;
        }
    }
    let mut calls = std::collections::BTreeMap::new();
    for event in &history.events {
        match &event.what {
            What::Invoke { process, call, .. } => {
                calls.insert(*process, matches!(call, Call::Read(_)));
            }
            What::Return { process, outcome: Outcome::Failed { .. } | Outcome::Unknown { .. }, .. } => {
                counts.reads_failed += u64::from(calls.get(process).copied().unwrap_or(false));
            }
            What::Fault(fault) if fault.installed == crate::model::Installed::Yes => {
                counts.faults += u64::from(fault.edge != crate::model::Edge::End);
            }
            What::TableRow(_) => counts.rows += 1,
            _ => {}
        }
    }
    counts
}

fn place(level: Level) -> usize {
    match level {
        Level::Linearizable => 0,
        Level::Session => 1,
        Level::BoundedStaleness { .. } => 2,
        Level::Eventual => 3,
    }
}

impl Report {
    /// Whether nothing was found.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { keys, acknowledged, updated, unknown, failed, reads, reads_failed, faults, rows, .. } =
            self.counts;
        let Counts { states_compared, weakly_checked, .. } = self.counts;
        write!(f, "{keys} keys; writes: {acknowledged} acknowledged, of which {updated} updates, ")?;
        writeln!(f, "{unknown} unknown, {failed} failed")?;
        let [linearizable, session, bounded, eventual] = reads;
        write!(f, "reads: {linearizable} linearizable, {session} session, {bounded} bounded staleness, ")?;
        writeln!(f, "{eventual} eventual, {reads_failed} without an answer")?;
        writeln!(f, "{faults} faults in force; {rows} offline rows; {states_compared} states compared")?;
        if weakly_checked > 0 {
            writeln!(f, "{weakly_checked} keys with overlapping hard deletes checked by the weaker rule")?;
        }
        for what in &self.unchecked {
            writeln!(f, "not checked: {what}")?;
        }
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        let count = self.violations.len();
        if count == 0 { write!(f, "every promise that was checked holds") } else { write!(f, "{count} violations") }
    }
}
