//! The file: JSON lines, a header first, then one event a line. Equal histories are equal bytes.
//!
//! The fields of a line stand in one order (`Line`'s), absent ones are left out, and unknown ones are refused.
//! `tests/history/README.md` shows a line of each kind.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::model::{
    Ack, Call, Change, Edge, Event, Fault, Header, History, Installed, Key, Level, Mark, Outcome, Process, ReadCall,
    ReplicaState, Seen, TableOffset, TableRow, What, WriteCall,
};

/// What the first line's `format` says.
pub const FORMAT: &str = "granary-history/1";

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("read or write a history")]
    Io(#[from] io::Error),
    /// A line is no JSON, or has fields or values that no event has.
    #[error("line {line}: {source}")]
    Json {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A line is JSON but no event.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    format: String,
    harness: String,
    seed: u64,
    build: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Invoke,
    Ok,
    Fail,
    Info,
    Fault,
    ReplicaState,
    TableRow,
    TableOffset,
    Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Function {
    Put,
    Update,
    Fleeting,
    Delete,
    HardDelete,
    Get,
    BatchGet,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LevelName {
    Linearizable,
    Session,
    BoundedStaleness,
    Eventual,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EdgeName {
    Begin,
    End,
    Once,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InstalledName {
    Yes,
    No,
    Unclear,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MarkName {
    Healed,
    Final,
    OfflineComplete,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<i64>,
    #[serde(default, skip_serializing_if = "is_false")]
    absent: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    error: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// One line after the header. Which fields stand in it depends on `type` and `f`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Line {
    i: u64,
    t_ns: u64,
    #[serde(rename = "type")]
    kind: Option<Type>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f: Option<Function>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lives: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<LevelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_staleness_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Vec<SeenLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    became_online: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    err: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge: Option<EdgeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    installed: Option<InstalledName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<MarkName>,
}

/// Writes a history, line by line.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// `Io`.
    pub fn begin(mut out: W, header: &Header) -> Result<Self, Error> {
        let Header { harness, seed, build } = header.clone();
        let line = HeaderLine { format: FORMAT.to_owned(), harness, seed, build };
        put_line(&mut out, &line)?;
        Ok(Self { out })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, event: &Event) -> Result<(), Error> {
        put_line(&mut self.out, &line_of(event))
    }

    /// Hands back what was written to, flushed.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<W, Error> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_line<W: Write>(out: &mut W, line: &impl Serialize) -> Result<(), Error> {
    serde_json::to_writer(&mut *out, line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Writes a whole history.
///
/// # Errors
/// `Io`.
pub fn write<W: Write>(out: W, history: &History) -> Result<W, Error> {
    let mut writer = Writer::begin(out, &history.header)?;
    for event in &history.events {
        writer.write(event)?;
    }
    writer.finish()
}

/// Reads events one at a time; the header is read first.
#[derive(Debug)]
pub struct Reader<R> {
    lines: R,
    header: Header,
    line: u64,
    text: String,
    last: Option<(u64, u64)>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// `Io`, or what is wrong with the line.
    pub fn begin(mut lines: R) -> Result<Self, Error> {
        let mut text = String::new();
        lines.read_line(&mut text)?;
        let line: HeaderLine = serde_json::from_str(&text).map_err(|source| Error::Json { line: 1, source })?;
        if line.format != FORMAT {
            let problem = format!("the format is {:?}, this reads {FORMAT:?}", line.format);
            return Err(Error::Line { line: 1, problem });
        }
        let header = Header { harness: line.harness, seed: line.seed, build: line.build };
        Ok(Self { lines, header, line: 1, text, last: None })
    }

    /// Which run it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn next_event(&mut self) -> Result<Option<Event>, Error> {
        self.text.clear();
        if self.lines.read_line(&mut self.text)? == 0 {
            return Ok(None);
        }
        self.line += 1;
        let line = self.line;
        let parsed: Line = serde_json::from_str(&self.text).map_err(|source| Error::Json { line, source })?;
        let event = event_of(parsed).map_err(|problem| Error::Line { line, problem })?;
        let due = self.last.map_or(0, |(i, _)| i + 1);
        if event.i != due {
            return Err(Error::Line { line, problem: format!("i is {}, but {due} is due", event.i) });
        }
        if self.last.is_some_and(|(_, t_ns)| event.t_ns < t_ns) {
            return Err(Error::Line { line, problem: "t_ns goes back".to_owned() });
        }
        self.last = Some((event.i, event.t_ns));
        Ok(Some(event))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

/// Reads a whole history.
///
/// # Errors
/// `Io`, or the first line that is wrong and what is wrong with it.
pub fn read<R: BufRead>(lines: R) -> Result<History, Error> {
    let mut reader = Reader::begin(lines)?;
    let events = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
    Ok(History { header: reader.header, events })
}

fn line_of(event: &Event) -> Line {
    let base = Line { i: event.i, t_ns: event.t_ns, ..Line::default() };
    match event.what.clone() {
        What::Invoke { process, call, session } => {
            let base = Line { kind: Some(Type::Invoke), process: Some(process.0), session, ..base };
            match call {
                Call::Write(call) => line_of_write(call, base),
                Call::Read(call) => line_of_read(call, base),
            }
        }
        What::Return { process, outcome, node } => {
            line_of_outcome(outcome, Line { process: Some(process.0), node, ..base })
        }
        What::Fault(fault) => Line {
            kind: Some(Type::Fault),
            fault: Some(fault.name),
            targets: Some(fault.targets),
            edge: Some(match fault.edge {
                Edge::Begin => EdgeName::Begin,
                Edge::End => EdgeName::End,
                Edge::Once => EdgeName::Once,
            }),
            installed: Some(match fault.installed {
                Installed::Yes => InstalledName::Yes,
                Installed::No => InstalledName::No,
                Installed::Unclear => InstalledName::Unclear,
            }),
            evidence: Some(fault.evidence),
            ..base
        },
        What::ReplicaState(state) => Line {
            kind: Some(Type::ReplicaState),
            node: Some(state.node),
            shard: Some(state.shard),
            replica: Some(state.replica),
            applied_index: Some(state.applied_index),
            state_hash: Some(state.state_hash),
            ..base
        },
        What::TableRow(row) => Line {
            kind: Some(Type::TableRow),
            group: Some(row.key.group),
            key: Some(row.key.key),
            write_id: Some(row.write_id),
            value: row.value,
            kept: row.kept,
            event_time: Some(row.event_time),
            stream: Some(row.stream),
            sequence: Some(row.sequence),
            ..base
        },
        What::TableOffset(offset) => Line {
            kind: Some(Type::TableOffset),
            group: Some(offset.group),
            stream: Some(offset.stream),
            sequence: Some(offset.sequence),
            ..base
        },
        What::Mark(mark) => Line {
            kind: Some(Type::Mark),
            mark: Some(match mark {
                Mark::Healed => MarkName::Healed,
                Mark::Final => MarkName::Final,
                Mark::OfflineComplete => MarkName::OfflineComplete,
            }),
            ..base
        },
    }
}

fn line_of_write(call: WriteCall, base: Line) -> Line {
    let (f, value, lives) = match call.change {
        Change::Put { value } => (Function::Put, Some(value), None),
        Change::Update { value } => (Function::Update, Some(value), None),
        Change::Fleeting { value, lives } => (Function::Fleeting, Some(value), Some(lives)),
        Change::SoftDelete => (Function::Delete, None, None),
        Change::HardDelete => (Function::HardDelete, None, None),
    };
    Line {
        f: Some(f),
        group: Some(call.key.group),
        key: Some(call.key.key),
        value,
        lives,
        event_time: Some(call.event_time),
        write_id: Some(call.write_id),
        ..base
    }
}

fn line_of_read(call: ReadCall, base: Line) -> Line {
    let (level, max_staleness_ms) = match call.level {
        Level::Linearizable => (LevelName::Linearizable, None),
        Level::Session => (LevelName::Session, None),
        Level::BoundedStaleness { max_staleness_ms } => (LevelName::BoundedStaleness, Some(max_staleness_ms)),
        Level::Eventual => (LevelName::Eventual, None),
    };
    let (f, key, keys) = match call.keys.as_slice() {
        [key] if !call.batch => (Function::Get, Some(key.clone()), None),
        _ => (Function::BatchGet, None, Some(call.keys)),
    };
    Line { f: Some(f), group: Some(call.group), key, keys, level: Some(level), max_staleness_ms, ..base }
}

fn line_of_outcome(outcome: Outcome, base: Line) -> Line {
    match outcome {
        Outcome::Written(Ack { shard, log_index, stamp, became_online }) => {
            Line { kind: Some(Type::Ok), shard, log_index, stamp, became_online, ..base }
        }
        Outcome::Read(seen) => {
            let seen = seen.into_iter().map(|seen| match seen {
                Seen::Value { value, event_time } => SeenLine { value: Some(value), event_time, ..SeenLine::default() },
                Seen::Absent => SeenLine { absent: true, ..SeenLine::default() },
                Seen::Error => SeenLine { error: true, ..SeenLine::default() },
            });
            Line { kind: Some(Type::Ok), seen: Some(seen.collect()), ..base }
        }
        Outcome::Failed { error } => Line { kind: Some(Type::Fail), err: Some(error), ..base },
        Outcome::Unknown { error } => Line { kind: Some(Type::Info), err: Some(error), ..base },
    }
}

/// Takes a field out of a line; what is left at the end does not belong there.
macro_rules! take {
    ($line:ident . $field:ident) => {
        $line.$field.take().ok_or_else(|| concat!("`", stringify!($field), "` is missing").to_owned())?
    };
}

fn event_of(mut line: Line) -> Result<Event, String> {
    let (i, t_ns, kind) = (line.i, line.t_ns, take!(line.kind));
    let what = match kind {
        Type::Invoke => What::Invoke {
            process: Process(take!(line.process)),
            session: line.session.take(),
            call: call_of(&mut line)?,
        },
        Type::Ok | Type::Fail | Type::Info => What::Return {
            process: Process(take!(line.process)),
            node: line.node.take(),
            outcome: outcome_of(kind, &mut line)?,
        },
        Type::Fault => What::Fault(fault_of(&mut line)?),
        Type::ReplicaState => What::ReplicaState(ReplicaState {
            node: take!(line.node),
            shard: take!(line.shard),
            replica: take!(line.replica),
            applied_index: take!(line.applied_index),
            state_hash: take!(line.state_hash),
        }),
        Type::TableRow => What::TableRow(TableRow {
            key: Key { group: take!(line.group), key: take!(line.key) },
            write_id: take!(line.write_id),
            value: line.value.take(),
            kept: line.kept.take(),
            event_time: take!(line.event_time),
            stream: take!(line.stream),
            sequence: take!(line.sequence),
        }),
        Type::TableOffset => What::TableOffset(TableOffset {
            group: take!(line.group),
            stream: take!(line.stream),
            sequence: take!(line.sequence),
        }),
        Type::Mark => What::Mark(match take!(line.mark) {
            MarkName::Healed => Mark::Healed,
            MarkName::Final => Mark::Final,
            MarkName::OfflineComplete => Mark::OfflineComplete,
        }),
    };
    refuse_what_is_left(&line)?;
    Ok(Event { i, t_ns, what })
}

fn call_of(line: &mut Line) -> Result<Call, String> {
    let change = match take!(line.f) {
        Function::Get => {
            let keys = vec![take!(line.key)];
            return Ok(Call::Read(ReadCall { group: take!(line.group), keys, batch: false, level: level_of(line)? }));
        }
        Function::BatchGet => {
            let keys = take!(line.keys);
            return Ok(Call::Read(ReadCall { group: take!(line.group), keys, batch: true, level: level_of(line)? }));
        }
        Function::Put => Change::Put { value: take!(line.value) },
        Function::Update => Change::Update { value: take!(line.value) },
        Function::Fleeting => Change::Fleeting { value: take!(line.value), lives: take!(line.lives) },
        Function::Delete => Change::SoftDelete,
        Function::HardDelete => Change::HardDelete,
    };
    Ok(Call::Write(WriteCall {
        key: Key { group: take!(line.group), key: take!(line.key) },
        change,
        event_time: take!(line.event_time),
        write_id: take!(line.write_id),
    }))
}

fn level_of(line: &mut Line) -> Result<Level, String> {
    Ok(match take!(line.level) {
        LevelName::Linearizable => Level::Linearizable,
        LevelName::Session => Level::Session,
        LevelName::BoundedStaleness => Level::BoundedStaleness { max_staleness_ms: take!(line.max_staleness_ms) },
        LevelName::Eventual => Level::Eventual,
    })
}

fn outcome_of(kind: Type, line: &mut Line) -> Result<Outcome, String> {
    Ok(match kind {
        Type::Fail => Outcome::Failed { error: take!(line.err) },
        Type::Info => Outcome::Unknown { error: take!(line.err) },
        _ => match line.seen.take() {
            Some(seen) => Outcome::Read(seen.into_iter().map(seen_of).collect::<Result<_, _>>()?),
            None => Outcome::Written(Ack {
                shard: line.shard.take(),
                log_index: line.log_index.take(),
                stamp: line.stamp.take(),
                became_online: line.became_online.take(),
            }),
        },
    })
}

fn seen_of(line: SeenLine) -> Result<Seen, String> {
    match (line.value, line.event_time, line.absent, line.error) {
        (Some(value), event_time, false, false) => Ok(Seen::Value { value, event_time }),
        (None, None, true, false) => Ok(Seen::Absent),
        (None, None, false, true) => Ok(Seen::Error),
        _ => Err("what was seen is either a `value`, `absent` or an `error`".to_owned()),
    }
}

fn fault_of(line: &mut Line) -> Result<Fault, String> {
    Ok(Fault {
        name: take!(line.fault),
        targets: take!(line.targets),
        edge: match take!(line.edge) {
            EdgeName::Begin => Edge::Begin,
            EdgeName::End => Edge::End,
            EdgeName::Once => Edge::Once,
        },
        installed: match take!(line.installed) {
            InstalledName::Yes => Installed::Yes,
            InstalledName::No => Installed::No,
            InstalledName::Unclear => Installed::Unclear,
        },
        evidence: take!(line.evidence),
    })
}

fn refuse_what_is_left(line: &Line) -> Result<(), String> {
    let left = serde_json::to_value(line).map_err(|error| error.to_string())?;
    let fields = left.as_object().into_iter().flat_map(serde_json::Map::keys);
    let odd: Vec<&str> = fields.map(String::as_str).filter(|name| !["i", "t_ns", "type"].contains(name)).collect();
    if odd.is_empty() { Ok(()) } else { Err(format!("does not belong on such a line: {}", odd.join(", "))) }
}
