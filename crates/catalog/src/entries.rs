//! What the catalog says about nodes, shards and replicas.

use granary_types::{NodeId, ReplicaId, ShardId, StreamId};

/// A node that has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its id, never reused.
    pub id: NodeId,
    /// What it drew together with its disk: the same disk, the same node.
    pub uuid: u128,
    /// Where it listens: `host:port`, a stable name that is resolved anew on each connection.
    pub address: String,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEntry {
    /// Its id.
    pub id: ShardId,
    /// Its change log.
    pub stream: StreamId,
    /// Its replicas; the first is the one that should lead.
    pub replicas: Vec<ReplicaEntry>,
}

/// A replica of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplicaEntry {
    /// Its id, never reused.
    pub replica: ReplicaId,
    /// The node that hosts it.
    pub node: NodeId,
}
