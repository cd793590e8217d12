//! Random small histories, judged by the checkers and by exhaustive search.

use granary_history::levels::{bounded_staleness, eventual, linearizable, no_phantoms, sessions};
use granary_history::model::{Ack, Call, Change, History, Level, Mark, Outcome, Process, Seen, What};
use granary_history::operations::{KeyOperations, Read};
use granary_history::{Operations, format};

use crate::recording::{Chance, STEP_NS, empty, get, write};
use crate::search::{Step, explains};

/// What a random history is made of.
#[derive(Debug, Clone, Copy)]
struct Mix {
    /// Whether puts share event times.
    ties: bool,
    /// Whether deletes share them too.
    ties_with_deletes: bool,
    hard_deletes: bool,
    /// The level of the last read; the others are linearizable.
    last_level: Level,
    longest: u64,
}

const PUTS: Mix =
    Mix { ties: false, ties_with_deletes: false, hard_deletes: false, last_level: Level::Linearizable, longest: 8 };
const STALENESS_STEPS: u64 = 4;
const BOUNDED: Level = Level::BoundedStaleness { max_staleness_ms: STALENESS_STEPS * STEP_NS / 1_000_000 };

/// Random calls with random beginnings and ends. Values are numbers of writes.
fn random_history(chance: &mut Chance, mix: Mix) -> History {
    let count = 2 + chance.below(mix.longest - 1) as usize;
    let writes = 1 + chance.below(count as u64) as usize;
    let mut event_times: Vec<i64> = (1..=writes as i64).collect();
    chance.shuffle(&mut event_times);
    let (mut calls, mut ends): (Vec<Call>, Vec<Option<Outcome>>) = (Vec::new(), Vec::new());
    for (id, own) in event_times.into_iter().enumerate() {
        let change = match chance.below(10) {
            0..=1 => Change::SoftDelete,
            2..=4 if mix.hard_deletes => Change::HardDelete,
            _ => Change::Put { value: id.to_string() },
        };
        let shares = if matches!(change, Change::Put { .. }) { mix.ties } else { mix.ties_with_deletes };
        // Shared event times are negative, so that they never meet a delete's own.
        let event_time = if shares { -1 - chance.below(2) as i64 } else { own };
        let became_online = (!mix.hard_deletes && chance.percent(10)).then_some(true);
        calls.push(write("k", change, event_time, id));
        ends.push((!chance.percent(15)).then_some(Outcome::Written(Ack { became_online, ..Ack::default() })));
    }
    for _ in writes..count {
        let seen = match chance.below(writes as u64 + 2) {
            0..=1 => Seen::Absent,
            other => Seen::Value { value: (other - 2).to_string(), event_time: None },
        };
        calls.push(get("k", Level::Linearizable));
        ends.push(Some(Outcome::Read(vec![seen])));
    }
    if writes < count {
        *calls.last_mut().expect("there are calls") = get("k", mix.last_level);
    }
    in_random_order(chance, calls, ends)
}

/// Each call in a process of its own. Ends are not far from beginnings, so that many histories can be explained.
fn in_random_order(chance: &mut Chance, calls: Vec<Call>, ends: Vec<Option<Outcome>>) -> History {
    let mut places: Vec<(u64, usize, bool)> = Vec::new();
    let reach = 1 + chance.below(4 * calls.len() as u64);
    for (process, end) in ends.iter().enumerate() {
        let begin = 16 * chance.below(2 * calls.len() as u64);
        places.push((begin, process, true));
        if end.is_some() {
            places.push((begin + 1 + 16 * chance.below(reach), process, false));
        }
    }
    places.sort_unstable_by_key(|(place, process, begins)| (*place, !begins, *process));
    let mut history = empty(0);
    for (_, process, begins) in places {
        let t_ns = history.events.len() as u64 * STEP_NS;
        let session = Some(process as u64 % 2);
        let own = Process(process as u64);
        let what = if begins {
            What::Invoke { process: own, call: calls[process].clone(), session }
        } else {
            What::Return { process: own, outcome: ends[process].clone().expect("it ends"), node: None }
        };
        history.push(t_ns, what);
    }
    history
}

fn only_key(operations: &Operations) -> &KeyOperations {
    operations.keys.values().next().expect("one key")
}

fn steps(operations: &KeyOperations) -> Vec<Step<'_>> {
    let strong = operations.reads.iter().filter(|read| read.level == Level::Linearizable);
    operations.writes.iter().map(Step::of_write).chain(strong.map(Step::of_read)).collect()
}

fn weak_read(operations: &KeyOperations) -> Option<&Read> {
    operations.reads.iter().find(|read| read.level != Level::Linearizable)
}

fn shown(history: &History) -> String {
    String::from_utf8(format::write(Vec::new(), history).expect("written")).expect("text")
}

/// How often search and checker said what.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    both_fine: u64,
    both_accuse: u64,
    missed: u64,
}

