//! Files that other programs put below a table.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use deltalake_core::datafusion::prelude::{col, lit};
use deltalake_core::kernel::Action;
use deltalake_core::logstore::get_actions;
use granary_offline_store::{OfflineTable, TakenIn, Verdicts};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::ArrowWriter;

use crate::faults::{Faults, FaultyStore};
use crate::support::{append, group, memory_warehouse, query, simple, stream, warehouse};

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Bytes {
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.into_inner().expect("a file").into()
}

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// As Spark writes it: no provenance, nanoseconds without a zone, narrow integers, a column nobody knows, one left out.
fn from_spark(ids: &[&str]) -> Bytes {
    let ages: Vec<i32> = ids.iter().zip(30..).map(|(_, age)| age).collect();
    parquet(vec![
        ("id", text(ids)),
        ("at", text(&vec!["2024-01-31T08:00:00Z"; ids.len()])),
        ("age", Arc::new(Int32Array::from(ages))),
        ("unknown", text(&vec!["x"; ids.len()])),
        ("write_time", Arc::new(TimestampNanosecondArray::from(vec![1_706_688_000_000_000_000; ids.len()]))),
    ])
}

async fn put(table: &OfflineTable, path: &str, bytes: Bytes) {
    table.delta().log_store().object_store(None).put(&Path::from(path), bytes.into()).await.expect("put");
}

async fn take_in(table: &mut OfflineTable, verdicts: &mut Verdicts) -> TakenIn {
    table.take_in_foreign_files(verdicts).await.expect("taken in")
}

async fn ages(table: &mut OfflineTable) -> Vec<i64> {
    let batches = query(table, "SELECT age FROM t WHERE age IS NOT NULL ORDER BY age").await;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test]
async fn a_foreign_file_becomes_part_of_the_table_once() {
    let warehouse = memory_warehouse().await;
    let group = group();
    assert!(!warehouse.has_files(&group).await.expect("listed"));
    let mut table = warehouse.table(&group).await.expect("a table");
    assert!(!warehouse.has_files(&group).await.expect("listed"), "a log is no data");
    let rows = vec![simple(&group, stream(1), 1, "ours", 8)];
    append(&mut table, 0, rows).await.expect("a commit");
    let path = "year=2024/month=01/day=31/hour=08/part-00000-aa.c000.snappy.parquet";
    put(&table, path, from_spark(&["x", "y"])).await;
    put(&table, "_temporary/0/part-1.parquet", from_spark(&["hidden"])).await;
    put(&table, "_SUCCESS", Bytes::new()).await;
    assert!(warehouse.has_files(&group).await.expect("listed"));

    let mut verdicts = Verdicts::default();
    let taken = take_in(&mut table, &mut verdicts).await;
    assert_eq!(taken, TakenIn { files: vec![path.to_owned()], rows: 2, ..TakenIn::default() });
    assert_eq!(take_in(&mut table, &mut verdicts).await, TakenIn::default());
    assert!(table.names_file(path).expect("a version") && !table.names_file("part-2.parquet").expect("a version"));
    assert_eq!(ages(&mut table).await, [30, 31]);
    let rows = query(&mut table, "SELECT count(*), count(granary_sequence), count(write_time) FROM t").await;
    let counts: Vec<i64> = rows[0].columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(counts, [3, 1, 3]);
    // Another process, which knows no verdicts, and two at once.
    let mut one = warehouse.table(&group).await.expect("a table");
    let mut other = warehouse.table(&group).await.expect("a table");
    put(&table, "part-2.parquet", from_spark(&["z"])).await;
    let (mut first, mut second) = (Verdicts::default(), Verdicts::default());
    let (one, other) = tokio::join!(one.take_in_foreign_files(&mut first), other.take_in_foreign_files(&mut second));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_eq!(ages(&mut table).await, [30, 30, 31]);
    // The change log's offsets are what they were.
    assert_eq!(table.offsets(&[stream(1)]).await.expect("offsets")[&stream(1)], 1);
}

