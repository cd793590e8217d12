//! A cluster of nothing but change logs: nodes that serve segments and take acknowledgements, and trim at once what is
//! acknowledged, so that an acknowledgement too early loses events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::{BufMut, Bytes};
use deltalake_core::datafusion::prelude::SessionContext;
use granary_catalog::CatalogView;
use granary_compactor::{Compactor, Settings, StepHook};
use granary_offline_store::{Options, Warehouse};
use granary_platform::Platform;
use granary_proto::convert::{cluster_to_wire, feature_group_to_wire, stream_from_wire, stream_to_wire, u128_to_wire};
use granary_proto::internal::acknowledge_response::Result as Acknowledged;
use granary_proto::internal::change_log_server::{ChangeLog, ChangeLogServer};
use granary_proto::internal::{
    AcknowledgeRequest, AcknowledgeResponse, Catalog, ChangeEvent, Node, NotLeader, ReadSegmentsRequest,
    ReadSegmentsResponse, ReplicaInfo, Segment, ShardInfo, TrimmedGroup, Write,
};
use granary_types::record::RawValue;
use granary_types::{
    ClusterId, Feature, FeatureGroup, FeatureGroupId, FeatureGroupStatus, FeatureOrdinal, FeatureType, OfflineConfig,
    Record, Schema, SchemaVersion, ShardId, StreamId,
};
use parking_lot::Mutex;
use prometheus::Registry;
use prost::Message;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::faulty::{Faults, FaultyStore, take};

pub(crate) const NODES: u64 = 3;
const CLUSTER: ClusterId = ClusterId(0x77);
/// Long enough for the slowest machine; a test that is right never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn stream(shard: u32) -> StreamId {
    StreamId { cluster: CLUSTER, shard: ShardId(shard), incarnation: 1 }
}

/// One shard's change log, the same on all its replicas.
#[derive(Debug, Clone, Default)]
struct Log {
    segments: Vec<Segment>,
    open: Vec<ChangeEvent>,
    last: u64,
    trimmed: u64,
}

/// A node's server, which ends when it is told.
#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// What the nodes share, and what they do wrong.
#[derive(Debug)]
pub(crate) struct Cluster {
    logs: Mutex<BTreeMap<u32, Log>>,
    /// The acknowledged sequence of each shard, as trimmed.
    acknowledged: watch::Sender<BTreeMap<u32, u64>>,
    /// Node 2 leads all shards; reads are answered by all.
    pub(crate) leader: u64,
    /// So many reads are answered with damaged segments.
    pub(crate) damaged_reads: AtomicUsize,
    /// So many reads are refused.
    pub(crate) refused_reads: AtomicUsize,
    /// What the object store does wrong.
    pub(crate) faults: Arc<Faults>,
    /// The object store itself, for those who go behind everybody's back.
    pub(crate) objects: Arc<FaultyStore>,
    /// What the compactor said last of tables that it cannot write.
    failing: watch::Sender<Vec<String>>,
    /// Of the compactor that was started last.
    metrics: Mutex<Registry>,
    /// Acknowledgements that came before their commits (CL-3).
    violations: Mutex<Vec<String>>,
    pub(crate) warehouse: Arc<Warehouse>,
    groups: Mutex<Vec<Arc<FeatureGroup>>>,
    /// Every event there ever was: shard, sequence, group.
    events: Mutex<Vec<(u32, u64, FeatureGroupId)>>,
    pub(crate) catalog: watch::Sender<Arc<CatalogView>>,
    servers: Mutex<BTreeMap<u64, Server>>,
    /// Sockets that hold the ports of dead nodes, and are listened on by nobody.
    graves: Mutex<Vec<TcpSocket>>,
    /// Nodes that take calls and never answer them.
    hung: Mutex<BTreeSet<u64>>,
    addresses: Mutex<Vec<String>>,
    shards: u32,
}

