//! Spreads the replicas of shards over nodes.

use std::collections::{BTreeMap, BTreeSet};

use granary_types::{NodeId, ShardId};

use crate::Error;

/// The nodes of each shard's replicas, the one that should lead first.
///
/// Replicas are dealt round the nodes like cards, so no node has more than one replica more than another, and no
/// shard two on one node. Among its nodes a shard takes as its first the one that is first the least often: load
/// follows leaders.
///
/// # Errors
/// `NoReplicas`; `TooFewNodes` when there are more replicas than nodes.
pub fn place_replicas(
    nodes: &BTreeSet<NodeId>,
    shards: &BTreeSet<ShardId>,
    replicas: usize,
) -> Result<BTreeMap<ShardId, Vec<NodeId>>, Error> {
    if replicas == 0 {
        return Err(Error::NoReplicas);
    }
    if replicas > nodes.len() {
        return Err(Error::TooFewNodes { replicas, nodes: nodes.len() });
    }
    let mut deal = nodes.iter().copied().cycle();
    let mut first_counts: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut placed = BTreeMap::new();
    for shard in shards {
        // Consecutive nodes of the circle, at most once round: all different.
        let mut hosts: Vec<NodeId> = deal.by_ref().take(replicas).collect();
        let first = (0..replicas)
            .min_by_key(|host| first_counts.get(&hosts[*host]).copied().unwrap_or(0))
            .expect("there is at least one replica");
        hosts.rotate_left(first);
        *first_counts.entry(hosts[0]).or_insert(0) += 1;
        placed.insert(*shard, hosts);
    }
    Ok(placed)
}
