//! Three nodes played by the test: a real catalog, a hash map for a store, and a script of what goes wrong.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::Stream;
use granary_api::Api;
use granary_catalog::{CatalogState, CatalogView};
use granary_platform::Platform;
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_server::{Meta, MetaServer};
use granary_proto::internal::row_result::Status as RowStatus;
use granary_proto::internal::shard_server::{Shard, ShardServer};
use granary_proto::internal::write_outcome::Status as Outcome;
use granary_proto::internal::{self, shard_list_response, shard_read_response, shard_write_response};
use granary_proto::v1;
use granary_router::{Router, Settings};
use granary_types::{ClusterId, FeatureOrdinal};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What the next write meets, wherever it arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// The node says that it does not lead and names this one; 0 names none.
    NotLeader(u64),
    /// The slot is not here; after the answer the catalog shows a later epoch of every slot.
    WrongShard,
    /// It is applied and the answer is lost.
    LoseAnswer,
    /// Nothing ever comes back.
    Hang,
    /// The change log is at its bound.
    ChangeLogFull,
}

#[derive(Default)]
struct Store {
    index: u64,
    accepted: HashSet<Bytes>,
    rows: HashMap<(u32, Bytes), internal::Write>,
}

struct Shared {
    catalog: Mutex<CatalogState>,
    published: watch::Sender<Arc<CatalogView>>,
    leader: AtomicU64,
    store: Mutex<Store>,
    script: Mutex<VecDeque<Step>>,
    writes: Mutex<Vec<internal::ShardWriteRequest>>,
    proposals_lost: AtomicU64,
}

/// The nodes and the catalog that routers watch.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    catalog: watch::Receiver<Arc<CatalogView>>,
}

impl Cluster {
    /// Three nodes on free ports with one shard, led by node 1.
    pub(crate) async fn start() -> Self {
        let (published, catalog) = watch::channel(Arc::new(CatalogView::empty()));
        let shared = Arc::new(Shared {
            catalog: Mutex::new(CatalogState::new(ClusterId(7))),
            published,
            leader: AtomicU64::new(1),
            store: Mutex::default(),
            script: Mutex::default(),
            writes: Mutex::default(),
            proposals_lost: AtomicU64::new(0),
        });
        for id in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound").to_string();
            let node = Node { id, shared: Arc::clone(&shared) };
            let server = tonic::transport::Server::builder()
                .add_service(ShardServer::from_arc(Arc::new(node.clone())))
                .add_service(MetaServer::new(node));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            let uuid = Bytes::copy_from_slice(&u128::from(id).to_be_bytes());
            shared.apply(&Command::RegisterNode(internal::RegisterNode { node: id, uuid, address }));
        }
        shared.apply(&Command::CreateShards(internal::CreateShards { shards: 1, replicas: 3 }));
        Self { shared, catalog }
    }

    pub(crate) fn router(&self, settings: Settings, registry: &Registry) -> Router {
        Router::new(Platform::system(), self.catalog.clone(), settings, registry)
    }

    /// A router that has the catalog as it is now and hears of no change.
    pub(crate) fn lagging_router(&self) -> Router {
        let (_, catalog) = watch::channel(Arc::clone(&self.catalog.borrow()));
        Router::new(Platform::system(), catalog, Settings::default(), &Registry::new())
    }

    /// The whole API over a router of its own.
    pub(crate) async fn api(&self) -> axum::Router {
        let registry = Registry::new();
        self.api_in(self.router(Settings::default(), &registry), registry).await
    }

    /// The whole API over `router`.
    pub(crate) async fn api_over(&self, router: Router) -> axum::Router {
        self.api_in(router, Registry::new()).await
    }

    async fn api_in(&self, router: Router, registry: Registry) -> axum::Router {
        let ready = router.clone();
        let readiness = Arc::new(move || ready.ready().map_err(|error| error.to_string()));
        let api = Api::new(router, granary_api::Settings::default(), registry, readiness);
        api.into_service().await.expect("the descriptors are read")
    }

    pub(crate) fn lead(&self, node: u64) {
        self.shared.leader.store(node, Ordering::SeqCst);
    }

    /// What the next writes meet, one step each.
    pub(crate) fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.shared.script.lock().expect("no panic").extend(steps);
    }

    /// So many commands of the meta group are applied and their answers lost.
    pub(crate) fn lose_proposals(&self, count: u64) {
        self.shared.proposals_lost.store(count, Ordering::SeqCst);
    }

    /// Every feature group there is or was, as the meta group keeps it.
    pub(crate) fn feature_groups(&self) -> Vec<v1::FeatureGroup> {
        self.shared.catalog.lock().expect("no panic").to_wire().feature_groups
    }

    /// The write requests that arrived, on any node.
    pub(crate) fn writes(&self) -> Vec<internal::ShardWriteRequest> {
        self.shared.writes.lock().expect("no panic").clone()
    }

    /// How many client writes were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.store.lock().expect("no panic").accepted.len()
    }
}