impl Cluster {
    /// `shards` shards on [`NODES`] nodes, with the feature groups `groups` in the catalog.
    pub(crate) async fn start(shards: u32, groups: &[FeatureGroup]) -> Arc<Self> {
        let root = "memory:///warehouse".parse().expect("a URL");
        let objects = Arc::new(FaultyStore::default());
        let faults = objects.faults.clone();
        let warehouse = Warehouse::over(objects.clone(), root, Options::default()).await.expect("opens");
        let cluster = Arc::new(Self {
            logs: Mutex::new((1..=shards).map(|shard| (shard, Log::default())).collect()),
            acknowledged: watch::Sender::new(BTreeMap::new()),
            leader: 2,
            damaged_reads: AtomicUsize::new(0),
            refused_reads: AtomicUsize::new(0),
            faults,
            objects,
            failing: watch::Sender::default(),
            metrics: Mutex::default(),
            violations: Mutex::new(Vec::new()),
            warehouse: Arc::new(warehouse),
            groups: Mutex::new(Vec::new()),
            events: Mutex::new(Vec::new()),
            catalog: watch::Sender::new(Arc::new(CatalogView::empty())),
            servers: Mutex::default(),
            graves: Mutex::default(),
            hung: Mutex::default(),
            addresses: Mutex::new(Vec::new()),
            shards,
        });
        for node in 1..=NODES {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            cluster.addresses.lock().push(listener.local_addr().expect("bound").to_string());
            let service = ChangeLogServer::new(FakeNode { node, cluster: cluster.clone() });
            let server = tonic::transport::Server::builder().add_service(service);
            let (stop, stopped) = oneshot::channel();
            let told = async move { drop(stopped.await) };
            let ended = tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), told));
            cluster.servers.lock().insert(node, Server { stop, ended });
        }
        cluster.publish(groups);
        cluster
    }

    /// Ends a node's server for good: connections to it are refused.
    pub(crate) async fn kill(&self, node: u64) {
        let server = self.servers.lock().remove(&node).expect("alive");
        server.stop.send(()).expect("it listens to this");
        server.ended.await.expect("no panic").expect("served");
        let address = self.addresses.lock()[usize::try_from(node - 1).expect("few")].parse().expect("an address");
        let grave = TcpSocket::new_v4().expect("a socket");
        grave.set_reuseaddr(true).expect("an option");
        grave.bind(address).expect("the port is free");
        self.graves.lock().push(grave);
    }

    /// From now on a node takes calls and never answers them.
    pub(crate) fn hang(&self, node: u64) {
        self.hung.lock().insert(node);
    }

    /// Makes a catalog with these groups the newest one.
    pub(crate) fn publish(&self, groups: &[FeatureGroup]) {
        *self.groups.lock() = groups.iter().cloned().map(Arc::new).collect();
        let version = self.catalog.borrow().version + 1;
        let addresses = self.addresses.lock();
        let nodes = addresses.iter().zip(1..).map(|(address, id)| Node {
            id,
            uuid: u128_to_wire(u128::from(id)),
            address: address.clone(),
        });
        let shards = (1..=self.shards).map(|id| ShardInfo {
            id,
            replicas: (1..=NODES).map(|node| ReplicaInfo { replica: u64::from(id - 1) * NODES + node, node }).collect(),
            stream: Some(stream_to_wire(stream(id))),
        });
        let wire = Catalog {
            version,
            cluster: cluster_to_wire(CLUSTER),
            nodes: nodes.collect(),
            shards: shards.collect(),
            slot_shards: (0..4096).map(|slot| slot % self.shards + 1).collect(),
            slot_epochs: vec![1; 4096],
            feature_groups: groups.iter().map(feature_group_to_wire).collect(),
            next_node: 1_000,
            next_replica: 1_000,
            next_feature_group: 1_000,
        };
        self.catalog.send_replace(Arc::new(CatalogView::from_wire(&wire).expect("a catalog")));
    }

    /// Appends a put to a shard's open segment.
    pub(crate) fn put(&self, shard: u32, group: &FeatureGroup, record: &str, hour: u32) {
        let time = format!("2024-01-31T{hour:02}:00:00Z");
        // From schema version 2 on with an age.
        let values = [("id", record), ("at", &time), ("age", "41")].into_iter().take(group.schema.features().len());
        let values = values.map(|(name, text)| (name.to_owned(), RawValue::Text(text.into())));
        let record = Record::parse(group, values, None).expect("a record");
        let mut logs = self.logs.lock();
        let log = logs.get_mut(&shard).expect("a shard");
        log.last += 1;
        let write = Write {
            id: u128_to_wire(u128::from(log.last)),
            slot: 0,
            epoch: 1,
            feature_group: group.id.0,
            record: record.identifier.as_bytes().clone(),
            event_seconds: record.event_time.seconds(),
            event_nanos: record.event_time.subsec_nanos(),
            online: true,
            offline: true,
            row: granary_row::encode(&record, group.schema.version),
            ..Write::default()
        };
        log.open.push(ChangeEvent { sequence: log.last, stamp: 1_000 + log.last, write: Some(write) });
        self.events.lock().push((shard, log.last, group.id));
    }

    /// Seals what was put.
    pub(crate) fn seal(&self, shard: u32) {
        let mut logs = self.logs.lock();
        let log = logs.get_mut(&shard).expect("a shard");
        let events = std::mem::take(&mut log.open);
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let frames = frames(&events);
        log.segments.push(Segment {
            first_sequence: first.sequence,
            last_sequence: last.sequence,
            sealed_at: last.stamp,
            checksum: crc32fast::hash(&frames),
            events: frames,
        });
    }

    /// Puts `count` events into each shard, over groups and hours, and seals them.
    pub(crate) fn put_some(&self, groups: &[FeatureGroup], count: u32) {
        for shard in 1..=self.shards {
            for index in 0..count {
                let group = &groups[index as usize % groups.len()];
                self.put(shard, group, &format!("r{}", index % 5), index % 3);
            }
            self.seal(shard);
        }
    }

    /// Starts a compactor; it ends when the handle is aborted.
    pub(crate) fn compactor(&self, hook: Option<StepHook>) -> JoinHandle<()> {
        self.compactor_with(Settings { hook, ..Self::hurried() })
    }

    /// Settings of a compactor that does at once what others do now and then.
    pub(crate) fn hurried() -> Settings {
        Settings {
            flush_interval: Duration::from_millis(20),
            poll: Duration::from_millis(5),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            audit_interval: Duration::from_millis(20),
            iceberg_interval: Duration::from_millis(20),
            ..Settings::default()
        }
    }

    /// Starts a compactor with settings of its own.
    pub(crate) fn compactor_with(&self, settings: Settings) -> JoinHandle<()> {
        let registry = Registry::new();
        *self.metrics.lock() = registry.clone();
        let compactor =
            Compactor::new(Platform::system(), self.catalog.subscribe(), self.warehouse.clone(), settings, &registry);
        tokio::spawn(compactor.expect("metrics of its own").run())
    }

    /// Waits until every shard is acknowledged up to what `until` says of its last event.
    pub(crate) async fn acknowledged(&self, until: impl Fn(u32, u64) -> u64) {
        let targets: BTreeMap<u32, u64> =
            self.logs.lock().iter().map(|(shard, log)| (*shard, until(*shard, log.last))).collect();
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|acknowledged| {
            targets.iter().all(|(shard, target)| acknowledged.get(shard).copied().unwrap_or(0) >= *target)
        });
        let waited = tokio::time::timeout(PATIENCE, reached).await.map(|seen| seen.map(|_| ()));
        let seen = self.acknowledged.borrow().clone();
        waited.unwrap_or_else(|_| panic!("not acknowledged in time: {seen:?} of {targets:?}")).expect("open");
    }

    /// Waits until the compactor tells of failing tables what `wanted` says.
    pub(crate) async fn told(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut failing = self.failing.subscribe();
        // Nothing of it stays borrowed: a second look while somebody waits to write would wait for that one, and it for us.
        let waited = tokio::time::timeout(PATIENCE, failing.wait_for(|failing| wanted(failing))).await;
        let told = waited.map(|told| told.map(|told| told.clone()));
        let seen = self.failing.borrow().clone();
        told.unwrap_or_else(|_| panic!("not told in time: {seen:?}")).expect("open")
    }

    /// A gauge of the compactor that was started last.
    pub(crate) fn gauge(&self, name: &str) -> f64 {
        let families = self.metrics.lock().gather();
        let family = families.iter().find(|family| family.name() == name).expect("such a metric");
        family.get_metric()[0].get_gauge().get_value()
    }

    /// How far each shard is acknowledged.
    pub(crate) fn acknowledgements(&self) -> BTreeMap<u32, u64> {
        self.acknowledged.borrow().clone()
    }

    /// Forgets events as if they had never been put, for a check of what stays.
    pub(crate) fn forget_events(&self, lost: impl Fn(u32, u64, FeatureGroupId) -> bool) {
        self.events.lock().retain(|(shard, sequence, group)| !lost(*shard, *sequence, *group));
    }

    pub(crate) async fn all_acknowledged(&self) {
        self.acknowledged(|_, last| last).await;
    }

    /// A query over a group's table, which is `t`.
    async fn query(&self, group: &FeatureGroup, sql: &str) -> Vec<RecordBatch> {
        let table = self.warehouse.table(group).await.expect("a table");
        let context = SessionContext::new();
        let provider = table.delta().table_provider().build().await.expect("a provider");
        context.register_table("t", Arc::new(provider)).expect("registered");
        context.sql(sql).await.expect("a plan").collect().await.expect("rows")
    }

    /// How many files of others a group's table names, by their name; none if there is no table.
    pub(crate) async fn foreign_files(&self, group: &FeatureGroup) -> usize {
        let Some(table) = self.warehouse.existing_table(group).await.expect("a look") else { return 0 };
        let files = table.delta().snapshot().expect("loaded").log_data();
        files.iter().filter(|file| file.path().starts_with("part-")).count()
    }

    /// How many rows without provenance a group's table has.
    pub(crate) async fn foreign_rows(&self, group: &FeatureGroup) -> i64 {
        let batches = self.query(group, "SELECT count(*) FROM t WHERE granary_sequence IS NULL").await;
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    /// How many rows of a group's table there are, and how many of them have an age.
    pub(crate) async fn rows_and_ages(&self, group: &FeatureGroup) -> (i64, i64) {
        let batches = self.query(group, "SELECT count(*), count(age) FROM t WHERE age IS NULL OR age = 41").await;
        let count = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
        (count(0), count(1))
    }

    /// The rows of a group's table as (stream, sequence), sorted.
    async fn rows(&self, group: &FeatureGroup) -> Vec<(String, u64)> {
        let sql = "SELECT CAST(granary_stream AS VARCHAR), granary_sequence FROM t ORDER BY 1, 2";
        let mut rows = Vec::new();
        for batch in self.query(group, sql).await {
            let streams = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).expect("text");
            let sequences = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
            let streams = streams.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>();
            rows.extend(streams.into_iter().zip(sequences.into_iter().map(i64::cast_unsigned)));
        }
        rows
    }

    /// CP-1 at rest: the tables hold every event that was put, each once, and nothing else.
    pub(crate) async fn check_exactly_once(&self) {
        assert_eq!(*self.violations.lock(), Vec::<String>::new());
        let groups = self.groups.lock().clone();
        for group in groups {
            let events = self.events.lock().clone();
            let mut wanted: Vec<(String, u64)> = events
                .iter()
                .filter(|(_, _, id)| *id == group.id)
                .map(|(shard, sequence, _)| (stream(*shard).to_string(), *sequence))
                .collect();
            wanted.sort();
            assert_eq!(self.rows(&group).await, wanted, "table of {}", group.name);
        }
    }

    /// CL-3 at the moment of an acknowledgement: what is acknowledged stands in the tables.
    async fn check_committed(&self, shard: u32, until: u64) {
        let groups = self.groups.lock().clone();
        for group in groups {
            let last = {
                let events = self.events.lock();
                let of_group =
                    events.iter().filter(|(s, sequence, id)| *s == shard && *sequence <= until && *id == group.id);
                of_group.map(|(_, sequence, _)| *sequence).max().unwrap_or(0)
            };
            let mut table = self.warehouse.table(&group).await.expect("a table");
            let offset = table.offsets(&[stream(shard)]).await.expect("offsets")[&stream(shard)];
            if offset < last {
                let what = format!("acknowledged {until} of shard {shard}, but {} stands at {offset}", group.name);
                self.violations.lock().push(what);
            }
        }
    }
}

