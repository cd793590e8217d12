//! Histories of a system that is right, made wrong in one place: the checkers must see it, by the rule it breaks.

use granary_history::model::{Ack, Change, Key, Level, Mark, Outcome, Process, Seen, TableRow, What};
use granary_history::operations::{Read, Write};
use granary_history::{History, Operations, Promises, Rule, check};

use crate::recording::{Chance, GROUP, absent, acked, at_once, begin, empty, end, get, put, saw, write as write_call};
use crate::simulated::{RESET, STALENESS_MS, run};

/// Makes one history of each seed wrong; `None` where a seed gives no occasion. All that are made must be caught.
fn each_is_caught(rule: Rule, make_wrong: impl Fn(&mut History, &Operations, &mut Chance) -> Option<()>) {
    let mut made = 0;
    for seed in 0..12 {
        let mut history = run(seed, 300);
        let operations = Operations::of(&history).expect("recorded well");
        if make_wrong(&mut history, &operations, &mut Chance(seed)).is_none() {
            continue;
        }
        made += 1;
        let report = check(&history, Promises::default()).expect("recorded well");
        let by_rule = report.violations.iter().find(|violation| violation.rule == rule);
        let caught = by_rule.unwrap_or_else(|| panic!("seed {seed}: not caught by {rule}: {report}"));
        assert!((1..=9).contains(&caught.story.len()), "a story is short: {caught}");
    }
    assert!(made >= 6, "only {made} occasions");
}

fn reads_of(operations: &Operations, level: Level) -> Vec<&Read> {
    let all = operations.keys.iter().filter(|(key, _)| !key.key.starts_with(RESET));
    all.flat_map(|(_, key)| &key.reads).filter(|read| read.level == level).collect()
}

fn value_of(write: &Write) -> Option<String> {
    match &write.call.change {
        Change::Put { value } | Change::Update { value } => Some(value.clone()),
        Change::Fleeting { .. } | Change::SoftDelete | Change::HardDelete => None,
    }
}

/// A put of the read's key that was replaced by an acknowledged write that `is_known` to the read.
fn replaced_put(operations: &Operations, read: &Read, is_known: impl Fn(&Write) -> bool) -> Option<String> {
    let writes = &operations.keys[&read.key].writes;
    let newest = writes.iter().filter(|write| is_known(write)).max_by_key(|write| write.call.event_time)?;
    let old = writes.iter().find(|write| write.call.event_time < newest.call.event_time && value_of(write).is_some());
    old.filter(|old| old.invoked < read.returned).and_then(value_of)
}

/// Changes what a read saw of its key.
fn change_what_was_seen(history: &mut History, read: &Read, value: String) {
    let invoke = &history.events[read.invoked.i as usize].what;
    let What::Invoke { call: granary_history::model::Call::Read(call), .. } = invoke else { panic!("a read's call") };
    let place = call.keys.iter().position(|key| *key == read.key.key).expect("its key");
    let What::Return { outcome: Outcome::Read(seen), .. } = &mut history.events[read.returned.i as usize].what else {
        panic!("a read's end")
    };
    seen[place] = Seen::Value { value, event_time: None };
}

fn make_stale(
    history: &mut History,
    operations: &Operations,
    chance: &mut Chance,
    level: Level,
    is_known: impl Fn(&Read, &Write) -> bool,
) -> Option<()> {
    let candidates: Vec<(&Read, String)> = reads_of(operations, level)
        .into_iter()
        .filter_map(|read| Some((read, replaced_put(operations, read, |write| is_known(read, write))?)))
        .collect();
    let (read, value) = (!candidates.is_empty()).then(|| chance.pick(&candidates))?;
    change_what_was_seen(history, read, value.clone());
    Some(())
}

fn acked_before(read: &Read, write: &Write) -> bool {
    write.acked.is_some_and(|(at, _)| at < read.invoked)
}

#[test]
fn a_stale_linearizable_read() {
    each_is_caught(Rule::Linearizable, |history, operations, chance| {
        make_stale(history, operations, chance, Level::Linearizable, acked_before)
    });
}

#[test]
fn a_session_that_does_not_see_its_own_write() {
    each_is_caught(Rule::Session, |history, operations, chance| {
        make_stale(history, operations, chance, Level::Session, |read, write| {
            write.session == read.session && acked_before(read, write)
        })
    });
}

