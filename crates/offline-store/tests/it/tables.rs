//! Creating, opening, directories, columns that are added.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use granary_offline_store::{Error, Options, Outcome, Settings, Warehouse};
use granary_types::{FeatureGroupId, FeatureType, Granularity};

use crate::support::{append, at, group, group_of, memory_warehouse, put, query, sequences, simple, stream};

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(directory).expect("below").display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_local_warehouse_is_a_tree_of_buckets_with_hive_directories() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("made if missing");
    let url = format!("file://{}", root.display());
    let warehouse = Warehouse::open(&url, Options::default()).await.expect("a warehouse");
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    let rows = vec![simple(&group, stream(1), 1, "a", 8), simple(&group, stream(1), 2, "b", 9)];
    assert_eq!(append(&mut table, 0, rows).await.expect("a commit"), Outcome::Committed(1));

    let files = files_below(&root.join("lake/features/123/sagemaker/eu/offline-store/customers-1/data"));
    assert_eq!(files.len(), 4, "{files:?}");
    assert_eq!(files[..2], ["_delta_log/00000000000000000000.json", "_delta_log/00000000000000000001.json"]);
    assert!(files[2].starts_with("year=2024/month=01/day=31/hour=08/20240131T083000Z_"), "{files:?}");
    assert!(files[3].starts_with("year=2024/month=01/day=31/hour=09/20240131T093000Z_"), "{files:?}");

    // Nothing is remembered by the process: a new one finds the same.
    let warehouse = Warehouse::open(&url, Options::default()).await.expect("again");
    let mut table = warehouse.table(&group).await.expect("the same table");
    assert_eq!(table.durable_offsets(&[stream(1)]).await.expect("offsets")[&stream(1)], 2);
    assert_eq!(sequences(&mut table).await, [1, 2]);
}

#[tokio::test]
async fn a_days_events_share_a_directory_where_the_group_says_so() {
    let warehouse = memory_warehouse().await;
    let mut group = group();
    group.offline.as_mut().expect("offline").granularity = Granularity::Day;
    let table = warehouse.table(&group).await.expect("a table");
    let rows = vec![simple(&group, stream(1), 1, "a", 8), simple(&group, stream(1), 2, "b", 23)];
    let files = table.write_files(rows).await.expect("files");
    assert_eq!(files.len(), 1);
    assert!(files[0].path.starts_with("year=2024/month=01/day=31/20240131T233000Z_"), "{}", files[0].path);
    assert_eq!((files[0].earliest, files[0].latest), (at("2024-01-31T08:30:00Z"), at("2024-01-31T23:30:00Z")));
}

#[tokio::test]
async fn many_rows_of_one_directory_make_several_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = Settings { file_rows_max: 3, ..Settings::default() };
    let options = Options { settings, ..Options::default() };
    let warehouse =
        Warehouse::open(&format!("file://{}", directory.path().display()), options).await.expect("a warehouse");
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    let rows = (1..=7).map(|sequence| simple(&group, stream(1), sequence, "a", 8)).collect();
    append(&mut table, 0, rows).await.expect("a commit");
    assert_eq!(sequences(&mut table).await, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(table.delta().get_file_uris().expect("files").count(), 3);
}

#[tokio::test]
async fn two_that_create_a_table_at_once_get_one() {
    let warehouse = memory_warehouse().await;
    let group = Arc::new(group());
    let opened = futures::future::join_all((0..4).map(|_| warehouse.table(&group))).await;
    for table in opened {
        assert_eq!(table.expect("a table").version(), 0);
    }
}

#[tokio::test]
async fn another_groups_table_is_refused() {
    let warehouse = memory_warehouse().await;
    let mut group = group();
    warehouse.table(&group).await.expect("a table");
    group.id = FeatureGroupId(8);
    let refused = warehouse.table(&group).await.expect_err("another group");
    assert!(matches!(refused, Error::TableMismatch { .. }), "{refused}");
}

