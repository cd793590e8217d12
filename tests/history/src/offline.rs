//! The offline tables: each event exactly once, and offsets that are true.
//!
//! The history holds all rows and all offsets that were read from the tables of every group ([`TableRow`],
//! [`TableOffset`]), after [`Mark::OfflineComplete`] if what was acknowledged was waited for. Rows are told apart by write id.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Change, History, Key, Mark, TableOffset, TableRow, What, WriteCall};
use crate::operations::{Operations, Write};
use crate::verdict::{Rule, Violation};

/// Rows and offsets as they were read.
#[derive(Debug, Default)]
struct Tables<'a> {
    rows: Vec<(u64, &'a TableRow)>,
    offsets: Vec<(u64, &'a TableOffset)>,
    complete: bool,
}

/// The rows are the acknowledged writes, each once, and some of those of unknown outcome, each at most once, and one
/// marker for each record that expired; their
/// contents are what was written; streams are dense up to the offsets that all groups have reached; no row is past
/// its table's offset. `None` when no table was read.
pub fn offline(history: &History, operations: &Operations) -> Option<Vec<Violation>> {
    let tables = tables_of(history);
    if tables.rows.is_empty() && tables.offsets.is_empty() && !tables.complete {
        return None;
    }
    let mut violations = once(&tables, operations);
    violations.extend(updates(&tables, operations));
    violations.extend(gaps(&tables));
    violations.extend(past_offset(&tables));
    Some(violations)
}

fn tables_of(history: &History) -> Tables<'_> {
    let mut tables = Tables::default();
    for event in &history.events {
        match &event.what {
            What::TableRow(row) => tables.rows.push((event.i, row)),
            What::TableOffset(offset) => tables.offsets.push((event.i, offset)),
            What::Mark(Mark::OfflineComplete) => tables.complete = true,
            _ => {}
        }
    }
    tables
}

fn told(row: &(u64, &TableRow)) -> (u64, String) {
    let (i, TableRow { key, write_id, value, event_time, stream, sequence, .. }) = row;
    let value = value.as_deref().unwrap_or("a delete");
    let place = format!("stream {stream}, sequence {sequence}");
    (
        *i,
        format!("the table has {key} = {value} for event time {event_time}, write id {write_id} ({place}; line i={i})"),
    )
}

fn once(tables: &Tables<'_>, operations: &Operations) -> Vec<Violation> {
    let mut rows: BTreeMap<&str, Vec<&(u64, &TableRow)>> = BTreeMap::new();
    for row in &tables.rows {
        rows.entry(&row.1.write_id).or_default().push(row);
    }
    let mut found = Vec::new();
    let mut violation = |key: &Key, claim: &str, story: Vec<(u64, String)>| {
        found.push(Violation::new(Rule::OfflineOnce, Some(key), claim, story));
    };
    for (key, operations) in &operations.keys {
        for write in &operations.writes {
            let here = rows.remove(write.call.write_id.as_str()).unwrap_or_default();
            let mut story: Vec<(u64, String)> = here.iter().map(|row| told(row)).collect();
            story.push((write.invoked.i, write.told()));
            match here.as_slice() {
                [] if write.acked.is_some() && tables.complete => {
                    violation(key, "an acknowledged write is not in the offline table", story);
                }
                [] => {}
                [row] if holds(row.1, write) => {}
                [_] => violation(key, "the offline table has something else than was written", story),
                _ => violation(key, "a write is in the offline table more than once", story),
            }
        }
        for call in &operations.failed {
            if let Some(here) = rows.remove(call.write_id.as_str()) {
                let story = here.into_iter().map(told).collect();
                violation(key, "a write that certainly failed is in the offline table", story);
            }
        }
    }
    found.extend(expiries(rows.into_values().flatten().collect(), tables, operations));
    found
}

/// Rows that no client wrote: each is the marker of another record that expired, at the time of its expiry. A record that
/// nobody wrote to again has its marker.
fn expiries(rows: Vec<&(u64, &TableRow)>, tables: &Tables<'_>, operations: &Operations) -> Vec<Violation> {
    let mut markers: BTreeMap<(&Key, i64), Vec<&(u64, &TableRow)>> = BTreeMap::new();
    for row in rows {
        markers.entry((&row.1.key, row.1.event_time)).or_default().push(row);
    }
    let mut found = Vec::new();
    let mut violation = |key: &Key, claim: &str, story: Vec<(u64, String)>| {
        found.push(Violation::new(Rule::OfflineOnce, Some(key), claim, story));
    };
    for (key, operations) in &operations.keys {
        for write in &operations.writes {
            let Change::Fleeting { lives, .. } = write.call.change else { continue };
            let here = markers.remove(&(key, write.call.event_time + lives)).unwrap_or_default();
            let was_there = tables.rows.iter().any(|row| row.1.write_id == write.call.write_id);
            let mut story: Vec<(u64, String)> = here.iter().map(|row| told(row)).collect();
            story.push((write.invoked.i, write.told()));
            match here.as_slice() {
                [] if was_there && tables.complete && operations.writes.len() == 1 => {
                    violation(key, "an expired record has no marker in the offline table", story);
                }
                [] => {}
                [marker] if marker.1.value.is_none() && was_there => {}
                _ => violation(key, "the offline table has more than the marker of an expired record", story),
            }
        }
    }
    for ((key, _), here) in markers {
        violation(key, "the offline table has a row that nobody wrote", here.into_iter().map(told).collect());
    }
    found
}