#[test]
fn a_read_that_is_staler_than_its_bound() {
    let level = Level::BoundedStaleness { max_staleness_ms: STALENESS_MS };
    each_is_caught(Rule::BoundedStaleness, |history, operations, chance| {
        make_stale(history, operations, chance, level, |read, write| {
            let bound = read.invoked.t_ns.saturating_sub(STALENESS_MS * 1_000_000);
            write.acked.is_some_and(|(at, _)| at.t_ns < bound)
        })
    });
}

/// A final read that sees what was replaced before it by an acknowledged write.
fn make_final_read_stale(
    history: &mut History,
    operations: &Operations,
    chance: &mut Chance,
    level: Level,
) -> Option<()> {
    let end = operations.marks[&Mark::Final];
    make_stale(history, operations, chance, level, |read, write| read.invoked > end && acked_before(read, write))
}

#[test]
fn an_acknowledged_write_that_the_end_does_not_have() {
    each_is_caught(Rule::Durable, |history, operations, chance| {
        make_final_read_stale(history, operations, chance, Level::Linearizable)
    });
}

#[test]
fn a_key_that_nobody_looks_at_in_the_end() {
    each_is_caught(Rule::Durable, |history, operations, chance| {
        let end = operations.marks[&Mark::Final];
        let finals = reads_of(operations, Level::Linearizable);
        let finals: Vec<&Read> = finals.into_iter().filter(|read| read.invoked > end).collect();
        let read = *chance.pick(&finals);
        let error = "unavailable".to_owned();
        let What::Return { outcome, .. } = &mut history.events[read.returned.i as usize].what else { return None };
        *outcome = Outcome::Failed { error };
        Some(())
    });
}

#[test]
fn replicas_that_disagree_in_the_end() {
    each_is_caught(Rule::Eventual, |history, operations, chance| {
        make_final_read_stale(history, operations, chance, Level::Eventual)
    });
}

#[test]
fn a_value_from_nowhere() {
    each_is_caught(Rule::NoPhantom, |history, operations, chance| {
        let reads = reads_of(operations, Level::Eventual);
        let read = *chance.pick(&reads);
        change_what_was_seen(history, read, "from nowhere".to_owned());
        Some(())
    });
}

#[test]
fn a_value_from_before_a_hard_delete() {
    each_is_caught(Rule::Linearizable, |history, operations, _| {
        let found = operations.keys.values().find_map(|key| {
            let reset = key.writes.iter().find(|w| w.call.change == Change::HardDelete && w.acked.is_some())?;
            let before = |write: &&Write| write.acked.is_some_and(|(at, _)| at < reset.invoked);
            let old = key.writes.iter().filter(before).find_map(value_of)?;
            let after = |read: &&Read| read.level == Level::Linearizable && acked_before(read, reset);
            Some((key.reads.iter().find(after)?.clone(), old))
        });
        let (read, old) = found?;
        change_what_was_seen(history, &read, old);
        Some(())
    });
}

fn rows(history: &History) -> Vec<usize> {
    let is_row = |place: &usize| matches!(history.events[*place].what, What::TableRow(_));
    (0..history.events.len()).filter(is_row).collect()
}

fn row(history: &mut History, place: usize) -> &mut TableRow {
    let What::TableRow(row) = &mut history.events[place].what else { panic!("a row") };
    row
}

#[test]
fn an_event_that_is_twice_in_the_table() {
    each_is_caught(Rule::OfflineOnce, |history, _, chance| {
        let place = *chance.pick(&rows(history));
        let mut twin = row(history, place).clone();
        twin.sequence += 1_000_000;
        let t_ns = history.events.last()?.t_ns;
        history.push(t_ns, What::TableRow(twin));
        Some(())
    });
}

/// Takes a line away. The places of the lines after it move up.
fn take_away(history: &mut History, place: usize) {
    history.events.remove(place);
    for (i, event) in (0..).zip(&mut history.events) {
        event.i = i;
    }
}

#[test]
fn an_event_that_is_missing_though_the_offset_is_past_it() {
    each_is_caught(Rule::OfflineOffset, |history, _, chance| {
        let place = *chance.pick(&rows(history));
        take_away(history, place);
        Some(())
    });
}

#[test]
fn an_acknowledged_event_that_is_missing() {
    each_is_caught(Rule::OfflineOnce, |history, operations, chance| {
        let acked: Vec<&str> = operations
            .keys
            .values()
            .flat_map(|key| &key.writes)
            .filter(|write| write.acked.is_some())
            .map(|write| write.call.write_id.as_str())
            .collect();
        let lost = *chance.pick(&acked);
        let place = rows(history).into_iter().find(|place| row(history, *place).write_id == lost)?;
        take_away(history, place);
        Some(())
    });
}

