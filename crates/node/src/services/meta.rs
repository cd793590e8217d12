//! The meta group's service: proposals, the pushed catalog, hello and identity for bootstrap, status.
//!
//! It serves from the first moment of the process: before the node is anybody it answers hello and takes an
//! identity; what needs the meta group is `Unavailable` until the node has its place.

use std::sync::{Arc, OnceLock};

use granary_consensus::{Group, PeerPool, ProposeError, Role};
use granary_proto::convert::{cluster_from_wire, cluster_to_wire, status_of, u128_from_wire, u128_to_wire};
use granary_proto::internal::{self, meta_client::MetaClient, meta_server::Meta};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::bootstrap::{member_from_wire, member_to_wire};
use crate::identity::{Identity, MetaSeat};
use crate::supervisor::Replicas;

/// Counts how often a proposal was handed on, so that two confused nodes do not hand it to and fro.
const FORWARDED: &str = "granary-forwarded";
const FORWARDS_MAX: u32 = 3;

/// What is there once the node is a member of a cluster.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) meta: Option<MetaReplica>,
    pub(crate) catalog: watch::Receiver<Arc<granary_catalog::CatalogView>>,
    pub(crate) engine: &'static str,
}

/// The node's replica of the meta group.
#[derive(Debug)]
pub(crate) struct MetaReplica {
    pub(crate) group: Group,
    pub(crate) published: watch::Receiver<Arc<internal::Catalog>>,
}

/// The service.
#[derive(Debug, Clone)]
pub struct MetaService {
    pub(crate) identity: Arc<Mutex<Identity>>,
    pub(crate) seeds: Arc<Vec<String>>,
    pub(crate) member: Arc<OnceLock<Member>>,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) peers: Arc<PeerPool>,
}

impl MetaService {
    fn member(&self) -> Result<&Member, Status> {
        self.member.get().ok_or_else(|| Status::unavailable("the node has no place in a cluster yet"))
    }

    async fn propose_here(
        &self,
        group: &Group,
        command: &internal::MetaCommand,
    ) -> Result<internal::MetaReply, ProposeError> {
        let proposed = group.propose(bytes::Bytes::from(command.encode_to_vec())).await?;
        internal::MetaReply::decode(proposed.reply).map_err(|_| ProposeError::Unknown)
    }

    /// Hands a proposal to the leader's node, or from a node without the meta group to one that has it.
    async fn forward(
        &self,
        request: internal::ProposeRequest,
        forwards: u32,
        leader: Option<NodeId>,
    ) -> Result<Response<internal::ProposeResponse>, Status> {
        let member = self.member()?;
        let address = match leader {
            Some(node) => member.catalog.borrow().node_address(node).map(str::to_owned),
            None if member.meta.is_none() => self.seeds.first().cloned(),
            None => None,
        };
        let address = address.or_else(|| leader.and_then(|node| self.founder_address(node)));
        let (Some(address), true) = (address, forwards < FORWARDS_MAX) else {
            return Err(Status::unavailable("the meta group has no known leader"));
        };
        let channel = self.peers.channel(&address).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(request);
        request.metadata_mut().insert(FORWARDED, (forwards + 1).into());
        MetaClient::new(channel).propose(request).await.map_err(lost_on_the_way)
    }

    /// Before any node is registered the catalog is empty: the founders' addresses are in the identity.
    fn founder_address(&self, node: NodeId) -> Option<String> {
        let identity = self.identity.lock();
        let seat = identity.meta_seat()?;
        seat.members.iter().find(|member| member.node == node.0).map(|member| member.address.clone())
    }
}

#[tonic::async_trait]
impl Meta for MetaService {
    type WatchCatalogStream = std::pin::Pin<Box<dyn Stream<Item = Result<internal::Catalog, Status>> + Send>>;