impl Shared {
    fn apply(&self, command: &Command) -> internal::MetaReply {
        let mut catalog = self.catalog.lock().expect("no panic");
        let command = internal::MetaCommand { command: Some(command.clone()) };
        let index = catalog.version() + 1;
        let reply = catalog.apply(index, &command).expect("a known command");
        self.published.send_replace(Arc::new(catalog.view()));
        reply
    }

    fn raise_epochs(&self) {
        let mut wire = self.catalog.lock().expect("no panic").to_wire();
        wire.version += 1;
        wire.slot_epochs.iter_mut().for_each(|epoch| *epoch += 1);
        self.published.send_replace(Arc::new(CatalogView::from_wire(&wire).expect("a whole catalog")));
    }
}

impl Store {
    fn write(&mut self, write: internal::Write) -> internal::WriteOutcome {
        let outcome = |status: Outcome| internal::WriteOutcome { status: status.into(), epoch: 0, stamp: 1 };
        if !self.accepted.insert(write.id.clone()) {
            return outcome(Outcome::Duplicate);
        }
        let key = (write.feature_group, write.record.clone());
        let time = |write: &internal::Write| (write.event_seconds, write.event_nanos);
        if !write.online || self.rows.get(&key).is_some_and(|old| time(old) > time(&write)) {
            return outcome(Outcome::Superseded);
        }
        self.rows.insert(key, write);
        outcome(Outcome::Applied)
    }

    /// All records at once, in order.
    fn list(&self, request: &internal::ShardListRequest) -> internal::ShardListed {
        let after = request.after.as_ref().map(|after| (after.slot, after.record.clone()));
        let slots: HashSet<u32> = request.slots.iter().flat_map(|owned| &owned.slots).copied().collect();
        let here = self.rows.values().filter(|write| write.feature_group == request.feature_group);
        let live = here.filter(|write| write.kind() == internal::WriteKind::Put && slots.contains(&write.slot));
        let mut places: Vec<_> = live.map(|write| (write.slot, write.record.clone())).collect();
        places.retain(|place| Some(place) > after.as_ref());
        places.sort_unstable();
        let place = |(slot, record): (u32, Bytes)| internal::RecordPlace { slot, record };
        let end = places.get(request.records_max as usize - 1).filter(|last| Some(*last) != places.last()).cloned();
        places.truncate(request.records_max as usize);
        let listed = |at| internal::ListedRecord { place: Some(place(at)), row: None };
        internal::ShardListed { records: places.into_iter().map(listed).collect(), end: end.map(place) }
    }

    fn read(&self, key: &internal::RecordKey, ordinals: &[u32]) -> internal::RowResult {
        let found = self.rows.get(&(key.feature_group, key.record.clone()));
        let Some(write) = found.filter(|write| write.kind() == internal::WriteKind::Put) else {
            return internal::RowResult { status: RowStatus::NotFound.into(), ..Default::default() };
        };
        let ordinals: Vec<_> =
            ordinals.iter().map(|ordinal| FeatureOrdinal(u16::try_from(*ordinal).expect("small"))).collect();
        let row = match ordinals.is_empty() {
            true => write.row.clone(),
            false => granary_row::project(&write.row, &ordinals).expect("a row"),
        };
        internal::RowResult {
            status: RowStatus::Found.into(),
            row,
            event_seconds: write.event_seconds,
            event_nanos: write.event_nanos,
            ..Default::default()
        }
    }
}

#[derive(Clone)]
struct Node {
    id: u64,
    shared: Arc<Shared>,
}

impl Node {
    fn leader_elsewhere(&self) -> Option<internal::NotLeader> {
        let leader_node = self.shared.leader.load(Ordering::SeqCst);
        (leader_node != self.id).then_some(internal::NotLeader { leader_node })
    }

    fn written(&self, outcomes: Vec<internal::WriteOutcome>) -> internal::ShardWriteResponse {
        let raft_index = self.shared.store.lock().expect("no panic").index;
        let result = shard_write_response::Result::Written(internal::ShardWritten { raft_index, outcomes });
        internal::ShardWriteResponse { result: Some(result) }
    }

    fn apply(&self, writes: Vec<internal::Write>) -> Vec<internal::WriteOutcome> {
        let mut store = self.shared.store.lock().expect("no panic");
        store.index += 1;
        writes.into_iter().map(|write| store.write(write)).collect()
    }
}

