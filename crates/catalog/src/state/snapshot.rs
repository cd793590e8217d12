//! The state as a message and back: what stands in snapshots of the meta group and what is pushed to watchers.
//!
//! Two messages of equal states are equal as messages; their bytes may differ in the order of tags. So states are
//! compared, never bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use granary_placement::SlotTable;
use granary_proto::convert::{
    cluster_from_wire, cluster_to_wire, feature_group_from_wire, feature_group_to_wire, stream_from_wire,
    stream_to_wire, u128_from_wire, u128_to_wire,
};
use granary_proto::internal::{Catalog, Node, ReplicaInfo, ShardInfo};
use granary_types::{FeatureGroupStatus, NodeId, ReplicaId, ShardId};

use super::feature_groups::live_name;
use crate::{CatalogState, Error, NodeEntry, ReplicaEntry, ShardEntry};

impl CatalogState {
    /// The whole state as a message.
    pub fn to_wire(&self) -> Catalog {
        let (slot_shards, slot_epochs) = self.table.as_ref().map(|table| table.to_vectors()).unwrap_or_default();
        Catalog {
            version: self.version,
            cluster: cluster_to_wire(self.cluster),
            nodes: self.nodes.values().map(node_to_wire).collect(),
            shards: self.shards.values().map(shard_to_wire).collect(),
            slot_shards,
            slot_epochs,
            feature_groups: self.groups.values().map(|group| feature_group_to_wire(group)).collect(),
            next_node: self.next_node,
            next_replica: self.next_replica,
            next_feature_group: self.next_feature_group,
        }
    }

    /// The state of a message, equal to the one that was made into it.
    ///
    /// # Errors
    /// When a field is malformed or the parts contradict each other, up to ids that were not handed out yet.
    pub fn from_wire(wire: &Catalog) -> Result<Self, Error> {
        let state = Self::parse(wire)?;
        state.check_ids()?;
        Ok(state)
    }

    /// As [`from_wire`](Self::from_wire), without the checks that only one who goes on applying depends on.
    pub(crate) fn parse(wire: &Catalog) -> Result<Self, Error> {
        let mut state = Self::new(cluster_from_wire(&wire.cluster)?);
        state.version = wire.version;
        state.nodes = nodes_from_wire(&wire.nodes)?;
        state.shards = shards_from_wire(&wire.shards)?;
        state.table = table_from_wire(wire, &state.shards)?;
        for group in &wire.feature_groups {
            let group = Arc::new(feature_group_from_wire(group)?);
            if state.groups.contains_key(&group.id) {
                return Err(Error::Contradiction(format!("feature group {} stands twice", group.id)));
            }
            if let Some((name, id)) = live_name(&group)
                && let Some(other) = state.names.insert(name, id)
            {
                return Err(Error::Contradiction(format!("feature groups {id} and {other} have one name")));
            }
            state.keep_group(group);
        }
        state.next_node = wire.next_node;
        state.next_replica = wire.next_replica;
        state.next_feature_group = wire.next_feature_group;
        Ok(state)
    }

    /// Checks that no id will be handed out twice and that replicas stand on nodes that exist.
    fn check_ids(&self) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Contradiction(what));
        if self.nodes.keys().any(|node| node.0 == 0 || node.0 >= self.next_node) {
            return fail(format!("a node id is not below next_node={}", self.next_node));
        }
        if self.groups.keys().any(|group| group.0 == 0 || group.0 >= self.next_feature_group) {
            return fail(format!("a feature group id is not below next_feature_group={}", self.next_feature_group));
        }
        let mut replicas = BTreeSet::new();
        for ReplicaEntry { replica, node } in self.shards.values().flat_map(|shard| &shard.replicas) {
            if replica.0 == 0 || replica.0 >= self.next_replica || !replicas.insert(*replica) {
                return fail(format!("replica {replica} stands twice or is not below {}", self.next_replica));
            }
            if !self.nodes.contains_key(node) {
                return fail(format!("replica {replica} stands on node {node}, which does not exist"));
            }
        }
        let uuids: BTreeSet<u128> = self.nodes.values().map(|node| node.uuid).collect();
        if uuids.len() != self.nodes.len() {
            return fail("two nodes have one uuid".to_owned());
        }
        let live = self.groups.values().filter(|group| group.status == FeatureGroupStatus::Created).count();
        debug_assert_eq!(live, self.names.len(), "every group that is not deleted has its name");
        Ok(())
    }
}

fn node_to_wire(node: &NodeEntry) -> Node {
    Node { id: node.id.0, uuid: u128_to_wire(node.uuid), address: node.address.clone() }
}

fn nodes_from_wire(wire: &[Node]) -> Result<BTreeMap<NodeId, NodeEntry>, Error> {
    let mut nodes = BTreeMap::new();
    for node in wire {
        let id = NodeId(node.id);
        let entry = NodeEntry { id, uuid: u128_from_wire("node uuid", &node.uuid)?, address: node.address.clone() };
        if nodes.insert(id, entry).is_some() {
            return Err(Error::Contradiction(format!("node {id} stands twice")));
        }
    }
    Ok(nodes)
}

fn shard_to_wire(shard: &ShardEntry) -> ShardInfo {
    let replica_to_wire = |entry: &ReplicaEntry| ReplicaInfo { replica: entry.replica.0, node: entry.node.0 };
    ShardInfo {
        id: shard.id.0,
        replicas: shard.replicas.iter().map(replica_to_wire).collect(),
        stream: Some(stream_to_wire(shard.stream)),
    }
}

fn shards_from_wire(wire: &[ShardInfo]) -> Result<BTreeMap<ShardId, ShardEntry>, Error> {
    let replica_from_wire =
        |info: &ReplicaInfo| ReplicaEntry { replica: ReplicaId(info.replica), node: NodeId(info.node) };
    let mut shards = BTreeMap::new();
    for shard in wire {
        let id = ShardId(shard.id);
        let stream = stream_from_wire(shard.stream.as_ref())?;
        if stream.shard != id {
            return Err(Error::Contradiction(format!("shard {id} has the stream of shard {}", stream.shard)));
        }
        let entry = ShardEntry { id, stream, replicas: shard.replicas.iter().map(replica_from_wire).collect() };
        if id == ShardId::META || shards.insert(id, entry).is_some() {
            return Err(Error::Contradiction(format!("shard {id} is the meta group or stands twice")));
        }
    }
    Ok(shards)
}

/// None while there are neither shards nor slots.
fn table_from_wire(wire: &Catalog, shards: &BTreeMap<ShardId, ShardEntry>) -> Result<Option<Arc<SlotTable>>, Error> {
    if wire.slot_shards.is_empty() && wire.slot_epochs.is_empty() && shards.is_empty() {
        return Ok(None);
    }
    let table = SlotTable::from_vectors(&wire.slot_shards, &wire.slot_epochs)?;
    table.check(&shards.keys().copied().collect())?;
    Ok(Some(Arc::new(table)))
}
