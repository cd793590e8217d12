//! Raft's requests to other replicas, over the node's shared connections.
//!
//! Every request says which cluster, group and replica it is meant for. A peer that cannot be reached, or that does
//! not host the replica, is reported as unreachable: openraft then waits longer from try to try.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use granary_link::Link;
use granary_platform::Platform;
use granary_proto::convert::cluster_to_wire;
use granary_proto::internal as wire;
use granary_proto::internal::consensus_client::ConsensusClient;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tonic::{Code, Response, Status};

use crate::codec::{Malformed, entry_to_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire};
use crate::group::GroupSpec;
use crate::peers::PeerPool;
use crate::snapshot_store::SnapshotFile;
use crate::snapshot_transfer;
use crate::standing::Standings;
use crate::stats::Stats;
use crate::type_config::{Peer, TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;
type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Makes the clients of one group.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) peers: Arc<PeerPool>,
    pub(crate) platform: Platform,
    pub(crate) spec: Arc<GroupSpec>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) standings: Arc<Standings>,
    pub(crate) append_timeout: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Peer) -> PeerClient {
        PeerClient {
            // An address that cannot be one stays unreachable, as an address where nobody listens would.
            client: self.peers.client(&node.address).map_err(|error| error.to_string()),
            header: wire::PeerHeader {
                cluster: cluster_to_wire(self.spec.cluster),
                group: self.spec.group.0,
                from_replica: self.spec.replica.0,
                to_replica: target,
                ..Default::default()
            },
            platform: self.platform.clone(),
            standings: Arc::clone(&self.standings),
            stats: Arc::clone(&self.stats),
            append_timeout: self.append_timeout,
        }
    }
}

/// A client to one replica.
#[derive(Debug)]
pub(crate) struct PeerClient {
    client: Result<ConsensusClient<Link>, String>,
    header: wire::PeerHeader,
    platform: Platform,
    standings: Arc<Standings>,
    stats: Arc<Stats>,
    append_timeout: Duration,
}

impl PeerClient {
    /// The client of a replica that takes part; one that does not reaches nobody.
    fn client(&self) -> Result<ConsensusClient<Link>, RpcError> {
        self.standings.check_admitted().map_err(|status| rpc_error(&status))?;
        self.client.clone().map_err(|error| Unreachable::from_string(error).into())
    }

    fn header(&self) -> wire::PeerHeader {
        wire::PeerHeader {
            sender: Some(self.standings.own()),
            remembered: self.standings.remembered(self.header.to_replica),
            ..self.header.clone()
        }
    }

    /// An answer from whoever is not, or no longer, the replica that was asked counts for nothing.
    fn hear(&self, standing: Option<&wire::Standing>) -> Result<(), RpcError> {
        self.standings.hear(self.header.to_replica, standing).map_err(|why| {
            tracing::warn!(to = self.header.to_replica, %why, "an answer is not used");
            Unreachable::from_string(why).into()
        })
    }

