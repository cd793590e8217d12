//! A system that is right by construction, under load: its histories must never be accused.

use std::collections::{BTreeMap, BTreeSet};

use granary_history::model::{
    Ack, Call, Change, Edge, Fault, Installed, Key, Level, Mark, Outcome, Process, ReadCall, ReplicaState, Seen,
    TableOffset, TableRow, What, WriteCall,
};
use granary_history::{History, Promises, check};

use crate::recording::{Chance, STEP_NS, empty};

const GROUPS: [&str; 2] = ["users", "items"];
const CLIENTS: usize = 8;
const REPLICAS: usize = 3;
/// No replica is further behind than this many steps.
const LAG_STEPS: u64 = 6;
/// Nor does a read at bounded staleness ask for less.
pub(crate) const STALENESS_MS: u64 = LAG_STEPS * STEP_NS / 1_000_000;
/// Records on which hard deletes happen, each written by one client only.
pub(crate) const RESET: &str = "reset-";

/// A client's call under way.
struct UnderWay {
    call: Call,
    effect_at: u64,
    end_at: u64,
    is_lost: bool,
    outcome: Option<Outcome>,
}

struct Client {
    process: u64,
    under_way: Option<UnderWay>,
    /// A write whose outcome it does not know and may ask for again.
    again: Option<WriteCall>,
    /// The log that its session has been told of.
    session: usize,
}

type State = BTreeMap<Key, (i64, Option<String>)>;

/// The system and its clients.
struct System {
    chance: Chance,
    history: History,
    step: u64,
    clients: Vec<Client>,
    next_process: u64,
    next_write: u64,
    /// Accepted writes and when they were.
    log: Vec<(u64, WriteCall)>,
    ids: BTreeSet<String>,
    leader: State,
    replicas: Vec<(usize, State)>,
}

/// Applies a write; `false` when it is refused.
fn apply(state: &mut State, write: &WriteCall) -> bool {
    let current = state.get(&write.key);
    let is_older = current.is_some_and(|(event_time, _)| *event_time > write.event_time);
    let is_live = current.is_some_and(|(_, value)| value.is_some());
    match &write.change {
        Change::Update { .. } if is_older || !is_live => return false,
        Change::HardDelete if is_older && is_live => return false,
        Change::HardDelete => drop(state.remove(&write.key)),
        _ if is_older => {}
        Change::Put { value } | Change::Update { value } => {
            drop(state.insert(write.key.clone(), (write.event_time, Some(value.clone()))))
        }
        Change::SoftDelete | Change::Fleeting { .. } => drop(state.insert(write.key.clone(), (write.event_time, None))),
    }
    true
}

fn read(state: &State, key: &Key) -> Seen {
    match state.get(key) {
        Some((event_time, Some(value))) => Seen::Value { value: value.clone(), event_time: Some(*event_time) },
        Some((_, None)) | None => Seen::Absent,
    }
}

/// A whole run of a system that is right, healed and read in the end.
pub(crate) fn run(seed: u64, steps: u64) -> History {
    let client = |process| Client { process, under_way: None, again: None, session: 0 };
    let mut system = System {
        chance: Chance(seed),
        history: empty(seed),
        step: 0,
        clients: (0..CLIENTS as u64).map(client).collect(),
        next_process: CLIENTS as u64,
        next_write: 0,
        log: Vec::new(),
        ids: BTreeSet::new(),
        leader: State::new(),
        replicas: vec![(0, State::new()); REPLICAS],
    };
    while system.step < steps {
        system.one_step(true);
    }
    while system.clients.iter().any(|client| client.under_way.is_some()) {
        system.one_step(false);
    }
    system.end();
    system.history
}

impl System {
    fn note(&mut self, what: What) {
        self.history.push(self.step * STEP_NS, what);
    }

    fn one_step(&mut self, may_begin: bool) {
        self.step += 1;
        for client in 0..CLIENTS {
            self.take_effect(client);
        }
        self.catch_up();
        for client in 0..CLIENTS {
            self.end_call(client);
            if may_begin && self.clients[client].under_way.is_none() && self.chance.percent(60) {
                self.begin_call(client);
            }
        }
        if self.chance.percent(2) {
            let fault = Fault {
                name: "kill".to_owned(),
                targets: vec!["node-1".to_owned()],
                edge: Edge::Once,
                installed: Installed::Yes,
                evidence: "the process ended by SIGKILL".to_owned(),
            };
            self.note(What::Fault(fault));
            self.look_at_replicas();
        }
    }

