//! Files that other programs put below a table.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use deltalake_core::datafusion::prelude::{col, lit};
use granary_offline_store::{OfflineTable, TakenIn, Verdicts};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;

use crate::support::{append, group, memory_warehouse, query, simple, stream};

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
    assert_eq!(taken, TakenIn { files: vec![path.to_owned()], rows: 2, refused: vec![] });
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
