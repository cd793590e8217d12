//! Wiring of one node: identity, engine, peer port, meta group, supervisor.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use granary_catalog::{CatalogView, ShardEntry};
use granary_consensus::{ConsensusService, Group, GroupSpec, Member as RaftMember, PeerPool, Role};
use granary_platform::{Platform, TaskKind};
use granary_proto::convert::u128_to_wire;
use granary_proto::internal::{self, meta_client::MetaClient, meta_command::Command, meta_reply};
use granary_proto::internal::{
    change_log_server::ChangeLogServer, meta_server::MetaServer, replica_server::ReplicaServer,
    shard_server::ShardServer,
};
use granary_proto::{DESCRIPTORS, MESSAGE_LEN_MAX};
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::bootstrap::Bootstrap;
use crate::expiry::Sweeper;
use crate::identity::Identity;
use crate::meta::MetaMachine;
use crate::services::change_log::ChangeLogService;
use crate::services::meta::{Member, MetaReplica, MetaService};
use crate::services::replica::ReplicaService;
use crate::services::shard::ShardService;
use crate::supervisor::{Replicas, Supervisor};
use crate::{Metrics, Settings, engine};

const RETRY: Duration = Duration::from_millis(300);

/// What can keep a node from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory.
    #[error("open data directory {path}")]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::identity::Error,
    },
    /// The engine.
    #[error("open engine")]
    Engine(#[from] granary_store::disk::Error),
    /// The meta group.
    #[error("start the meta group")]
    Consensus(#[from] granary_consensus::Error),
    /// The metrics registry.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The node was told to stop before it had a place in a cluster.
    #[error("stopped before the node had a place in a cluster")]
    Stopped,
}

/// Where a node serves its peers.
pub enum Port {
    /// On a TCP listener.
    Tcp(TcpListener),
    /// By whoever takes the services: a simulated network.
    Given(Box<dyn FnOnce(Routes) + Send>),
}

impl From<TcpListener> for Port {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => f.debug_tuple("Tcp").field(listener).finish(),
            Self::Given(_) => f.write_str("Given"),
        }
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    platform: Platform,
    catalog: watch::Receiver<Arc<CatalogView>>,
    replicas: Arc<Replicas>,
    meta_service: MetaService,
    node: NodeId,
    meta: Option<Group>,
    /// Supervisor and peer port, until they are waited for.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What is opened before the node talks to anybody.
struct Opened {
    identity: Arc<Mutex<Identity>>,
    engine: engine::Opened,
}

impl Node {
    /// Opens the data directory, serves the peer services on `port`, finds or founds the cluster and starts what
    /// the catalog puts here. Returns when the node has its place; its replicas start as the catalog says.
    ///
    /// # Errors
    /// As [`Error`] says; the port is closed again.
    pub async fn start(
        settings: Settings,
        platform: &Platform,
        port: impl Into<Port>,
        registry: &prometheus::Registry,
    ) -> Result<Self, Error> {
        let platform = platform.child();
        let metrics = Arc::new(Metrics::register(registry)?);
        let opened = open(&settings, &platform).await?;
        let peers = Arc::new(PeerPool::new(&platform));
        let replicas = Arc::new(Replicas::default());
        let member = Arc::new(OnceLock::new());
        let consensus = ConsensusService::new();
        let (publish, catalog) = watch::channel(Arc::new(CatalogView::empty()));
        let meta_service = MetaService {
            identity: Arc::clone(&opened.identity),
            seeds: Arc::new(settings.seeds.clone()),
            member: Arc::clone(&member),
            replicas: Arc::clone(&replicas),
            peers: Arc::clone(&peers),
        };
        let shard_service = ShardService {
            replicas: Arc::clone(&replicas),
            peers: Arc::clone(&peers),
            catalog: catalog.clone(),
            metrics: Arc::clone(&metrics),
        };
        let routes = routes(meta_service.clone(), shard_service, consensus.clone()).await;
        let server = serve(&platform, port.into(), routes);

        let bootstrap = Bootstrap {
            settings: settings.clone(),
            platform: platform.clone(),
            identity: Arc::clone(&opened.identity),
            peers: Arc::clone(&peers),
        };
        let (cluster, node) = bootstrap.run().await.ok_or(Error::Stopped)?;
        let start = Start { settings, platform: platform.clone(), cluster, node, peers, consensus };
        let meta = start.meta_replica(&opened.identity).await.unwrap_or_else(|error| {
            // Data is served without the meta group; the catalog comes from the other seeds.
            let why = granary_types::with_causes(&error);
            tracing::error!(why, "the replica of the meta group does not start");
            replicas.set_note(ShardId::META, why);
            None
        });
        let meta_group = meta.as_ref().map(|meta| meta.group.clone());
        start.follow_catalog(meta.as_ref(), publish);
        let engine = opened.engine.engine.name();
        member.set(Member { node, meta, catalog: catalog.clone(), engine }).expect("set once, here");
        platform.spawn(TaskKind::Request, "assign-founders", async move { bootstrap.assign_others().await });
        start.register(opened.identity.lock().uuid());
        if let Some(group) = &meta_group {
            start.lay_out_shards(group.clone(), catalog.clone());
        }
        Sweeper::start(&start.settings, &platform, Arc::clone(&replicas), catalog.clone(), Arc::clone(&metrics));
        let supervisor = start.supervise(opened, catalog.clone(), Arc::clone(&replicas), meta_group.clone(), metrics);
        Ok(Self {
            platform,
            catalog,
            replicas,
            meta_service,
            node,
            meta: meta_group,
            tasks: Mutex::new(vec![supervisor, server]),
        })
    }

    /// The catalog as this node sees it.
    pub fn catalog(&self) -> watch::Receiver<Arc<CatalogView>> {
        self.catalog.clone()
    }

    /// The replicas on this node.
    pub fn replicas(&self) -> &Arc<Replicas> {
        &self.replicas
    }

    /// The meta group's service, for a process that serves it on its public port too.
    pub fn meta_service(&self) -> MetaService {
        self.meta_service.clone()
    }

    /// Whether this node has a replica of the meta group.
    pub fn has_meta(&self) -> bool {
        self.meta.is_some()
    }

    /// Whether this node leads the shard and has opened its slots: somebody can be served.
    pub fn serves(&self, shard: ShardId) -> bool {
        self.replicas.get(shard).is_some_and(|replica| replica.leads() && replica.store().status().slots > 0)
    }

    /// Whether every replica that the catalog puts here runs and knows a leader.
    pub fn is_ready(&self) -> bool {
        let catalog = Arc::clone(&self.catalog.borrow());
        let mine = |shard: &ShardEntry| shard.replicas.iter().any(|seat| seat.node == self.node);
        let serves = |shard: ShardId| {
            // The leader has opened the slots, and this replica has heard of it.
            self.replicas
                .get(shard)
                .is_some_and(|r| r.group().status().leader.is_some() && r.store().status().slots > 0)
        };
        !catalog.shards().is_empty() && catalog.shards().iter().filter(|s| mine(s)).all(|s| serves(s.id))
    }

    /// Hands leadership of its groups to other nodes, as far as that can be had within an election's time. A courtesy
    /// to writers before [`Self::stop`]; of no use when the whole cluster stops.
    pub async fn hand_over(&self) {
        let replicas = self.replicas.all();
        let groups = replicas.iter().map(|replica| replica.group()).chain(&self.meta);
        let led = groups.filter(|group| group.status().role == Role::Leader);
        futures::future::join_all(led.map(Group::transfer_leadership)).await;
    }

    /// Stops in order: the replicas, the engine, the port.
    pub async fn stop(&self) {
        self.platform.begin_shutdown();
        if let Some(meta) = &self.meta {
            meta.shutdown().await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "stop");
            }
        }
    }
}

