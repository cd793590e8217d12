//! A catalog, a warehouse and a query service of one test.

use std::net::SocketAddr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use granary_catalog::CatalogView;
use granary_offline_store::{OfflineRow, OffsetMove, Operation, Options, Outcome, Warehouse};
use granary_platform::Platform;
use granary_proto::convert::u128_to_wire;
use granary_proto::internal;
use granary_proto::v1::query_client::QueryClient;
use granary_proto::v1::query_server::QueryServer;
use granary_proto::v1::{
    ArrowBatch, DataCatalog, Feature, FeatureGroup, FeatureGroupStatus, FeatureType, JoinedFeatureGroup, OfflineConfig,
    OnlineConfig, PointInTimeJoinRequest, SqlRequest,
};
use granary_query::{QueryService, Settings};
use granary_types::record::RawValue;
use granary_types::{ClusterId, EventTime, Record, SchemaVersion, ShardId, StreamId, WriteId, WriteStamp};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Status, Streaming};

/// The cluster of all tests.
pub(crate) const CLUSTER: u128 = 7;

pub(crate) struct World {
    pub(crate) client: QueryClient<Channel>,
    catalog: Arc<CatalogView>,
    warehouse: Arc<Warehouse>,
    metrics: prometheus::Registry,
    sequence: u64,
    /// Where the queries run, apart from the test and its server, as in the product.
    queries: Option<Runtime>,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(queries) = self.queries.take() {
            queries.shutdown_background();
        }
    }
}

/// One write of a history.
pub(crate) struct Event {
    pub(crate) operation: Operation,
    pub(crate) stamp: u64,
    pub(crate) values: Vec<(&'static str, String)>,
}

/// A put stamped one second after its event time.
pub(crate) fn put(values: &[(&'static str, &str)]) -> Event {
    let values: Vec<_> = values.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    let time = values.iter().find(|(name, _)| *name == "event_time").expect("every event has one");
    let time = EventTime::parse_iso(&time.1).expect("an instant");
    let stamp = u64::try_from(time.nanos()).expect("after 1970") + 1_000_000_000;
    Event { operation: Operation::Put, stamp, values }
}

impl World {
    /// Groups `customers` (with an offline store), `Orders` (mixed case) and `live` (online only).
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default(), internal::Catalog::default()).await
    }

    pub(crate) async fn with(settings: Settings, nodes: internal::Catalog) -> Self {
        let groups = vec![
            group(1, "customers", &[("id", FeatureType::String), ("age", FeatureType::Integral)], true),
            group(
                2,
                "Orders",
                &[
                    ("OrderId", FeatureType::Integral),
                    ("Amount", FeatureType::Fractional),
                    ("age", FeatureType::String),
                ],
                true,
            ),
            group(3, "live", &[("id", FeatureType::String)], false),
        ];
        let wire = internal::Catalog {
            version: 1,
            cluster: u128_to_wire(CLUSTER),
            feature_groups: groups,
            next_node: nodes.nodes.len() as u64 + 1,
            next_replica: 100,
            next_feature_group: 4,
            ..nodes
        };
        let catalog = Arc::new(CatalogView::from_wire(&wire).expect("a catalog"));
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}", directory.path().display());
        let warehouse = Arc::new(Warehouse::open(&url, Options::default()).await.expect("a warehouse"));
        let (_, receiver) = watch::channel(Arc::clone(&catalog));
        let queries = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let queries = queries.expect("a runtime");
        let settings = Settings { runtime: Some(queries.handle().clone()), partitions: 2, ..settings };
        let metrics = prometheus::Registry::new();
        let service = QueryService::new(Platform::system(), receiver, Arc::clone(&warehouse), settings, &metrics);
        let address = serve(Server::builder().add_service(QueryServer::new(service.expect("a service")))).await;
        let client = QueryClient::connect(format!("http://{address}")).await.expect("a connection");
        Self { client, catalog, warehouse, metrics, sequence: 0, queries: Some(queries), _directory: directory }
    }

