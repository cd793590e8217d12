//! Following the catalog, against a small server that says what the test wants.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::watch::{CatalogClient, Settings, follow, wait_for};
use granary_catalog::{CatalogState, CatalogView};
use granary_platform::{Platform, TaskKind};
use granary_proto::convert::cluster_to_wire;
use granary_proto::internal::meta_server::{Meta, MetaServer};
use granary_proto::internal::{
    AssignRequest, AssignResponse, Catalog, HelloRequest, HelloResponse, Node, ProposeRequest, ProposeResponse,
    StatusRequest, StatusResponse, WatchCatalogRequest,
};
use granary_types::{ClusterId, ErrorKind};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::commands::CLUSTER;

/// Long enough for a busy machine; a condition that holds ends the wait at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells every watcher whatever the catalog is, also older versions than it has told before.
struct Scripted {
    catalog: watch::Receiver<Catalog>,
    asked: mpsc::UnboundedSender<u64>,
}

#[tonic::async_trait]
impl Meta for Scripted {
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<Catalog, Status>> + Send>>;

    async fn watch_catalog(
        &self,
        request: Request<WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        // Nobody may be listening to what was asked.
        let _ = self.asked.send(request.into_inner().after_version);
        Ok(Response::new(Box::pin(WatchStream::new(self.catalog.clone()).map(Ok))))
    }

    async fn propose(&self, _: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        Err(Status::unimplemented("propose"))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(Status::unimplemented("hello"))
    }

    async fn assign(&self, _: Request<AssignRequest>) -> Result<Response<AssignResponse>, Status> {
        Err(Status::unimplemented("assign"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }
}

/// A running server. It ends, streams and all, when `catalog` is dropped.
struct Server {
    address: SocketAddr,
    catalog: watch::Sender<Catalog>,
    asked: mpsc::UnboundedReceiver<u64>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(platform: &Platform, address: SocketAddr, catalog: Catalog) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (sender, receiver) = watch::channel(catalog);
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let service = MetaServer::new(Scripted { catalog: receiver.clone(), asked: asked_sender });
        let mut stopped = receiver;
        let task = platform.spawn(TaskKind::Request, "scripted meta", async move {
            let ended = async move { while stopped.changed().await.is_ok() {} };
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended)
                .await
                .expect("the server serves");
        });
        Self { address, catalog: sender, asked, task }
    }

    async fn on_free_port(platform: &Platform, catalog: Catalog) -> Self {
        Self::start(platform, "127.0.0.1:0".parse().expect("an address"), catalog).await
    }

    async fn stop(self) -> SocketAddr {
        drop(self.catalog);
        self.task.await.expect("the server ends");
        self.address
    }
}

/// A catalog of one version and nothing else.
fn version(version: u64) -> Catalog {
    Catalog { version, ..CatalogState::new(CLUSTER).to_wire() }
}

/// A catalog that names one node.
fn naming(number: u64, address: SocketAddr) -> Catalog {
    let node = Node { id: 1, uuid: vec![1; 16].into(), address: address.to_string() };
    Catalog { nodes: vec![node], ..version(number) }
}

fn quick() -> Settings {
    Settings { backoff_min: Duration::from_millis(5), backoff_max: Duration::from_millis(40), ..Settings::default() }
}

async fn reaches(view: &mut watch::Receiver<Arc<CatalogView>>, version: u64) {
    wait_for(view, |view| view.version >= version, PATIENCE).await.expect("the version comes");
    assert_eq!(view.borrow().version, version);
}

#[tokio::test]
async fn a_view_starts_empty_and_follows() {
    let platform = Platform::system();
    let server = Server::on_free_port(&platform, version(3)).await;
    let mut view = follow(&platform, vec![server.address.to_string()]);
    reaches(&mut view, 3).await;
    server.catalog.send_replace(version(8));
    reaches(&mut view, 8).await;
    assert_eq!(view.borrow().cluster, CLUSTER);
}

