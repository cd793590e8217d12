//! The gRPC services of the peer port: between routers, nodes and compactors of one cluster.

pub mod change_log;
pub mod meta;
pub mod replica;
pub mod shard;

use std::time::Duration;

use granary_consensus::PeerPool;
use granary_proto::convert::status_of;
use granary_proto::internal::{self, read_index_response, shard_client::ShardClient};
use granary_types::{Error, ErrorKind, NodeId, ShardId};
use tonic::Status;

use crate::group_commit::WriteError;
use crate::supervisor::Replicas;

/// How long a follower waits for its leader's read index: one round takes milliseconds, a hung leader any time.
const LEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// The answer of a replica that does not lead.
fn not_leader(leader: Option<NodeId>) -> internal::NotLeader {
    internal::NotLeader { leader_node: leader.map_or(0, |node| node.0) }
}

/// The status of a shard that has no replica here, and why if that is known.
fn no_replica(replicas: &Replicas, shard: ShardId) -> Status {
    let why = replicas.note(shard).unwrap_or_else(|| "no replica of it here".to_owned());
    status_of(&Error::new(ErrorKind::Unavailable, format!("shard {shard} does not serve on this node: {why}")))
}

/// Asks the shard's leader, on another node, for its read index.
async fn read_index_at(peers: &PeerPool, address: &str, shard: ShardId) -> Result<u64, WriteError> {
    let unavailable = |what: String| WriteError::Failed(Error::new(ErrorKind::Unavailable, what));
    let channel = peers.channel(address).map_err(|error| unavailable(error.to_string()))?;
    let mut request = tonic::Request::new(internal::ReadIndexRequest { shard: shard.0 });
    request.set_timeout(LEADER_TIMEOUT);
    let response =
        ShardClient::new(channel).read_index(request).await.map_err(|status| unavailable(status.to_string()))?;
    match response.into_inner().result {
        Some(read_index_response::Result::ReadIndex(index)) => Ok(index),
        Some(read_index_response::Result::NotLeader(other)) => {
            Err(WriteError::NotLeader((other.leader_node != 0).then_some(NodeId(other.leader_node))))
        }
        None => Err(unavailable("the leader gave no read index".to_owned())),
    }
}
