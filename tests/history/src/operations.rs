//! The operations in a history: calls paired with their ends, attempts of one write joined, batches taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{Ack, Call, Change, Event, History, Key, Level, Mark, Outcome, Process, Seen, What, WriteCall};

/// Where in a history something is. Places order; times only measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The event's place.
    pub i: u64,
    /// Its time in nanoseconds.
    pub t_ns: u64,
}

impl At {
    fn of(event: &Event) -> Self {
        Self { i: event.i, t_ns: event.t_ns }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.t_ns / 1_000;
        write!(f, "{}.{:03} ms, line i={}", micros / 1_000, micros % 1_000, self.i)
    }
}

/// One write, however many attempts it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// What was asked for.
    pub call: WriteCall,
    /// Who asked first.
    pub process: Process,
    /// When the first attempt began that may have had an effect.
    pub invoked: At,
    /// When the first acknowledgement came, and what it said. `None`: the outcome is unknown.
    pub acked: Option<(At, Ack)>,
    /// The session that attempt was made in.
    pub session: Option<u64>,
}

/// One read of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Which record.
    pub key: Key,
    /// Who asked.
    pub process: Process,
    /// When it began.
    pub invoked: At,
    /// When the answer came.
    pub returned: At,
    /// What it was promised.
    pub level: Level,
    /// The session it was in.
    pub session: Option<u64>,
    /// What it saw; never [`Seen::Error`].
    pub seen: Seen,
    /// Who answered.
    pub node: Option<String>,
}

/// All operations on one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyOperations {
    /// Writes that were or may have been applied, by their beginning.
    pub writes: Vec<Write>,
    /// Writes that certainly were not.
    pub failed: Vec<WriteCall>,
    /// Completed reads, by their beginning.
    pub reads: Vec<Read>,
}

/// The operations in a history, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operations {
    /// By key.
    pub keys: BTreeMap<Key, KeyOperations>,
    /// When each mark was set.
    pub marks: BTreeMap<Mark, At>,
}

/// A history that breaks the rules of recording: nothing can be said of the system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history was recorded wrongly at i={i}: {problem}")]
pub struct Malformed {
    /// The event.
    pub i: u64,
    /// What is wrong.
    pub problem: String,
}

/// One attempt at a write.
struct Attempt {
    call: WriteCall,
    process: Process,
    session: Option<u64>,
    invoked: At,
    end: End,
}

enum End {
    Acked(At, Ack),
    Failed,
    Unknown,
}

impl Operations {
    /// Pairs the calls of a history with their ends.
    ///
    /// # Errors
    /// When a process has two calls under way, goes on after an unknown outcome, or ends what it did not begin; when
    /// an answer does not fit its call; when a write id or a value of one key is used for two writes; when a write
    /// begins after [`Mark::Final`].
    pub fn of(history: &History) -> Result<Self, Malformed> {
        let mut pairing = Pairing::default();
        for event in &history.events {
            pairing.take(event)?;
        }
        pairing.end()
    }
}

/// A call that began and has not ended: when, what, and in which session.
type UnderWay<'a> = (At, &'a Call, Option<u64>);

#[derive(Default)]
struct Pairing<'a> {
    processes: BTreeMap<Process, Option<UnderWay<'a>>>,
    /// Processes whose last call had an unknown outcome.
    retired: BTreeSet<Process>,
    attempts: BTreeMap<&'a str, Vec<Attempt>>,
    reads: BTreeMap<Key, Vec<Read>>,
    marks: BTreeMap<Mark, At>,
}

fn malformed<T>(i: u64, problem: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed { i, problem: problem.into() })
}

impl<'a> Pairing<'a> {
    fn take(&mut self, event: &'a Event) -> Result<(), Malformed> {
        let at = At::of(event);
        match &event.what {
            What::Invoke { process, call, session } => {
                if self.retired.contains(process) {
                    return malformed(event.i, format!("{process} goes on after a call of unknown outcome"));
                }
                if matches!(call, Call::Write(_)) && self.marks.contains_key(&Mark::Final) {
                    return malformed(event.i, format!("{process} writes after the final mark"));
                }
                let under_way = self.processes.entry(*process).or_default();
                if under_way.replace((at, call, *session)).is_some() {
                    return malformed(event.i, format!("{process} has two calls under way"));
                }
                Ok(())
            }
            What::Return { process, outcome, node } => {
                let Some((invoked, call, session)) = self.processes.get_mut(process).and_then(Option::take) else {
                    return malformed(event.i, format!("{process} ends a call that it did not begin"));
                };
                if matches!(outcome, Outcome::Unknown { .. }) {
                    self.retired.insert(*process);
                }
                match call {
                    Call::Write(call) => {
                        let end = match outcome {
                            Outcome::Written(ack) => End::Acked(at, *ack),
                            Outcome::Failed { .. } => End::Failed,
                            Outcome::Unknown { .. } => End::Unknown,
                            Outcome::Read(_) => return malformed(event.i, "a write ends as a read"),
                        };
                        let attempt = Attempt { call: call.clone(), process: *process, session, invoked, end };
                        self.attempts.entry(&call.write_id).or_default().push(attempt);
                    }
                    Call::Read(call) => match outcome {
                        Outcome::Read(seen) if seen.len() == call.keys.len() => {
                            for (key, seen) in call.keys.iter().zip(seen).filter(|(_, seen)| **seen != Seen::Error) {
                                let key = Key { group: call.group.clone(), key: key.clone() };
                                let read = Read {
                                    key: key.clone(),
                                    process: *process,
                                    invoked,
                                    returned: at,
                                    level: call.level,
                                    session,
                                    seen: seen.clone(),
                                    node: node.clone(),
                                };
                                self.reads.entry(key).or_default().push(read);
                            }
                        }
                        Outcome::Read(_) => return malformed(event.i, "as many answers as keys are due"),
                        Outcome::Written(_) => return malformed(event.i, "a read ends as a write"),
                        Outcome::Failed { .. } | Outcome::Unknown { .. } => {}
                    },
                }
                Ok(())
            }
            What::Mark(mark) => match self.marks.insert(*mark, at) {
                None => Ok(()),
                Some(_) => malformed(event.i, "the mark was set before"),
            },
            What::Fault(_) | What::ReplicaState(_) | What::TableRow(_) | What::TableOffset(_) => Ok(()),
        }
    }

