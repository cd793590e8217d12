//! What a history is made of: calls, what became of them, and what else was seen.

use std::fmt;

/// What a record is called: its feature group and its record identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The feature group's name.
    pub group: String,
    /// The record identifier's text.
    pub key: String,
}

impl Key {
    /// The record `key` of `group`.
    pub fn new(group: impl Into<String>, key: impl Into<String>) -> Self {
        Self { group: group.into(), key: key.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.key)
    }
}

/// One client with at most one call under way. After a call of unknown outcome the client goes on as a new process:
/// the old one's call may still take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub u64);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.0)
    }
}

/// What run a history is of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Who recorded it, such as `sim` or `chaos`.
    pub harness: String,
    /// The seed that makes the same faults and load again.
    pub seed: u64,
    /// Which build was run.
    pub build: String,
}

/// What kind of write a call is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Replaces the record. No two puts of one key carry the same value, so that a read tells which put it saw.
    Put {
        /// The value.
        value: String,
    },
    /// Replaces the value of a record that exists and is not newer, and leaves the rest of it. To a reader of the value it is
    /// a put.
    Update {
        /// The value, unlike any other of the key.
        value: String,
    },
    /// A put whose time to live was over before it was made: it always reads as absent, and the store removes the record
    /// when it finds it.
    Fleeting {
        /// The value, which only the offline table shows.
        value: String,
        /// It expires so long after its event time, in the same unit.
        lives: i64,
    },
    /// A version that reads as absent.
    SoftDelete,
    /// A reset: forgets the record and its event time.
    HardDelete,
}

impl Change {
    /// The value that it writes; `None` for deletes.
    pub fn value(&self) -> Option<&String> {
        match self {
            Self::Put { value } | Self::Update { value } | Self::Fleeting { value, .. } => Some(value),
            Self::SoftDelete | Self::HardDelete => None,
        }
    }
}

/// A write as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteCall {
    /// Which record.
    pub key: Key,
    /// What is done to it.
    pub change: Change,
    /// The caller's time, in any unit: only the order counts.
    pub event_time: i64,
    /// The same on every attempt of one write, and on no other write.
    pub write_id: String,
}

/// What a read is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The newest of all writes acknowledged before it began.
    Linearizable,
    /// At least the writes acknowledged before it in its session.
    Session,
    /// At least what was acknowledged so many milliseconds before it began.
    BoundedStaleness {
        /// The bound.
        max_staleness_ms: u64,
    },
    /// What a replica has.
    Eventual,
}

/// A read as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadCall {
    /// The feature group.
    pub group: String,
    /// The records; more than one in a batch.
    pub keys: Vec<String>,
    /// Whether it is asked for as a batch. Each key of a batch is a read of its own: a batch is no snapshot.
    pub batch: bool,
    /// What it is promised.
    pub level: Level,
}

/// A call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A put or a delete.
    Write(WriteCall),
    /// A get or a batch of them.
    Read(ReadCall),
}

/// What an acknowledgement says besides that the write stands. All of it may be unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// The shard that applied it.
    pub shard: Option<u32>,
    /// The index of its Raft entry, or of the later entry that recognised it as a retry.
    pub log_index: Option<u64>,
    /// The write stamp.
    pub stamp: Option<u64>,
    /// `Some(true)`: it was the online value when it was applied. `false` says nothing: a retry is told `false`, too.
    pub became_online: Option<bool>,
}

/// What a read saw of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// This record.
    Value {
        /// The value.
        value: String,
        /// The event time that came with it, where the reader was told.
        event_time: Option<i64>,
    },
    /// No record.
    Absent,
    /// This key could not be read, though others of the batch could.
    Error,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The write stands.
    Written(Ack),
    /// What the read saw, in the order of its keys.
    Read(Vec<Seen>),
    /// Certainly without effect.
    Failed {
        /// What was said.
        error: String,
    },
    /// Nobody knows: the call may have taken effect, or may yet.
    Unknown {
        /// What was said.
        error: String,
    },
}

/// Whether a fault was really there, by evidence and not by intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// Seen to be in force.
    Yes,
    /// Seen not to be: what follows is a run without it.
    No,
    /// Could not be told.
    Unclear,
}

/// Where in a fault's life an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It begins.
    Begin,
    /// It ends.
    End,
    /// It is over at once, as a kill is.
    Once,
}

/// Something done to the system on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is done, such as `kill` or `cut`.
    pub name: String,
    /// To whom.
    pub targets: Vec<String>,
    /// Begin, end or both at once.
    pub edge: Edge,
    /// Whether it took.
    pub installed: Installed,
    /// How that is known.
    pub evidence: String,
}

/// A replica's state hash at an applied index (RG-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaState {
    /// The node that said so.
    pub node: String,
    /// The shard.
    pub shard: u32,
    /// The replica.
    pub replica: u64,
    /// What it has applied.
    pub applied_index: u64,
    /// The hash over its rows.
    pub state_hash: String,
}

/// A row of an offline table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// The record.
    pub key: Key,
    /// The write it is of.
    pub write_id: String,
    /// The value; `None` for a delete.
    pub value: Option<String>,
    /// What else the record holds: as much as the value when it is put, and left alone by updates. `None` where that is not
    /// recorded.
    pub kept: Option<String>,
    /// The caller's time.
    pub event_time: i64,
    /// The change log's stream.
    pub stream: String,
    /// The event's number in its stream.
    pub sequence: u64,
}

/// How far a table has taken in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOffset {
    /// The feature group.
    pub group: String,
    /// The change log's stream.
    pub stream: String,
    /// The last sequence number that is committed.
    pub sequence: u64,
}

/// A point in the run that checkers go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// All faults are over and the system is whole again.
    Healed,
    /// No write begins from here on, and those under way have ended at the clients. Reads from here on are final.
    Final,
    /// The offline tables were waited for and are read whole: rows and offsets that follow are all there are.
    OfflineComplete,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A client begins a call.
    Invoke {
        /// Who.
        process: Process,
        /// What.
        call: Call,
        /// The client session: its acknowledged writes are what its reads at session level must see.
        session: Option<u64>,
    },
    /// A client's call ends.
    Return {
        /// Whose: the process has one call under way.
        process: Process,
        /// How.
        outcome: Outcome,
        /// Which node answered, where that is known.
        node: Option<String>,
    },
    /// A fault.
    Fault(Fault),
    /// A replica was looked at.
    ReplicaState(ReplicaState),
    /// A row was read from an offline table.
    TableRow(TableRow),
    /// An offset was read from an offline table.
    TableOffset(TableOffset),
    /// A point in the run.
    Mark(Mark),
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place, counted from 0. The order of places is the order of real time.
    pub i: u64,
    /// One host's monotonic clock, or the simulation's, in nanoseconds since the run began. Never falls.
    pub t_ns: u64,
    /// What happened.
    pub what: What,
}

/// All that happened in one run, in the order it happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Which run.
    pub header: Header,
    /// Places are 0, 1, 2 and so on.
    pub events: Vec<Event>,
}

impl History {
    /// An empty history.
    pub fn new(header: Header) -> Self {
        Self { header, events: Vec::new() }
    }

    /// Notes what happened at `t_ns`, which is not before the last event's time, and returns its place.
    ///
    /// # Panics
    /// When time goes back.
    pub fn push(&mut self, t_ns: u64, what: What) -> u64 {
        assert!(self.events.last().is_none_or(|last| last.t_ns <= t_ns), "time goes back");
        let i = self.events.len() as u64;
        self.events.push(Event { i, t_ns, what });
        i
    }
}