#[tokio::test]
async fn our_own_orphans_stay_outside() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    table.write_files(vec![simple(&group, stream(1), 1, "orphan", 8)]).await.expect("files");
    assert_eq!(take_in(&mut table, &mut Verdicts::default()).await, TakenIn::default());
    assert!(query(&mut table, "SELECT id FROM t").await.iter().all(|batch| batch.num_rows() == 0));
}

#[tokio::test]
async fn what_cannot_be_read_as_rows_of_the_table_is_refused_once() {
    let warehouse = memory_warehouse().await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    let (id, at) = (text(&["a"]), text(&["2024-01-31T08:00:00Z"]));
    let number = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let wrong = [
        ("no-parquet.parquet", Bytes::from_static(b"PAR1 this is none PAR1")),
        ("empty.parquet", Bytes::new()),
        ("tiny.parquet", Bytes::from_static(b"PAR1\0\0\0\0PAR")),
        ("no-id.parquet", parquet(vec![("at", at.clone())])),
        ("no-time.parquet", parquet(vec![("id", id.clone())])),
        ("other-case.parquet", parquet(vec![("id", id.clone()), ("at", at.clone()), ("Age", number())])),
        ("other-type.parquet", parquet(vec![("id", number()), ("at", at.clone())])),
        (
            "fraction.parquet",
            parquet(vec![("id", id), ("at", at), ("age", Arc::new(Float64Array::from(vec![1.5])) as ArrayRef)]),
        ),
    ];
    for (path, bytes) in &wrong {
        put(&table, path, bytes.clone()).await;
    }
    let (before, mut verdicts) = (table.version(), Verdicts::default());
    let taken = take_in(&mut table, &mut verdicts).await;
    let mut refused: Vec<&str> = taken.refused.iter().map(|(path, _)| path.as_str()).collect();
    let mut expected: Vec<&str> = wrong.iter().map(|(path, _)| *path).collect();
    refused.sort_unstable();
    expected.sort_unstable();
    assert_eq!(refused, expected);
    assert_eq!(taken.files, Vec::<String>::new());
    assert_eq!(table.version(), before, "nothing was committed");
    assert_eq!(take_in(&mut table, &mut verdicts).await, TakenIn::default(), "told once");
    // Mended, it is another file.
    put(&table, "empty.parquet", from_spark(&["a"])).await;
    assert_eq!(take_in(&mut table, &mut verdicts).await.files, ["empty.parquet"]);
}

#[tokio::test]
async fn what_was_removed_from_the_table_does_not_come_back() {
    let warehouse = memory_warehouse().await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    put(&table, "part-1.parquet", from_spark(&["a"])).await;
    let mut verdicts = Verdicts::default();
    assert_eq!(take_in(&mut table, &mut verdicts).await.files, ["part-1.parquet"]);
    table.delta().clone().delete().with_predicate(col("id").eq(lit("a"))).await.expect("deleted");
    assert_eq!(ages(&mut table).await, Vec::<i64>::new());
    assert_eq!(take_in(&mut table, &mut Verdicts::default()).await, TakenIn::default());
    assert_eq!(ages(&mut table).await, Vec::<i64>::new());
}

/// The paths that the commits of a table add, in order.
async fn added(table: &OfflineTable) -> Vec<String> {
    let (log, mut paths) = (table.delta().log_store(), Vec::new());
    for version in 0..=table.version() {
        let commit = log.read_commit_entry(version).await.expect("readable").expect("a commit");
        let actions = get_actions(version, &commit).expect("actions");
        paths.extend(actions.into_iter().filter_map(|action| match action {
            Action::Add(add) => Some(add.path),
            _ => None,
        }));
    }
    paths
}