    async fn propose(
        &self,
        request: Request<internal::ProposeRequest>,
    ) -> Result<Response<internal::ProposeResponse>, Status> {
        let forwards =
            request.metadata().get(FORWARDED).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        let request = request.into_inner();
        let Some(command) = request.command.clone() else {
            return Err(Status::invalid_argument("the proposal has no command"));
        };
        let Some(meta) = &self.member()?.meta else {
            return self.forward(request, forwards, None).await;
        };
        match self.propose_here(&meta.group, &command).await {
            Ok(reply) => Ok(Response::new(internal::ProposeResponse { reply: Some(reply) })),
            Err(ProposeError::NotLeader { leader }) => {
                self.forward(request, forwards, leader.map(|(_, node)| node)).await
            }
            Err(ProposeError::Unknown) => Err(Status::deadline_exceeded("the command may or may not be committed")),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn watch_catalog(
        &self,
        request: Request<internal::WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        let after = request.into_inner().after_version;
        let Some(meta) = &self.member()?.meta else {
            return Err(Status::unavailable("the node has no replica of the meta group"));
        };
        let catalogs = WatchStream::new(meta.published.clone())
            .filter(move |catalog| catalog.version > after)
            .map(|catalog| Ok(internal::Catalog::clone(&catalog)));
        Ok(Response::new(Box::pin(catalogs)))
    }

    async fn hello(
        &self,
        _request: Request<internal::HelloRequest>,
    ) -> Result<Response<internal::HelloResponse>, Status> {
        let identity = self.identity.lock();
        let membership = identity.membership();
        Ok(Response::new(internal::HelloResponse {
            uuid: u128_to_wire(identity.uuid()),
            cluster: membership.map(|(cluster, _)| cluster_to_wire(cluster)).unwrap_or_default(),
            node: membership.map_or(0, |(_, node)| node.0),
            seeds: self.seeds.to_vec(),
            founders: identity
                .meta_seat()
                .map(|seat| seat.members.iter().map(member_to_wire).collect())
                .unwrap_or_default(),
        }))
    }

    async fn assign(
        &self,
        request: Request<internal::AssignRequest>,
    ) -> Result<Response<internal::AssignResponse>, Status> {
        let request = request.into_inner();
        let uuid = u128_from_wire("uuid", &request.uuid).map_err(|error| status_of(&error))?;
        let cluster = cluster_from_wire(&request.cluster).map_err(|error| status_of(&error))?;
        let members = request.meta_members.iter().map(member_from_wire).collect::<Result<Vec<_>, _>>();
        let members = members.map_err(|error| status_of(&error))?;
        let mut identity = self.identity.lock();
        if identity.uuid() != uuid {
            return Err(Status::failed_precondition("the identity is meant for another disk"));
        }
        let seat = (request.meta_replica != 0).then_some(MetaSeat { replica: request.meta_replica, members });
        identity
            .join(cluster, NodeId(request.node), seat)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(internal::AssignResponse {}))
    }

    async fn status(
        &self,
        _request: Request<internal::StatusRequest>,
    ) -> Result<Response<internal::StatusResponse>, Status> {
        let member = self.member()?;
        let mut replicas = Vec::new();
        if let Some(meta) = &member.meta {
            replicas.push(group_status(ShardId::META, &meta.group));
        }
        for replica in self.replicas.all() {
            let (state, log) = (replica.store().status(), replica.store().change_log());
            // Of one moment; the newest is of the state as it is, unless that is not comparable.
            let now = replica.store().samples().pop().filter(|_| state.state_hash.is_some());
            replicas.push(internal::ReplicaStatus {
                cells: state.cells,
                memory_table_bytes: state.memory_table_bytes as u64,
                change_log_last: log.last_sequence,
                change_log_trimmed: log.trimmed_sequence,
                change_log_bytes: log.bytes,
                state_hash: now.map(|now| format!("{:032x}", now.state_hash)).unwrap_or_default(),
                state_hash_index: now.map_or(0, |now| now.index),
                change_log_digest: now
                    .and_then(|now| now.change_log_digest)
                    .map(|digest| format!("{digest:032x}"))
                    .unwrap_or_default(),
                engine: member.engine.to_owned(),
                rebuilt_because: self.replicas.note(replica.shard()).unwrap_or_default(),
                failing_tables: replica.failing_tables(),
                ..group_status(replica.shard(), replica.group())
            });
        }
        for (shard, note) in self.replicas.notes() {
            if self.replicas.get(shard).is_none() {
                replicas.push(internal::ReplicaStatus {
                    shard: shard.0,
                    role: "stopped".to_owned(),
                    rebuilt_because: note,
                    ..Default::default()
                });
            }
        }
        Ok(Response::new(internal::StatusResponse { node: member.node.0, replicas }))
    }
}

/// A connection that broke under the call, unlike a refusal by the other node, leaves the outcome unknown.
fn lost_on_the_way(status: Status) -> Status {
    match std::error::Error::source(&status) {
        Some(_) => Status::deadline_exceeded(format!("the command may or may not be committed: {}", status.message())),
        None => status,
    }
}

fn group_status(shard: ShardId, group: &Group) -> internal::ReplicaStatus {
    let status = group.status();
    internal::ReplicaStatus {
        shard: shard.0,
        replica: group.spec().replica.0,
        role: match status.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
        .to_owned(),
        term: status.term,
        leader_node: status.leader.map_or(0, |(_, node)| node.0),
        applied_index: status.applied,
        committed_index: status.committed,
        snapshot_index: status.snapshot,
        ..Default::default()
    }
}
