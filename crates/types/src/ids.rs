//! Identifiers. Each is a newtype, so that two arguments of one meaningless integer type never meet.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// A cluster, drawn at random once, when the cluster is initialised. Part of every peer handshake.
    ClusterId(u128)
);
id!(
    /// A node (a process with a disk). Handed out by the meta group, never reused; 1 is the first.
    NodeId(u64)
);
id!(
    /// A replica of one shard or of the meta group: openraft's node id. It dies with its disk and is never reused.
    ReplicaId(u64)
);
id!(
    /// A shard: a Raft group and the slots it owns. 0 is the meta group, which owns none.
    ShardId(u32)
);
id!(
    /// A fixed hash bucket of record identifiers, `0..SLOT_COUNT`; the unit that moves between shards.
    Slot(u16)
);
id!(
    /// The version of one slot's placement. Raised by every committed move of the slot, never lowered.
    Epoch(u64)
);
id!(
    /// A feature group for ever: a group that is deleted and created again under its name has a new id.
    FeatureGroupId(u32)
);
id!(
    /// The stable place of a feature in its group, never reused, counted from 0.
    FeatureOrdinal(u16)
);
id!(
    /// The version of a feature group's list of features; raised when features are added, counted from 1.
    SchemaVersion(u32)
);
id!(
    /// The identity of a write: given by the client or minted once by the router, equal on every retry.
    WriteId(u128)
);

impl ShardId {
    /// The meta group's id among the Raft groups.
    pub const META: Self = Self(0);
}

/// A change log's identity. Numbering never restarts under one stream id (CL-2): a shard that lost its state for
/// good gets a new incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The cluster that wrote the stream.
    pub cluster: ClusterId,
    /// The shard that wrote the stream.
    pub shard: ShardId,
    /// Counted from 1; raised when the shard's numbering had to restart.
    pub incarnation: u32,
}

impl fmt::Display for StreamId {
    /// `<cluster, 32 hex digits>-<shard>-<incarnation>`: the application id in table commits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}-{}", self.cluster.0, self.shard, self.incarnation)
    }
}

/// A place in a change log (CL-2). Sequence numbers are dense and start at 1; 0 means "before the first event".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPosition {
    /// The stream.
    pub stream: StreamId,
    /// The event's number in it.
    pub sequence: u64,
}
