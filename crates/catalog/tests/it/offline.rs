//! Where the offline store of a new group lies and what it is called.

use granary_catalog::offline::check_uri;
use granary_catalog::resolve_offline;
use granary_proto::internal::CreateGroup;
use granary_proto::v1;
use granary_types::ErrorKind;

use crate::commands::{NOW_MS, create_at, defaults, online, with_offline};

fn with_config(config: v1::OfflineConfig) -> v1::CreateFeatureGroupRequest {
    v1::CreateFeatureGroupRequest { offline: Some(config), ..online("My-Group_1") }
}

fn catalog(table: &str, catalog: &str, database: &str) -> v1::DataCatalog {
    v1::DataCatalog { table: table.to_owned(), catalog: catalog.to_owned(), database: database.to_owned() }
}

#[test]
fn the_location_follows_the_contract() {
    let end = "123456789012/sagemaker/eu-central-1/offline-store/My-Group_1-1714979289/data";
    for (given, root) in [
        ("", "s3://granary/store"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("https://bucket/a/", "https://bucket/a"),
    ] {
        let config = v1::OfflineConfig { s3_uri: given.to_owned(), ..Default::default() };
        let command = create_at(with_config(config), NOW_MS);
        assert_eq!(command.resolved_uri, format!("{root}/{end}"));
        let kept = &command.request.expect("still there").offline.expect("still there").s3_uri;
        assert_eq!(kept, if given.is_empty() { "s3://granary/store/" } else { given });
    }
}

#[test]
fn the_four_combinations_of_table_creation() {
    let usual = catalog("my_group_1_1714979289", "AwsDataCatalog", "sagemaker_featurestore");
    let given = catalog("T", "C", "D");
    for (disabled, asked, resolved) in [
        (false, None, Some(usual)),
        (false, Some(given.clone()), Some(given.clone())),
        (true, Some(given.clone()), Some(given)),
        (true, None, None),
        (false, Some(catalog("T", "", "")), Some(catalog("T", "AwsDataCatalog", "sagemaker_featurestore"))),
    ] {
        let config =
            v1::OfflineConfig { disable_glue_table_creation: disabled, data_catalog: asked, ..Default::default() };
        assert_eq!(create_at(with_config(config), NOW_MS).data_catalog, resolved);
    }
}

#[test]
fn a_group_without_offline_store_has_no_location() {
    let stale = CreateGroup {
        request: Some(online("a")),
        resolved_uri: "s3://b/c".to_owned(),
        data_catalog: Some(catalog("T", "C", "D")),
        now_ms: NOW_MS,
        ..CreateGroup::default()
    };
    let mut command = stale;
    resolve_offline(&mut command, &defaults()).expect("nothing to resolve");
    assert_eq!((command.resolved_uri.as_str(), command.data_catalog), ("", None));
}

#[test]
fn bad_configurations_are_refused() {
    let refused = |request: Option<v1::CreateFeatureGroupRequest>| {
        let mut command = CreateGroup { request, now_ms: NOW_MS, ..Default::default() };
        resolve_offline(&mut command, &defaults()).expect_err("it is refused").kind
    };
    let uri = |uri: &str| v1::OfflineConfig { s3_uri: uri.to_owned(), ..Default::default() };
    for bad in [
        uri("file:///tmp"),
        uri("s3://"),
        uri("bucket/key"),
        uri("s3://b/../c"),
        uri(&format!("s3://b/{}", "x".repeat(1_024))),
        v1::OfflineConfig { data_catalog: Some(catalog(&"t".repeat(256), "", "")), ..Default::default() },
        v1::OfflineConfig {
            table_format: "Iceberg".to_owned(),
            disable_glue_table_creation: true,
            ..Default::default()
        },
    ] {
        assert_eq!(refused(Some(with_config(bad))), ErrorKind::Invalid);
    }
    assert_eq!(refused(None), ErrorKind::Invalid);
    assert_eq!(refused(Some(with_offline("a/../b"))), ErrorKind::Invalid);
}

#[test]
fn uris_stay_below_their_root() {
    for good in ["s3://b", "s3://b/", "s3://b/c..d/.e", "https://b/c"] {
        assert!(check_uri("uri", good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "s3:/b",
        "S3://b",
        "s3:///b",
        "s3://b//c",
        "s3://..",
        "s3://b/./c",
        "s3://b/..",
        "s3://b/a\\b",
        "s3://b/\n",
    ] {
        assert!(check_uri("uri", bad).is_err(), "{bad:?}");
    }
}
