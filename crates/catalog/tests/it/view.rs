//! The read model.

use granary_catalog::CatalogView;
use granary_placement::slot_of;
use granary_proto::internal::Catalog;
use granary_types::{ErrorKind, FeatureGroupId, NodeId, ShardId, Slot};

use crate::commands::{CLUSTER, Meta, NOW_MS, create_at, delete, online, shards};

#[test]
fn an_empty_view_knows_nothing() {
    let view = CatalogView::empty();
    assert_eq!(view.version, 0);
    assert_eq!(view.shard_of(Slot(0)), None);
    assert_eq!(view.group("a"), None);
    assert_eq!(view.groups().len() + view.shards().len() + view.nodes().len(), 0);
}

#[test]
fn a_view_finds_by_name_id_and_slot() {
    let mut meta = Meta::of_three_nodes();
    meta.apply(shards(3, 3)).expect("three nodes");
    for name in ["b", "a", "gone"] {
        meta.create(create_at(online(name), NOW_MS)).expect("a good request");
    }
    meta.apply(delete("gone")).expect("it is there");

    let view = CatalogView::from_wire(&meta.state.to_wire()).expect("a good catalog");
    assert_eq!(view, meta.state.view());
    assert_eq!((view.version, view.cluster), (meta.state.version(), CLUSTER));
    assert_eq!(view.groups().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(view.group("a").expect("it is there").id, FeatureGroupId(2));
    assert_eq!(view.group("gone"), None);
    assert_eq!(view.group_by_id(FeatureGroupId(3)).expect("kept").name, "gone");
    assert_eq!(view.node_address(NodeId(2)), Some("n2:2"));
    assert_eq!(view.node_address(NodeId(9)), None);
    let (shard, _) = view.shard_of(slot_of(b"customer-1")).expect("there are shards");
    assert_eq!(view.shard(shard).expect("it exists").id, shard);
    assert_eq!(view.shard(ShardId::META), None);
    assert_eq!(view.shard_of(Slot(4096)), None);
}

#[test]
fn a_malformed_catalog_is_corrupt() {
    let error = CatalogView::from_wire(&Catalog::default()).expect_err("it has no cluster");
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert_eq!(error.message, "read catalog: cluster id must have 16 bytes, got 0");
}
