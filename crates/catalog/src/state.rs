//! The meta group's state machine.
//!
//! Pure: what a command does depends on the state and the command alone. Whatever a command is refused for is part
//! of its reply, and the refusal is as replicated as a success. Only a command that this build does not know stops
//! the replica: skipping it would let replicas differ.
//!
//! Every rule in here is part of the replicated history. A rule that changes makes old and new builds answer the
//! same entry differently, so it has to come with a command of its own.

mod feature_groups;
mod nodes;
mod shards;
mod snapshot;
mod tags;
mod updates;

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_placement::SlotTable;
use granary_proto::convert::{feature_group_to_wire, kind_code};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Outcome;
use granary_proto::internal::{MetaCommand, MetaError, MetaReply};
use granary_types::{ClusterId, Error, FeatureGroup, FeatureGroupId, NodeId, ShardId};

use crate::{CatalogView, NodeEntry, ShardEntry};

pub use feature_groups::{CATALOG_BYTES_MAX, check_new};
pub use nodes::{FOUNDING_NODE_MAX, NODE_COUNT_MAX};

/// A committed command that this build does not know. The replica must stop: to skip it is to diverge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("meta group holds a command that this build does not know index={index}")]
pub struct UnknownCommand {
    /// Where it stands in the meta group's Raft log.
    pub index: u64,
}

/// The catalog as the meta group's replicas hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogState {
    /// The index of the last applied command.
    version: u64,
    cluster: ClusterId,
    nodes: BTreeMap<NodeId, NodeEntry>,
    shards: BTreeMap<ShardId, ShardEntry>,
    /// None before there are shards.
    table: Option<Arc<SlotTable>>,
    /// Deleted ones too: events of theirs may be on their way to the offline store.
    groups: BTreeMap<FeatureGroupId, Arc<FeatureGroup>>,
    /// The groups that are not deleted; derived from `groups`.
    names: BTreeMap<String, FeatureGroupId>,
    /// What `groups` take as messages; derived from `groups`.
    groups_bytes: usize,
    /// Above the founders' ids, which are not handed out here.
    next_node: u64,
    next_replica: u64,
    next_feature_group: u32,
}

impl CatalogState {
    /// The catalog of a cluster to which nothing has happened yet.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            version: 0,
            cluster,
            nodes: BTreeMap::new(),
            shards: BTreeMap::new(),
            table: None,
            groups: BTreeMap::new(),
            names: BTreeMap::new(),
            groups_bytes: 0,
            next_node: FOUNDING_NODE_MAX + 1,
            next_replica: 1,
            next_feature_group: 1,
        }
    }

    /// The index of the last applied command; 0 before the first.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Applies the committed command at `index`. A command that is refused changes nothing but the version.
    ///
    /// # Errors
    /// `UnknownCommand` for a command that this build does not know; the state is as it was.
    pub fn apply(&mut self, index: u64, command: &MetaCommand) -> Result<MetaReply, UnknownCommand> {
        debug_assert!(index > self.version, "index {index} comes after version {}", self.version);
        let outcome = match command.command.as_ref().ok_or(UnknownCommand { index })? {
            Command::RegisterNode(register) => self.register_node(register).map(|node| Outcome::Node(node.0)),
            Command::CreateShards(create) => self.create_shards(create).map(|()| Outcome::Done(true)),
            Command::CreateFeatureGroup(create) => self.create_group(create).map(|group| group_of(&group)),
            Command::DeleteFeatureGroup(delete) => self.delete_group(delete).map(|()| Outcome::Done(true)),
            Command::UpdateFeatureGroup(update) => self.update_group(update).map(|group| group_of(&group)),
            Command::UpdateFeature(update) => self.update_feature(update).map(|group| group_of(&group)),
            Command::UpdateTags(update) => self.update_tags(update).map(|group| group_of(&group)),
        };
        self.version = index;
        Ok(MetaReply { version: index, result: Some(outcome.unwrap_or_else(refusal)) })
    }

    /// What readers see of this state. Costs a pass over nodes, shards and groups; the specs are shared.
    pub fn view(&self) -> CatalogView {
        CatalogView::new(
            self.version,
            self.cluster,
            self.nodes.values().cloned().collect(),
            self.shards.values().cloned().collect(),
            self.table.clone(),
            self.groups.values().cloned().collect(),
        )
    }
}

fn group_of(group: &FeatureGroup) -> Outcome {
    Outcome::FeatureGroup(feature_group_to_wire(group))
}

fn refusal(error: Error) -> Outcome {
    Outcome::Error(MetaError { kind: kind_code(error.kind).to_owned(), message: error.message })
}