fn holds(row: &TableRow, write: &Write) -> bool {
    let WriteCall { key, change, event_time, .. } = &write.call;
    // A put puts the same text in both places; what an update keeps is for `updates` to say.
    let kept = !matches!(change, Change::Put { .. }) || row.kept.is_none() || row.kept.as_ref() == change.value();
    row.key == *key && row.value.as_ref() == change.value() && row.event_time == *event_time && kept
}

/// A record as a fold of its rows finds it: the row that stands; `None` when nothing does, or what does is a delete.
#[derive(Default)]
struct Standing<'a> {
    event_time: Option<i64>,
    live: Option<&'a (u64, &'a TableRow)>,
}

impl<'a> Standing<'a> {
    /// Takes the next row of the stream; rows of equal event times go to the later one.
    fn take(&mut self, change: &Change, row: &'a (u64, &'a TableRow)) {
        if *change == Change::HardDelete {
            *self = Self::default();
        } else if self.event_time.is_none_or(|standing| standing <= row.1.event_time) {
            let live = change.value().map(|_| row);
            *self = Self { event_time: Some(row.1.event_time), live };
        }
    }
}

/// An update stands on the record as it was right before it in the order of its stream: there was one, not newer than
/// the update, and what the update does not name is still the same.
fn updates(tables: &Tables<'_>, operations: &Operations) -> Vec<Violation> {
    let changes: BTreeMap<&str, &Change> = operations
        .keys
        .values()
        .flat_map(|operations| &operations.writes)
        .map(|write| (write.call.write_id.as_str(), &write.call.change))
        .collect();
    let mut rows: Vec<_> = tables.rows.iter().collect();
    rows.sort_by_key(|row| (&row.1.stream, row.1.sequence));
    let mut records: BTreeMap<&Key, Standing<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    for row in rows {
        let Some(change) = changes.get(row.1.write_id.as_str()) else { continue };
        let standing = records.entry(&row.1.key).or_default();
        if matches!(change, Change::Update { .. }) {
            let base = standing.live.filter(|base| base.1.event_time <= row.1.event_time);
            if base.is_none_or(|base| base.1.kept != row.1.kept) {
                let mut story = vec![told(row)];
                story.extend(standing.live.map(told));
                let claim = match (base, &row.1.kept) {
                    (None, _) => "an update was applied to no record, or to a newer one".to_owned(),
                    (Some(_), kept) => format!("an update stands on a record that was not there any more: {kept:?}"),
                };
                found.push(Violation::new(Rule::UpdateStandsOn, Some(&row.1.key), claim, story));
            }
        }
        standing.take(change, row);
    }
    found
}

/// Sequence numbers of a stream are shared by the groups; up to the lowest offset of all of them none may be missing.
fn gaps(tables: &Tables<'_>) -> Vec<Violation> {
    let mut sequences: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut found = Vec::new();
    for row in &tables.rows {
        let TableRow { stream, sequence, .. } = row.1;
        if !sequences.entry(stream).or_default().insert(*sequence) {
            let twins = tables.rows.iter().filter(|other| (&other.1.stream, other.1.sequence) == (stream, *sequence));
            let claim = "two rows stand at one position of a stream";
            found.push(Violation::new(Rule::OfflineOffset, None, claim, twins.map(told).collect()));
        }
    }
    for (stream, lowest) in lowest_offsets(tables) {
        let present = sequences.remove(stream).unwrap_or_default();
        if let Some(missing) = (1..=lowest.1.sequence).find(|sequence| !present.contains(sequence)) {
            let claim = format!("event {missing} of stream {stream} is missing, though every table is past it");
            found.push(Violation::new(Rule::OfflineOffset, None, claim, vec![offset_told(lowest)]));
        }
    }
    found
}

fn lowest_offsets<'a>(tables: &'a Tables<'_>) -> BTreeMap<&'a str, &'a (u64, &'a TableOffset)> {
    let mut lowest: BTreeMap<&str, &(u64, &TableOffset)> = BTreeMap::new();
    for offset in &tables.offsets {
        let known = lowest.entry(&offset.1.stream).or_insert(offset);
        if offset.1.sequence < known.1.sequence {
            *known = offset;
        }
    }
    lowest
}

fn offset_told((i, offset): &(u64, &TableOffset)) -> (u64, String) {
    let TableOffset { group, stream, sequence } = offset;
    (*i, format!("the table of {group} has taken in stream {stream} up to {sequence} (line i={i})"))
}

/// Rows and offset are one commit: a row past its table's offset would be written again.
fn past_offset(tables: &Tables<'_>) -> Vec<Violation> {
    let offsets: BTreeMap<(&str, &str), &(u64, &TableOffset)> =
        tables.offsets.iter().map(|offset| ((offset.1.group.as_str(), offset.1.stream.as_str()), offset)).collect();
    let past = tables.rows.iter().find_map(|row| {
        let offset = offsets.get(&(row.1.key.group.as_str(), row.1.stream.as_str())).copied();
        if offset.is_some_and(|(_, offset)| row.1.sequence <= offset.sequence) {
            return None;
        }
        let mut story = vec![told(row)];
        story.extend(offset.map(offset_told));
        let claim = "a row is past its table's offset, or its stream has no offset there";
        Some(Violation::new(Rule::OfflineOffset, Some(&row.1.key), claim, story))
    });
    past.into_iter().collect()
}
