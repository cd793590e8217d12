//! The meta group's state machine, command by command.

use std::collections::BTreeSet;

use granary_catalog::{CatalogState, UnknownCommand, check_new};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Outcome;
use granary_proto::internal::{Catalog, CreateGroup, MetaCommand};
use granary_proto::v1;
use granary_types::{Epoch, FeatureGroupId, FeatureGroupStatus, NodeId};

use crate::commands::{CLUSTER, Meta, NOW_MS, create_at, delete, feature, online, register, shards, with_offline};

#[test]
fn an_unknown_command_stops_the_replica_and_changes_nothing() {
    let mut state = CatalogState::new(CLUSTER);
    assert_eq!(state.apply(9, &MetaCommand { command: None }), Err(UnknownCommand { index: 9 }));
    assert_eq!(state, CatalogState::new(CLUSTER));
}

#[test]
fn a_node_registers_once_and_may_move() {
    let mut meta = Meta::new();
    assert_eq!(meta.kind(register(0, 7, "a:1")), Ok(Outcome::Node(100)));
    assert_eq!(meta.kind(register(0, 7, "a:1")), Ok(Outcome::Node(100)));
    assert_eq!(meta.kind(register(100, 7, "b:1")), Ok(Outcome::Node(100)));
    let view = meta.state.view();
    assert_eq!(view.nodes().len(), 1);
    assert_eq!(view.node_address(NodeId(100)), Some("b:1"));
}

/// Founders have their ids before there is a meta group and register in any order; who joins in the meantime must not
/// be given the id of one that has not come up yet.
#[test]
fn node_ids_are_brought_along_or_fresh_and_never_shared() {
    let mut meta = Meta::new();
    assert_eq!(meta.kind(register(1, 10, "a:1")), Ok(Outcome::Node(1)));
    assert_eq!(meta.kind(register(0, 40, "d:1")), Ok(Outcome::Node(100)));
    assert_eq!(meta.kind(register(3, 30, "c:1")), Ok(Outcome::Node(3)));
    assert_eq!(meta.kind(register(2, 20, "b:1")), Ok(Outcome::Node(2)));
    assert_eq!(meta.kind(register(0, 50, "e:1")), Ok(Outcome::Node(101)));

    // A founder's id with another disk, a node under another id, an id that was never given out.
    assert_eq!(meta.kind(register(3, 31, "c:1")), Err("invalid".to_owned()));
    assert_eq!(meta.kind(register(5, 30, "c:1")), Err("invalid".to_owned()));
    assert_eq!(meta.kind(register(102, 60, "f:1")), Err("invalid".to_owned()));
    assert_eq!(meta.kind(register(u64::MAX, 60, "f:1")), Err("invalid".to_owned()));
    assert_eq!(meta.kind(register(0, 60, "")), Err("invalid".to_owned()));
    assert_eq!(meta.kind(register(0, 60, "f :1")), Err("invalid".to_owned()));
    assert_eq!(meta.state.view().nodes().len(), 5);
}

#[test]
fn shards_are_laid_out_once() {
    let mut meta = Meta::of_three_nodes();
    assert_eq!(meta.kind(shards(0, 3)), Err("invalid".to_owned()));
    assert_eq!(meta.kind(shards(u32::MAX, 3)), Err("invalid".to_owned()));
    assert_eq!(meta.kind(shards(4, 0)), Err("invalid".to_owned()));
    assert_eq!(meta.kind(shards(4, 4)), Err("invalid".to_owned()));
    assert!(meta.state.view().shards().is_empty());
    assert!(meta.state.view().slot_table().is_none());

    assert_eq!(meta.kind(shards(4, 3)), Ok(Outcome::Done(true)));
    let laid_out = meta.state.view();
    assert_eq!(meta.kind(shards(4, 3)), Ok(Outcome::Done(true)));
    assert_eq!(meta.kind(shards(5, 3)), Err("in_use".to_owned()));
    assert_eq!(meta.kind(shards(4, 1)), Err("in_use".to_owned()));
    assert_eq!(meta.state.view().shards(), laid_out.shards());

    let replicas: Vec<_> = laid_out.shards().iter().flat_map(|shard| &shard.replicas).collect();
    let ids: BTreeSet<_> = replicas.iter().map(|entry| entry.replica).collect();
    assert_eq!((replicas.len(), ids.len()), (12, 12));
    for shard in laid_out.shards() {
        assert_eq!(shard.replicas.iter().map(|entry| entry.node).collect::<BTreeSet<_>>().len(), 3);
        assert_eq!((shard.stream.cluster, shard.stream.shard, shard.stream.incarnation), (CLUSTER, shard.id, 1));
    }
    let table = laid_out.slot_table().expect("there are shards");
    assert!(table.iter().all(|(_, _, epoch)| epoch == Epoch(1)));
    assert_eq!(table.counts().into_values().collect::<Vec<_>>(), [1024; 4]);
}

