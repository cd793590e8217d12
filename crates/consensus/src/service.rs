//! The node's end of Raft's requests: finds the group a request is meant for and refuses what is not meant for it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::convert::cluster_from_wire;
use granary_proto::internal as wire;
use granary_proto::internal::consensus_server::{Consensus, ConsensusServer};
use granary_types::ShardId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use parking_lot::RwLock;
use tonic::{Request, Response, Status, Streaming};

use crate::codec::{Malformed, entry_from_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire};
use crate::group::Group;
use crate::snapshot_store::FileId;
use crate::snapshot_transfer;
use crate::type_config::TypeConfig;

/// Serves the groups of one node. Cheap to clone; clones share the groups.
#[derive(Debug, Clone, Default)]
pub struct ConsensusService {
    groups: Arc<RwLock<HashMap<ShardId, Group>>>,
}

impl ConsensusService {
    /// A service without groups.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets requests reach the group. Replaces a group that was registered under the same id.
    pub fn register(&self, group: Group) {
        self.groups.write().insert(group.spec().group, group);
    }

    /// Refuses requests to the group from now on.
    pub fn unregister(&self, group: ShardId) {
        self.groups.write().remove(&group);
    }

    /// The gRPC service, with the limits that requests between nodes need.
    pub fn into_server(self) -> ConsensusServer<Self> {
        ConsensusServer::new(self).max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX)
    }

    /// The handshake: this cluster, a group hosted here, exactly this replica of it, which takes part.
    fn route(&self, header: Option<&wire::PeerHeader>) -> Result<Group, Status> {
        let (group, header) = self.find(header)?;
        group.standings().check_request(header)?;
        group.standings().check_admitted()?;
        Ok(group)
    }

    fn find<'h>(&self, header: Option<&'h wire::PeerHeader>) -> Result<(Group, &'h wire::PeerHeader), Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("header is missing"))?;
        let cluster =
            cluster_from_wire(&header.cluster).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let group = self.groups.read().get(&ShardId(header.group)).cloned();
        let group = group.ok_or_else(|| Status::not_found(format!("group is not here: group={}", header.group)))?;
        if cluster != group.spec().cluster {
            return Err(Status::failed_precondition(format!("another cluster: asked={:032x}", cluster.0)));
        }
        let replica = group.spec().replica.0;
        if header.to_replica != replica || header.from_replica == replica {
            return Err(Status::failed_precondition(format!(
                "another replica: from={} to={} here={replica}",
                header.from_replica, header.to_replica
            )));
        }
        Ok((group, header))
    }
}

