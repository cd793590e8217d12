//! One record as a register, and the exact rule for its linearizability.
//!
//! The sequential object: a put or soft delete for the event time `e` becomes the current version if `e` is not older
//! than the current one's event time; a read returns the current version; a soft delete reads as absent, as does the
//! beginning. (The write stamp that settles equal event times is the order itself.)
//!
//! Versions of one event time are a *class*; class 0 is the beginning. The current class never falls, which gives the
//! rule in O(n log n):
//!
//! 1. `D(k)` is the first return of a completed operation on class `k` or later. The register is at class `k` by then,
//!    and may be taken to get there just then: if it got there sooner, all that happened in between can happen at `D(k)`.
//! 2. A read of class `k` therefore fits if and only if `max(inv(read), inv(put)) <= D(k + 1)`.
//! 3. Inside a class the later write wins, an ordinary register with unique values: the operations of each value make a
//!    zone from first return to last invocation; no two forward zones may overlap, and no backward zone may lie inside a
//!    forward one (Gibbons and Korach, "Testing shared memories", 1997). Returns count up to `D(k + 1)`; a put that
//!    may return later may come too late to matter.
//!
//! A read that finds no record does not say which delete it saw. It is counted to the lowest class that fits, raised
//! only where it must: lower classes give the others more room. The rule is exact for histories in which no delete
//! shares its event time with another write of its key; where one does, rule 3 leaves that delete out, which never
//! accuses wrongly and may overlook something.

use std::collections::BTreeMap;

use crate::model::{Change, Seen};
use crate::operations::{At, Read, Write};
use crate::verdict::{Rule, Violation};

const NEVER: At = At { i: u64::MAX, t_ns: u64::MAX };

/// An operation of the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    Write(usize),
    Read(usize),
}

/// A point in real time and the operation whose end it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    at: At,
    by: Option<Op>,
}

impl Bound {
    const NEVER: Self = Self { at: NEVER, by: None };
}

/// The versions of one event time.
#[derive(Debug, Default)]
struct Class {
    writes: Vec<usize>,
    /// The beginning of the first soft delete in it: from then on it may read as absent. Class 0 always may.
    absent_from: Option<At>,
    has_delete: bool,
}

/// All operations on one value.
#[derive(Debug, Clone, Copy)]
struct Zone {
    write: usize,
    /// First return.
    first: Bound,
    /// Last invocation.
    last: Bound,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.first.at < self.last.at
    }
}

/// The register of one record.
#[derive(Debug)]
pub(crate) struct Register<'a> {
    writes: Vec<&'a Write>,
    reads: Vec<&'a Read>,
    by_value: BTreeMap<&'a str, usize>,
    class_of_write: Vec<usize>,
    classes: Vec<Class>,
    /// The class each read is counted to; `None` when no class fits.
    class_of_read: Vec<Option<usize>>,
    /// `D(k)` for each class, and `NEVER` after the last.
    deadlines: Vec<Bound>,
    /// The zones of classes with more than one write, by class.
    zones: BTreeMap<usize, Vec<Zone>>,
}

impl<'a> Register<'a> {
    /// The register of these writes (no hard deletes) and linearizable reads. Reads of values that nobody put are
    /// left out: they are another rule's.
    pub(crate) fn new(writes: &[&'a Write], reads: &[&'a Read]) -> Self {
        let mut register = Self {
            writes: writes.to_vec(),
            reads: Vec::new(),
            by_value: BTreeMap::new(),
            class_of_write: Vec::new(),
            classes: Vec::new(),
            class_of_read: Vec::new(),
            deadlines: Vec::new(),
            zones: BTreeMap::new(),
        };
        register.sort_into_classes();
        let knows = |read: &Read| match &read.seen {
            Seen::Value { value, .. } => register.by_value.contains_key(value.as_str()),
            Seen::Absent => true,
            Seen::Error => false,
        };
        register.reads = reads.iter().copied().filter(|read| knows(read)).collect();
        register.count_reads();
        register.draw_zones();
        register
    }

