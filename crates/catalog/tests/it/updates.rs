//! Changes of feature groups: what they may be, and what they leave alone.

use granary_proto::internal::meta_command::Command;
use granary_proto::internal::{UpdateFeature, UpdateGroup, UpdateTags};
use granary_proto::v1;
use granary_proto::v1::update_feature_group_request::Change;
use granary_types::FeatureGroup;

use crate::commands::{Meta, NOW_MS, add_features, create_at, feature, group_of, online, with_offline};

const LATER_MS: u64 = NOW_MS + 60_000;

fn update(name: &str, change: Change) -> Command {
    let request = v1::UpdateFeatureGroupRequest { name: name.to_owned(), change: Some(change) };
    Command::UpdateFeatureGroup(UpdateGroup { request: Some(request), now_ms: LATER_MS })
}

fn online_change(ttl: Option<Option<v1::Ttl>>, storage: &str) -> Change {
    Change::Online(v1::OnlineChange { ttl: ttl.map(|ttl| v1::TtlChange { ttl }), storage_type: storage.to_owned() })
}

fn throughput(mode: &str, read_units: Option<u32>, write_units: Option<u32>) -> Change {
    Change::Throughput(v1::Throughput { mode: mode.to_owned(), read_units, write_units })
}

fn described(set: &[(&str, &str)], remove: &[&str], description: Option<&str>) -> v1::UpdateFeatureMetadataRequest {
    v1::UpdateFeatureMetadataRequest {
        feature_group: "a".to_owned(),
        feature: "amount".to_owned(),
        description: description.map(str::to_owned),
        set_parameters: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        remove_parameters: remove.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn describe(request: v1::UpdateFeatureMetadataRequest) -> Command {
    Command::UpdateFeature(UpdateFeature { request: Some(request), now_ms: LATER_MS })
}

fn tags(set: &[(&str, &str)], remove: &[&str]) -> Command {
    let request = v1::UpdateTagsRequest {
        feature_group: "a".to_owned(),
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
    };
    Command::UpdateTags(UpdateTags { request: Some(request) })
}

/// A catalog with the group `a` of `request`.
fn with_a(request: v1::CreateFeatureGroupRequest) -> Meta {
    let mut meta = Meta::new();
    meta.create(create_at(request, NOW_MS)).expect("a good request");
    meta
}

/// The refusal's kind, after which nothing but the version has changed.
fn refused(meta: &mut Meta, command: Command) -> String {
    let before = meta.state.to_wire();
    let kind = meta.kind(command).expect_err("it must be refused");
    let after = meta.state.to_wire();
    assert_eq!(after.feature_groups, before.feature_groups);
    kind
}

fn a(meta: &Meta) -> std::sync::Arc<FeatureGroup> {
    meta.state.view().group("a").expect("it is there").clone()
}

#[test]
fn features_are_added_after_those_there_are() {
    let mut meta = with_a(with_offline("a"));
    let created = a(&meta);
    let additions = [feature("city", v1::FeatureType::String), feature("score", v1::FeatureType::Fractional)];
    let reply = group_of(meta.apply(add_features("a", &additions, LATER_MS)).expect("new names"));
    let group = a(&meta);
    assert_eq!(granary_proto::convert::feature_group_to_wire(&group), reply);
    assert_eq!((created.schema.version.0, group.schema.version.0), (1, 2));
    assert_eq!(group.schema.features()[..3], created.schema.features()[..]);
    let added: Vec<_> =
        group.schema.features()[3..].iter().map(|it| (it.ordinal.0, it.name.as_str(), it.created_at_ms)).collect();
    assert_eq!(added, [(3, "city", LATER_MS), (4, "score", LATER_MS)]);
    assert_eq!((created.last_update_ms(), group.last_update_ms()), (None, Some(LATER_MS)));
    let same_but = FeatureGroup {
        schema: created.schema.clone(),
        updated_at_ms: created.updated_at_ms,
        ..FeatureGroup::clone(&group)
    };
    assert_eq!(same_but, *created, "nothing else changed");
}

#[test]
fn features_are_never_removed_renamed_or_retyped() {
    let mut meta = with_a(online("a"));
    let many: Vec<_> = (0..101).map(|n| feature(&format!("f{n}"), v1::FeatureType::String)).collect();
    let long = v1::Feature { description: "x".repeat(256), ..feature("x", v1::FeatureType::String) };
    for (additions, kind) in [
        (vec![], "invalid"),
        (vec![feature("amount", v1::FeatureType::Integral)], "invalid"),
        (vec![feature("amount", v1::FeatureType::String)], "invalid"),
        (vec![feature("AMOUNT", v1::FeatureType::Integral)], "invalid"),
        (vec![feature("x", v1::FeatureType::String), feature("X", v1::FeatureType::String)], "invalid"),
        (vec![feature("x", v1::FeatureType::Unspecified)], "invalid"),
        (vec![feature("Write_Time", v1::FeatureType::String)], "invalid"),
        (vec![feature("granary_x", v1::FeatureType::String)], "invalid"),
        (vec![feature("-", v1::FeatureType::String)], "invalid"),
        (vec![long], "invalid"),
        (many, "invalid"),
    ] {
        assert_eq!(refused(&mut meta, add_features("a", &additions, LATER_MS)), kind, "{additions:?}");
    }
    let x = [feature("x", v1::FeatureType::String)];
    assert_eq!(refused(&mut meta, add_features("b", &x, LATER_MS)), "not_found");
    assert_eq!(refused(&mut meta, Command::UpdateFeatureGroup(UpdateGroup::default())), "invalid");
    let nothing = v1::UpdateFeatureGroupRequest { name: "a".to_owned(), change: None };
    let nothing = UpdateGroup { request: Some(nothing), now_ms: LATER_MS };
    assert_eq!(refused(&mut meta, Command::UpdateFeatureGroup(nothing)), "invalid");
}

#[test]
fn a_group_has_at_most_2500_features() {
    let mut meta = with_a(online("a"));
    let mut added = 3;
    while added + 100 <= 2_500 {
        let more: Vec<_> = (0..100).map(|n| feature(&format!("f{}", added + n), v1::FeatureType::Integral)).collect();
        meta.apply(add_features("a", &more, LATER_MS)).expect("there is room");
        added += 100;
    }
    let more: Vec<_> = (added..2_501).map(|n| feature(&format!("f{n}"), v1::FeatureType::Integral)).collect();
    assert_eq!(refused(&mut meta, add_features("a", &more, LATER_MS)), "limit_exceeded");
    meta.apply(add_features("a", &more[1..], LATER_MS)).expect("it fits exactly");
    assert_eq!(a(&meta).schema.features().len(), 2_500);
}

#[test]
fn update_times_rise_whatever_the_clocks_say() {
    let mut meta = with_a(online("a"));
    let mut times = vec![a(&meta).updated_at_ms];
    for (name, now_ms) in [("x", LATER_MS), ("y", LATER_MS), ("z", 5)] {
        meta.apply(add_features("a", &[feature(name, v1::FeatureType::String)], now_ms)).expect("a new name");
        times.push(a(&meta).updated_at_ms);
    }
    assert_eq!(times, [NOW_MS, LATER_MS, LATER_MS + 1, LATER_MS + 2]);
    // A feature may seem older than its group: that is kept as it was told.
    assert_eq!(granary_catalog::CatalogState::from_wire(&meta.state.to_wire()).as_ref(), Ok(&meta.state));
}

#[test]
fn the_online_store_changes_within_its_rules() {
    let days = v1::Ttl { unit: v1::TtlUnit::Days.into(), value: 3 };
    let mut meta = with_a(online("a"));
    meta.apply(update("a", online_change(Some(Some(days)), ""))).expect("a time to live");
    assert_eq!(a(&meta).online.as_ref().and_then(|online| online.ttl).map(|ttl| ttl.value), Some(3));
    meta.apply(update("a", online_change(None, "Standard_V2"))).expect("one way");
    let online_config = a(&meta).online.clone().expect("it has one");
    assert_eq!(
        (online_config.ttl.map(|ttl| ttl.value), online_config.storage_type.as_deref()),
        (Some(3), Some("Standard_V2"))
    );
    meta.apply(update("a", online_change(Some(None), "Standard_V2"))).expect("what it has, and no time to live");
    assert_eq!(a(&meta).online.as_ref().and_then(|online| online.ttl), None);

    let odd = v1::Ttl { unit: 9, value: 3 };
    for change in [
        online_change(None, "Standard"),
        online_change(None, "InMemory"),
        online_change(None, "Fast"),
        online_change(None, ""),
        online_change(Some(Some(odd)), ""),
        online_change(Some(Some(v1::Ttl { value: 0, ..days })), ""),
    ] {
        assert_eq!(refused(&mut meta, update("a", change)), "invalid");
    }
    let in_memory = v1::OnlineConfig { storage_type: "InMemory".to_owned(), ..Default::default() };
    let mut meta = with_a(v1::CreateFeatureGroupRequest { online: Some(in_memory), ..online("a") });
    assert_eq!(refused(&mut meta, update("a", online_change(None, "Standard_V2"))), "invalid");
    let mut meta = with_a(v1::CreateFeatureGroupRequest { online: None, ..with_offline("a") });
    assert_eq!(refused(&mut meta, update("a", online_change(Some(None), ""))), "invalid");
}

#[test]
fn throughput_changes_within_its_rules() {
    let mut meta = with_a(online("a"));
    for change in [
        throughput("", None, None),
        throughput("", Some(1), Some(1)),
        throughput("OnDemand", Some(1), None),
        throughput("Provisioned", Some(1), None),
        throughput("Reserved", None, None),
    ] {
        assert_eq!(refused(&mut meta, update("a", change)), "invalid");
    }
    let now = |meta: &Meta| {
        let throughput = a(meta).throughput.clone().expect("it was given");
        (throughput.mode, throughput.read_units, throughput.write_units)
    };
    meta.apply(update("a", throughput("Provisioned", Some(5), Some(0)))).expect("both units");
    meta.apply(update("a", throughput("", None, Some(7)))).expect("one of them");
    assert_eq!(now(&meta), ("Provisioned".to_owned(), Some(5), Some(7)));
    meta.apply(update("a", throughput("OnDemand", None, None))).expect("back");
    assert_eq!(now(&meta), ("OnDemand".to_owned(), None, None));

    let in_memory = v1::OnlineConfig { storage_type: "InMemory".to_owned(), ..Default::default() };
    let mut meta = with_a(v1::CreateFeatureGroupRequest { online: Some(in_memory), ..online("a") });
    assert_eq!(refused(&mut meta, update("a", throughput("Provisioned", Some(1), Some(1)))), "invalid");
}

#[test]
fn what_is_said_of_a_feature_changes_and_nothing_else() {
    let mut meta = with_a(online("a"));
    let created = a(&meta);
    meta.apply(describe(described(&[("unit", "EUR"), ("owner", "x")], &[], Some("a sum")))).expect("new words");
    meta.apply(describe(described(&[("owner", "y")], &["unit", "never"], None))).expect("other words");
    let group = a(&meta);
    let amount = group.schema.by_name("amount").expect("it is there");
    assert_eq!(amount.description.as_deref(), Some("a sum"));
    let parameters: Vec<_> = amount.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(parameters, [("owner", "y")]);
    assert_eq!((amount.created_at_ms, amount.updated_at_ms), (NOW_MS, LATER_MS + 1));
    assert_eq!(group.schema.features()[..2], created.schema.features()[..2]);
    assert_eq!((group.schema.version, group.updated_at_ms), (created.schema.version, created.updated_at_ms));
    meta.apply(describe(described(&[], &[], Some("")))).expect("no words");
    assert_eq!(a(&meta).schema.by_name("amount").and_then(|amount| amount.description.clone()), None);
}

#[test]
fn wrong_words_of_a_feature_are_refused() {
    let mut meta = with_a(online("a"));
    let long = "ü".repeat(256);
    let many: Vec<String> = (0..26).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "x")).collect();
    for request in [
        described(&[], &[], None),
        described(&[], &[], Some(&long)),
        described(&[(&long, "x")], &[], None),
        described(&[("x", &long)], &[], None),
        described(&[("", "x")], &[], None),
        described(&[("x", "")], &[], None),
        described(&[("x", "1")], &["x"], None),
        described(&many, &[], None),
    ] {
        assert_eq!(refused(&mut meta, describe(request.clone())), "invalid", "{request:?}");
    }
    let elsewhere =
        v1::UpdateFeatureMetadataRequest { feature_group: "b".to_owned(), ..described(&[], &[], Some("x")) };
    assert_eq!(refused(&mut meta, describe(elsewhere)), "not_found");
    let unknown = v1::UpdateFeatureMetadataRequest { feature: "b".to_owned(), ..described(&[], &[], Some("x")) };
    assert_eq!(refused(&mut meta, describe(unknown)), "not_found");
    meta.apply(describe(described(&many[..25], &[], None))).expect("as many as may be");
    assert_eq!(refused(&mut meta, describe(described(&[("more", "x")], &[], None))), "limit_exceeded");
    meta.apply(describe(described(&[("more", "x")], &["0"], None))).expect("one for another");
}