#[test]
fn a_row_with_another_rows_value() {
    each_is_caught(Rule::OfflineOnce, |history, _, chance| {
        let place = *chance.pick(&rows(history));
        row(history, place).value = Some("another".to_owned());
        Some(())
    });
}

/// The rows of updates.
fn updates(history: &History, operations: &Operations) -> Vec<usize> {
    let writes = operations.keys.values().flat_map(|key| &key.writes);
    let updates = writes.filter(|write| matches!(write.call.change, Change::Update { .. }));
    let ids: Vec<&str> = updates.map(|write| write.call.write_id.as_str()).collect();
    let is_one = |place: &usize| {
        let What::TableRow(row) = &history.events[*place].what else { return false };
        ids.contains(&row.write_id.as_str())
    };
    rows(history).into_iter().filter(is_one).collect()
}

#[test]
fn an_update_of_a_record_that_was_replaced_in_between() {
    each_is_caught(Rule::UpdateStandsOn, |history, operations, chance| {
        let updates = updates(history, operations);
        let place = *(!updates.is_empty()).then(|| chance.pick(&updates))?;
        row(history, place).kept = Some("of a put before".to_owned());
        Some(())
    });
}

#[test]
fn an_update_of_a_newer_record() {
    each_is_caught(Rule::UpdateStandsOn, |history, operations, chance| {
        let updates = updates(history, operations);
        let place = *(!updates.is_empty()).then(|| chance.pick(&updates))?;
        row(history, place).event_time = i64::MIN;
        Some(())
    });
}

#[test]
fn an_update_of_no_record() {
    each_is_caught(Rule::UpdateStandsOn, |history, operations, chance| {
        let updates = updates(history, operations);
        let place = *(!updates.is_empty()).then(|| chance.pick(&updates))?;
        // Before everything else in its stream.
        row(history, place).sequence = 0;
        Some(())
    });
}

#[test]
fn a_row_of_a_write_that_nobody_made() {
    each_is_caught(Rule::OfflineOnce, |history, _, chance| {
        let place = *chance.pick(&rows(history));
        let mut odd = row(history, place).clone();
        odd.write_id = "odd".to_owned();
        let t_ns = history.events.last()?.t_ns;
        history.push(t_ns, What::TableRow(odd));
        Some(())
    });
}

#[test]
fn an_offset_ahead_of_the_events() {
    each_is_caught(Rule::OfflineOffset, |history, _, _| {
        for event in &mut history.events {
            if let What::TableOffset(offset) = &mut event.what {
                offset.sequence += 3;
            }
        }
        Some(())
    });
}

#[test]
fn an_offset_behind_a_row() {
    each_is_caught(Rule::OfflineOffset, |history, _, _| {
        for event in &mut history.events {
            if let What::TableOffset(offset) = &mut event.what {
                offset.sequence = 1;
            }
        }
        Some(())
    });
}

#[test]
fn a_log_that_went_back() {
    each_is_caught(Rule::LogOrder, |history, _, chance| {
        let ends: Vec<usize> = (0..history.events.len())
            .filter(|place| matches!(history.events[*place].what, What::Return { outcome: Outcome::Written(_), .. }))
            .collect();
        let late = ends[ends.len() / 2 + chance.below(ends.len() as u64 / 2) as usize];
        let What::Return { outcome: Outcome::Written(ack), .. } = &mut history.events[late].what else { return None };
        ack.log_index = Some(1);
        Some(())
    });
}

#[test]
fn replicas_with_different_hashes() {
    each_is_caught(Rule::ReplicasEqual, |history, _, _| {
        let state = history.events.iter_mut().rev().find_map(|event| match &mut event.what {
            What::ReplicaState(state) => Some(state),
            _ => None,
        })?;
        state.state_hash.push('x');
        Some(())
    });
}