    fn sort_into_classes(&mut self) {
        let mut times: Vec<i64> = self.writes.iter().map(|write| write.call.event_time).collect();
        times.sort_unstable();
        times.dedup();
        self.classes = (0..=times.len()).map(|_| Class::default()).collect();
        self.classes[0].absent_from = Some(At { i: 0, t_ns: 0 });
        for (index, write) in self.writes.iter().enumerate() {
            let place = times.binary_search(&write.call.event_time).expect("every event time is listed") + 1;
            self.class_of_write.push(place);
            self.classes[place].writes.push(index);
            match &write.call.change {
                Change::Put { value } | Change::Update { value } => {
                    self.by_value.insert(value, index);
                }
                Change::SoftDelete | Change::HardDelete | Change::Fleeting { .. } => {
                    let class = &mut self.classes[place];
                    class.has_delete = true;
                    let from = class.absent_from.map_or(write.invoked, |from| from.min(write.invoked));
                    class.absent_from = Some(from);
                }
            }
        }
    }

    /// The writes it was made of.
    pub(crate) fn writes(&self) -> &[&'a Write] {
        &self.writes
    }

    /// The put that a read saw.
    pub(crate) fn put_of(&self, read: &Read) -> Option<usize> {
        match &read.seen {
            Seen::Value { value, .. } => self.by_value.get(value.as_str()).copied(),
            Seen::Absent | Seen::Error => None,
        }
    }

    /// Counts each read to its class and draws the deadlines, absent reads as low as they fit. Raising one lowers
    /// deadlines, which may raise others; deadlines only fall and classes only rise, so this ends, and at the least
    /// that any order of the operations could do with.
    fn count_reads(&mut self) {
        self.class_of_read =
            self.reads.iter().map(|read| Some(self.put_of(read).map_or(0, |put| self.class_of_write[put]))).collect();
        loop {
            self.draw_deadlines();
            let mut raised = false;
            for read in 0..self.reads.len() {
                let Some(class) = self.class_of_read[read] else { continue };
                if self.put_of(self.reads[read]).is_some() {
                    continue;
                }
                let fits = self.lowest_absent(class, self.reads[read].invoked, self.reads[read].returned);
                raised |= fits != Some(class);
                self.class_of_read[read] = fits;
            }
            if !raised {
                return;
            }
        }
    }

    fn draw_deadlines(&mut self) {
        let mut first = vec![Bound::NEVER; self.classes.len() + 1];
        for (index, write) in self.writes.iter().enumerate() {
            if let Some((at, _)) = write.acked {
                let own = &mut first[self.class_of_write[index]];
                *own = (*own).min(Bound { at, by: Some(Op::Write(index)) });
            }
        }
        for (index, read) in self.reads.iter().enumerate() {
            if let Some(class) = self.class_of_read[index] {
                first[class] = first[class].min(Bound { at: read.returned, by: Some(Op::Read(index)) });
            }
        }
        for class in (0..self.classes.len()).rev() {
            first[class] = first[class].min(first[class + 1]);
        }
        self.deadlines = first;
    }

    /// The lowest class from `class` on in which a read that begins at `invoked` may find no record.
    fn lowest_absent(&self, class: usize, invoked: At, returned: At) -> Option<usize> {
        (class..self.classes.len()).find(|class| {
            self.classes[*class].absent_from.is_some_and(|from| {
                // Class 0 is there before anything begins.
                (*class == 0 || from < returned) && invoked.max(from) <= self.deadlines[class + 1].at
            })
        })
    }

    fn draw_zones(&mut self) {
        let mut last_reads: BTreeMap<usize, (Bound, Bound)> = BTreeMap::new();
        for (index, read) in self.reads.iter().enumerate() {
            if let Some(put) = self.put_of(read) {
                let begun = Bound { at: read.invoked, by: Some(Op::Read(index)) };
                let ended = Bound { at: read.returned, by: Some(Op::Read(index)) };
                let seen = last_reads.entry(put).or_insert((ended, begun));
                *seen = (seen.0.min(ended), seen.1.max(begun));
            }
        }
        for (place, class) in self.classes.iter().enumerate().filter(|(_, class)| class.writes.len() > 1) {
            let end = self.deadlines[place + 1];
            let zone = |write: &usize| {
                let index = *write;
                let write = self.writes[index];
                write.call.change.value()?;
                let seen = last_reads.get(&index);
                let acked = write.acked.map_or(Bound::NEVER, |(at, _)| Bound { at, by: Some(Op::Write(index)) });
                let was_online = became_online(write);
                let must_count = seen.is_some() || was_online || acked.at < end.at;
                let mut first = if acked.at < end.at { acked } else { Bound::NEVER };
                if was_online {
                    first = first.min(acked.min(end));
                }
                let mut last = Bound { at: write.invoked, by: Some(Op::Write(index)) };
                if let Some((ended, begun)) = seen {
                    first = first.min((*ended).min(end));
                    last = last.max(*begun);
                }
                must_count.then_some(Zone { write: index, first, last })
            };
            let zones = class.writes.iter().filter_map(zone).collect();
            self.zones.insert(place, zones);
        }
    }