#[tonic::async_trait]
impl Consensus for ConsensusService {
    async fn append_entries(
        &self,
        request: Request<wire::RaftAppendRequest>,
    ) -> Result<Response<wire::RaftAppendResponse>, Status> {
        let request = request.into_inner();
        let group = self.route(request.header.as_ref())?;
        group.standings().overhear(&request.others);
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: vote_from_wire(request.vote).map_err(malformed)?,
            prev_log_id: request.previous.map(log_id_from_wire),
            leader_commit: request.committed.map(log_id_from_wire),
            entries: request.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>().map_err(malformed)?,
        };
        let response = group.raft().append_entries(request).await.map_err(stopped)?;
        let standing = Some(group.standings().own());
        Ok(Response::new(wire::RaftAppendResponse { standing, ..append_response_to_wire(&response) }))
    }

    async fn vote(&self, request: Request<wire::RaftVoteRequest>) -> Result<Response<wire::RaftVoteResponse>, Status> {
        let request = request.into_inner();
        let group = self.route(request.header.as_ref())?;
        let response = group.raft().vote(vote_request(&request)?).await.map_err(stopped)?;
        let standing = Some(group.standings().own());
        Ok(Response::new(wire::RaftVoteResponse { standing, ..vote_response_to_wire(&response) }))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteResponse>, Status> {
        let request = request.into_inner();
        let group = self.route(request.header.as_ref())?;
        let response = group.raft().pre_vote(vote_request(&request)?).await.map_err(stopped)?;
        let standing = Some(group.standings().own());
        Ok(Response::new(wire::RaftVoteResponse { standing, ..vote_response_to_wire(&response) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::RaftTransferRequest>,
    ) -> Result<Response<wire::RaftTransferResponse>, Status> {
        let request = request.into_inner();
        let group = self.route(request.header.as_ref())?;
        let from = vote_from_wire(request.from).map_err(malformed)?;
        let last = request.last.map(log_id_from_wire);
        let transfer = TransferLeaderRequest::<TypeConfig>::new(from, request.to_replica, last);
        let response = group.raft().handle_transfer_leader(transfer).await.map_err(stopped)?;
        Ok(Response::new(transfer_response_to_wire(&response)))
    }

    type FetchSnapshotStream = Pin<Box<dyn Stream<Item = Result<wire::SnapshotChunk, Status>> + Send>>;

    async fn fetch_snapshot(
        &self,
        request: Request<wire::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let request = request.into_inner();
        let group = self.route(request.header.as_ref())?;
        let newest = group.snapshots().newest().ok_or_else(|| Status::not_found("no snapshot was taken yet"))?;
        let id = newest.id().map_err(|error| Status::internal(format!("read snapshot: {error}")))?;
        let known = FileId { len: request.total_bytes, checksum: request.checksum } == id && request.offset < id.len;
        let offset = if known { request.offset } else { 0 };
        let header = request.header.unwrap_or_default();
        let chunks = snapshot_transfer::chunks(newest, id, offset, header, None, group.platform().clone());
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }

    async fn snapshot_progress(
        &self,
        request: Request<wire::SnapshotProgressRequest>,
    ) -> Result<Response<wire::SnapshotProgressResponse>, Status> {
        let request = request.into_inner();
        let group = self.route(request.header.as_ref())?;
        let id = FileId { len: request.total_bytes, checksum: request.checksum };
        let offset = group.snapshots().partial().filter(|(partial, _)| *partial == id).map_or(0, |(_, here)| here);
        Ok(Response::new(wire::SnapshotProgressResponse { offset }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("snapshot is empty"))?;
        let group = self.route(first.header.as_ref())?;
        let vote = vote_from_wire(first.vote).map_err(malformed)?;
        let turn = group.receiving().try_acquire();
        let _turn = turn.map_err(|_| Status::resource_exhausted("another snapshot is coming in"))?;
        let received =
            snapshot_transfer::receive(group.snapshots(), group.stats(), group.platform(), first, chunks).await?;
        let snapshot = Snapshot { meta: received.meta().clone(), snapshot: received };
        let response = group.raft().install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        let standing = Some(group.standings().own());
        Ok(Response::new(wire::SnapshotResponse { vote: Some(vote_to_wire(&response.vote)), standing }))
    }

    async fn remember(
        &self,
        request: Request<wire::RememberRequest>,
    ) -> Result<Response<wire::RememberResponse>, Status> {
        let request = request.into_inner();
        let (group, header) = self.find(request.header.as_ref())?;
        // What was known before this start of the sender.
        let remembered = group.standings().remembered(header.from_replica);
        group.standings().check_request(header)?;
        Ok(Response::new(wire::RememberResponse { remembered, standing: Some(group.standings().own()) }))
    }
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("group is stopped: {error}"))
}

fn vote_request(request: &wire::RaftVoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
    Ok(VoteRequest {
        vote: vote_from_wire(request.vote).map_err(malformed)?,
        last_log_id: request.last.map(log_id_from_wire),
        leadership_transfer: request.leadership_transfer,
    })
}

fn vote_response_to_wire(response: &VoteResponse<TypeConfig>) -> wire::RaftVoteResponse {
    wire::RaftVoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        last: response.last_log_id.as_ref().map(log_id_to_wire),
        granted: response.vote_granted,
        standing: None,
    }
}

fn append_response_to_wire(response: &AppendEntriesResponse<TypeConfig>) -> wire::RaftAppendResponse {
    use wire::raft_append_response::Outcome;
    let outcome = match response {
        AppendEntriesResponse::Success => Outcome::Success(true),
        AppendEntriesResponse::PartialSuccess(upto) => {
            Outcome::Partial(wire::PartialSuccess { upto: upto.as_ref().map(log_id_to_wire) })
        }
        AppendEntriesResponse::Conflict => Outcome::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(vote_to_wire(vote)),
    };
    wire::RaftAppendResponse { outcome: Some(outcome), standing: None }
}

fn transfer_response_to_wire(response: &TransferLeaderResponse<TypeConfig>) -> wire::RaftTransferResponse {
    use wire::raft_transfer_response::Outcome;
    let outcome = match response {
        Ok(()) => Outcome::Accepted(true),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            let (expected, actual) = (Some(vote_to_wire(expected)), Some(vote_to_wire(actual)));
            Outcome::VoteChanged(wire::TransferVoteChanged { expected, actual })
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            let (expected, actual) = (expected.as_ref().map(log_id_to_wire), actual.as_ref().map(log_id_to_wire));
            Outcome::NotFlushed(wire::TransferNotFlushed { expected, actual })
        }
    };
    wire::RaftTransferResponse { outcome: Some(outcome) }
}