#[test]
fn a_node_that_lost_its_disk_before_the_layout_hosts_nothing() {
    let mut meta = Meta::of_three_nodes();
    assert_eq!(meta.kind(register(0, 99, "n2:2")), Ok(Outcome::Node(100)));
    assert_eq!(meta.kind(shards(2, 4)), Err("invalid".to_owned()));
    assert_eq!(meta.kind(shards(2, 3)), Ok(Outcome::Done(true)));
    let view = meta.state.view();
    let hosts: BTreeSet<_> = view.shards().iter().flat_map(|shard| &shard.replicas).map(|entry| entry.node.0).collect();
    assert_eq!(hosts, BTreeSet::from([1, 3, 100]));
}

#[test]
fn a_group_is_created_as_it_was_asked_for() {
    let mut meta = Meta::new();
    let group = meta.create(create_at(with_offline("Pay-ments"), NOW_MS)).expect("a good request");
    assert_eq!((group.id, group.schema_version), (1, 1));
    assert_eq!((group.created_at_ms, group.updated_at_ms), (NOW_MS, NOW_MS));
    assert_eq!(group.tags["team"], "risk");
    let offline = group.offline.as_ref().expect("it has an offline store");
    let resolved = "s3://granary/store/123456789012/sagemaker/eu-central-1/offline-store/Pay-ments-1714979289/data";
    assert_eq!(offline.resolved_uri, resolved);
    assert_eq!(offline.data_catalog.as_ref().expect("a table is made").table, "pay_ments_1714979289");
    let view = meta.state.view();
    let spec = view.group("Pay-ments").expect("it is there");
    assert_eq!(granary_proto::convert::feature_group_to_wire(spec), group);
}

#[test]
fn a_name_is_taken_until_its_group_is_deleted() {
    let mut meta = Meta::new();
    meta.create(create_at(online("a"), NOW_MS)).expect("the name is free");
    let text = "Resource Already Exists: FeatureGroup with name a already exists. Choose a different name.";
    let refused = meta.create(create_at(online("a"), NOW_MS + 1_000));
    assert_eq!(refused, Err(("in_use".to_owned(), text.to_owned())));

    assert_eq!(meta.kind(delete("a")), Ok(Outcome::Done(true)));
    assert_eq!(meta.kind(delete("a")), Err("not_found".to_owned()));
    assert_eq!(meta.create(create_at(online("a"), NOW_MS)).expect("the name is free again").id, 2);

    let view = meta.state.view();
    assert_eq!(view.group("a").expect("the second").id, FeatureGroupId(2));
    let deleted = view.group_by_id(FeatureGroupId(1)).expect("the first is kept");
    assert_eq!((deleted.status, deleted.updated_at_ms), (FeatureGroupStatus::Deleted, NOW_MS + 5_000));
    assert_eq!(view.groups().len(), 1);
}

#[test]
fn bad_groups_are_refused_and_take_no_id() {
    let change = |change: fn(&mut v1::CreateFeatureGroupRequest)| {
        let mut request = online("a");
        change(&mut request);
        CreateGroup { request: Some(request), now_ms: NOW_MS, ..Default::default() }
    };
    let mut meta = Meta::new();
    for bad in [
        CreateGroup::default(),
        change(|request| request.name = "a.b".to_owned()),
        change(|request| request.features.clear()),
        change(|request| request.features.push(feature("Amount", v1::FeatureType::String))),
        change(|request| request.features.push(feature("is_deleted", v1::FeatureType::String))),
        change(|request| request.features.push(feature("x", v1::FeatureType::Unspecified))),
        change(|request| request.record_identifier_feature = "nobody".to_owned()),
        change(|request| request.event_time_feature = "amount".to_owned()),
        change(|request| request.online = None),
        // An offline store that nobody resolved, and one that leaves its root.
        change(|request| request.offline = Some(v1::OfflineConfig::default())),
        CreateGroup {
            resolved_uri: "s3://b/../../etc/data".to_owned(),
            ..change(|request| {
                request.offline = Some(v1::OfflineConfig::default());
            })
        },
    ] {
        let refused = meta.kind(Command::CreateFeatureGroup(bad.clone()));
        assert_eq!(refused, Err("invalid".to_owned()), "{bad:?}");
    }
    assert_eq!(meta.create(create_at(online("a"), NOW_MS)).expect("a good request").id, 1);
}