#[test]
fn tags_are_set_and_removed() {
    let mut meta = with_a(online("a"));
    let before = a(&meta);
    meta.apply(tags(&[("team", "fraud"), ("new", "")], &["tier", "never"])).expect("good tags");
    let group = a(&meta);
    let now: Vec<_> = group.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(now, [("new", ""), ("team", "fraud")]);
    assert_eq!(group.updated_at_ms, before.updated_at_ms, "tags are no update");
    let (long_key, long_value) = ("x".repeat(129), "x".repeat(257));
    let many: Vec<String> = (0..51).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "x")).collect();
    for (set, remove, kind) in [
        (&[("", "x")][..], &[][..], "invalid"),
        (&[(long_key.as_str(), "x")], &[], "invalid"),
        (&[("x", long_value.as_str())], &[], "invalid"),
        (&[("x", "x")], &["x"], "invalid"),
        (&many, &[], "invalid"),
        (&many[..49], &[], "limit_exceeded"),
    ] {
        assert_eq!(refused(&mut meta, tags(set, remove)), kind, "{set:?} {remove:?}");
    }
    meta.apply(tags(&many[..48], &[])).expect("as many as may be");
}

#[test]
fn a_quota_of_groups_is_the_proposers() {
    let mut meta = with_a(online("a"));
    let mut second = create_at(online("b"), NOW_MS);
    second.feature_groups_max = 1;
    let refused = meta.create(second.clone()).map_err(|(kind, _)| kind);
    assert_eq!(refused, Err("limit_exceeded".to_owned()));
    second.feature_groups_max = 2;
    meta.create(second).expect("there is room");
    let mut third = create_at(online("c"), NOW_MS);
    third.feature_groups_max = 0;
    meta.create(third).expect("no quota");
}

#[test]
fn features_from_before_they_had_times_are_as_old_as_their_group() {
    let meta = with_a(online("a"));
    let mut wire = meta.state.to_wire();
    for feature in &mut wire.feature_groups[0].features {
        (feature.created_at_ms, feature.updated_at_ms) = (0, 0);
    }
    assert_eq!(granary_catalog::CatalogState::from_wire(&wire).expect("an old catalog"), meta.state);
}