/// The proof of a stale read names the old put, the newer write and the read, in this order.
#[test]
fn a_story_is_the_operations_that_prove_it() {
    let mut history = empty(0);
    at_once(&mut history, 1, put("k", "old", 1), acked());
    at_once(&mut history, 1, put("other", "x", 1), acked());
    at_once(&mut history, 2, put("k", "new", 2), acked());
    at_once(&mut history, 3, get("k", Level::Linearizable), saw("old"));
    let report = check(&history, Promises::default()).expect("recorded well");
    let [violation] = report.violations.as_slice() else { panic!("one violation: {report}") };
    assert_eq!((violation.rule, &violation.key), (Rule::Linearizable, &Some(Key::new(GROUP, "k"))));
    let starts =
        ["process 1 put users/k = old", "process 2 put users/k = new", "process 3 read users/k (linearizable)"];
    assert_eq!(violation.story.len(), 3, "{violation}");
    assert!(violation.story.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{violation}");
}

/// What an older event time and a reset do, as design and not as accident.
#[test]
fn a_put_after_a_reset_shows_though_its_event_time_is_older() {
    let reset = |history: &mut History| {
        at_once(history, 1, put("k", "a", 10), acked());
        at_once(history, 1, write_call("k", Change::HardDelete, 11, "h"), acked());
        at_once(history, 1, put("k", "b", 5), acked());
    };
    let mut history = empty(0);
    reset(&mut history);
    at_once(&mut history, 2, get("k", Level::Linearizable), saw("b"));
    assert!(check(&history, Promises::default()).expect("recorded well").holds());
    let mut history = empty(0);
    reset(&mut history);
    at_once(&mut history, 2, get("k", Level::Linearizable), absent());
    let report = check(&history, Promises::default()).expect("recorded well");
    assert!(!report.holds(), "a put that a forgotten event time hid was not missed");
}

#[test]
fn monotonic_reads_are_checked_when_they_are_promised() {
    let mut history = empty(0);
    at_once(&mut history, 1, put("k", "a", 1), acked());
    at_once(&mut history, 1, put("k", "b", 2), acked());
    for (process, value) in [(2, "b"), (2, "a")] {
        begin(&mut history, process, Some(7), get("k", Level::Session));
        end(&mut history, process, saw(value));
    }
    assert!(check(&history, Promises::default()).expect("recorded well").holds());
    let report = check(&history, Promises { monotonic_reads: true }).expect("recorded well");
    assert_eq!(report.violations.iter().map(|violation| violation.rule).collect::<Vec<_>>(), [Rule::Session]);
}

#[test]
fn two_writes_with_one_stamp() {
    let mut history = empty(0);
    let ack = Outcome::Written(Ack { shard: Some(1), stamp: Some(7), ..Ack::default() });
    at_once(&mut history, 1, put("k", "a", 1), ack.clone());
    at_once(&mut history, 1, put("l", "b", 1), ack);
    let report = check(&history, Promises::default()).expect("recorded well");
    assert_eq!(report.violations.iter().map(|violation| violation.rule).collect::<Vec<_>>(), [Rule::LogOrder]);
}

#[test]
fn a_history_that_was_recorded_wrongly_is_refused() {
    let problem = |fill: &dyn Fn(&mut History)| {
        let mut history = empty(0);
        fill(&mut history);
        Operations::of(&history).expect_err("recorded wrongly").problem
    };
    let unknown = || Outcome::Unknown { error: "timeout".to_owned() };
    let twice = problem(&|history| {
        begin(history, 1, None, put("k", "a", 1));
        begin(history, 1, None, put("k", "b", 1));
    });
    assert_eq!(twice, "process 1 has two calls under way");
    let goes_on = problem(&|history| {
        at_once(history, 1, put("k", "a", 1), unknown());
        begin(history, 1, None, put("k", "b", 1));
    });
    assert_eq!(goes_on, "process 1 goes on after a call of unknown outcome");
    let no_begin = problem(&|history| end(history, 1, acked()));
    assert_eq!(no_begin, "process 1 ends a call that it did not begin");
    let same_value = problem(&|history| {
        at_once(history, 1, write_call("k", Change::Put { value: "a".to_owned() }, 1, "x"), acked());
        at_once(history, 1, write_call("k", Change::Put { value: "a".to_owned() }, 1, "y"), acked());
    });
    assert_eq!(same_value, "users/k is put twice with the value a");
    let same_id = problem(&|history| {
        at_once(history, 1, write_call("k", Change::SoftDelete, 1, "x"), acked());
        at_once(history, 1, write_call("k", Change::SoftDelete, 2, "x"), acked());
    });
    assert_eq!(same_id, "write id x is used twice");
    let late = problem(&|history| {
        history.push(0, What::Mark(Mark::Final));
        begin(history, 1, None, put("k", "a", 1));
    });
    assert_eq!(late, "process 1 writes after the final mark");
    assert_eq!(problem(&|history| at_once(history, 1, put("k", "a", 1), absent())), "a write ends as a read");
    assert_eq!(Process(3).to_string(), "process 3");
}