    async fn within<T>(
        &self,
        action: RPCTypes,
        timeout: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                self.standings.heed(&status);
                Err(rpc_error(&status))
            }
            Err(_) => {
                Err(Timeout { action, id: self.header.from_replica, target: self.header.to_replica, timeout }.into())
            }
        }
    }

    /// Sends what the receiver does not have of the file from a transfer that was interrupted. Returns how many bytes.
    async fn send_snapshot(
        &self,
        client: &mut ConsensusClient<Link>,
        vote: &Vote,
        file: SnapshotFile,
        timeout: Duration,
    ) -> Result<(wire::SnapshotResponse, u64), RpcError> {
        let id = file.id().map_err(|error| Unreachable::new(&error))?;
        let (total_bytes, checksum) = (id.len, id.checksum);
        let known = wire::SnapshotProgressRequest { header: Some(self.header()), total_bytes, checksum };
        let known = self.within(RPCTypes::InstallSnapshot, timeout, client.snapshot_progress(known)).await?;
        let offset = if known.offset < id.len { known.offset } else { 0 };
        let chunks = snapshot_transfer::chunks(file, id, offset, self.header(), Some(vote), self.platform.clone());
        let response = self.within(RPCTypes::InstallSnapshot, timeout, client.install_snapshot(chunks)).await?;
        Ok((response, id.len - offset))
    }

    fn vote_request(&self, request: &VoteRequest<TypeConfig>) -> wire::RaftVoteRequest {
        wire::RaftVoteRequest {
            header: Some(self.header()),
            vote: Some(vote_to_wire(&request.vote)),
            last: request.last_log_id.as_ref().map(log_id_to_wire),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        // A heartbeat that takes longer than to the next one is lost. Entries have to be sent, synced and confirmed.
        let timeout =
            if request.entries.is_empty() { option.soft_ttl() } else { option.soft_ttl().max(self.append_timeout) };
        if !request.entries.is_empty() {
            self.stats.append_requests.add(1);
            self.stats.append_entries.add(request.entries.len() as u64);
        }
        let heartbeat = request.entries.is_empty();
        let others = if heartbeat { self.standings.remembered_of_others(self.header.to_replica) } else { Vec::new() };
        let message = wire::RaftAppendRequest {
            header: Some(self.header()),
            others,
            vote: Some(vote_to_wire(&request.vote)),
            previous: request.prev_log_id.as_ref().map(log_id_to_wire),
            committed: request.leader_commit.as_ref().map(log_id_to_wire),
            entries: request.entries.into_iter().map(entry_to_wire).collect(),
        };
        let mut client = self.client()?;
        let response = self.within(RPCTypes::AppendEntries, timeout, client.append_entries(message)).await?;
        self.hear(response.standing.as_ref())?;
        append_response_from_wire(response).map_err(malformed)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = self.vote_request(&request);
        let mut client = self.client()?;
        let response = self.within(RPCTypes::Vote, option.soft_ttl(), client.vote(message)).await?;
        self.hear(response.standing.as_ref())?;
        vote_response_from_wire(response).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = self.vote_request(&request);
        let mut client = self.client()?;
        let response = self.within(RPCTypes::Vote, option.soft_ttl(), client.pre_vote(message)).await?;
        self.hear(response.standing.as_ref())?;
        vote_response_from_wire(response).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client()?;
        let transfer = self.send_snapshot(&mut client, &vote, snapshot.snapshot, option.soft_ttl());
        let (response, sent) = tokio::select! {
            response = transfer => response?,
            closed = cancel => return Err(closed.into()),
        };
        self.hear(response.standing.as_ref())?;
        self.stats.snapshots_sent.add(1);
        self.stats.snapshot_bytes_sent.add(sent);
        let vote = vote_from_wire(response.vote).map_err(malformed)?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = wire::RaftTransferRequest {
            header: Some(self.header()),
            from: Some(vote_to_wire(request.from_leader())),
            to_replica: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_wire),
        };
        let mut client = self.client()?;
        let response =
            self.within(RPCTypes::TransferLeader, option.soft_ttl(), client.transfer_leader(message)).await?;
        transfer_response_from_wire(response).map_err(malformed)
    }
}

fn malformed(error: Malformed) -> RpcError {
    NetworkError::new(&error).into()
}

/// What openraft makes of a refusal: `Unreachable` backs off, `Network` is tried again at once.
fn rpc_error(status: &Status) -> RpcError {
    match status.code() {
        Code::Unavailable | Code::NotFound | Code::FailedPrecondition | Code::Unimplemented | Code::Internal => {
            Unreachable::from_string(status).into()
        }
        _ => NetworkError::from_string(status).into(),
    }
}

fn append_response_from_wire(
    response: wire::RaftAppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    use wire::raft_append_response::Outcome;
    Ok(match response.outcome.ok_or(Malformed("append response"))? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::Partial(partial) => AppendEntriesResponse::PartialSuccess(partial.upto.map(log_id_from_wire)),
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_from_wire(Some(vote))?),
    })
}

fn vote_response_from_wire(response: wire::RaftVoteResponse) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = vote_from_wire(response.vote)?;
    Ok(VoteResponse::new(vote, response.last.map(log_id_from_wire), response.granted))
}

fn transfer_response_from_wire(
    response: wire::RaftTransferResponse,
) -> Result<TransferLeaderResponse<TypeConfig>, Malformed> {
    use wire::raft_transfer_response::Outcome;
    Ok(match response.outcome.ok_or(Malformed("transfer response"))? {
        Outcome::Accepted(_) => Ok(()),
        Outcome::VoteChanged(votes) => Err(TransferLeaderError::VoteChanged {
            expected: vote_from_wire(votes.expected)?,
            actual: vote_from_wire(votes.actual)?,
        }),
        Outcome::NotFlushed(logs) => Err(TransferLeaderError::LogNotFlushed {
            expected: logs.expected.map(log_id_from_wire),
            actual: logs.actual.map(log_id_from_wire),
        }),
    })
}
