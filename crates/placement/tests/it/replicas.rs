//! Replicas are spread evenly and never doubled.

use std::collections::{BTreeMap, BTreeSet};

use granary_placement::{Error, place_replicas};
use granary_types::{NodeId, ShardId};
use proptest::prelude::*;

proptest! {
    #[test]
    fn replicas_are_spread_evenly(
        nodes in prop::collection::btree_set((1..1000_u64).prop_map(NodeId), 1..12),
        shards in prop::collection::btree_set((1..1000_u32).prop_map(ShardId), 0..40),
        replicas in 1..6_usize,
    ) {
        let placed = place_replicas(&nodes, &shards, replicas);
        if replicas > nodes.len() {
            prop_assert_eq!(placed, Err(Error::TooFewNodes { replicas, nodes: nodes.len() }));
            return Ok(());
        }
        let placed = placed.expect("enough nodes");
        prop_assert!(placed.keys().eq(shards.iter()));
        let mut counts: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
        for hosts in placed.values() {
            prop_assert_eq!(hosts.iter().collect::<BTreeSet<_>>().len(), replicas);
            for host in hosts {
                *counts.get_mut(host).expect("only given nodes") += 1;
            }
        }
        let (most, least) = (counts.values().max().expect("nodes"), counts.values().min().expect("nodes"));
        prop_assert!(most - least <= 1, "{:?}", counts);
        prop_assert_eq!(place_replicas(&nodes, &shards, replicas).expect("enough nodes"), placed);
    }
}

#[test]
fn leaders_are_spread_where_every_node_has_a_replica() {
    let nodes = (1..=3).map(NodeId).collect();
    let shards = (1..=6).map(ShardId).collect();
    let placed = place_replicas(&nodes, &shards, 3).expect("enough nodes");
    let firsts: Vec<u64> = placed.values().map(|hosts| hosts[0].0).collect();
    assert_eq!(firsts, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_shard_without_replicas_is_refused() {
    let nodes = BTreeSet::from([NodeId(1)]);
    assert_eq!(place_replicas(&nodes, &BTreeSet::new(), 0), Err(Error::NoReplicas));
}