#[tokio::test]
async fn a_file_that_a_twin_names_at_the_same_moment_is_named_once() {
    let faults = Arc::new(Faults::default());
    let store = FaultyStore { inner: Arc::new(InMemory::new()), faults: faults.clone() };
    let warehouse = warehouse(Arc::new(store)).await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    put(&table, "part-1.parquet", from_spark(&["a"])).await;
    faults.twin_commits.store(1, Ordering::SeqCst);
    take_in(&mut table, &mut Verdicts::default()).await;
    assert_eq!(faults.twin_commits.load(Ordering::SeqCst), 0);
    table.refresh().await.expect("newest");
    assert_eq!(added(&table).await, ["part-1.parquet"]);
}

#[tokio::test]
async fn a_file_that_is_gone_or_grew_since_it_was_listed_waits_for_the_next_look() {
    let faults = Arc::new(Faults::default());
    let store = FaultyStore { inner: Arc::new(InMemory::new()), faults: faults.clone() };
    let warehouse = warehouse(Arc::new(store)).await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    for path in ["growing.parquet", "whole.parquet"] {
        put(&table, path, from_spark(&["a"])).await;
    }
    let below = Path::from("warehouse/lake/features/123/sagemaker/eu/offline-store/customers-1/data");
    let listed = |name: &str, size| ObjectMeta {
        location: below.clone().join(name),
        last_modified: chrono::Utc::now(),
        size,
        e_tag: None,
        version: None,
    };
    *faults.stale_listing.lock().expect("not poisoned") =
        vec![listed("gone.parquet", 1_000), listed("growing.parquet", 100)];
    let mut verdicts = Verdicts::default();
    let taken = take_in(&mut table, &mut verdicts).await;
    assert_eq!(taken, TakenIn { files: vec!["whole.parquet".to_owned()], rows: 1, ..TakenIn::default() });
    faults.stale_listing.lock().expect("not poisoned").clear();
    assert_eq!(take_in(&mut table, &mut verdicts).await.files, ["growing.parquet"]);
}

/// With the columns of provenance, as a program writes them that copies the table's schema.
fn with_provenance(sequence: Option<i64>, write_id: Option<&str>) -> Bytes {
    parquet(vec![
        ("id", text(&["a"])),
        ("at", text(&["2024-01-31T08:00:00Z"])),
        ("age", Arc::new(Int64Array::from(vec![30])) as ArrayRef),
        ("granary_write_id", Arc::new(StringArray::from(vec![write_id])) as ArrayRef),
        ("granary_sequence", Arc::new(Int64Array::from(vec![sequence])) as ArrayRef),
    ])
}

#[tokio::test]
async fn only_rows_with_sequence_numbers_are_ours_and_nobody_else_gives_provenance() {
    let warehouse = memory_warehouse().await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    put(&table, "theirs.parquet", with_provenance(None, None)).await;
    put(&table, "ours.parquet", with_provenance(Some(7), Some("00"))).await;
    put(&table, "pretended.parquet", with_provenance(None, Some("00"))).await;
    let taken = take_in(&mut table, &mut Verdicts::default()).await;
    assert_eq!(taken.files, ["theirs.parquet"]);
    let [(path, why)] = taken.refused.as_slice() else { panic!("one is refused: {taken:?}") };
    assert!(path == "pretended.parquet" && why.contains("granary_write_id"), "{path} {why}");
    assert_eq!(ages(&mut table).await, [30]);
}

