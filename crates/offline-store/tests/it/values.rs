//! What stands in the columns, read back by DataFusion and from the bare file.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use granary_offline_store::{OfflineRow, Operation, arrow_schema, record_batch};
use granary_types::{FeatureType, RecordIdentifier};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::{append, at, group, group_of, memory_warehouse, put, query, simple, stream};

#[tokio::test]
async fn values_are_typed_and_provenance_is_complete() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    let full = put(
        &group,
        stream(3),
        1,
        &[("id", "a"), ("at", "2024-01-31T08:30:00.123456789Z"), ("age", "007"), ("score", "15.20"), ("tags", "x|y")],
    );
    let deleted = OfflineRow {
        operation: Operation::Reset,
        event_time: at("2024-01-31T08:31:00Z"),
        row: granary_row::encode_delete(&group, &RecordIdentifier::new("a").expect("an id"), "2024-01-31T08:31:00Z")
            .expect("a row"),
        ..simple(&group, stream(3), 2, "a", 8)
    };
    append(&mut table, 0, vec![deleted, full]).await.expect("a commit");

    let batches = query(&mut table, "SELECT * FROM t ORDER BY granary_sequence").await;
    let batch: &RecordBatch = &batches[0];
    let column = |name: &str| batch.column_by_name(name).expect(name).clone();
    let text = |name: &str, row: usize| {
        let column = arrow::compute::cast(&column(name), &DataType::Utf8).expect("text");
        column.as_string::<i32>().value(row).to_owned()
    };
    assert_eq!(text("id", 0), "a");
    assert_eq!(text("at", 0), "2024-01-31T08:30:00.123456789Z");
    assert_eq!(column("age").as_primitive::<Int64Type>().value(0), 7);
    assert!((column("score").as_primitive::<Float64Type>().value(0) - 15.2).abs() < f64::EPSILON);
    let tags = column("tags").as_list::<i32>().value(0);
    let tags = arrow::compute::cast(&tags, &DataType::Utf8).expect("text");
    assert_eq!(tags.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x", "y"]);
    let micros = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(micros("granary_event_time"), 1_706_689_800_123_456);
    assert_eq!(column("granary_event_nanos").as_primitive::<Int32Type>().value(0), 789);
    assert_eq!(micros("write_time"), 1_700_000_000_000_000);
    assert_eq!(micros("api_invocation_time"), 1_700_000_000_000_123);
    assert_eq!(column("granary_write_stamp").as_primitive::<Int64Type>().value(0), 1_700_000_000_000_000_001);
    assert_eq!((text("granary_operation", 0), text("granary_operation", 1)), ("put".into(), "reset".into()));
    assert_eq!(text("granary_write_id", 0), format!("{:032x}", 1));
    assert_eq!(text("granary_stream", 0), stream(3).to_string());
    assert_eq!((column("is_deleted").as_boolean().value(0), column("is_deleted").as_boolean().value(1)), (false, true));
    // A delete has its identifier and event time, and nothing else of the record.
    assert_eq!((text("id", 1), text("at", 1)), ("a".into(), "2024-01-31T08:31:00Z".into()));
    assert!(column("age").is_null(1) && column("score").is_null(1) && column("tags").is_null(1));
}

#[tokio::test]
async fn files_are_sorted_and_carry_exactly_the_schema() {
    let warehouse = memory_warehouse().await;
    let group = group_of(1, &[("id", FeatureType::Integral, false), ("at", FeatureType::Fractional, false)]);
    let table = warehouse.table(&group).await.expect("a table");
    let rows = [("10", "1706689802.5"), ("9", "1706689801"), ("10", "1706689800.000000001"), ("-3", "1706689803")];
    let rows =
        rows.iter().zip(1..).map(|((id, at), sequence)| put(&group, stream(1), sequence, &[("id", id), ("at", at)]));
    let files = table.write_files(rows.collect()).await.expect("files");
    assert_eq!((files.len(), files[0].rows), (1, 4));

    let store = table.delta().object_store();
    let bytes = store.get(&Path::from(files[0].path.as_str())).await.expect("a file").bytes().await.expect("bytes");
    assert_eq!(bytes.len() as u64, files[0].size);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet");
    assert_eq!(builder.schema().fields(), arrow_schema(&group).fields());
    let sorting = builder.metadata().row_group(0).sorting_columns().expect("a sort order");
    assert_eq!(sorting.iter().map(|column| column.column_idx).collect::<Vec<_>>(), [0, 5, 6, 7]);
    let batch = builder.build().expect("a reader").next().expect("a batch").expect("readable");
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[-3, 9, 10, 10]);
    assert_eq!(
        batch.column_by_name("granary_sequence").expect("it").as_primitive::<Int64Type>().values(),
        &[4, 2, 3, 1]
    );
}

/// The range of event times in a commit is widened to whole milliseconds; no reader may take it for the data's.
#[tokio::test]
async fn filters_and_extremes_of_event_time_are_exact() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    let times = ["0001-01-01T00:00:00Z", "1999-12-31T23:59:59.999999Z", "2024-01-31T08:30:00.000001Z"];
    for (time, sequence) in times.iter().zip(1..) {
        append(&mut table, sequence - 1, vec![put(&group, stream(1), sequence, &[("id", "a"), ("at", time)])])
            .await
            .expect("a commit");
    }
    let count = |filter: &str| format!("SELECT count(*) FROM t WHERE granary_event_time {filter}");
    for (filter, expected) in [
        (">= TIMESTAMP '2024-01-31T08:30:00.000001Z'", 1),
        ("> TIMESTAMP '2024-01-31T08:30:00.000001Z'", 0),
        ("= TIMESTAMP '1999-12-31T23:59:59.999999Z'", 1),
        ("< TIMESTAMP '1999-12-31T23:59:59.999999Z'", 1),
        ("< TIMESTAMP '1700-01-01T00:00:00Z'", 1),
        ("IS NULL", 0),
    ] {
        let batches = query(&mut table, &count(filter)).await;
        assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), expected, "{filter}");
    }
    for condition in ["", "WHERE granary_event_time > TIMESTAMP '1900-01-01T00:00:00Z'"] {
        let batches = query(&mut table, &format!("SELECT max(granary_event_time) FROM t {condition}")).await;
        let latest = batches[0].column(0).as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(latest, 1_706_689_800_000_001, "{condition}");
    }
}

#[test]
fn a_row_of_another_type_is_refused() {
    let group = group();
    let other = group_of(
        1,
        &[("id", FeatureType::String, false), ("at", FeatureType::String, false), ("age", FeatureType::String, false)],
    );
    let row = put(&other, stream(1), 5, &[("id", "a"), ("at", "2024-01-31T08:30:00Z"), ("age", "old")]);
    let refused = record_batch(&group, &[&row]).expect_err("age is Integral");
    assert!(refused.to_string().contains("sequence=5"), "{refused}");
}
