//! The join against a naive oracle: for every spine row, a look at every event.
//!
//! The oracle is written to be read, not to be fast, and shares nothing with the kernel but the types. With the
//! kernel's own invariant checks off, it was seen to catch each of these changes to the kernel: `<` for `<=` at the
//! cut-off, ties to the earlier stamp, resets ignored, resets from after the cut-off obeyed, an older put shown through
//! a delete, a look-back that excludes its end, shadowed versions forgotten, stamps ignored with
//! `only_written_by_cut_off`, nanoseconds cut.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use granary_types::{Cell, EventTime, Version, WriteStamp, supersedes};
use proptest::prelude::*;

use super::{Error, HistoryBuilder, Join, JoinSpec, JoinedFeature, Spine, provenance};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    Reset,
}

/// One row of a history. Its place in the list is the value of its feature `number`.
#[derive(Debug, Clone)]
struct Row {
    key: u8,
    version: Version,
    kind: Kind,
}

/// One row of a spine.
#[derive(Debug, Clone, Copy)]
struct Asked {
    key: Option<u8>,
    cut_off: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    look_back_seconds: Option<u64>,
    only_written_by_cut_off: bool,
}

/// The number of the row that the join must find.
fn naive(rows: &[Row], asked: Asked, rules: Rules) -> Option<i64> {
    let (key, cut_off) = (asked.key?, i128::from(asked.cut_off?));
    let mut counted = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let happened = row.version.event_time.nanos() <= cut_off;
        let written = i128::from(row.version.stamp.0) <= cut_off;
        if row.key == key && happened && (written || !rules.only_written_by_cut_off) {
            counted.push((number, row));
        }
    }
    let mut reset = None;
    for (_, row) in &counted {
        if row.kind == Kind::Reset {
            reset = reset.max(Some(row.version.stamp));
        }
    }
    let mut best: Option<(usize, &Row)> = None;
    for (number, row) in counted {
        let survives = row.kind != Kind::Reset && reset.is_none_or(|reset| row.version.stamp > reset);
        if survives && best.is_none_or(|(_, best)| supersedes(&row.version, &best.version)) {
            best = Some((number, row));
        }
    }
    let (number, best) = best?;
    let age = cut_off - best.version.event_time.nanos();
    let forgotten = rules.look_back_seconds.is_some_and(|seconds| age > i128::from(seconds) * 1_000_000_000);
    if best.kind == Kind::Delete || forgotten { None } else { i64::try_from(number).ok() }
}

/// What the kernel finds.
fn joined(rows: &[Row], asked: &[Asked], rules: Rules, chunk: usize) -> Vec<Option<i64>> {
    let batches: Vec<RecordBatch> = asked.chunks(chunk).map(spine_batch).collect();
    let spine = Spine::new(spine_batch(&[]).schema(), batches, "cut_off").expect("a spine");
    let mut history = HistoryBuilder::new(&spine, spec(rules), &history_schema()).expect("a history");
    for (index, rows) in rows.chunks(chunk).enumerate() {
        history.push(&history_batch(rows, index * chunk)).expect("a batch");
    }
    let history = history.finish().expect("events");
    let join = Join::new(Arc::new(spine), vec![history]).expect("a join");
    let mut found = Vec::new();
    for batch in join.batches(chunk + 1) {
        let batch = batch.expect("a joined batch");
        let numbers = batch.column_by_name("number").expect("a feature").as_primitive::<Int64Type>();
        let texts = batch.column_by_name("text").expect("a feature").as_string::<i32>();
        for row in 0..batch.num_rows() {
            let number = numbers.is_valid(row).then(|| numbers.value(row));
            assert_eq!(texts.is_valid(row).then(|| texts.value(row).to_owned()), number.map(|n| format!("row {n}")));
            found.push(number);
        }
    }
    found
}

fn spec(rules: Rules) -> JoinSpec {
    let feature = |name: &str| JoinedFeature { feature: name.to_owned(), output: name.to_owned() };
    JoinSpec {
        key_column: "key".to_owned(),
        identifier: "id".to_owned(),
        event_time: None,
        features: vec![feature("number"), feature("text")],
        look_back_seconds: rules.look_back_seconds,
        only_written_by_cut_off: rules.only_written_by_cut_off,
    }
}