/// A layout that the meta group refuses, such as more replicas than nodes, needs a person.
fn log_refusal(reply: &[u8]) {
    let reply = internal::MetaReply::decode(reply).ok().and_then(|reply| reply.result);
    if let Some(meta_reply::Result::Error(refused)) = reply {
        tracing::error!(message = refused.message, "the meta group refuses the layout of shards");
    }
}

/// Publishes what this node's replica of the meta group applies, until the replica stops.
async fn follow_own(mut published: watch::Receiver<Arc<internal::Catalog>>, publish: &watch::Sender<Arc<CatalogView>>) {
    loop {
        let catalog = Arc::clone(&published.borrow_and_update());
        match CatalogView::from_wire(&catalog) {
            Ok(view) => drop(publish.send_replace(Arc::new(view))),
            Err(error) => tracing::error!(%error, "read the catalog"),
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

async fn open(settings: &Settings, platform: &Platform) -> Result<Opened, Error> {
    let identity = Identity::open(&settings.data_dir, platform.fresh_id())
        .map_err(|source| Error::Identity { path: settings.data_dir.clone(), source })?;
    let identity = Arc::new(Mutex::new(identity));
    let settings = settings.clone();
    let engine =
        platform.blocking(move || engine::open(&settings)).await.expect("opening contains the engine's panics")?;
    Ok(Opened { identity, engine })
}

async fn routes(meta: MetaService, shard: ShardService, consensus: ConsensusService) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MetaServer<MetaService>>().await;
    health.set_serving::<ShardServer<ShardService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .expect("the descriptors were compiled with this crate");
    let change_log = ChangeLogService { replicas: Arc::clone(&shard.replicas) };
    let replica = ReplicaService { replicas: Arc::clone(&shard.replicas) };
    let mut routes = Routes::builder();
    routes
        .add_service(MetaServer::new(meta).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(
            ShardServer::new(shard)
                .max_decoding_message_size(MESSAGE_LEN_MAX)
                .max_encoding_message_size(MESSAGE_LEN_MAX),
        )
        .add_service(ChangeLogServer::new(change_log).max_encoding_message_size(MESSAGE_LEN_MAX))
        .add_service(ReplicaServer::new(replica))
        .add_service(consensus.into_server())
        .add_service(health_service)
        .add_service(reflection);
    routes.routes()
}

fn serve(platform: &Platform, port: Port, routes: Routes) -> JoinHandle<()> {
    let shutdown = platform.clone();
    let listener = match port {
        Port::Tcp(listener) => listener,
        Port::Given(give) => {
            give(routes);
            return platform.spawn(TaskKind::Request, "peer-port", async move { shutdown.shutdown_begun().await });
        }
    };
    let address: Option<SocketAddr> = listener.local_addr().ok();
    platform.spawn(TaskKind::Service, "peer-port", async move {
        // Set on the listener: the builder's own flag does not reach a listener that was bound outside.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, async move {
                shutdown.shutdown_begun().await;
            });
        if let Err(error) = served.await {
            tracing::error!(?address, %error, "peer port");
        }
    })
}

/// What is known once the node has its place.
struct Start {
    settings: Settings,
    platform: Platform,
    cluster: ClusterId,
    node: NodeId,
    peers: Arc<PeerPool>,
    consensus: ConsensusService,
}

impl Start {
    async fn meta_replica(&self, identity: &Arc<Mutex<Identity>>) -> Result<Option<MetaReplica>, Error> {
        let Some(seat) = identity.lock().meta_seat().cloned() else { return Ok(None) };
        let machine = Arc::new(MetaMachine::new(self.cluster));
        let published = machine.watch();
        let spec = GroupSpec {
            cluster: self.cluster,
            group: ShardId::META,
            replica: ReplicaId(seat.replica),
            dir: self.settings.data_dir.join("meta"),
        };
        let claim = |error| Error::Identity { path: self.settings.data_dir.clone(), source: error };
        identity.lock().claim(spec.group, spec.replica, &spec.dir.join("log")).map_err(claim)?;
        let replica = spec.replica;
        let peers = Arc::clone(&self.peers);
        let group = Group::start_on(
            self.settings.logs(),
            spec,
            self.settings.consensus.clone(),
            machine,
            peers,
            self.platform.clone(),
        )
        .await?;
        identity.lock().note_started(ShardId::META, replica).map_err(claim)?;
        self.consensus.register(group.clone());
        let member = |member: &crate::identity::MetaMember| RaftMember {
            replica: ReplicaId(member.node),
            node: NodeId(member.node),
            address: member.address.clone(),
        };
        group.initialize(seat.members.iter().map(member).collect()).await?;
        Ok(Some(MetaReplica { group, published }))
    }

    /// Keeps the node's catalog view current: from its own replica of the meta group while that runs, else from the
    /// seeds.
    fn follow_catalog(&self, meta: Option<&MetaReplica>, publish: watch::Sender<Arc<CatalogView>>) {
        let (platform, seeds) = (self.platform.clone(), self.settings.seeds.clone());
        let own = meta.map(|meta| meta.published.clone());
        self.platform.spawn(TaskKind::Request, "follow-catalog", async move {
            if let Some(published) = own {
                tokio::select! {
                    () = follow_own(published, &publish) => {}
                    () = platform.shutdown_begun() => return,
                }
            }
            let mut views = granary_catalog::watch::follow(&platform, seeds);
            while views.changed().await.is_ok() {
                let view = Arc::clone(&views.borrow_and_update());
                publish.send_if_modified(|now| {
                    let newer = view.version > now.version;
                    if newer {
                        *now = view;
                    }
                    newer
                });
            }
        });
    }

    /// Tells the meta group where this node listens now.
    fn register(&self, uuid: u128) {
        let command = internal::MetaCommand {
            command: Some(Command::RegisterNode(internal::RegisterNode {
                node: self.node.0,
                uuid: u128_to_wire(uuid),
                address: self.settings.advertise.clone(),
            })),
        };
        let (platform, peers) = (self.platform.clone(), Arc::clone(&self.peers));
        let own = self.settings.advertise.clone();
        self.platform.spawn(TaskKind::Request, "register-node", async move {
            while !platform.is_shutting_down() {
                let request = internal::ProposeRequest { command: Some(command.clone()) };
                if let Ok(channel) = peers.channel(&own)
                    && let Ok(response) = MetaClient::new(channel).propose(request).await
                {
                    match response.into_inner().reply.and_then(|reply| reply.result) {
                        Some(meta_reply::Result::Error(refused)) => {
                            tracing::error!(message = refused.message, "the meta group refuses this node");
                        }
                        _ => return,
                    }
                }
                platform.sleep(RETRY).await;
            }
        });
    }

    /// As leader of the meta group: lays out the first shards once every seed has registered.
    fn lay_out_shards(&self, group: Group, mut catalog: watch::Receiver<Arc<CatalogView>>) {
        let (platform, settings) = (self.platform.clone(), self.settings.clone());
        self.platform.spawn(TaskKind::Request, "lay-out-shards", async move {
            loop {
                let view = Arc::clone(&catalog.borrow_and_update());
                if !view.shards().is_empty() {
                    return;
                }
                if view.nodes().len() >= settings.seeds.len() {
                    let command = Command::CreateShards(internal::CreateShards {
                        shards: settings.shards,
                        replicas: settings.replicas,
                    });
                    let command = internal::MetaCommand { command: Some(command) };
                    // Idempotent, and only the leader's proposal goes through.
                    if let Ok(proposed) = group.propose(command.encode_to_vec().into()).await {
                        log_refusal(&proposed.reply);
                    }
                }
                tokio::select! {
                    changed = catalog.changed() => if changed.is_err() { return },
                    () = platform.sleep(RETRY) => {}
                    () = platform.shutdown_begun() => return,
                }
            }
        });
    }

    fn supervise(
        self,
        opened: Opened,
        catalog: watch::Receiver<Arc<CatalogView>>,
        replicas: Arc<Replicas>,
        meta: Option<Group>,
        metrics: Arc<Metrics>,
    ) -> JoinHandle<()> {
        let supervisor = Supervisor {
            settings: self.settings,
            platform: self.platform.clone(),
            cluster: self.cluster,
            node: self.node,
            identity: opened.identity,
            engine: opened.engine.engine,
            trust: opened.engine.trust,
            rebuilt_because: opened.engine.rebuilt_because,
            peers: self.peers,
            consensus: self.consensus,
            replicas,
            meta,
            metrics,
        };
        self.platform.spawn(TaskKind::Service, "supervisor", supervisor.run(catalog))
    }
}
