//! Calls to nodes: one link per address, connected when first used. Remembers which nodes do not answer.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use granary_catalog::{CatalogView, ShardEntry};
use granary_link::{Link, Links};
use granary_platform::Platform;
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::convert::stream_to_wire;
use granary_proto::internal::acknowledge_response::Result as Acknowledged;
use granary_proto::internal::change_log_client::ChangeLogClient;
use granary_proto::internal::{AcknowledgeRequest, ReadSegmentsRequest, ReadSegmentsResponse};
use granary_types::{NodeId, StreamId};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};

use crate::health::{Health, Rests};

/// A replica's place in its shard's list and what it said, or what the last one said when none gave an answer.
pub(crate) type ReadAnswer = Result<(usize, ReadSegmentsResponse), Status>;

/// The nodes' change-log services.
#[derive(Debug)]
pub(crate) struct Nodes {
    links: HashMap<String, Peer>,
    pool: Links,
    platform: Platform,
    call_timeout: Duration,
    rests: Rests,
}

/// One node's link, and whether it answers.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    link: Link,
    health: Mutex<Health>,
}

impl Nodes {
    pub(crate) fn new(platform: Platform, call_timeout: Duration, rests: Rests) -> Self {
        let settings = granary_link::Settings { connect_timeout: call_timeout, ..granary_link::Settings::default() };
        Self { links: HashMap::new(), pool: platform.links(settings), platform, call_timeout, rests }
    }

    /// Keeps links to the nodes of this catalog only, and makes those that are missing.
    pub(crate) fn follow(&mut self, catalog: &CatalogView) {
        let pool = &self.pool;
        self.links.retain(|address, _| {
            let stays = catalog.nodes().iter().any(|node| node.address == *address);
            if !stays {
                pool.forget(address);
            }
            stays
        });
        for node in catalog.nodes() {
            if self.links.contains_key(&node.address) {
                continue;
            }
            match self.pool.to(&node.address) {
                Ok(link) => {
                    let peer = Peer { node: node.id, link, health: Mutex::default() };
                    self.links.insert(node.address.clone(), peer);
                }
                Err(error) => tracing::error!(%error, node = %node.id, address = %node.address, "use node address"),
            }
        }
    }

    /// Sealed segments, as `request` asks for them, from the first replica that answers, beginning at `turn` in the shard's
    /// list, which wraps around. The next one is asked when one fails, and as well when one takes long: a host that
    /// hangs must not hold up the streams that are read with this one.
    pub(crate) async fn read_segments(
        &self,
        catalog: &CatalogView,
        shard: &ShardEntry,
        turn: usize,
        request: ReadSegmentsRequest,
    ) -> ReadAnswer {
        let request = &request;
        let deadline = self.platform.instant() + self.call_timeout;
        let patience = self.call_timeout / 5;
        let mut order = self.order(catalog, shard, turn).into_iter();
        let mut asked = FuturesUnordered::new();
        let mut last = Status::unavailable("the catalog knows no replica");
        let mut newest = None;
        loop {
            if let Some((place, node)) = order.next() {
                newest = Some(node);
                asked.push(async move { (place, self.read_at(catalog, node, request.clone(), deadline).await) });
            }
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((place, Ok(response))) => return Ok((place, response)),
                    Some((_, Err(status))) => last = status,
                    None => return Err(last),
                },
                () = self.platform.sleep(patience), if order.len() > 0 => {
                    let link = newest.and_then(|node| self.link(catalog, node).ok());
                    link.inspect(|link| self.note_failure(link, patience, "it takes long"));
                }
            }
        }
    }

    /// The shard's replicas by place and node, from `turn` on, and those last whose nodes rest.
    fn order(&self, catalog: &CatalogView, shard: &ShardEntry, turn: usize) -> Vec<(usize, NodeId)> {
        let count = shard.replicas.len();
        let places = (0..count).map(|step| (turn % count + step) % count);
        let mut order: Vec<_> = places.map(|place| (place, shard.replicas[place].node)).collect();
        order.sort_by_key(|(_, node)| self.is_resting(catalog, *node));
        order
    }

    async fn read_at(
        &self,
        catalog: &CatalogView,
        node: NodeId,
        request: ReadSegmentsRequest,
        deadline: Instant,
    ) -> Result<ReadSegmentsResponse, Status> {
        let link = self.link(catalog, node)?;
        let request = self.timed(request);
        self.call(link, deadline, async { link.client().read_segments(request).await }).await
    }

    /// Tells the shard's leader that a stream is committed up to `sequence`. Begins at `first`, follows the replicas'
    /// hints, and asks each at most once, but none that rests. Returns the leader's node.
    pub(crate) async fn acknowledge(
        &self,
        catalog: &CatalogView,
        shard: &ShardEntry,
        stream: StreamId,
        sequence: u64,
        first: Option<NodeId>,
    ) -> Result<NodeId, Status> {
        let nodes = shard.replicas.iter().map(|replica| replica.node);
        let mut open: Vec<NodeId> = nodes.filter(|node| !self.is_resting(catalog, *node)).collect();
        let mut next = first;
        let mut last = Status::unavailable("no replica answers");
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
        let link = self.link(catalog, node)?;
        let request = self.timed(AcknowledgeRequest { stream: Some(stream_to_wire(stream)), sequence });
        let deadline = self.platform.instant() + self.call_timeout;
        let response = self.call(link, deadline, async { link.client().acknowledge(request).await }).await?;
        response.result.ok_or_else(|| Status::internal("the answer to an acknowledgement is empty"))
    }

    /// Waits for an answer and notes whether the node gave one.
    async fn call<T>(
        &self,
        link: &Peer,
        deadline: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let began = self.platform.instant();
        let answer = timeout_at(deadline, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        match &answer {
            Err(status) if is_silence(status) => self.note_failure(link, began.elapsed(), status.message()),
            _ if link.health.lock().answered() => tracing::info!(node = %link.node, "node answers again"),
            _ => {}
        }
        Ok(answer?.into_inner())
    }

    /// Lets a node rest. Logged aloud when it is news only.
    fn note_failure(&self, link: &Peer, took: Duration, why: &str) {
        let node = link.node;
        if link.health.lock().failed(took, self.platform.instant(), self.rests) {
            tracing::warn!(%node, why, "node does not answer, others are asked");
        } else {
            tracing::debug!(%node, why, "node does not answer, others are asked");
        }
    }

    fn is_resting(&self, catalog: &CatalogView, node: NodeId) -> bool {
        self.link(catalog, node).is_ok_and(|link| link.health.lock().is_resting(self.platform.instant()))
    }

    fn link(&self, catalog: &CatalogView, node: NodeId) -> Result<&Peer, Status> {
        let address = catalog.node_address(node).unwrap_or_default();
        self.links
            .get(address)
            .ok_or_else(|| Status::unavailable(format!("the catalog has no usable address of node {node}")))
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout);
        request
    }
}

impl Peer {
    fn client(&self) -> ChangeLogClient<Link> {
        ChangeLogClient::new(self.link.clone()).max_decoding_message_size(MESSAGE_LEN_MAX)
    }
}

/// Whether an error is the connection's, or time's, and not what the node said.
fn is_silence(status: &Status) -> bool {
    let late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    late || std::error::Error::source(status).is_some()
}