    fn end(mut self) -> Result<Operations, Malformed> {
        // What never came back may have taken effect.
        for (process, under_way) in std::mem::take(&mut self.processes) {
            if let Some((invoked, Call::Write(call), session)) = under_way {
                let attempt = Attempt { call: call.clone(), process, session, invoked, end: End::Unknown };
                self.attempts.entry(&call.write_id).or_default().push(attempt);
            }
        }
        let mut operations = Operations { keys: BTreeMap::new(), marks: self.marks };
        for (key, mut reads) in self.reads {
            reads.sort_by_key(|read| read.invoked);
            operations.keys.entry(key).or_default().reads = reads;
        }
        for attempts in self.attempts.into_values() {
            let key = operations.keys.entry(attempts[0].call.key.clone()).or_default();
            match joined(attempts)? {
                Ok(write) => key.writes.push(write),
                Err(call) => key.failed.push(call),
            }
        }
        for operations in operations.keys.values_mut() {
            operations.writes.sort_by_key(|write| write.invoked);
            values_are_unique(&operations.writes)?;
        }
        Ok(operations)
    }
}

/// The write that these attempts make together; `Err` when all certainly failed.
fn joined(mut attempts: Vec<Attempt>) -> Result<Result<Write, WriteCall>, Malformed> {
    attempts.sort_by_key(|attempt| attempt.invoked);
    for attempt in &attempts[1..] {
        if attempt.call != attempts[0].call {
            return malformed(attempt.invoked.i, format!("write id {} is used twice", attempt.call.write_id));
        }
    }
    let acked = attempts.iter().filter_map(|attempt| match attempt.end {
        End::Acked(at, ack) => Some((at, ack, attempt.session)),
        End::Failed | End::Unknown => None,
    });
    let acked = acked.min_by_key(|(at, _, _)| *at);
    let first = attempts.into_iter().reduce(|first, next| match first.end {
        End::Failed => next,
        End::Acked(..) | End::Unknown => first,
    });
    let first = first.expect("a write id is listed with an attempt");
    Ok(match (first.end, acked) {
        (End::Failed, _) => Err(first.call),
        (_, acked) => Ok(Write {
            call: first.call,
            process: first.process,
            invoked: first.invoked,
            session: acked.map_or(first.session, |(_, _, session)| session),
            acked: acked.map(|(at, ack, _)| (at, ack)),
        }),
    })
}

fn values_are_unique(writes: &[Write]) -> Result<(), Malformed> {
    let mut values = BTreeSet::new();
    for write in writes {
        if let Some(value) = write.call.change.value()
            && !values.insert(value)
        {
            return malformed(write.invoked.i, format!("{} is put twice with the value {value}", write.call.key));
        }
    }
    Ok(())
}

impl Write {
    /// Says the write in words.
    pub fn told(&self) -> String {
        let WriteCall { key, change, event_time, write_id } = &self.call;
        let what = match change {
            Change::Put { value } => format!("put {key} = {value}"),
            Change::Update { value } => format!("updated {key} to {value}"),
            Change::Fleeting { value, lives } => format!("put {key} = {value}, expired after {lives},"),
            Change::SoftDelete => format!("soft-deleted {key}"),
            Change::HardDelete => format!("hard-deleted {key}"),
        };
        let end = match &self.acked {
            Some((at, ack)) => format!("acknowledged at {at}{}", ack_told(ack)),
            None => "outcome unknown".to_owned(),
        };
        let begun = self.invoked;
        format!("{} {what} for event time {event_time} (write id {write_id}): begun at {begun}; {end}", self.process)
    }
}

fn ack_told(ack: &Ack) -> String {
    let part = |name: &str, number: Option<u64>| number.map(|number| format!(", {name} {number}"));
    let parts = [part("shard", ack.shard.map(u64::from)), part("log index", ack.log_index), part("stamp", ack.stamp)];
    parts.into_iter().flatten().collect()
}

impl Read {
    /// Says the read in words.
    pub fn told(&self) -> String {
        let Self { process, key, invoked, returned, .. } = self;
        let level = match self.level {
            Level::Linearizable => "linearizable".to_owned(),
            Level::Session => format!("session {}", self.session.map_or("-".to_owned(), |session| session.to_string())),
            Level::BoundedStaleness { max_staleness_ms } => format!("at most {max_staleness_ms} ms stale"),
            Level::Eventual => "eventual".to_owned(),
        };
        let saw = match &self.seen {
            Seen::Value { value, .. } => format!("saw {value}"),
            Seen::Absent => "saw no record".to_owned(),
            Seen::Error => "saw nothing".to_owned(),
        };
        let node = self.node.as_ref().map(|node| format!(" at {node}")).unwrap_or_default();
        format!("{process} read {key} ({level}){node} and {saw}: begun at {invoked}; answered at {returned}")
    }
}