    /// Commits a flush with `events` of one group.
    pub(crate) async fn append(&mut self, group: &str, events: Vec<Event>) {
        let group = Arc::clone(self.catalog.group(group).expect("a group of the world"));
        let stream = StreamId { cluster: ClusterId(CLUSTER), shard: ShardId(1), incarnation: 1 };
        let mut table = self.warehouse.table(&group).await.expect("a table");
        let expected = table.offsets(&[stream]).await.expect("offsets")[&stream];
        let rows = events.into_iter().map(|event| {
            self.sequence += 1;
            let values = event.values.into_iter().map(|(name, text)| (name.to_owned(), RawValue::Text(text)));
            let record = Record::parse(&group, values, None).expect("a record");
            OfflineRow {
                stream,
                sequence: self.sequence,
                stamp: WriteStamp(event.stamp),
                invoked_at_us: 0,
                event_time: record.event_time,
                operation: event.operation,
                write_id: WriteId(u128::from(self.sequence)),
                row: granary_row::encode(&record, SchemaVersion(1)),
            }
        });
        let files = table.write_files(rows.collect()).await.expect("files");
        let moves = [OffsetMove { stream, expected, new: self.sequence }];
        let outcome = table.append(&files, &moves).await.expect("a commit");
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }

    /// How many calls are at work.
    pub(crate) fn running(&self) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == "granary_query_running").expect("such a metric");
        family.get_metric()[0].get_gauge().get_value()
    }

    /// A query's rows as text.
    pub(crate) async fn sql(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Status> {
        let answer = self.client.sql(SqlRequest { sql: sql.to_owned() }).await?;
        Ok(texts(&batches(answer.into_inner()).await?))
    }

    pub(crate) async fn join(&mut self, request: PointInTimeJoinRequest) -> Result<Vec<RecordBatch>, Status> {
        batches(self.client.point_in_time_join(request).await?.into_inner()).await
    }
}

/// A join with one group, otherwise without options.
pub(crate) fn joined(group: &str, key: &str) -> JoinedFeatureGroup {
    JoinedFeatureGroup { feature_group: group.to_owned(), spine_key_column: key.to_owned(), ..Default::default() }
}

/// Serves on a free port until the test's runtime ends.
pub(crate) async fn serve(router: tonic::transport::server::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn group(id: u32, name: &str, features: &[(&str, FeatureType)], offline: bool) -> FeatureGroup {
    let features = features.iter().chain(&[("event_time", FeatureType::String)]);
    let features: Vec<Feature> = features
        .map(|(name, kind)| Feature { name: (*name).to_owned(), r#type: (*kind).into(), ..Default::default() })
        .collect();
    let table = format!("{}_1700000000", name.to_lowercase());
    let offline = offline.then(|| OfflineConfig {
        s3_uri: "s3://bucket/prefix".to_owned(),
        resolved_uri: format!("s3://bucket/prefix/{name}/data"),
        data_catalog: Some(DataCatalog {
            catalog: "AwsDataCatalog".to_owned(),
            database: "sagemaker_featurestore".to_owned(),
            table,
        }),
        ..Default::default()
    });
    FeatureGroup {
        id,
        name: name.to_owned(),
        record_identifier_feature: features[0].name.clone(),
        features,
        event_time_feature: "event_time".to_owned(),
        online: Some(OnlineConfig::default()),
        offline,
        schema_version: 1,
        status: FeatureGroupStatus::Created.into(),
        ..Default::default()
    }
}

async fn batches(mut answer: Streaming<ArrowBatch>) -> Result<Vec<RecordBatch>, Status> {
    let mut batches = Vec::new();
    while let Some(message) = answer.next().await {
        let ipc = message?.ipc;
        for batch in StreamReader::try_new(ipc.as_ref(), None).expect("an Arrow stream") {
            batches.push(batch.expect("a batch"));
        }
    }
    Ok(batches)
}

/// Rows as text; null is `-`.
pub(crate) fn texts(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("a printable column"))
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    rows
}