    /// The first thing found that no order of the operations explains.
    pub(crate) fn check(&self) -> Option<Violation> {
        self.check_reads().or_else(|| self.check_online()).or_else(|| self.check_zones())
    }

    fn check_reads(&self) -> Option<Violation> {
        for (index, read) in self.reads.iter().enumerate() {
            match (self.class_of_read[index], self.put_of(read)) {
                (Some(class), Some(put)) => {
                    let newer = self.deadlines[class + 1];
                    let begun = read.invoked.max(self.writes[put].invoked);
                    if begun > newer.at {
                        let claim = if begun == read.invoked {
                            "a read began after a newer version was acknowledged or seen, and saw an older one"
                        } else {
                            "a read saw a put that began after a newer version was acknowledged or seen"
                        };
                        return Some(self.violation(claim, &[Some(Op::Read(index)), Some(Op::Write(put)), newer.by]));
                    }
                }
                (None, _) => return Some(self.no_absence_fits(index)),
                (Some(_), None) => {}
            }
        }
        None
    }

    /// Why a read that found no record cannot have.
    fn no_absence_fits(&self, index: usize) -> Violation {
        let read = self.reads[index];
        let mut ops = vec![Some(Op::Read(index))];
        for (place, class) in self.classes.iter().enumerate() {
            let Some(from) = class.absent_from.filter(|from| place == 0 || *from < read.returned) else { continue };
            let newer = self.deadlines[place + 1];
            ops.push(newer.by);
            if read.invoked <= newer.at && from > newer.at {
                ops.extend(class.writes.iter().map(|write| Some(Op::Write(*write))));
            }
        }
        self.violation(
            "a read found no record, though one was acknowledged or seen before it that no delete hides",
            &ops,
        )
    }

    fn check_online(&self) -> Option<Violation> {
        for (index, write) in self.writes.iter().enumerate().filter(|(_, write)| became_online(write)) {
            let newer = self.deadlines[self.class_of_write[index] + 1];
            if write.invoked > newer.at {
                let claim = "a write was told that it became the online value, but it began after a newer version was \
                             acknowledged or seen";
                return Some(self.violation(claim, &[Some(Op::Write(index)), newer.by]));
            }
        }
        None
    }

    fn check_zones(&self) -> Option<Violation> {
        self.zones.values().find_map(|zones| {
            let (mut forward, backward): (Vec<Zone>, Vec<Zone>) = zones.iter().partition(|zone| zone.is_forward());
            forward.sort_by_key(|zone| zone.first);
            for pair in forward.windows(2) {
                if pair[1].first.at < pair[0].last.at {
                    let claim = "two values of one event time were each seen again after the other";
                    return Some(self.zone_violation(claim, pair));
                }
            }
            backward.into_iter().find_map(|inner| {
                let after = forward.partition_point(|zone| zone.first.at < inner.last.at);
                let outer = forward.get(after.checked_sub(1)?)?;
                let claim = "a value was seen before and after another write of its event time that came in between";
                (inner.first.at < outer.last.at).then(|| self.zone_violation(claim, &[*outer, inner]))
            })
        })
    }

    fn zone_violation(&self, claim: &str, zones: &[Zone]) -> Violation {
        let ops: Vec<Option<Op>> =
            zones.iter().flat_map(|zone| [Some(Op::Write(zone.write)), zone.first.by, zone.last.by]).collect();
        self.violation(claim, &ops)
    }

    /// The story of these operations, with the put of each value that was seen.
    fn violation(&self, claim: &str, ops: &[Option<Op>]) -> Violation {
        let mut story = Vec::new();
        for op in ops.iter().flatten() {
            let put = match op {
                Op::Write(index) => Some(*index),
                Op::Read(index) => {
                    story.push((self.reads[*index].invoked.i, self.reads[*index].told()));
                    self.put_of(self.reads[*index])
                }
            };
            story.extend(put.map(|put| (self.writes[put].invoked.i, self.writes[put].told())));
        }
        let key = self.writes.first().map(|write| &write.call.key).or(self.reads.first().map(|read| &read.key));
        Violation::new(Rule::Linearizable, key, claim, story)
    }