fn compare(seed: u64, count: u64, mix: Mix) -> Tally {
    let mut chance = Chance(seed);
    let mut tally = Tally::default();
    for _ in 0..count {
        let history = random_history(&mut chance, mix);
        let operations = Operations::of(&history).expect("recorded well");
        let found = [no_phantoms(&operations), linearizable(&operations).violations].concat();
        match (explains(&steps(only_key(&operations))), found.first()) {
            (true, None) => tally.both_fine += 1,
            (false, Some(_)) => tally.both_accuse += 1,
            (false, None) => tally.missed += 1,
            (true, Some(wrong)) => panic!("accused wrongly: {wrong}\n{}", shown(&history)),
        }
    }
    tally
}

fn is_telling(tally: Tally, count: u64) {
    assert!(tally.both_fine > count / 10 && tally.both_accuse > count / 10, "one-sided: {tally:?}");
}

#[test]
fn exact_on_event_times_of_their_own() {
    let tally = compare(1, 30_000, PUTS);
    assert_eq!(tally.missed, 0, "{tally:?}");
    is_telling(tally, 30_000);
}

#[test]
fn exact_where_puts_share_event_times() {
    let tally = compare(2, 30_000, Mix { ties: true, ..PUTS });
    assert_eq!(tally.missed, 0, "{tally:?}");
    is_telling(tally, 30_000);
}

#[test]
fn never_wrong_where_deletes_share_event_times() {
    let tally = compare(3, 20_000, Mix { ties: true, ties_with_deletes: true, ..PUTS });
    is_telling(tally, 20_000);
    assert!(tally.missed * 10 < tally.both_accuse, "misses too much: {tally:?}");
}

#[test]
fn never_wrong_on_hard_deletes() {
    let tally = compare(4, 20_000, Mix { hard_deletes: true, ..PUTS });
    is_telling(tally, 20_000);
    assert!(tally.missed * 2 < tally.both_accuse, "misses too much: {tally:?}");
}

/// A weaker read is a read that may also look back: further than any operation, to the bound, or to the session's
/// last write.
fn compare_weak(seed: u64, count: u64, level: Level) -> Tally {
    let mut chance = Chance(seed);
    let mut tally = Tally::default();
    for turn in 0..count {
        let history = random_history(&mut chance, Mix { last_level: level, ties: turn % 2 == 0, ..PUTS });
        let operations = Operations::of(&history).expect("recorded well");
        let key = only_key(&operations);
        let mut steps = steps(key);
        let Some(read) = weak_read(key).filter(|_| explains(&steps)) else { continue };
        let mut weak = Step::of_read(read);
        weak.from = match level {
            Level::BoundedStaleness { .. } => read.invoked.i.saturating_sub(STALENESS_STEPS),
            _ => 0,
        };
        if level == Level::Session {
            let known = |write: &granary_history::operations::Write| {
                write.session == read.session && write.acked.is_some_and(|(at, _)| at < read.invoked)
            };
            weak.after = (0..key.writes.len()).filter(|place| known(&key.writes[*place])).collect();
        }
        steps.push(weak);
        let found = [no_phantoms(&operations), bounded_staleness(&operations), sessions(&operations, false)].concat();
        match (explains(&steps), found.first()) {
            (true, None) => tally.both_fine += 1,
            (false, Some(_)) => tally.both_accuse += 1,
            (false, None) => tally.missed += 1,
            (true, Some(wrong)) => panic!("accused wrongly: {wrong}\n{}", shown(&history)),
        }
    }
    tally
}

#[test]
fn weaker_levels_are_never_accused_wrongly_and_seldom_let_go() {
    for (seed, level) in [(5, Level::Eventual), (6, BOUNDED), (7, Level::Session)] {
        let tally = compare_weak(seed, 15_000, level);
        assert!(tally.both_fine > 250 && tally.both_accuse > 250, "one-sided: {level:?} {tally:?}");
        assert!(tally.missed * 20 < tally.both_accuse, "misses too much: {level:?} {tally:?}");
    }
}

/// After the final mark a read at a weaker level counts like a linearizable one.
#[test]
fn final_reads_are_judged_as_linearizable() {
    let mut chance = Chance(8);
    let mut accused = 0;
    for _ in 0..10_000 {
        let mut history = random_history(&mut chance, PUTS);
        let t_ns = history.events.last().map_or(0, |last| last.t_ns);
        history.push(t_ns, What::Mark(Mark::Final));
        let value = chance.below(4);
        for process in [100, 101] {
            let call = get("k", if process == 100 { Level::Linearizable } else { Level::Eventual });
            let value = if process == 100 { value } else { chance.below(4) };
            let seen = match value {
                3 => Seen::Absent,
                value => Seen::Value { value: value.to_string(), event_time: None },
            };
            history.push(t_ns, What::Invoke { process: Process(process), call, session: None });
            history
                .push(t_ns, What::Return { process: Process(process), outcome: Outcome::Read(vec![seen]), node: None });
        }
        let operations = Operations::of(&history).expect("recorded well");
        if !no_phantoms(&operations).is_empty() || !linearizable(&operations).violations.is_empty() {
            continue;
        }
        let key = only_key(&operations);
        let steps: Vec<Step<'_>> =
            key.writes.iter().map(Step::of_write).chain(key.reads.iter().map(Step::of_read)).collect();
        let found = eventual(&operations);
        assert_eq!(found.is_empty(), explains(&steps), "{found:?}\n{}", shown(&history));
        accused += u64::from(!found.is_empty());
    }
    assert!(accused > 250, "one-sided: {accused}");
}