fn spine_batch(asked: &[Asked]) -> RecordBatch {
    let keys: StringArray = asked.iter().map(|row| row.key.map(|key| key.to_string())).collect();
    let cut_offs: TimestampNanosecondArray = asked.iter().map(|row| row.cut_off).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![("key", Arc::new(keys)), ("cut_off", Arc::new(cut_offs))];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .expect("columns of one length")
}

fn history_schema() -> SchemaRef {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("id", DataType::Utf8),
        ("number", DataType::Int64),
        ("text", DataType::Utf8),
        (provenance::EVENT_TIME, micros),
        (provenance::EVENT_NANOS, DataType::Int32),
        (provenance::WRITE_STAMP, DataType::Int64),
        (provenance::OPERATION, DataType::Utf8),
    ];
    Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

fn history_batch(rows: &[Row], first: usize) -> RecordBatch {
    let number = |index: usize| i64::try_from(first + index).expect("few rows");
    let event_nanos = rows.iter().map(|row| i32::try_from(row.version.event_time.subsec_nanos() % 1_000).ok());
    let operations = rows.iter().map(|row| match row.kind {
        Kind::Put => "put",
        Kind::Delete => "delete",
        Kind::Reset => "reset",
    });
    let micros: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.version.event_time.micros())).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.key.to_string())).collect::<StringArray>()),
        Arc::new((0..rows.len()).map(|index| Some(number(index))).collect::<Int64Array>()),
        Arc::new((0..rows.len()).map(|index| Some(format!("row {}", number(index)))).collect::<StringArray>()),
        Arc::new(micros.with_timezone("UTC")),
        Arc::new(event_nanos.collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| i64::try_from(row.version.stamp.0).ok()).collect::<Int64Array>()),
        Arc::new(operations.map(Some).collect::<StringArray>()),
    ];
    RecordBatch::try_new(history_schema(), columns).expect("columns of one length")
}

/// Few instants, so that events, stamps and cut-offs often meet or lie one nanosecond apart.
fn instants() -> impl Strategy<Value = i64> {
    (-1_i64..6, prop::sample::select(vec![0_i64, 1, 999, 1_000, 999_999_999]))
        .prop_map(|(seconds, nanos)| seconds * 1_000_000_000 + nanos)
}

/// Rows in any order. A stamp is given to one write only, so stamps are made distinct.
fn histories() -> impl Strategy<Value = Vec<Row>> {
    let kinds = prop_oneof![4 => Just(Kind::Put), 1 => Just(Kind::Delete), 1 => Just(Kind::Reset)];
    let row = (0_u8..3, instants(), instants(), kinds);
    prop::collection::vec(row, 0..40).prop_map(|rows| {
        let mut taken = std::collections::BTreeSet::new();
        let mut history = Vec::new();
        for (key, event, stamp, kind) in rows {
            let mut stamp = u64::try_from(stamp.max(0)).expect("not negative");
            while !taken.insert(stamp) {
                stamp += 1;
            }
            let event_time = EventTime::from_nanos(i128::from(event)).expect("near 1970");
            history.push(Row { key, version: Version { event_time, stamp: WriteStamp(stamp) }, kind });
        }
        history
    })
}

fn spines() -> impl Strategy<Value = Vec<Asked>> {
    let row = (prop::option::weighted(0.9, 0_u8..4), prop::option::weighted(0.9, instants()));
    prop::collection::vec(row.prop_map(|(key, cut_off)| Asked { key, cut_off }), 1..30)
}