    fn begin_call(&mut self, client: usize) {
        let call = match self.clients[client].again.take() {
            Some(write) => Call::Write(write),
            None if self.chance.percent(50) => Call::Write(self.some_write(client)),
            None => Call::Read(self.some_read()),
        };
        let process = Process(self.clients[client].process);
        self.note(What::Invoke { process, call: call.clone(), session: Some(client as u64) });
        let effect_at = self.step + 1 + self.chance.below(4);
        let end_at = effect_at + 1 + self.chance.below(4);
        let is_lost = self.chance.percent(8);
        self.clients[client].under_way = Some(UnderWay { call, effect_at, end_at, is_lost, outcome: None });
    }

    fn some_write(&mut self, client: usize) -> WriteCall {
        self.next_write += 1;
        let id = self.next_write;
        let mut key = self.some_key();
        let kind = self.chance.below(10);
        if self.chance.percent(20) {
            key.key = format!("{RESET}{client}");
        }
        let change = match kind {
            0 => Change::SoftDelete,
            1..=3 if key.key.starts_with(RESET) => Change::HardDelete,
            9 => Change::Update { value: format!("v{id}") },
            _ => Change::Put { value: format!("v{id}") },
        };
        // Puts tie with each other now and then, deletes with nothing.
        let event_time = match change {
            Change::Put { .. } | Change::Update { .. } => (id / 4 * 8 + self.chance.below(12) * 4) as i64,
            Change::SoftDelete | Change::HardDelete | Change::Fleeting { .. } => (id * 8 + 1) as i64,
        };
        WriteCall { key, change, event_time, write_id: format!("w{id}") }
    }

    fn some_key(&mut self) -> Key {
        let group = *self.chance.pick(&GROUPS);
        Key::new(group, format!("k{}", self.chance.below(4)))
    }

    fn some_read(&mut self) -> ReadCall {
        let level = *self.chance.pick(&[
            Level::Linearizable,
            Level::Linearizable,
            Level::Session,
            Level::BoundedStaleness { max_staleness_ms: STALENESS_MS },
            Level::Eventual,
        ]);
        let Key { group, key } = self.some_key();
        let batch = self.chance.percent(30);
        let keys = if batch { vec![key, format!("{RESET}{}", self.chance.below(CLIENTS as u64))] } else { vec![key] };
        ReadCall { group, keys, batch, level }
    }

    fn take_effect(&mut self, client: usize) {
        let Some(under_way) = self.clients[client].under_way.as_ref().filter(|call| call.effect_at == self.step) else {
            return;
        };
        let call = under_way.call.clone();
        let outcome = match &call {
            // A lost request that never arrived.
            Call::Write(_) if under_way.is_lost && self.chance.percent(50) => return,
            Call::Write(write) => self.write(write),
            Call::Read(read) => self.read(client, read),
        };
        if let Some(under_way) = &mut self.clients[client].under_way {
            under_way.outcome = Some(outcome);
        }
    }

    fn write(&mut self, write: &WriteCall) -> Outcome {
        let is_retry = self.ids.contains(&write.write_id);
        let mut became_online = false;
        if !is_retry {
            if !apply(&mut self.leader, write) {
                return Outcome::Failed { error: "stale".to_owned() };
            }
            self.ids.insert(write.write_id.clone());
            self.log.push((self.step, write.clone()));
            let current = self.leader.get(&write.key);
            became_online = current.is_some_and(|(event_time, value)| {
                let own = matches!(&write.change, Change::Put { value: own } if Some(own) == value.as_ref());
                own && *event_time == write.event_time
            });
        }
        let log_index = Some(self.log.len() as u64);
        Outcome::Written(Ack { shard: Some(1), log_index, stamp: None, became_online: Some(became_online) })
    }

    fn read(&mut self, client: usize, call: &ReadCall) -> Outcome {
        let replica = self.chance.below(REPLICAS as u64) as usize;
        let (applied, state) = &self.replicas[replica];
        let state = match call.level {
            Level::Linearizable => &self.leader,
            Level::Session if *applied < self.clients[client].session => &self.leader,
            _ => state,
        };
        let seen = call.keys.iter().map(|key| read(state, &Key::new(call.group.clone(), key.clone())));
        Outcome::Read(seen.collect())
    }

