//! Waiting for the offline store, against nodes that answer as a test tells them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use granary_proto::convert::u128_to_wire;
use granary_proto::internal::change_log_server::{ChangeLog, ChangeLogServer};
use granary_proto::internal::shard_server::{Shard, ShardServer};
use granary_proto::internal::{self, shard_read_response};
use granary_proto::v1::WaitForOfflineRequest;
use granary_query::Settings;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use crate::world::{CLUSTER, World, serve};

/// A node with one replica of shard 1.
#[derive(Debug, Default)]
struct Node {
    /// Answers linearizable reads.
    leads: bool,
    last: AtomicU64,
    /// Raised by `trim_step` at every question for the change log, up to `last`.
    trimmed: AtomicU64,
    trim_step: u64,
}

struct Service(Arc<Node>);

#[tonic::async_trait]
impl ChangeLog for Service {
    async fn read_segments(
        &self,
        request: Request<internal::ReadSegmentsRequest>,
    ) -> Result<Response<internal::ReadSegmentsResponse>, Status> {
        assert_eq!(request.get_ref().max_bytes, 0, "no events are asked for");
        let last = self.0.last.load(Ordering::SeqCst);
        let trimmed = self.0.trimmed.fetch_add(self.0.trim_step, Ordering::SeqCst).min(last);
        let response = internal::ReadSegmentsResponse {
            trimmed_sequence: trimmed,
            sealed_sequence: last,
            last_sequence: last,
            ..Default::default()
        };
        Ok(Response::new(response))
    }

    async fn acknowledge(
        &self,
        _: Request<internal::AcknowledgeRequest>,
    ) -> Result<Response<internal::AcknowledgeResponse>, Status> {
        Err(Status::unimplemented("the query service acknowledges nothing"))
    }
}

#[tonic::async_trait]
impl Shard for Service {
    async fn read(
        &self,
        request: Request<internal::ShardReadRequest>,
    ) -> Result<Response<internal::ShardReadResponse>, Status> {
        assert_eq!(request.get_ref().level(), internal::ReadLevel::Linearizable);
        let result = if self.0.leads {
            shard_read_response::Result::Rows(internal::ShardRows::default())
        } else {
            shard_read_response::Result::NotLeader(internal::NotLeader::default())
        };
        Ok(Response::new(internal::ShardReadResponse { result: Some(result) }))
    }

    async fn write(
        &self,
        _: Request<internal::ShardWriteRequest>,
    ) -> Result<Response<internal::ShardWriteResponse>, Status> {
        Err(Status::unimplemented("the query service writes nothing"))
    }

    async fn list(
        &self,
        _: Request<internal::ShardListRequest>,
    ) -> Result<Response<internal::ShardListResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn read_index(
        &self,
        _: Request<internal::ReadIndexRequest>,
    ) -> Result<Response<internal::ReadIndexResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// A world whose shard 1 has a replica on each of `nodes`.
async fn world(nodes: Vec<Node>) -> World {
    let mut catalog = internal::Catalog::default();
    let mut replicas = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let id = index as u64 + 1;
        let node = Arc::new(node);
        let router = Server::builder()
            .add_service(ChangeLogServer::new(Service(Arc::clone(&node))))
            .add_service(ShardServer::new(Service(node)));
        let address = serve(router).await.to_string();
        catalog.nodes.push(internal::Node { id, uuid: u128_to_wire(u128::from(id)), address });
        replicas.push(internal::ReplicaInfo { replica: id, node: id });
    }
    let stream = internal::StreamId { cluster: u128_to_wire(CLUSTER), shard: 1, incarnation: 1 };
    catalog.shards = vec![internal::ShardInfo { id: 1, replicas, stream: Some(stream) }];
    catalog.slot_shards = vec![1; 4_096];
    catalog.slot_epochs = vec![1; 4_096];
    World::with(Settings::default(), catalog).await
}

fn leader(last: u64, trimmed: u64, trim_step: u64) -> Node {
    Node { leads: true, last: last.into(), trimmed: trimmed.into(), trim_step }
}

fn follower(last: u64) -> Node {
    Node { leads: false, last: last.into(), trimmed: last.into(), trim_step: 0 }
}

fn within(timeout_ms: u32) -> WaitForOfflineRequest {
    WaitForOfflineRequest { feature_group: String::new(), timeout_ms }
}

#[tokio::test]
async fn returns_when_the_last_acknowledged_event_is_committed() {
    // The follower has trimmed all it has, which is not all there is.
    let mut world = world(vec![follower(3), leader(10, 0, 4)]).await;
    let response = world.client.wait_for_offline(within(60_000)).await.expect("an answer").into_inner();
    assert!(response.caught_up);
    assert_eq!(response.pending_events, 0);
}

#[tokio::test]
async fn says_how_much_is_missing_when_the_time_is_up() {
    let mut world = world(vec![leader(10, 4, 0)]).await;
    let response = world.client.wait_for_offline(within(200)).await.expect("an answer").into_inner();
    assert!(!response.caught_up);
    assert_eq!(response.pending_events, 6);
}

#[tokio::test]
async fn answers_before_the_deadline_of_the_call() {
    let mut world = world(vec![leader(10, 4, 0)]).await;
    let mut request = Request::new(within(60_000));
    request.set_timeout(std::time::Duration::from_millis(800));
    let response = world.client.wait_for_offline(request).await.expect("an answer in time").into_inner();
    assert!(!response.caught_up);
}

#[tokio::test]
async fn does_not_take_a_followers_word() {
    let mut world = world(vec![follower(3)]).await;
    let status = world.client.wait_for_offline(within(200)).await.expect_err("nobody knows");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn knows_the_feature_group() {
    let mut world = world(vec![leader(1, 1, 0)]).await;
    let of = |name: &str| WaitForOfflineRequest { feature_group: name.to_owned(), timeout_ms: 1_000 };
    assert!(world.client.wait_for_offline(of("customers")).await.expect("an answer").into_inner().caught_up);
    assert_eq!(world.client.wait_for_offline(of("nobody")).await.expect_err("none").code(), Code::NotFound);
}