#[tonic::async_trait]
impl Shard for Node {
    async fn write(
        &self,
        request: Request<internal::ShardWriteRequest>,
    ) -> Result<Response<internal::ShardWriteResponse>, Status> {
        let request = request.into_inner();
        self.shared.writes.lock().expect("no panic").push(request.clone());
        let all = |status: Outcome| {
            let outcome = internal::WriteOutcome { status: status.into(), epoch: 9, stamp: 0 };
            vec![outcome; request.writes.len()]
        };
        let not_leader = |not_leader| {
            let result = shard_write_response::Result::NotLeader(not_leader);
            Ok(Response::new(internal::ShardWriteResponse { result: Some(result) }))
        };
        let step = self.shared.script.lock().expect("no panic").pop_front();
        match step {
            Some(Step::NotLeader(leader_node)) => not_leader(internal::NotLeader { leader_node }),
            Some(Step::WrongShard) => {
                self.shared.raise_epochs();
                Ok(Response::new(self.written(all(Outcome::WrongShard))))
            }
            Some(Step::ChangeLogFull) => Ok(Response::new(self.written(all(Outcome::ChangeLogFull)))),
            Some(Step::LoseAnswer) => {
                self.apply(request.writes);
                Err(Status::unknown("the answer is lost"))
            }
            Some(Step::Hang) => std::future::pending().await,
            None => match self.leader_elsewhere() {
                Some(elsewhere) => not_leader(elsewhere),
                None => {
                    let outcomes = self.apply(request.writes);
                    Ok(Response::new(self.written(outcomes)))
                }
            },
        }
    }

    async fn read(
        &self,
        request: Request<internal::ShardReadRequest>,
    ) -> Result<Response<internal::ShardReadResponse>, Status> {
        let request = request.into_inner();
        if request.level() == internal::ReadLevel::Linearizable
            && let Some(elsewhere) = self.leader_elsewhere()
        {
            let result = shard_read_response::Result::NotLeader(elsewhere);
            return Ok(Response::new(internal::ShardReadResponse { result: Some(result) }));
        }
        let store = self.shared.store.lock().expect("no panic");
        let ordinals = |place: usize| match request.key_projection.get(place) {
            Some(projection) => request.projections[*projection as usize].ordinals.as_slice(),
            None => &[],
        };
        let rows = request.keys.iter().enumerate().map(|(place, key)| store.read(key, ordinals(place))).collect();
        let rows = internal::ShardRows { applied_index: store.index, rows };
        let result = shard_read_response::Result::Rows(rows);
        Ok(Response::new(internal::ShardReadResponse { result: Some(result) }))
    }

    async fn list(
        &self,
        request: Request<internal::ShardListRequest>,
    ) -> Result<Response<internal::ShardListResponse>, Status> {
        let request = request.into_inner();
        if let Some(elsewhere) = self.leader_elsewhere() {
            let result = shard_list_response::Result::NotLeader(elsewhere);
            return Ok(Response::new(internal::ShardListResponse { result: Some(result) }));
        }
        let listed = self.shared.store.lock().expect("no panic").list(&request);
        let result = shard_list_response::Result::Listed(listed);
        Ok(Response::new(internal::ShardListResponse { result: Some(result) }))
    }

    async fn read_index(
        &self,
        _: Request<internal::ReadIndexRequest>,
    ) -> Result<Response<internal::ReadIndexResponse>, Status> {
        Err(Status::unimplemented("not asked by routers"))
    }
}

#[tonic::async_trait]
impl Meta for Node {
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<internal::Catalog, Status>> + Send>>;

    async fn propose(
        &self,
        request: Request<internal::ProposeRequest>,
    ) -> Result<Response<internal::ProposeResponse>, Status> {
        let command = request.into_inner().command.and_then(|command| command.command);
        let reply = self.shared.apply(&command.ok_or_else(|| Status::invalid_argument("no command"))?);
        let lost = &self.shared.proposals_lost;
        if lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unknown("the answer is lost"));
        }
        Ok(Response::new(internal::ProposeResponse { reply: Some(reply) }))
    }

    async fn watch_catalog(
        &self,
        _: Request<internal::WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        Err(Status::unimplemented("the test hands out the catalog"))
    }

    async fn hello(&self, _: Request<internal::HelloRequest>) -> Result<Response<internal::HelloResponse>, Status> {
        Err(Status::unimplemented("not asked by routers"))
    }

    async fn assign(&self, _: Request<internal::AssignRequest>) -> Result<Response<internal::AssignResponse>, Status> {
        Err(Status::unimplemented("not asked by routers"))
    }

    async fn status(&self, _: Request<internal::StatusRequest>) -> Result<Response<internal::StatusResponse>, Status> {
        Err(Status::unimplemented("not asked by routers"))
    }
}

/// A group with an identifier, an event time and three features, in both stores.
pub(crate) fn orders() -> v1::CreateFeatureGroupRequest {
    let feature = |name: &str, kind: v1::FeatureType| v1::Feature {
        name: name.into(),
        r#type: kind.into(),
        ..v1::Feature::default()
    };
    v1::CreateFeatureGroupRequest {
        name: "orders".into(),
        features: vec![
            feature("id", v1::FeatureType::String),
            feature("at", v1::FeatureType::String),
            feature("total", v1::FeatureType::Fractional),
            feature("items", v1::FeatureType::Integral),
            feature("note", v1::FeatureType::String),
        ],
        record_identifier_feature: "id".into(),
        event_time_feature: "at".into(),
        online: Some(v1::OnlineConfig::default()),
        offline: Some(v1::OfflineConfig { s3_uri: "s3://bucket/features".into(), ..v1::OfflineConfig::default() }),
        ..v1::CreateFeatureGroupRequest::default()
    }
}