    fn end_call(&mut self, client: usize) {
        let end = self.clients[client].under_way.take_if(|call| call.end_at == self.step);
        let Some(UnderWay { call, is_lost, outcome, .. }) = end else { return };
        let process = Process(self.clients[client].process);
        let outcome = match outcome.filter(|_| !is_lost) {
            Some(outcome) => outcome,
            None => Outcome::Unknown { error: "timeout".to_owned() },
        };
        match (&outcome, call) {
            (Outcome::Written(_), _) => self.clients[client].session = self.log.len(),
            (Outcome::Unknown { .. }, call) => {
                self.clients[client].process = self.next_process;
                self.next_process += 1;
                if let Call::Write(write) = call
                    && self.chance.percent(50)
                {
                    self.clients[client].again = Some(write);
                }
            }
            _ => {}
        }
        self.note(What::Return { process, outcome, node: None });
    }

    fn catch_up(&mut self) {
        let due = self.log.partition_point(|(accepted, _)| accepted + LAG_STEPS <= self.step + 1);
        for (applied, state) in &mut self.replicas {
            let ahead = (self.log.len() - *applied) as u64;
            let target = due.max(*applied + self.chance.below(ahead + 1) as usize);
            for (_, write) in &self.log[*applied..target] {
                apply(state, write);
            }
            *applied = target;
        }
    }

    fn look_at_replicas(&mut self) {
        for (replica, (applied, state)) in self.replicas.clone().into_iter().enumerate() {
            let state = ReplicaState {
                node: format!("node-{replica}"),
                shard: 1,
                replica: replica as u64,
                applied_index: applied as u64,
                state_hash: format!("{state:?}"),
            };
            self.note(What::ReplicaState(state));
        }
    }

    fn end(&mut self) {
        self.note(What::Mark(Mark::Healed));
        self.step += LAG_STEPS;
        self.catch_up();
        self.look_at_replicas();
        self.note(What::Mark(Mark::Final));
        let keys: BTreeSet<Key> = self.log.iter().map(|(_, write)| write.key.clone()).collect();
        for key in keys {
            for level in [Level::Linearizable, Level::Session, Level::Eventual] {
                self.step += 1;
                let process = Process(self.next_process);
                let read_call = ReadCall { group: key.group.clone(), keys: vec![key.key.clone()], batch: false, level };
                self.note(What::Invoke { process, call: Call::Read(read_call), session: None });
                let outcome = Outcome::Read(vec![read(&self.leader, &key)]);
                self.note(What::Return { process, outcome, node: None });
            }
        }
        self.note(What::Mark(Mark::OfflineComplete));
        // What stands of each record: its event time, and what updates keep of it.
        let mut standing: BTreeMap<Key, (i64, Option<String>)> = BTreeMap::new();
        for (sequence, (_, write)) in (1..).zip(self.log.clone()) {
            let value = write.change.value().cloned();
            let (base, is_stale) = (standing.get(&write.key), |at: &i64| *at > write.event_time);
            let kept = match (&write.change, base) {
                (Change::Update { .. }, Some((_, kept))) => kept.clone(),
                _ => value.clone(),
            };
            if write.change == Change::HardDelete {
                standing.remove(&write.key);
            } else if !base.is_some_and(|(at, _)| is_stale(at)) {
                standing.insert(write.key.clone(), (write.event_time, kept.clone()));
            }
            let WriteCall { key, event_time, write_id, .. } = write;
            let stream = "s1".to_owned();
            self.note(What::TableRow(TableRow { key, write_id, value, kept, event_time, stream, sequence }));
        }
        for group in GROUPS {
            let sequence = self.log.len() as u64;
            let offset = TableOffset { group: group.to_owned(), stream: "s1".to_owned(), sequence };
            self.note(What::TableOffset(offset));
        }
    }
}

#[test]
fn a_system_that_is_right_is_never_accused() {
    let (mut weakly_checked, mut unknown, mut updated) = (0, 0, 0);
    for seed in 0..60 {
        let history = run(seed, 400);
        let report = check(&history, Promises::default()).expect("recorded well");
        assert!(report.holds() && report.unchecked.is_empty(), "seed {seed}: {report}");
        let counts = report.counts;
        let is_telling = counts.acknowledged > 100 && counts.rows > 100 && counts.states_compared > 0;
        assert!(is_telling && counts.reads.iter().all(|reads| *reads > 10), "seed {seed}: {report}");
        weakly_checked += counts.weakly_checked;
        unknown += counts.unknown;
        updated += counts.updated;
    }
    assert!(updated > 100, "updates are too few: {updated}");
    assert!(weakly_checked > 0 && unknown > 100, "unknown outcomes are too few: {unknown}");
}

#[test]
fn a_long_history_is_judged_like_a_short_one() {
    let history = run(1, 20_000);
    let report = check(&history, Promises::default()).expect("recorded well");
    assert!(report.holds(), "{report}");
    assert!(report.counts.acknowledged > 5_000, "{report}");
}