fn rules() -> impl Strategy<Value = Rules> {
    (prop::option::of(0_u64..5), any::<bool>())
        .prop_map(|(look_back_seconds, only_written_by_cut_off)| Rules { look_back_seconds, only_written_by_cut_off })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_join_finds_what_the_oracle_finds(rows in histories(), asked in spines(), rules in rules(), chunk in 1_usize..9) {
        let want: Vec<Option<i64>> = asked.iter().map(|asked| naive(&rows, *asked, rules)).collect();
        prop_assert_eq!(joined(&rows, &asked, rules, chunk), want);
    }

    /// Seen from the end of time the join is the online store (ON-1).
    #[test]
    fn as_of_the_end_the_join_is_the_online_fold(rows in histories()) {
        let asked: Vec<Asked> = (0..3).map(|key| Asked { key: Some(key), cut_off: Some(i64::MAX) }).collect();
        let rules = Rules { look_back_seconds: None, only_written_by_cut_off: false };
        let online = asked.iter().map(|asked| {
            let mut cell = Cell::default();
            for (number, row) in rows.iter().enumerate().filter(|(_, row)| Some(row.key) == asked.key) {
                let number = i64::try_from(number).expect("few rows");
                cell = cell.merge(match row.kind {
                    Kind::Put => Cell::of(row.version, Some(number)),
                    Kind::Delete => Cell::of(row.version, None),
                    Kind::Reset => Cell::reset_at(row.version.stamp),
                });
            }
            cell.live().copied()
        });
        prop_assert_eq!(joined(&rows, &asked, rules, 4), online.collect::<Vec<_>>());
    }
}

/// Rows of other programs may have one event time and one write time.
#[test]
fn of_equal_versions_the_same_one_wins_in_whatever_order_they_come() {
    let event_time = EventTime::from_nanos(0).expect("1970");
    let row = |kind| Row { key: 1, version: Version { event_time, stamp: WriteStamp(5) }, kind };
    let found = |rows: [(usize, Kind); 3]| {
        let asked = [Asked { key: Some(1), cut_off: Some(1_000) }];
        let spine = Spine::new(spine_batch(&[]).schema(), vec![spine_batch(&asked)], "cut_off").expect("a spine");
        let rules = Rules { look_back_seconds: None, only_written_by_cut_off: false };
        let mut history = HistoryBuilder::new(&spine, spec(rules), &history_schema()).expect("a history");
        for (number, kind) in rows {
            history.push(&history_batch(&[row(kind)], number)).expect("a batch");
        }
        let join = Join::new(Arc::new(spine), vec![history.finish().expect("events")]).expect("a join");
        let batch = join.batches(8).next().expect("a row").expect("a joined batch");
        let numbers = batch.column_by_name("number").expect("a feature").as_primitive::<Int64Type>();
        numbers.iter().collect::<Vec<_>>()
    };
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        assert_eq!(found(order.map(|number| (number, Kind::Put))), [Some(0)], "{order:?}");
        let deleted = |number| (number, if number == 2 { Kind::Delete } else { Kind::Put });
        assert_eq!(found(order.map(deleted)), [None], "{order:?}");
    }
}

#[test]
fn a_column_of_the_spine_and_a_feature_may_not_share_a_name() {
    let spine = Spine::new(spine_batch(&[]).schema(), vec![], "cut_off").expect("a spine");
    let mut spec = spec(Rules { look_back_seconds: None, only_written_by_cut_off: false });
    spec.features[0].output = "key".to_owned();
    let history = HistoryBuilder::new(&spine, spec, &history_schema()).expect("a history").finish().expect("no events");
    let refused = Join::new(Arc::new(spine), vec![history]);
    assert!(matches!(refused, Err(Error::DuplicateOutput { column }) if column == "key"));
}

#[test]
fn rows_without_provenance_are_refused_and_not_passed_over() {
    let asked = [Asked { key: Some(1), cut_off: Some(0) }];
    let spine = Spine::new(spine_batch(&[]).schema(), vec![spine_batch(&asked)], "cut_off").expect("a spine");
    let rules = Rules { look_back_seconds: None, only_written_by_cut_off: false };
    let version = Version { event_time: EventTime::from_parts(0, 0).expect("1970"), stamp: WriteStamp(1) };
    let batch = history_batch(&[Row { key: 1, version, kind: Kind::Put }], 0);
    let mut columns = batch.columns().to_vec();
    columns[6] = arrow::array::new_null_array(&DataType::Utf8, 1);
    let batch = RecordBatch::try_new(batch.schema(), columns).expect("columns of one length");
    let mut history = HistoryBuilder::new(&spine, spec(rules), &history_schema()).expect("a history");
    let refused = history.push(&batch).and_then(|()| history.finish().map(|_| ()));
    assert!(matches!(refused, Err(Error::Damaged { .. })));
}