#[tokio::test]
async fn locations_cannot_climb_out_of_the_warehouse() {
    let warehouse = memory_warehouse().await;
    for uri in ["s3://lake/../../etc", "s3://../x", "s3://lake", "lake/x", "s3:///x", "s3://lake/a\\b"] {
        let mut group = group();
        group.offline.as_mut().expect("offline").resolved_uri = uri.into();
        let refused = warehouse.table_url(&group).expect_err(uri);
        assert!(matches!(refused, Error::Location { .. }), "{uri}: {refused}");
    }
    let mut group = group();
    group.offline.as_mut().expect("offline").resolved_uri = "s3://lake/with space/ü/100%#?/data/".into();
    let mut table = warehouse.table(&group).await.expect("any name is good");
    append(&mut table, 0, vec![simple(&group, stream(1), 1, "a", 8)]).await.expect("a commit");
    assert_eq!(sequences(&mut table).await, [1]);
}

#[tokio::test]
async fn a_feature_that_is_added_gets_its_column_before_the_provenance() {
    let warehouse = memory_warehouse().await;
    let before = group_of(1, &[("id", FeatureType::String, false), ("at", FeatureType::String, false)]);
    let mut table = warehouse.table(&before).await.expect("a table");
    append(&mut table, 0, vec![simple(&before, stream(1), 1, "a", 8)]).await.expect("a commit");

    let after = Arc::new(group_of(
        2,
        &[
            ("id", FeatureType::String, false),
            ("at", FeatureType::String, false),
            ("age", FeatureType::Integral, false),
        ],
    ));
    let newer = put(&after, stream(1), 2, &[("id", "b"), ("at", "2024-01-31T08:30:00Z"), ("age", "41")]);
    let refused = table.write_files(vec![newer.clone()]).await.expect_err("the handle does not know the feature");
    assert!(matches!(refused, Error::NewerSchema { row: 2, known: 1 }), "{refused}");

    table.adopt(&after).await.expect("a column more");
    append(&mut table, 1, vec![newer]).await.expect("a commit");
    let batches = query(&mut table, "SELECT * FROM t ORDER BY granary_sequence").await;
    let names: Vec<_> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..5], ["id", "at", "age", "write_time", "api_invocation_time"]);
    let ages = query(&mut table, "SELECT age FROM t ORDER BY granary_sequence").await;
    let ages = arrow::compute::concat_batches(&ages[0].schema(), &ages).expect("one batch");
    let ages = ages.column(0).as_primitive::<Int64Type>();
    assert!(ages.is_null(0));
    assert_eq!(ages.value(1), 41);

    // A handle with the old view goes on: its rows have null there.
    let mut old = warehouse.table(&before).await.expect("still opens");
    append(&mut old, 2, vec![simple(&before, stream(1), 3, "c", 8)]).await.expect("a commit");
    assert_eq!(sequences(&mut table).await, [1, 2, 3]);
}

#[tokio::test]
async fn the_log_gets_checkpoints_and_keeps_the_offsets() {
    let directory = tempfile::tempdir().expect("a directory");
    let options =
        Options { settings: Settings { checkpoint_interval: 3, ..Settings::default() }, ..Options::default() };
    let url = format!("file://{}", directory.path().display());
    let warehouse = Warehouse::open(&url, options).await.expect("a warehouse");
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    let mut made = 0;
    for sequence in 1..=7 {
        append(&mut table, sequence - 1, vec![simple(&group, stream(1), sequence, "a", 8)]).await.expect("a commit");
        table.refresh().await.expect("newest");
        made += u32::from(table.maintain().await.expect("housekeeping"));
    }
    assert_eq!(made, 2);
    let path = table.url().to_file_path().expect("a path");
    assert!(path.join("_delta_log/00000000000000000006.checkpoint.parquet").exists());
    let mut table = warehouse.table(&group).await.expect("from the checkpoint");
    assert_eq!(table.offsets(&[stream(1), stream(2)]).await.expect("offsets")[&stream(1)], 7);
    assert_eq!(table.offsets(&[stream(2)]).await.expect("offsets")[&stream(2)], 0);
    assert_eq!(sequences(&mut table).await, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_url_with_credentials_is_refused_without_repeating_them() {
    for url in ["s3://key:hidden@lake/granary", "s3://hidden@lake/granary", "abfss://container:hidden@account/granary"]
    {
        let refused = Warehouse::open(url, Options::default()).await.expect_err("refused");
        assert!(matches!(&refused, Error::Location { reason, .. } if reason.contains("credentials")), "{refused}");
        assert!(!format!("{refused} {refused:?}").contains("hidden"), "{refused:?}");
    }
}