/// What an older build took stands, and takes its id wherever it is applied again.
#[test]
fn rules_for_new_groups_are_checked_before_they_are_proposed() {
    let throughput = v1::Throughput { mode: "Provisioned".to_owned(), read_units: Some(1), write_units: None };
    let tags = (0..51).map(|n| (format!("k{n}"), String::new())).collect();
    let mut by_numbers = with_offline("c");
    by_numbers.offline.as_mut().expect("it has one").table_format = "Iceberg".to_owned();
    // Its event time is Fractional.
    let odd = [
        v1::CreateFeatureGroupRequest { throughput: Some(throughput), ..online("a") },
        v1::CreateFeatureGroupRequest { tags, ..online("b") },
        by_numbers,
    ];
    let mut meta = Meta::new();
    for (id, request) in (1..).zip(odd) {
        let create = create_at(request, NOW_MS);
        assert!(check_new(&create).is_err(), "{create:?}");
        let group = meta.create(create).expect("apply takes it");
        assert_eq!(group.id, id);
        let loaded = granary_proto::convert::feature_group_from_wire(&group).expect("it is loaded");
        assert!(!loaded.is_iceberg());
    }
    assert_eq!(check_new(&create_at(online("d"), NOW_MS)), Ok(()));
}

/// Location and table hold the second of creation: within it a second group would write into the first one's table.
#[test]
fn groups_never_share_an_offline_location() {
    let mut meta = Meta::new();
    meta.create(create_at(with_offline("a-b"), NOW_MS)).expect("the place is free");
    meta.apply(delete("a-b")).expect("it is there");
    let kind =
        |result: Result<v1::FeatureGroup, (String, String)>| result.map(|group| group.id).map_err(|(kind, _)| kind);
    assert_eq!(kind(meta.create(create_at(with_offline("a-b"), NOW_MS + 1))), Err("unavailable".to_owned()));
    // Another directory, the same table.
    assert_eq!(kind(meta.create(create_at(with_offline("a_b"), NOW_MS + 1))), Err("unavailable".to_owned()));
    assert_eq!(kind(meta.create(create_at(with_offline("a-b"), NOW_MS + 1_000))), Ok(2));
}

#[test]
fn a_table_that_the_caller_names_belongs_to_one_living_group() {
    let named = |name: &str, associate: bool| {
        let table = v1::DataCatalog { table: "Mine".to_owned(), ..Default::default() };
        let mut request = with_offline(name);
        let offline = request.offline.as_mut().expect("it has an offline store");
        offline.data_catalog = Some(table);
        offline.disable_glue_table_creation = associate;
        create_at(request, NOW_MS)
    };
    let mut meta = Meta::new();
    meta.create(named("a", false)).expect("the table is free");
    assert_eq!(meta.create(named("b", false)).map_err(|(kind, _)| kind), Err("in_use".to_owned()));
    meta.create(named("c", true)).expect("a mere association may share");
    meta.apply(delete("a")).expect("it is there");
    meta.apply(delete("c")).expect("it is there");
    meta.create(named("d", false)).expect("the table is free again");
}

#[test]
fn the_catalog_stays_small_enough_to_be_sent() {
    let mut meta = Meta::new();
    let mut request = online("big");
    request.description = "x".repeat(granary_catalog::CATALOG_BYTES_MAX);
    let refused = meta.create(create_at(request, NOW_MS)).map_err(|(kind, _)| kind);
    assert_eq!(refused, Err("limit_exceeded".to_owned()));
}

#[test]
fn a_message_that_contradicts_itself_is_refused() {
    let mut meta = Meta::of_three_nodes();
    meta.apply(shards(2, 3)).expect("three nodes");
    meta.create(create_at(online("a"), NOW_MS)).expect("a good request");
    let good = meta.state.to_wire();
    assert_eq!(CatalogState::from_wire(&good).as_ref(), Ok(&meta.state));

    let changes: [fn(&mut Catalog); 12] = [
        |catalog| catalog.cluster.clear(),
        |catalog| catalog.nodes.push(catalog.nodes[0].clone()),
        |catalog| catalog.nodes[1].uuid = catalog.nodes[0].uuid.clone(),
        |catalog| catalog.next_node = 3,
        |catalog| catalog.next_replica = 6,
        |catalog| catalog.next_feature_group = 1,
        |catalog| catalog.feature_groups.push(catalog.feature_groups[0].clone()),
        |catalog| catalog.feature_groups.push(v1::FeatureGroup { id: 2, ..catalog.feature_groups[0].clone() }),
        |catalog| catalog.slot_shards.truncate(4095),
        |catalog| catalog.slot_shards[4] = 3,
        |catalog| catalog.shards.truncate(1),
        |catalog| catalog.shards[0].stream = None,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        if number == 7 {
            bad.next_feature_group = 3;
        }
        assert!(CatalogState::from_wire(&bad).is_err(), "change {number}");
    }
}
