//! Random histories of commands, with snapshots anywhere in them.

use std::collections::{BTreeMap, BTreeSet};

use granary_catalog::{CatalogState, CatalogView};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Outcome;
use granary_proto::internal::{Catalog, MetaCommand, UpdateFeature, UpdateGroup, UpdateTags};
use granary_proto::v1;
use granary_proto::v1::update_feature_group_request::Change;
use granary_types::FeatureGroupStatus;
use proptest::prelude::*;
use prost::Message;

use crate::commands::{
    CLUSTER, NOW_MS, add_features, create_at, delete, feature, online, register, shards, with_offline,
};

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

const NAMES: [&str; 5] = ["a", "b-c", "b_c", "B-C", "none"];

/// Updates of groups, features and tags, good and bad.
fn changes() -> impl Strategy<Value = Command> {
    (0..5_usize, 0..6_usize, 0..4_usize, 0..3_u64).prop_map(|(name, shape, word, second)| {
        let (name, now_ms) = (NAMES[name].to_owned(), NOW_MS + second * 1_000);
        let word = ["x", "y", "amount", "-"][word].to_owned();
        let group = |change| {
            let request = v1::UpdateFeatureGroupRequest { name: name.clone(), change };
            Command::UpdateFeatureGroup(UpdateGroup { request: Some(request), now_ms })
        };
        match shape {
            0 => add_features(&name, &[feature(&word, v1::FeatureType::Integral)], now_ms),
            1 => {
                let ttl = v1::TtlChange { ttl: Some(v1::Ttl { unit: v1::TtlUnit::Days.into(), value: second as u32 }) };
                group(Some(Change::Online(v1::OnlineChange { ttl: Some(ttl), storage_type: String::new() })))
            }
            2 => group(Some(Change::Throughput(v1::Throughput {
                mode: "Provisioned".to_owned(),
                read_units: Some(1),
                write_units: Some(2),
            }))),
            3 => group(None),
            4 => {
                let set_parameters = [(word.clone(), "1".to_owned())].into();
                let feature = if second == 0 { word } else { "id".to_owned() };
                let request = v1::UpdateFeatureMetadataRequest {
                    feature_group: name,
                    feature,
                    set_parameters,
                    ..Default::default()
                };
                Command::UpdateFeature(UpdateFeature { request: Some(request), now_ms })
            }
            _ => {
                let set = [(word, second.to_string())].into();
                let request = v1::UpdateTagsRequest { feature_group: name, set, remove: vec!["x".to_owned()] };
                Command::UpdateTags(UpdateTags { request: Some(request) })
            }
        }
    })
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (0..9_usize, 0..6_u128, 0..5_u8)
            .prop_map(|(node, uuid, address)| register([0, 0, 0, 1, 2, 3, 99, 100, 101][node], uuid, &format!("host-{address}:7"))),
        1 => (0..4_u32, 0..4_u32).prop_map(|(count, replicas)| shards(count, replicas)),
        5 => creations(),
        2 => (0..5_usize).prop_map(|name| delete(NAMES[name])),
        5 => changes(),
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
                (Outcome::FeatureGroup(group), Command::CreateFeatureGroup(_)) => {
                    prop_assert!(groups_seen.insert(group.id), "an id is used once");
                }
                (Outcome::FeatureGroup(group), _) => {
                    let before = before.view();
                    let before = before.group(&group.name).expect("only what is there changes");
                    let kept = before.schema.features().iter().zip(&group.features);
                    prop_assert!(before.schema.features().len() <= group.features.len(), "no feature goes");
                    for (known, now) in kept {
                        prop_assert_eq!(&known.name, &now.name);
                    }
                }
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