    /// Until when at the latest a read may have seen this put: by then something newer was there for certain.
    fn gone_by(&self, put: usize) -> Bound {
        let class = self.class_of_write[put];
        let newer = self.deadlines[class + 1];
        let Some(zones) = self.zones.get(&class) else { return newer };
        let Some(own) = zones.iter().find(|zone| zone.write == put) else { return newer };
        let after = zones.iter().filter(|zone| zone.write != put && zone.last.at > own.first.at);
        after.map(|zone| zone.first).min().map_or(newer, |first| newer.min(first))
    }

    /// Checks a read at a weaker level: it must have seen what was current at some time from `earliest` on.
    ///
    /// `is_before(end)` says whether an end came before the earliest time that the read may look back to.
    pub(crate) fn check_weak(&self, read: &Read, rule: Rule, is_before: impl Fn(At) -> bool) -> Option<Violation> {
        let told = (read.invoked.i, read.told());
        let claim = "a read saw what was replaced before the time that it may look back to";
        if let Some(put) = self.put_of(read) {
            let gone = self.gone_by(put);
            let never_there = self.writes[put].invoked > gone.at;
            if !never_there && !is_before(gone.at) {
                return None;
            }
            let mut violation = self.violation(claim, &[Some(Op::Write(put)), gone.by]);
            violation.rule = rule;
            return Some(with(violation, told));
        }
        if read.seen != Seen::Absent {
            return None;
        }
        let fits = |place: usize| {
            self.classes[place].absent_from.is_some_and(|from| {
                let end = self.deadlines[place + 1].at;
                (place == 0 || from < read.returned) && from <= end && !is_before(end)
            })
        };
        if (0..self.classes.len()).any(fits) {
            return None;
        }
        let blockers: Vec<Option<Op>> = (0..self.classes.len())
            .filter(|place| self.classes[*place].absent_from.is_some())
            .map(|place| self.deadlines[place + 1].by)
            .collect();
        let mut violation = self.violation("a read found no record, though by then none was hidden", &blockers);
        violation.rule = rule;
        Some(with(violation, told))
    }

    /// Checks that a read is not older than a write that it must see: a later event time, or the same and not
    /// certainly an earlier write. `floor` is the place of a write in [`Self::writes`].
    pub(crate) fn check_floor(&self, read: &Read, floor: usize, rule: Rule, claim: &str) -> Option<Violation> {
        let floor_class = self.class_of_write[floor];
        let is_older = match self.put_of(read) {
            Some(put) => {
                let class = self.class_of_write[put];
                let is_earlier = || put != floor && self.is_earlier(put, self.writes[floor]);
                class < floor_class || (class == floor_class && is_earlier())
            }
            None => {
                let hidden = |class: &Class| class.has_delete && class.absent_from.is_some_and(|at| at < read.returned);
                read.seen == Seen::Absent && !self.classes[floor_class..].iter().any(hidden)
            }
        };
        let ops = [Some(Op::Write(floor)), self.put_of(read).map(Op::Write)];
        is_older.then(|| {
            let mut violation = self.violation(claim, &ops);
            violation.rule = rule;
            with(violation, (read.invoked.i, read.told()))
        })
    }

    /// Whether this put was there for certain before the other write of its event time began.
    fn is_earlier(&self, put: usize, other: &Write) -> bool {
        let zones = self.zones.get(&self.class_of_write[put]);
        let zone = zones.and_then(|zones| zones.iter().find(|zone| zone.write == put));
        zone.is_some_and(|zone| zone.first.at < other.invoked)
    }
}

fn with(mut violation: Violation, told: (u64, String)) -> Violation {
    // The read comes last: it is what went wrong.
    violation.story.retain(|line| *line != told.1);
    violation.story.push(told.1);
    violation
}

/// Whether an acknowledgement says that the write was the online value when it was applied.
fn became_online(write: &Write) -> bool {
    write.acked.is_some_and(|(_, ack)| ack.became_online == Some(true))
}
