//! Which shards there are, who hosts them, and who owns the slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use granary_placement::{place_replicas, planner};
use granary_proto::internal::CreateShards;
use granary_types::{Error, ErrorKind, NodeId, ReplicaId, ShardId, StreamId};

use crate::{CatalogState, ReplicaEntry, ShardEntry};

impl CatalogState {
    /// Lays the first shards out over the registered nodes and deals the slots, once.
    pub(super) fn create_shards(&mut self, command: &CreateShards) -> Result<(), Error> {
        if !self.shards.is_empty() {
            return self.check_same_shards(command);
        }
        let replicas = usize::try_from(command.replicas).map_err(|_| Error::invalid("too many replicas"))?;
        // One more than can be dealt suffices to be refused, however many were asked for.
        let count_max = u32::from(granary_placement::SLOT_COUNT) + 1;
        let shards: BTreeSet<ShardId> = (1..=command.shards.min(count_max)).map(ShardId).collect();
        let table = planner::deal(&shards).map_err(invalid)?;
        let hosts = place_replicas(&self.hosts(), &shards, replicas).map_err(invalid)?;

        for (shard, nodes) in hosts {
            let entry = ShardEntry {
                id: shard,
                stream: StreamId { cluster: self.cluster, shard, incarnation: 1 },
                replicas: nodes.into_iter().map(|node| self.new_replica(node)).collect(),
            };
            self.shards.insert(shard, entry);
        }
        self.table = Some(Arc::new(table));
        Ok(())
    }

    fn check_same_shards(&self, command: &CreateShards) -> Result<(), Error> {
        let same_count = u32::try_from(self.shards.len()) == Ok(command.shards);
        let same_replicas =
            self.shards.values().all(|shard| u32::try_from(shard.replicas.len()) == Ok(command.replicas));
        if same_count && same_replicas {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InUse,
            format!("shards exist already, otherwise laid out count={}", self.shards.len()),
        ))
    }

    /// The nodes that replicas are placed on: of several at one address the last to come, since the others lost their
    /// disks there and will not be back.
    fn hosts(&self) -> BTreeSet<NodeId> {
        let by_address: BTreeMap<&str, NodeId> =
            self.nodes.values().map(|node| (node.address.as_str(), node.id)).collect();
        by_address.into_values().collect()
    }

    fn new_replica(&mut self, node: NodeId) -> ReplicaEntry {
        let replica = ReplicaId(self.next_replica);
        self.next_replica += 1;
        ReplicaEntry { replica, node }
    }
}

fn invalid(error: granary_placement::Error) -> Error {
    Error::invalid(error.to_string())
}
