//! Calls to nodes: one channel per address, connected when first used.

use std::collections::HashMap;
use std::time::Duration;

use granary_catalog::{CatalogView, ShardEntry};
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::convert::stream_to_wire;
use granary_proto::internal::acknowledge_response::Result as Acknowledged;
use granary_proto::internal::change_log_client::ChangeLogClient;
use granary_proto::internal::{AcknowledgeRequest, ReadSegmentsRequest, ReadSegmentsResponse};
use granary_types::{NodeId, StreamId};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The nodes' change-log services.
#[derive(Debug)]
pub(crate) struct Nodes {
    channels: HashMap<String, Channel>,
    call_timeout: Duration,
}

impl Nodes {
    pub(crate) fn new(call_timeout: Duration) -> Self {
        Self { channels: HashMap::new(), call_timeout }
    }

    /// Keeps channels to the nodes of this catalog only, and makes those that are missing.
    pub(crate) fn follow(&mut self, catalog: &CatalogView) {
        self.channels.retain(|address, _| catalog.nodes().iter().any(|node| node.address == *address));
        for node in catalog.nodes() {
            if self.channels.contains_key(&node.address) {
                continue;
            }
            match Endpoint::from_shared(format!("http://{}", node.address)) {
                Ok(endpoint) => {
                    let channel = endpoint.connect_timeout(self.call_timeout).tcp_nodelay(true).connect_lazy();
                    self.channels.insert(node.address.clone(), channel);
                }
                Err(error) => tracing::error!(%error, node = %node.id, address = %node.address, "use node address"),
            }
        }
    }

    /// Sealed segments after `after_sequence` from the replica at `turn` in the shard's list, which wraps around.
    pub(crate) async fn read_segments(
        &self,
        catalog: &CatalogView,
        shard: &ShardEntry,
        turn: usize,
        after_sequence: u64,
        max_bytes: usize,
    ) -> Result<ReadSegmentsResponse, Status> {
        let replica = shard
            .replicas
            .get(turn % shard.replicas.len().max(1))
            .ok_or_else(|| Status::unavailable("the catalog knows no replica"))?;
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
        let request = ReadSegmentsRequest { shard: shard.id.0, after_sequence, max_bytes };
        let mut client = self.client(catalog, replica.node)?;
        Ok(client.read_segments(self.timed(request)).await?.into_inner())
    }

    /// Tells the shard's leader that a stream is committed up to `sequence`. Begins at `first`, follows the replicas'
    /// hints, and asks each at most once. Returns the leader's node.
    pub(crate) async fn acknowledge(
        &self,
        catalog: &CatalogView,
        shard: &ShardEntry,
        stream: StreamId,
        sequence: u64,
        first: Option<NodeId>,
    ) -> Result<NodeId, Status> {
        let mut open: Vec<NodeId> = shard.replicas.iter().map(|replica| replica.node).collect();
        let mut next = first;
        let mut last = Status::unavailable("the catalog knows no replica");
        while !open.is_empty() {
            let hinted = next.take().and_then(|node| open.iter().position(|other| *other == node));
            let node = open.remove(hinted.unwrap_or(0));
            match self.acknowledge_at(catalog, node, stream, sequence).await {
                Ok(Acknowledged::TrimmedSequence(_)) => return Ok(node),
                Ok(Acknowledged::NotLeader(hint)) => {
                    next = (hint.leader_node != 0).then_some(NodeId(hint.leader_node));
                    last = Status::unavailable("no replica leads");
                }
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    async fn acknowledge_at(
        &self,
        catalog: &CatalogView,
        node: NodeId,
        stream: StreamId,
        sequence: u64,
    ) -> Result<Acknowledged, Status> {
        let request = AcknowledgeRequest { stream: Some(stream_to_wire(stream)), sequence };
        let response = self.client(catalog, node)?.acknowledge(self.timed(request)).await?.into_inner();
        response.result.ok_or_else(|| Status::internal("the answer to an acknowledgement is empty"))
    }

    fn client(&self, catalog: &CatalogView, node: NodeId) -> Result<ChangeLogClient<Channel>, Status> {
        let address = catalog.node_address(node).unwrap_or_default();
        let channel = self
            .channels
            .get(address)
            .ok_or_else(|| Status::unavailable(format!("the catalog has no usable address of node {node}")))?;
        Ok(ChangeLogClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LEN_MAX))
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout);
        request
    }
}
