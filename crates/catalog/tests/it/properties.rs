//! Random histories of commands, with snapshots anywhere in them.

use std::collections::{BTreeMap, BTreeSet};

use granary_catalog::{CatalogState, CatalogView};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Outcome;
use granary_proto::internal::{Catalog, MetaCommand};
use granary_proto::v1;
use granary_types::FeatureGroupStatus;
use proptest::prelude::*;
use prost::Message;

use crate::commands::{CLUSTER, NOW_MS, create_at, delete, online, register, shards, with_offline};

fn creations() -> impl Strategy<Value = Command> {
    (0..5_usize, 0..6_usize, 0..3_u64).prop_map(|(name, shape, second)| {
        let name = ["a", "b-c", "b_c", "B-C", "payments"][name];
        let mut request = if shape % 2 == 0 { online(name) } else { with_offline(name) };
        match shape {
            2 => request.tags.clear(),
            3 => request.online = None,
            4 => request.event_time_feature = "missing".to_owned(),
            5 => {
                let ttl = v1::Ttl { unit: v1::TtlUnit::Days.into(), value: 3 };
                request.online = Some(v1::OnlineConfig { ttl: Some(ttl), ..Default::default() });
            }
            _ => {}
        }
        Command::CreateFeatureGroup(create_at(request, NOW_MS + second * 1_000))
    })
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (0..9_usize, 0..6_u128, 0..5_u8)
            .prop_map(|(node, uuid, address)| register([0, 0, 0, 1, 2, 3, 99, 100, 101][node], uuid, &format!("host-{address}:7"))),
        1 => (0..4_u32, 0..4_u32).prop_map(|(count, replicas)| shards(count, replicas)),
        5 => creations(),
        2 => (0..5_usize).prop_map(|name| delete(["a", "b-c", "b_c", "B-C", "none"][name])),
    ]
}

/// A snapshot to bytes and back.
fn through_snapshot(state: &CatalogState) -> CatalogState {
    let bytes = state.to_wire().encode_to_vec();
    let wire = Catalog::decode(bytes.as_slice()).expect("just encoded");
    CatalogState::from_wire(&wire).expect("a state's own snapshot is good")
}

/// What must hold of every state, checked on what readers see.
fn assert_sound(view: &CatalogView) {
    for group in view.groups() {
        assert_eq!(group.status, FeatureGroupStatus::Created);
        assert_eq!(view.group(&group.name), Some(group));
        assert_eq!(view.group_by_id(group.id), Some(group));
    }
    assert!(view.groups().is_sorted_by(|one, next| one.name < next.name));
    for shard in view.shards() {
        let hosts: BTreeSet<_> = shard.replicas.iter().map(|entry| entry.node).collect();
        assert_eq!(hosts.len(), shard.replicas.len());
        assert!(hosts.iter().all(|node| view.node(*node).is_some()));
        assert_eq!(view.shard(shard.id), Some(shard));
    }
    assert_eq!(view.slot_table().is_some(), !view.shards().is_empty());
    for slot in granary_placement::slots() {
        assert_eq!(view.shard_of(slot).is_some(), !view.shards().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_snapshot_anywhere_makes_no_difference(
        commands in prop::collection::vec(commands(), 1..40),
        snapshots in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut straight = CatalogState::new(CLUSTER);
        let mut restored = CatalogState::new(CLUSTER);
        let mut uuids: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut groups_seen = BTreeSet::new();
        for (index, (command, snapshot)) in (1_u64..).zip(commands.into_iter().zip(snapshots)) {
            let before = straight.clone();
            let command = MetaCommand { command: Some(command) };
            let reply = straight.apply(index, &command).expect("known");
            prop_assert_eq!(&restored.apply(index, &command).expect("known"), &reply);
            if snapshot {
                restored = through_snapshot(&restored);
            }
            prop_assert_eq!(&restored, &straight);
            assert_sound(&straight.view());

            match (reply.result.expect("a result"), command.command.expect("a command")) {
                (Outcome::Error(_), _) => {
                    // Nothing but the version may have changed.
                    let same = Catalog { version: before.version(), ..straight.to_wire() };
                    prop_assert_eq!(same, before.to_wire());
                }
                (Outcome::FeatureGroup(group), _) => prop_assert!(groups_seen.insert(group.id), "an id is used once"),
                (Outcome::Node(node), Command::RegisterNode(register)) => {
                    let uuid = uuids.entry(node).or_insert_with(|| register.uuid.to_vec());
                    prop_assert_eq!(&uuid[..], &register.uuid[..], "an id means one disk for ever");
                }
                _ => {}
            }
        }
        prop_assert_eq!(CatalogView::from_wire(&straight.to_wire()).expect("good"), straight.view());
        prop_assert_eq!(through_snapshot(&straight), straight);
    }
}
