//! The oracle's oracle: every order that real time allows is tried. Slow, obvious, and only for small histories.

use std::collections::HashSet;

use granary_history::model::{Change, Seen};
use granary_history::operations::{Read, Write};

/// An operation, and when it may take effect.
pub(crate) struct Step<'a> {
    pub(crate) op: Op<'a>,
    pub(crate) from: u64,
    /// `u64::MAX`: it may also never take effect.
    pub(crate) to: u64,
    /// Steps that come before it.
    pub(crate) after: Vec<usize>,
}

pub(crate) enum Op<'a> {
    Write(&'a Write),
    Read(&'a Seen),
}

impl<'a> Step<'a> {
    pub(crate) fn of_write(write: &'a Write) -> Self {
        let to = write.acked.map_or(u64::MAX, |(at, _)| at.i);
        Self { op: Op::Write(write), from: write.invoked.i, to, after: Vec::new() }
    }

    pub(crate) fn of_read(read: &'a Read) -> Self {
        Self { op: Op::Read(&read.seen), from: read.invoked.i, to: read.returned.i, after: Vec::new() }
    }
}

/// Whether some order explains the steps.
pub(crate) fn explains(steps: &[Step<'_>]) -> bool {
    assert!(steps.len() <= 16, "too many to try");
    search(steps, 0, None, &mut HashSet::new())
}

/// `done` has a bit for each step taken; `current` is the write whose version the register has.
fn search(steps: &[Step<'_>], done: u32, current: Option<usize>, tried: &mut HashSet<(u32, Option<usize>)>) -> bool {
    let left: Vec<usize> = (0..steps.len()).filter(|step| done & (1 << step) == 0).collect();
    if left.iter().all(|step| steps[*step].to == u64::MAX) {
        return true;
    }
    if !tried.insert((done, current)) {
        return false;
    }
    let first_end = left.iter().map(|step| steps[*step].to).min().expect("something is left");
    left.into_iter().any(|step| {
        let may_be_next =
            steps[step].from <= first_end && steps[step].after.iter().all(|before| done & (1 << before) != 0);
        may_be_next && after(steps, step, current).is_some_and(|next| search(steps, done | (1 << step), next, tried))
    })
}

/// The register after the step; `None` when the step cannot be taken here with the outcome it had.
fn after(steps: &[Step<'_>], step: usize, current: Option<usize>) -> Option<Option<usize>> {
    let write_at = |place: usize| match steps[place].op {
        Op::Write(write) => write,
        Op::Read(_) => unreachable!("only writes become current"),
    };
    match steps[step].op {
        Op::Read(seen) => {
            let value = current.and_then(|place| write_at(place).call.change.value());
            let fits = match seen {
                Seen::Value { value: seen, .. } => value == Some(seen),
                Seen::Absent => value.is_none(),
                Seen::Error => true,
            };
            fits.then_some(current)
        }
        Op::Write(write) => {
            let newer = current.is_some_and(|place| write_at(place).call.event_time > write.call.event_time);
            let must_show = write.acked.is_some_and(|(_, ack)| ack.became_online == Some(true));
            match write.call.change {
                Change::HardDelete => {
                    let is_live = |place| write_at(place).call.change.value().is_some();
                    let stale = newer && current.is_some_and(is_live);
                    match (stale, write.acked) {
                        (true, Some(_)) => None,
                        (true, None) => Some(current),
                        (false, _) => Some(None),
                    }
                }
                _ if newer => (!must_show).then_some(current),
                _ => Some(Some(step)),
            }
        }
    }
}
