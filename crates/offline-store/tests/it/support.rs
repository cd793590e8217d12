//! Feature groups, rows and readers for the tests.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use deltalake_core::datafusion::prelude::SessionContext;
use granary_offline_store::{OfflineRow, OfflineTable, OffsetMove, Operation, Options, Warehouse};
use granary_types::record::RawValue;
use granary_types::{
    ClusterId, CollectionType, EventTime, Feature, FeatureGroup, FeatureGroupId, FeatureGroupStatus, FeatureOrdinal,
    FeatureType, Granularity, OfflineConfig, Record, Schema, SchemaVersion, ShardId, StreamId, WriteId, WriteStamp,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

/// Features by name, type and whether they are a list.
pub(crate) fn group_of(version: u32, features: &[(&str, FeatureType, bool)]) -> FeatureGroup {
    let features = features.iter().enumerate().map(|(index, (name, kind, list))| Feature {
        collection: list.then_some(CollectionType::List),
        ..Feature::new(FeatureOrdinal(u16::try_from(index).expect("few")), *name, *kind)
    });
    FeatureGroup {
        id: FeatureGroupId(7),
        name: "customers".into(),
        schema: Schema::new(SchemaVersion(version), features.collect()).expect("a schema"),
        record_identifier: FeatureOrdinal(0),
        event_time: FeatureOrdinal(1),
        online: None,
        offline: Some(OfflineConfig {
            s3_uri: "s3://lake/features".into(),
            resolved_uri: "s3://lake/features/123/sagemaker/eu/offline-store/customers-1/data".into(),
            granularity: Granularity::Hour,
            ..OfflineConfig::default()
        }),
        throughput: None,
        role_arn: None,
        description: None,
        tags: Default::default(),
        created_at_ms: 1_000,
        updated_at_ms: 1_000,
        status: FeatureGroupStatus::Created,
    }
}

/// `id` String, `at` String event time, `age` Integral, `score` Fractional, `tags` list of strings.
pub(crate) fn group() -> FeatureGroup {
    group_of(
        1,
        &[
            ("id", FeatureType::String, false),
            ("at", FeatureType::String, false),
            ("age", FeatureType::Integral, false),
            ("score", FeatureType::Fractional, false),
            ("tags", FeatureType::String, true),
        ],
    )
}

pub(crate) fn stream(shard: u32) -> StreamId {
    StreamId { cluster: ClusterId(0xabcd), shard: ShardId(shard), incarnation: 1 }
}

/// A put whose row holds `texts`; a list is written with `|` between its elements.
pub(crate) fn put(group: &FeatureGroup, stream: StreamId, sequence: u64, texts: &[(&str, &str)]) -> OfflineRow {
    let values = texts.iter().map(|(name, text)| {
        let list = group.schema.by_name(name).expect("a feature").collection.is_some();
        let raw = if list {
            RawValue::List(text.split('|').map(str::to_owned).collect())
        } else {
            RawValue::Text((*text).to_owned())
        };
        ((*name).to_owned(), raw)
    });
    let record = Record::parse(group, values, None).expect("a record");
    OfflineRow {
        stream,
        sequence,
        stamp: WriteStamp(1_700_000_000_000_000_000 + sequence),
        invoked_at_us: 1_700_000_000_000_123,
        event_time: record.event_time,
        operation: Operation::Put,
        write_id: WriteId(u128::from(sequence)),
        row: granary_row::encode(&record, group.schema.version),
    }
}

/// A plain put of record `id` at hour `hour` of 2024-01-31.
pub(crate) fn simple(group: &FeatureGroup, stream: StreamId, sequence: u64, id: &str, hour: u32) -> OfflineRow {
    put(group, stream, sequence, &[("id", id), ("at", &format!("2024-01-31T{hour:02}:30:00Z"))])
}

pub(crate) fn at(text: &str) -> EventTime {
    EventTime::parse_iso(text).expect("an instant")
}

pub(crate) async fn warehouse(store: Arc<dyn ObjectStore>) -> Warehouse {
    let root = Url::parse("memory:///warehouse").expect("a URL");
    Warehouse::over(store, root, Options::default()).await.expect("a warehouse")
}

pub(crate) async fn memory_warehouse() -> Warehouse {
    warehouse(Arc::new(InMemory::new())).await
}

/// Writes rows of one stream and commits them from `expected` to the last sequence among them.
pub(crate) async fn append(
    table: &mut OfflineTable,
    expected: u64,
    rows: Vec<OfflineRow>,
) -> Result<granary_offline_store::Outcome, granary_offline_store::Error> {
    let new = rows.iter().map(|row| row.sequence).max().expect("rows");
    let stream = rows[0].stream;
    let files = table.write_files(rows).await?;
    table.append(&files, &[OffsetMove { stream, expected, new }]).await
}

/// Runs SQL over the table's newest version, there called `t`.
pub(crate) async fn query(table: &mut OfflineTable, sql: &str) -> Vec<RecordBatch> {
    table.refresh().await.expect("the newest version");
    let context = SessionContext::new();
    let provider = table.delta().table_provider().build().await.expect("a provider");
    context.register_table("t", Arc::new(provider)).expect("registered");
    context.sql(sql).await.expect("a plan").collect().await.expect("an answer")
}

/// The sequence numbers in the table, sorted: what tells lost and doubled events.
pub(crate) async fn sequences(table: &mut OfflineTable) -> Vec<i64> {
    let batches = query(table, "SELECT granary_sequence FROM t ORDER BY granary_sequence").await;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}
