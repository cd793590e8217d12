//! Short ways to say histories, and the chance that tests draw from.

use granary_history::model::{
    Ack, Call, Change, Header, History, Key, Level, Outcome, Process, ReadCall, Seen, What, WriteCall,
};

pub(crate) const GROUP: &str = "users";
/// One step of a test's clock.
pub(crate) const STEP_NS: u64 = 1_000_000;

/// A small generator of numbers that look random (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

pub(crate) fn empty(seed: u64) -> History {
    History::new(Header { harness: "test".to_owned(), seed, build: "test".to_owned() })
}

pub(crate) fn write(key: &str, change: Change, event_time: i64, id: impl ToString) -> Call {
    Call::Write(WriteCall { key: Key::new(GROUP, key), change, event_time, write_id: id.to_string() })
}

pub(crate) fn put(key: &str, value: impl ToString, event_time: i64) -> Call {
    write(key, Change::Put { value: value.to_string() }, event_time, format!("w{}", value.to_string()))
}

pub(crate) fn get(key: &str, level: Level) -> Call {
    Call::Read(ReadCall { group: GROUP.to_owned(), keys: vec![key.to_owned()], batch: false, level })
}

pub(crate) fn saw(value: impl ToString) -> Outcome {
    Outcome::Read(vec![Seen::Value { value: value.to_string(), event_time: None }])
}

pub(crate) fn absent() -> Outcome {
    Outcome::Read(vec![Seen::Absent])
}

pub(crate) fn acked() -> Outcome {
    Outcome::Written(Ack::default())
}

/// Pushes the beginning of a call at the next step.
pub(crate) fn begin(history: &mut History, process: u64, session: Option<u64>, call: Call) {
    let t_ns = history.events.len() as u64 * STEP_NS;
    history.push(t_ns, What::Invoke { process: Process(process), call, session });
}

/// Pushes the end of a call at the next step.
pub(crate) fn end(history: &mut History, process: u64, outcome: Outcome) {
    let t_ns = history.events.len() as u64 * STEP_NS;
    history.push(t_ns, What::Return { process: Process(process), outcome, node: None });
}

/// A call that begins and ends before anything else happens.
pub(crate) fn at_once(history: &mut History, process: u64, call: Call, outcome: Outcome) {
    begin(history, process, None, call);
    end(history, process, outcome);
}