fn frames(events: &[ChangeEvent]) -> Bytes {
    let mut frames = Vec::new();
    for event in events {
        let payload = event.encode_to_vec();
        frames.put_u32_le(u32::try_from(payload.len()).expect("small"));
        frames.put_u32_le(crc32fast::hash(&payload));
        frames.extend_from_slice(&payload);
    }
    frames.into()
}

/// One node's change-log service.
#[derive(Debug)]
struct FakeNode {
    node: u64,
    cluster: Arc<Cluster>,
}

impl FakeNode {
    /// Comes back unless the node hangs.
    async fn answer(&self) {
        let hangs = self.cluster.hung.lock().contains(&self.node);
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

impl FakeNode {
    fn trimmed_groups(&self, shard: u32, trimmed: u64, after: u64) -> Vec<TrimmedGroup> {
        let mut last = BTreeMap::new();
        let events = self.cluster.events.lock();
        for (_, sequence, group) in events.iter().filter(|(of, sequence, _)| *of == shard && *sequence <= trimmed) {
            last.insert(group.0, *sequence);
        }
        let last = last.into_iter().filter(|(_, sequence)| *sequence > after);
        last.map(|(feature_group, sequence)| TrimmedGroup { feature_group, sequence }).collect()
    }
}

#[tonic::async_trait]
impl ChangeLog for FakeNode {
    async fn read_segments(
        &self,
        request: Request<ReadSegmentsRequest>,
    ) -> Result<Response<ReadSegmentsResponse>, Status> {
        self.answer().await;
        let request = request.into_inner();
        if take(&self.cluster.refused_reads) {
            return Err(Status::unavailable("refused on purpose"));
        }
        self.cluster.failing.send_replace(request.failing_tables.unwrap_or_default().lines);
        let log = self.cluster.logs.lock()[&request.shard].clone();
        let trimmed_groups = self.trimmed_groups(request.shard, log.trimmed, request.trimmed_groups_after);
        let mut bytes = 0;
        let mut segments: Vec<Segment> = log
            .segments
            .iter()
            .filter(|segment| segment.last_sequence > request.after_sequence.max(log.trimmed))
            .take_while(|segment| {
                let first = bytes == 0;
                bytes += segment.events.len();
                first || bytes <= request.max_bytes as usize
            })
            .cloned()
            .collect();
        if !segments.is_empty() && take(&self.cluster.damaged_reads) {
            let mut events = segments[0].events.to_vec();
            events[20] ^= 1;
            segments[0].events = events.into();
        }
        Ok(Response::new(ReadSegmentsResponse {
            stream: Some(stream_to_wire(stream(request.shard))),
            segments,
            trimmed_sequence: log.trimmed,
            sealed_sequence: log.last,
            last_sequence: log.last,
            trimmed_groups,
        }))
    }

    async fn acknowledge(&self, request: Request<AcknowledgeRequest>) -> Result<Response<AcknowledgeResponse>, Status> {
        self.answer().await;
        let request = request.into_inner();
        let of = stream_from_wire(request.stream.as_ref()).expect("a stream");
        let shard = of.shard.0;
        assert_eq!(of, stream(shard));
        let result = if self.node == self.cluster.leader {
            self.cluster.check_committed(shard, request.sequence).await;
            let trimmed = {
                let mut logs = self.cluster.logs.lock();
                let log = logs.get_mut(&shard).expect("a shard");
                log.segments.retain(|segment| segment.last_sequence > request.sequence);
                let kept = log.segments.first().map_or(request.sequence, |segment| segment.first_sequence - 1);
                log.trimmed = log.trimmed.max(kept.min(request.sequence));
                log.trimmed
            };
            self.cluster.acknowledged.send_modify(|acknowledged| {
                let last = acknowledged.entry(shard).or_insert(0);
                *last = request.sequence.max(*last);
            });
            Acknowledged::TrimmedSequence(trimmed)
        } else {
            let leader_node = if self.node == 1 { self.cluster.leader } else { 0 };
            Acknowledged::NotLeader(NotLeader { leader_node })
        };
        Ok(Response::new(AcknowledgeResponse { result: Some(result) }))
    }
}

/// A group called `name` with features `id`, `at` and, from schema version 2 on, `age`.
pub(crate) fn group(id: u32, name: &str, version: u32) -> FeatureGroup {
    let features = [("id", FeatureType::String), ("at", FeatureType::String), ("age", FeatureType::Integral)];
    let features = features.iter().take(1 + version as usize).enumerate();
    let features = features.map(|(index, (name, kind))| Feature {
        created_at_ms: 1,
        updated_at_ms: 1,
        ..Feature::new(FeatureOrdinal(u16::try_from(index).expect("few")), *name, *kind)
    });
    FeatureGroup {
        id: FeatureGroupId(id),
        name: name.into(),
        schema: Schema::new(SchemaVersion(version), features.collect()).expect("a schema"),
        record_identifier: FeatureOrdinal(0),
        event_time: FeatureOrdinal(1),
        online: None,
        offline: Some(OfflineConfig {
            s3_uri: "s3://lake".into(),
            resolved_uri: format!("s3://lake/{name}/data"),
            ..OfflineConfig::default()
        }),
        throughput: None,
        role_arn: None,
        description: None,
        tags: BTreeMap::new(),
        created_at_ms: 1,
        updated_at_ms: 1,
        status: FeatureGroupStatus::Created,
    }
}
