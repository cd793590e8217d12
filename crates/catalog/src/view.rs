//! The catalog as everybody but the meta group reads it.

use std::collections::HashMap;
use std::sync::Arc;

use granary_placement::SlotTable;
use granary_proto::internal::Catalog;
use granary_types::{ClusterId, Epoch, Error, FeatureGroup, FeatureGroupId, FeatureGroupStatus, NodeId, ShardId, Slot};

use crate::{CatalogState, NodeEntry, ShardEntry};

/// One version of the catalog. Immutable, shared by reference count, and possibly stale: what it says about
/// ownership is a hint that the shard confirms at apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogView {
    /// The meta group's applied index: later is newer. 0 before anything is known.
    pub version: u64,
    /// The cluster; 0 before anything is known.
    pub cluster: ClusterId,
    /// Ascending by id.
    nodes: Vec<NodeEntry>,
    /// Ascending by id.
    shards: Vec<ShardEntry>,
    table: Option<Arc<SlotTable>>,
    /// Ascending by name, without the deleted ones.
    listed: Vec<Arc<FeatureGroup>>,
    by_name: HashMap<String, Arc<FeatureGroup>>,
    by_id: HashMap<FeatureGroupId, Arc<FeatureGroup>>,
}

impl CatalogView {
    /// Nothing known: version 0, without nodes, shards and groups.
    pub fn empty() -> Self {
        Self::new(0, ClusterId(0), Vec::new(), Vec::new(), None, Vec::new())
    }

    /// The view of a message.
    ///
    /// # Errors
    /// `Corrupt` when a field is malformed or the parts contradict each other.
    pub fn from_wire(wire: &Catalog) -> Result<Self, Error> {
        Ok(CatalogState::parse(wire)?.view())
    }

    /// `nodes` and `shards` ascend by id; `groups` include deleted ones.
    pub(crate) fn new(
        version: u64,
        cluster: ClusterId,
        nodes: Vec<NodeEntry>,
        shards: Vec<ShardEntry>,
        table: Option<Arc<SlotTable>>,
        groups: Vec<Arc<FeatureGroup>>,
    ) -> Self {
        let alive = |group: &&Arc<FeatureGroup>| group.status == FeatureGroupStatus::Created;
        let mut listed: Vec<_> = groups.iter().filter(alive).cloned().collect();
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let by_name = listed.iter().map(|group| (group.name.clone(), group.clone())).collect();
        let by_id = groups.into_iter().map(|group| (group.id, group)).collect();
        Self { version, cluster, nodes, shards, table, listed, by_name, by_id }
    }

    /// The feature group called `name`, unless it is deleted.
    pub fn group(&self, name: &str) -> Option<&Arc<FeatureGroup>> {
        self.by_name.get(name)
    }

    /// The feature group with this id, also when it is deleted.
    pub fn group_by_id(&self, id: FeatureGroupId) -> Option<&Arc<FeatureGroup>> {
        self.by_id.get(&id)
    }

    /// The feature groups that are not deleted, ascending by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Arc<FeatureGroup>> {
        self.listed.iter()
    }

    /// The owner of `slot` and the epoch of its placement; none before there are shards.
    pub fn shard_of(&self, slot: Slot) -> Option<(ShardId, Epoch)> {
        self.table.as_ref()?.get(slot)
    }

    /// The owners of all slots; none before there are shards.
    pub fn slot_table(&self) -> Option<&Arc<SlotTable>> {
        self.table.as_ref()
    }

    /// The shards, ascending by id.
    pub fn shards(&self) -> &[ShardEntry] {
        &self.shards
    }

    /// The shard with this id.
    pub fn shard(&self, id: ShardId) -> Option<&ShardEntry> {
        self.shards.binary_search_by_key(&id, |shard| shard.id).ok().map(|index| &self.shards[index])
    }

    /// The nodes, ascending by id.
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeEntry> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|index| &self.nodes[index])
    }

    /// Where a node listens.
    pub fn node_address(&self, id: NodeId) -> Option<&str> {
        self.node(id).map(|node| node.address.as_str())
    }
}
