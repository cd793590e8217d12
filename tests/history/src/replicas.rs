//! Replicas at one applied index have one state hash (RG-2).

use std::collections::BTreeMap;

use crate::model::{History, ReplicaState, What};
use crate::verdict::{Rule, Violation};

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replicas {
    /// What was found, at most one for each shard.
    pub violations: Vec<Violation>,
    /// How many pairs of shard and index were seen on more than one replica.
    pub compared: u64,
}

/// Compares every observation of a shard's replicas at one applied index.
pub fn replicas_equal(history: &History) -> Replicas {
    let mut seen: BTreeMap<(u32, u64), Vec<(u64, &ReplicaState)>> = BTreeMap::new();
    for event in &history.events {
        if let What::ReplicaState(state) = &event.what {
            seen.entry((state.shard, state.applied_index)).or_default().push((event.i, state));
        }
    }
    let mut found = Replicas::default();
    let mut broken: BTreeMap<u32, Violation> = BTreeMap::new();
    for ((shard, index), states) in &seen {
        let first = &states[0];
        found.compared += u64::from(states.iter().any(|(_, state)| state.replica != first.1.replica));
        if let Some(other) = states.iter().find(|(_, state)| state.state_hash != first.1.state_hash) {
            let claim = format!("at applied index {index} of shard {shard} two states were seen");
            let story = [first, other].map(|(i, state)| (*i, told(*i, state))).to_vec();
            broken.entry(*shard).or_insert_with(|| Violation::new(Rule::ReplicasEqual, None, claim, story));
        }
    }
    found.violations = broken.into_values().collect();
    found
}

fn told(i: u64, state: &ReplicaState) -> String {
    let ReplicaState { node, replica, state_hash, .. } = state;
    format!("replica {replica} on {node} has the state hash {state_hash} (line i={i})")
}