#[tokio::test]
async fn rows_that_no_join_could_place_are_refused_by_name() {
    let warehouse = memory_warehouse().await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    let good = "2024-01-31T08:00:00Z";
    type Two = [Option<&'static str>; 2];
    let cases: [(&str, Two, Two, &str); 3] = [
        ("no-id.parquet", [Some("a"), None], [Some(good), Some(good)], "row 2 has no record identifier"),
        ("no-time.parquet", [Some("a"), Some("b")], [Some(good), None], "row 2, of record \"b\": it has no event time"),
        (
            "no-instant.parquet",
            [Some("a"), Some("b")],
            [Some("yesterday"), Some(good)],
            "row 1, of record \"a\": event",
        ),
    ];
    for (path, ids, times, _) in &cases {
        let column = |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        put(&table, path, parquet(vec![("id", column(ids)), ("at", column(times))])).await;
    }
    let taken = take_in(&mut table, &mut Verdicts::default()).await;
    assert_eq!((taken.files.len(), taken.refused.len()), (0, cases.len()), "{taken:?}");
    for (path, _, _, wanted) in cases {
        let (_, why) = taken.refused.iter().find(|(refused, _)| refused == path).expect("refused");
        assert!(why.starts_with(wanted), "{path}: {why}");
    }
}

#[tokio::test]
async fn files_that_were_removed_do_not_keep_others_from_being_found() {
    let warehouse = memory_warehouse().await;
    let mut table = warehouse.table(&group()).await.expect("a table");
    let bytes = from_spark(&["a"]);
    // As many as one look takes.
    for number in 0..1_000 {
        put(&table, &format!("a{number:04}.parquet"), bytes.clone()).await;
    }
    assert_eq!(take_in(&mut table, &mut Verdicts::default()).await.files.len(), 1_000);
    table.delta().clone().delete().await.expect("deleted");
    put(&table, "b.parquet", from_spark(&["b"])).await;
    assert_eq!(take_in(&mut table, &mut Verdicts::default()).await.files, ["b.parquet"]);
}

#[tokio::test]
async fn a_taken_in_file_that_is_gone_or_another_no_longer_breaks_the_table() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    append(&mut table, 0, vec![simple(&group, stream(1), 1, "ours", 8)]).await.expect("a commit");
    for path in ["gone.parquet", "mended.parquet", "spoilt.parquet", "stays.parquet"] {
        put(&table, path, from_spark(&["a"])).await;
    }
    let mut verdicts = Verdicts::default();
    assert_eq!(take_in(&mut table, &mut verdicts).await.files.len(), 4);
    assert_eq!(take_in(&mut table, &mut verdicts).await, TakenIn::default(), "nothing changed");

    table.delta().log_store().object_store(None).delete(&Path::from("gone.parquet")).await.expect("deleted");
    put(&table, "mended.parquet", from_spark(&["a", "b", "c"])).await;
    put(&table, "spoilt.parquet", Bytes::from_static(b"this is no parquet file")).await;
    let taken = take_in(&mut table, &mut verdicts).await;
    assert_eq!((taken.files, taken.rows), (vec!["mended.parquet".to_owned()], 3));
    assert_eq!(taken.removed, ["gone.parquet", "spoilt.parquet"]);
    assert_eq!(taken.refused.len(), 1);
    assert_eq!(ages(&mut table).await, [30, 30, 31, 32]);
    assert_eq!(take_in(&mut table, &mut verdicts).await, TakenIn::default());
    // What comes back as it was stays outside; another file of the name is another file.
    put(&table, "gone.parquet", from_spark(&["a"])).await;
    put(&table, "spoilt.parquet", from_spark(&["a", "b"])).await;
    assert_eq!(take_in(&mut table, &mut verdicts).await.files, ["spoilt.parquet"]);
    assert_eq!(table.offsets(&[stream(1)]).await.expect("offsets")[&stream(1)], 1);
}

#[tokio::test]
async fn a_file_of_ours_that_is_missing_is_not_made_to_look_right() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    append(&mut table, 0, vec![simple(&group, stream(1), 1, "ours", 8)]).await.expect("a commit");
    table.refresh().await.expect("newest");
    let path = added(&table).await.remove(0);
    table.delta().log_store().object_store(None).delete(&Path::from(path)).await.expect("deleted");
    let before = table.version();
    assert_eq!(take_in(&mut table, &mut Verdicts::default()).await, TakenIn::default());
    assert_eq!(table.version(), before);
}