#[tokio::test]
async fn a_view_never_goes_back() {
    let platform = Platform::system();
    let mut server = Server::on_free_port(&platform, version(5)).await;
    let mut view = CatalogClient::spawn_with(&platform, vec![server.address.to_string()], quick());
    reaches(&mut view, 5).await;
    assert_eq!(server.asked.recv().await, Some(0));

    // The node comes back at the same address and lags behind.
    let address = server.stop().await;
    let mut server = Server::start(&platform, address, version(2)).await;
    assert_eq!(server.asked.recv().await, Some(5), "the client says what it has");
    server.catalog.send_replace(version(4));
    server.catalog.send_replace(version(6));
    view.changed().await.expect("the client is running");
    assert_eq!(view.borrow_and_update().version, 6, "neither 2 nor 4 was shown");
}

#[tokio::test]
async fn dead_seeds_are_passed_over_and_nodes_are_learned() {
    let platform = Platform::system();
    let learned = Server::on_free_port(&platform, version(20)).await;
    let seed = Server::on_free_port(&platform, naming(10, learned.address)).await;
    // Bound and never listening: nobody else is given the port meanwhile.
    let dead = TcpSocket::new_v4().expect("a socket");
    dead.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let dead_address = dead.local_addr().expect("it is bound");
    let seeds = vec![dead_address.to_string(), seed.address.to_string(), "no address".to_owned()];
    let mut view = CatalogClient::spawn_with(&platform, seeds, quick());
    reaches(&mut view, 10).await;
    // No seed lives any more; the node that the catalog named does.
    seed.stop().await;
    reaches(&mut view, 20).await;
}

#[tokio::test]
async fn a_silent_node_is_left_for_another() {
    let platform = Platform::system();
    let cut_off = Server::on_free_port(&platform, version(7)).await;
    let current = Server::on_free_port(&platform, version(9)).await;
    let seeds = vec![cut_off.address.to_string(), current.address.to_string()];
    let settings = Settings { silence_max: Duration::from_millis(50), ..quick() };
    let mut view = CatalogClient::spawn_with(&platform, seeds, settings);
    reaches_at_last(&mut view, 9).await;
    cut_off.catalog.send_replace(version(11));
    reaches_at_last(&mut view, 11).await;
}

/// As `reaches`, where other versions may be seen before.
async fn reaches_at_last(view: &mut watch::Receiver<Arc<CatalogView>>, version: u64) {
    wait_for(view, |view| view.version == version, PATIENCE).await.expect("the version comes");
}

#[tokio::test]
async fn another_cluster_and_malformed_catalogs_are_not_believed() {
    let platform = Platform::system();
    let server = Server::on_free_port(&platform, version(1)).await;
    let mut view = CatalogClient::spawn_with(&platform, vec![server.address.to_string()], quick());
    reaches(&mut view, 1).await;
    let mut server = server;
    assert_eq!(server.asked.recv().await, Some(0));
    for wrong in [
        Catalog { cluster: cluster_to_wire(ClusterId(1)), ..version(2) },
        Catalog { slot_shards: vec![1], ..version(3) },
    ] {
        server.catalog.send_replace(wrong);
        assert_eq!(server.asked.recv().await, Some(1), "the client comes again and has version 1");
    }
    server.catalog.send_replace(version(4));
    reaches(&mut view, 4).await;
}

#[tokio::test]
async fn the_client_ends_with_the_platform() {
    let platform = Platform::system();
    let child = platform.child();
    let server = Server::on_free_port(&platform, version(1)).await;
    let mut view = follow(&child, vec![server.address.to_string()]);
    reaches(&mut view, 1).await;
    child.begin_shutdown();
    let error = wait_for(&mut view, |view| view.version > 1, PATIENCE).await.expect_err("nothing comes any more");
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, "the catalog is no longer followed"));
    assert_eq!(view.borrow().version, 1, "what was known stays known");
}

#[tokio::test]
async fn the_client_ends_when_nobody_listens() {
    let platform = Platform::system();
    let server = Server::on_free_port(&platform, version(1)).await;
    let mut view = follow(&platform, vec![server.address.to_string()]);
    reaches(&mut view, 1).await;
    drop(view);
    // The server ends only when its connections have: the client has let go.
    server.stop().await;
}

#[tokio::test]
async fn waiting_is_bounded() {
    let (_sender, mut view) = watch::channel(Arc::new(CatalogView::empty()));
    let error =
        wait_for(&mut view, |view| view.version > 0, Duration::from_millis(10)).await.expect_err("nothing comes");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(error.message, "the catalog is not as awaited version=0 waited_ms=10");
}
