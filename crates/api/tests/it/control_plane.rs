//! SageMaker's control plane over the wire: what each operation answers, and how each refuses.

use std::time::Duration;

use axum::Router;
use granary_platform::Platform;
use granary_router::Settings;
use http::StatusCode;
use prometheus::Registry;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::sagemaker::{Answer, control, orders, record, runtime};

const ARN: &str = "arn:aws:sagemaker:us-east-1:000000000000:feature-group/orders";

/// The answer's body, where it is no fault.
async fn done(api: &Router, operation: &str, body: Value) -> Value {
    let Answer { status, body: answer, .. } = control(api, operation, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{operation} {body}: {answer}");
    answer
}

async fn with_orders() -> (Cluster, Router) {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    done(&api, "CreateFeatureGroup", orders()).await;
    (cluster, api)
}

async fn describe(api: &Router) -> Value {
    done(api, "DescribeFeatureGroup", json!({"FeatureGroupName": "orders"})).await
}

/// Waits until it is later than `time`: what happens in one millisecond has one time.
async fn later_than(time: &Value) {
    let millis = (time.as_f64().expect("seconds") * 1_000.0).ceil();
    while Platform::system().now_millis() as f64 <= millis {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn update(change: Value) -> Value {
    let mut body = json!({"FeatureGroupName": "orders"});
    body.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    body
}

#[tokio::test]
async fn an_added_feature_is_taken_at_once() {
    let (_cluster, api) = with_orders().await;
    let before = describe(&api).await;
    assert_eq!(before.get("LastUpdateStatus"), None);
    let put = |name: &str| {
        let mut record = record("1", "2024-01-01T00:00:00Z", "1");
        record["Record"].as_array_mut().expect("a list").push(json!({"FeatureName": name, "ValueAsString": "x"}));
        record
    };
    let early = runtime(&api, "PUT", "/FeatureGroup/orders", put("city")).await;
    assert_eq!(early.error_type.as_deref(), Some("ValidationError"));

    later_than(&before["LastModifiedTime"]).await;
    let additions = json!([{"FeatureName": "city", "FeatureType": "String"}]);
    let updated =
        done(&api, "UpdateFeatureGroup", json!({"FeatureGroupName": ARN, "FeatureAdditions": additions})).await;
    assert_eq!(updated, json!({ "FeatureGroupArn": ARN }));
    let taken = runtime(&api, "PUT", "/FeatureGroup/orders", put("city")).await;
    assert_eq!(taken.status, StatusCode::OK);
    let got =
        runtime(&api, "GET", "/FeatureGroup/orders?RecordIdentifierValueAsString=1&FeatureName=city", Value::Null)
            .await;
    assert_eq!(got.body, json!({"Record": [{"FeatureName": "city", "ValueAsString": "x"}]}));

    let after = describe(&api).await;
    assert_eq!(after["FeatureDefinitions"][3], additions[0]);
    assert_eq!(after["LastUpdateStatus"], json!({"Status": "Successful"}));
    assert!(after["LastModifiedTime"].as_f64() > before["LastModifiedTime"].as_f64());
    assert_eq!(after["CreationTime"], before["CreationTime"]);
}

/// Routers learn of a change one after the other.
#[tokio::test]
async fn routers_of_two_schemas_read_and_write_the_same_records() {
    let (cluster, api) = with_orders().await;
    let behind = cluster.api_over(cluster.lagging_router()).await;
    let additions = json!({"FeatureAdditions": [{"FeatureName": "city", "FeatureType": "String"}]});
    done(&api, "UpdateFeatureGroup", update(additions)).await;
    let with_city = |mut record: Value, city: &str| {
        record["Record"].as_array_mut().expect("a list").push(json!({"FeatureName": "city", "ValueAsString": city}));
        record
    };
    let (new, old) = (record("new", "2024-01-01T00:00:00Z", "1.50"), record("old", "2024-01-01T00:00:00Z", "2"));
    let full = with_city(new.clone(), "Rome");
    assert_eq!(runtime(&api, "PUT", "/FeatureGroup/orders", full.clone()).await.status, StatusCode::OK);
    assert_eq!(runtime(&behind, "PUT", "/FeatureGroup/orders", old.clone()).await.status, StatusCode::OK);
    let refused = runtime(&behind, "PUT", "/FeatureGroup/orders", full.clone()).await;
    assert_eq!(refused.error_type.as_deref(), Some("ValidationError"), "it has no such feature yet");

    let read = |id: &str| format!("/FeatureGroup/orders?RecordIdentifierValueAsString={id}");
    assert_eq!(runtime(&api, "GET", &read("new"), Value::Null).await.body, full);
    assert_eq!(runtime(&behind, "GET", &read("new"), Value::Null).await.body, new, "without what it cannot name");
    for router in [&api, &behind] {
        assert_eq!(runtime(router, "GET", &read("old"), Value::Null).await.body, old);
    }
    let of_city = format!("{}&FeatureName=city", read("old"));
    let of_city = runtime(&api, "GET", &of_city, Value::Null).await;
    assert_eq!((of_city.status, of_city.body), (StatusCode::OK, json!({"Record": []})));
}

#[tokio::test]
async fn an_update_whose_answer_is_lost_is_told_as_done() {
    let (cluster, api) = with_orders().await;
    cluster.lose_proposals(1);
    let additions = json!({"FeatureAdditions": [{"FeatureName": "city", "FeatureType": "String"}]});
    done(&api, "UpdateFeatureGroup", update(additions.clone())).await;
    // The same once more is another call, and refused.
    let again = control(&api, "UpdateFeatureGroup", update(additions)).await;
    assert_eq!(again.error_type.as_deref(), Some("ValidationException"));
    cluster.lose_proposals(1);
    let words = json!({"FeatureGroupName": "orders", "FeatureName": "total", "Description": "a sum"});
    done(&api, "UpdateFeatureMetadata", words).await;
    assert_eq!(cluster.feature_groups()[0].features.len(), 4);
}

#[tokio::test]
async fn the_online_store_and_the_throughput_are_updated() {
    let (_cluster, api) = with_orders().await;
    let online = |body: Value| update(json!({ "OnlineStoreConfig": body }));
    let ttl = json!({"Unit": "Hours", "Value": 2});
    done(&api, "UpdateFeatureGroup", online(json!({"TtlDuration": ttl}))).await;
    assert_eq!(describe(&api).await["OnlineStoreConfig"]["TtlDuration"], ttl);
    for removal in [json!({}), json!({"Unit": null, "Value": null}), json!(null)] {
        done(&api, "UpdateFeatureGroup", online(json!({"TtlDuration": ttl}))).await;
        done(&api, "UpdateFeatureGroup", online(json!({"TtlDuration": removal}))).await;
        assert_eq!(describe(&api).await["OnlineStoreConfig"], json!({"EnableOnlineStore": true}));
    }
    done(&api, "UpdateFeatureGroup", online(json!({"StorageType": "Standard_V2"}))).await;
    assert_eq!(describe(&api).await["OnlineStoreConfig"]["StorageType"], "Standard_V2");

    let throughput = |body: Value| update(json!({ "ThroughputConfig": body }));
    let provisioned = json!({
        "ThroughputMode": "Provisioned", "ProvisionedReadCapacityUnits": 10, "ProvisionedWriteCapacityUnits": 5,
    });
    done(&api, "UpdateFeatureGroup", throughput(provisioned.clone())).await;
    assert_eq!(describe(&api).await["ThroughputConfig"], provisioned);
    done(&api, "UpdateFeatureGroup", throughput(json!({"ProvisionedReadCapacityUnits": 11}))).await;
    assert_eq!(describe(&api).await["ThroughputConfig"]["ProvisionedReadCapacityUnits"], 11);
    done(&api, "UpdateFeatureGroup", throughput(json!({"ThroughputMode": "OnDemand"}))).await;
    assert_eq!(describe(&api).await["ThroughputConfig"], json!({"ThroughputMode": "OnDemand"}));
}

#[tokio::test]
async fn features_have_metadata_of_their_own() {
    let (_cluster, api) = with_orders().await;
    let of = |feature: &str| json!({"FeatureGroupName": ARN, "FeatureName": feature});
    let plain = done(&api, "DescribeFeatureMetadata", of("total")).await;
    let created = plain["CreationTime"].clone();
    let expected = json!({
        "FeatureGroupArn": ARN, "FeatureGroupName": "orders", "FeatureName": "total", "FeatureType": "Fractional",
        "CreationTime": created, "LastModifiedTime": created,
    });
    assert_eq!(plain, expected);
    later_than(&plain["LastModifiedTime"]).await;
    let words = json!({
        "FeatureGroupName": "orders", "FeatureName": "total", "Description": "a sum",
        "ParameterAdditions": [{"Key": "unit", "Value": "EUR"}, {"Key": "owner", "Value": "x"}],
    });
    let updated = control(&api, "UpdateFeatureMetadata", words).await;
    assert_eq!((updated.status, updated.body), (StatusCode::OK, Value::Null));
    let more = json!({
        "FeatureGroupName": "orders", "FeatureName": "total",
        "ParameterAdditions": [{"Key": "owner", "Value": "y"}], "ParameterRemovals": ["unit", "never"],
    });
    done(&api, "UpdateFeatureMetadata", more).await;
    let told = done(&api, "DescribeFeatureMetadata", of("total")).await;
    assert_eq!(
        (&told["Description"], &told["Parameters"]),
        (&json!("a sum"), &json!([{"Key": "owner", "Value": "y"}]))
    );
    assert!(told["LastModifiedTime"].as_f64() > told["CreationTime"].as_f64());
    assert_eq!(done(&api, "DescribeFeatureMetadata", of("id")).await.get("Description"), None);
    assert_eq!(describe(&api).await.get("LastUpdateStatus"), None, "words of a feature are no update");
    let no_words = json!({"FeatureGroupName": "orders", "FeatureName": "total", "Description": ""});
    done(&api, "UpdateFeatureMetadata", no_words).await;
    assert_eq!(done(&api, "DescribeFeatureMetadata", of("total")).await.get("Description"), None);
}

#[tokio::test]
async fn groups_have_tags_by_arn() {
    let (_cluster, api) = with_orders().await;
    let tag = |key: &str, value: &str| json!({"Key": key, "Value": value});
    let of = |more: Value| {
        let mut body = json!({ "ResourceArn": ARN });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let added = done(&api, "AddTags", of(json!({"Tags": [tag("team", "a"), tag("env", "")]}))).await;
    assert_eq!(added, json!({"Tags": [tag("env", ""), tag("team", "a")]}));
    let again = done(&api, "AddTags", of(json!({"Tags": [tag("team", "b")]}))).await;
    assert_eq!(again, json!({"Tags": [tag("env", ""), tag("team", "b")]}));
    let deleted = done(&api, "DeleteTags", of(json!({"TagKeys": ["env", "never"]}))).await;
    assert_eq!(deleted, json!({}));
    let listed = done(&api, "ListTags", of(json!({"MaxResults": 50}))).await;
    assert_eq!(listed, json!({"Tags": [tag("team", "b")]}));

    let many: Vec<Value> = (0..49).map(|number| tag(&number.to_string(), "x")).collect();
    done(&api, "AddTags", of(json!({ "Tags": many }))).await;
    let one_more = control(&api, "AddTags", of(json!({"Tags": [tag("more", "x")]}))).await;
    assert_eq!(one_more.error_type.as_deref(), Some("ResourceLimitExceeded"));
    assert_eq!(done(&api, "ListTags", of(json!({}))).await["Tags"].as_array().map(Vec::len), Some(50));
}

#[tokio::test]
async fn search_finds_groups_and_features() {
    let (_cluster, api) = with_orders().await;
    let mut users = orders();
    users["FeatureGroupName"] = "users".into();
    users["Tags"] = json!([{"Key": "team", "Value": "growth"}]);
    done(&api, "CreateFeatureGroup", users).await;
    let filter = |name: &str, operator: &str, value: &str| json!({"Name": name, "Operator": operator, "Value": value});
    let by_tag = json!({"Filters": [filter("Tags.team", "Equals", "growth")]});
    let found = done(&api, "Search", json!({"Resource": "FeatureGroup", "SearchExpression": by_tag})).await;
    assert_eq!(found["TotalHits"], json!({"Value": 1, "Relation": "EqualTo"}));
    let mut expected = done(&api, "DescribeFeatureGroup", json!({"FeatureGroupName": "users"})).await;
    let members = expected.as_object_mut().expect("an object");
    members.remove("ThroughputConfig");
    members.insert("Tags".into(), json!([{"Key": "team", "Value": "growth"}]));
    assert_eq!(found["Results"], json!([{ "FeatureGroup": expected }]));

    let nested = json!({"SubExpressions": [
        {"Filters": [filter("FeatureName", "Equals", "total"), filter("FeatureName", "Equals", "id")], "Operator": "Or"},
        {"Filters": [filter("FeatureGroupName", "Contains", "use")]},
    ]});
    let request = json!({
        "Resource": "FeatureMetadata", "SearchExpression": nested, "SortBy": "FeatureName", "SortOrder": "Ascending",
        "MaxResults": 1,
    });
    let first = done(&api, "Search", request.clone()).await;
    assert_eq!(first["TotalHits"]["Value"], 2);
    assert_eq!(first["Results"][0]["FeatureMetadata"]["FeatureName"], "id");
    assert_eq!(first["Results"][0]["FeatureMetadata"]["FeatureGroupName"], "users");
    let mut next = request;
    next["NextToken"] = first["NextToken"].clone();
    let second = done(&api, "Search", next).await;
    assert_eq!(second["Results"][0]["FeatureMetadata"]["FeatureName"], "total");
    assert_eq!(second.get("NextToken"), None);

    let elsewhere = json!({"Resource": "FeatureGroup", "CrossAccountFilterOption": "CrossAccount"});
    assert_eq!(done(&api, "Search", elsewhere).await["Results"], json!([]));
}

#[tokio::test]
async fn a_quota_of_groups_is_kept() {
    let cluster = Cluster::start().await;
    let router = cluster.router(Settings { feature_groups_max: 1, ..Settings::default() }, &Registry::new());
    let api = cluster.api_over(router).await;
    done(&api, "CreateFeatureGroup", orders()).await;
    let mut second = orders();
    second["FeatureGroupName"] = "second".into();
    let refused = control(&api, "CreateFeatureGroup", second).await;
    assert_eq!((refused.status.as_u16(), refused.error_type.as_deref()), (400, Some("ResourceLimitExceeded")));
    assert_eq!(cluster.feature_groups().len(), 1);
}

const INVALID: &str = "ValidationException";

/// Each wrong input with its error and a part of the message that names what is wrong.
fn wrong_inputs() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    [wrong_creations(), wrong_updates(), wrong_metadata(), wrong_tags(), wrong_searches(), wrong_reads()].concat()
}

fn wrong_creations() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let with = |path: &str, value: Value| {
        let mut body = orders();
        body["FeatureGroupName"] = "other".into();
        let (parent, key) = path.rsplit_once('/').expect("a pointer");
        body.pointer_mut(parent).expect("it is there")[key] = value;
        body
    };
    let online = |config: Value| with("/OnlineStoreConfig", config);
    let feature = |definition: Value| {
        let mut body = with("/Description", json!("x"));
        body["FeatureDefinitions"].as_array_mut().expect("a list").push(definition);
        body
    };
    let features: Vec<Value> =
        (0..2_501).map(|number| json!({"FeatureName": format!("f{number}"), "FeatureType": "String"})).collect();
    let tags: Vec<Value> = (0..51).map(|number| json!({"Key": number.to_string(), "Value": ""})).collect();
    let in_memory = |more: Value| {
        let mut body = online(json!({"EnableOnlineStore": true, "StorageType": "InMemory"}));
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let alone = json!({"OfflineStoreConfig": null});
    let vectors = |count: usize| {
        let vector = |n: usize| {
            json!({"FeatureName": format!("v{n}"), "FeatureType": "Fractional", "CollectionType": "Vector",
            "CollectionConfig": {"VectorConfig": {"Dimension": 2}}})
        };
        let mut body = in_memory(alone.clone());
        body["FeatureDefinitions"].as_array_mut().expect("a list").extend((0..count).map(vector));
        body
    };
    let mut integral_vector = vectors(1);
    integral_vector["FeatureDefinitions"][3]["FeatureType"] = "Integral".into();
    let mut no_dimension = vectors(1);
    no_dimension["FeatureDefinitions"][3]["CollectionConfig"] = json!({"VectorConfig": {"Dimension": 8_193}});
    let bad = INVALID;
    vec![
        ("CreateFeatureGroup", orders(), "ResourceInUse", "already exists"),
        ("CreateFeatureGroup", json!({}), bad, "featureGroupName"),
        ("CreateFeatureGroup", with("/FeatureGroupName", json!("-x")), bad, "featureGroupName"),
        ("CreateFeatureGroup", with("/FeatureGroupName", json!(ARN)), bad, "featureGroupName"),
        ("CreateFeatureGroup", with("/FeatureGroupName", json!("x".repeat(65))), bad, "64"),
        ("CreateFeatureGroup", with("/RecordIdentifierFeatureName", json!("none")), bad, "none"),
        ("CreateFeatureGroup", with("/EventTimeFeatureName", json!("none")), bad, "none"),
        ("CreateFeatureGroup", with("/FeatureDefinitions", json!([])), bad, "featureDefinitions"),
        ("CreateFeatureGroup", with("/FeatureDefinitions", json!(features)), bad, "2500"),
        ("CreateFeatureGroup", with("/FeatureDefinitions/1/FeatureType", json!("Integral")), bad, "event time"),
        ("CreateFeatureGroup", with("/FeatureDefinitions/1/FeatureType", json!("Boolean")), bad, "featureType"),
        ("CreateFeatureGroup", feature(json!({"FeatureName": "ID", "FeatureType": "String"})), bad, "twice"),
        ("CreateFeatureGroup", feature(json!({"FeatureName": "is_deleted", "FeatureType": "String"})), bad, "reserved"),
        (
            "CreateFeatureGroup",
            feature(json!({"FeatureName": "Api_Invocation_Time", "FeatureType": "String"})),
            bad,
            "reserved",
        ),
        (
            "CreateFeatureGroup",
            feature(json!({"FeatureName": "l", "FeatureType": "String", "CollectionType": "List"})),
            bad,
            "InMemory",
        ),
        (
            "CreateFeatureGroup",
            feature(json!({"FeatureName": "l", "FeatureType": "String", "CollectionType": "Map"})),
            bad,
            "collectionType",
        ),
        ("CreateFeatureGroup", vectors(2), bad, "Vector"),
        ("CreateFeatureGroup", integral_vector, bad, "Fractional"),
        ("CreateFeatureGroup", no_dimension, bad, "8192"),
        ("CreateFeatureGroup", online(json!({"EnableOnlineStore": true, "StorageType": "Tape"})), bad, "storageType"),
        (
            "CreateFeatureGroup",
            online(json!({"EnableOnlineStore": true, "TtlDuration": {"Unit": "Years", "Value": 1}})),
            bad,
            "unit",
        ),
        (
            "CreateFeatureGroup",
            online(json!({"EnableOnlineStore": true, "TtlDuration": {"Unit": "Days", "Value": 0}})),
            bad,
            "value",
        ),
        (
            "CreateFeatureGroup",
            online(json!({"EnableOnlineStore": true, "TtlDuration": {"Unit": "Days"}})),
            bad,
            "value",
        ),
        (
            "CreateFeatureGroup",
            online(json!({"EnableOnlineStore": true, "SecurityConfig": {"KmsKeyId": "a b"}})),
            bad,
            "kmsKeyId",
        ),
        ("CreateFeatureGroup", online(json!({"EnableOnlineStore": "yes"})), "SerializationException", "boolean"),
        ("CreateFeatureGroup", in_memory(json!({})), bad, "OfflineStoreConfig"),
        (
            "CreateFeatureGroup",
            in_memory(json!({"OfflineStoreConfig": null, "ThroughputConfig": {"ThroughputMode": "Provisioned",
            "ProvisionedReadCapacityUnits": 1, "ProvisionedWriteCapacityUnits": 1}})),
            bad,
            "OnDemand",
        ),
        ("CreateFeatureGroup", with("/ThroughputConfig", json!({})), bad, "throughputMode"),
        ("CreateFeatureGroup", with("/ThroughputConfig", json!({"ThroughputMode": "Reserved"})), bad, "throughputMode"),
        (
            "CreateFeatureGroup",
            with("/ThroughputConfig", json!({"ThroughputMode": "Provisioned"})),
            bad,
            "capacity units",
        ),
        (
            "CreateFeatureGroup",
            with("/ThroughputConfig", json!({"ThroughputMode": "OnDemand", "ProvisionedReadCapacityUnits": 1})),
            bad,
            "capacity units",
        ),
        (
            "CreateFeatureGroup",
            with(
                "/ThroughputConfig",
                json!({"ThroughputMode": "Provisioned", "ProvisionedReadCapacityUnits": 10_000_001,
            "ProvisionedWriteCapacityUnits": -1}),
            ),
            bad,
            "10000000",
        ),
        ("CreateFeatureGroup", with("/OfflineStoreConfig/S3StorageConfig/S3Uri", json!("ftp://b")), bad, "s3Uri"),
        ("CreateFeatureGroup", with("/OfflineStoreConfig/S3StorageConfig/S3Uri", json!("s3://b/../c")), bad, "S3Uri"),
        (
            "CreateFeatureGroup",
            with("/OfflineStoreConfig/S3StorageConfig/S3Uri", json!(format!("s3://{}", "b".repeat(1_024)))),
            bad,
            "1024",
        ),
        ("CreateFeatureGroup", with("/OfflineStoreConfig/S3StorageConfig/KmsKeyId", json!("a*")), bad, "kmsKeyId"),
        (
            "CreateFeatureGroup",
            with("/OfflineStoreConfig/DataCatalogConfig", json!({"TableName": "t", "Catalog": "c"})),
            bad,
            "database",
        ),
        (
            "CreateFeatureGroup",
            with("/OfflineStoreConfig/DataCatalogConfig", json!({"TableName": "", "Catalog": "c", "Database": "d"})),
            bad,
            "tableName",
        ),
        ("CreateFeatureGroup", with("/OfflineStoreConfig/TableFormat", json!("Hudi")), bad, "tableFormat"),
        ("CreateFeatureGroup", with("/RoleArn", json!("arn:aws:iam::1:role/too-short")), bad, "roleArn"),
        ("CreateFeatureGroup", with("/RoleArn", Value::Null), bad, "RoleArn"),
        ("CreateFeatureGroup", with("/Description", json!("x".repeat(129))), bad, "description"),
        ("CreateFeatureGroup", with("/Tags", json!(tags)), bad, "tags"),
        (
            "CreateFeatureGroup",
            with("/Tags", json!([{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}])),
            bad,
            "twice",
        ),
        ("CreateFeatureGroup", with("/Tags", json!([{"Key": "AWS:x", "Value": "1"}])), bad, "reserved"),
        ("CreateFeatureGroup", with("/Tags", json!([{"Key": "a"}])), bad, "value"),
        ("CreateFeatureGroup", with("/Tags", json!([{"Key": "", "Value": ""}])), bad, "key"),
        ("CreateFeatureGroup", json!([]), "SerializationException", "request body"),
    ]
}

fn wrong_updates() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let add = |definitions: Value| update(json!({ "FeatureAdditions": definitions }));
    let one = |name: &str| json!([{"FeatureName": name, "FeatureType": "String"}]);
    let many: Vec<Value> =
        (0..101).map(|number| json!({"FeatureName": format!("f{number}"), "FeatureType": "String"})).collect();
    let online = |config: Value| update(json!({ "OnlineStoreConfig": config }));
    let throughput = |config: Value| update(json!({ "ThroughputConfig": config }));
    let bad = INVALID;
    vec![
        ("UpdateFeatureGroup", json!({"FeatureAdditions": one("x")}), bad, "featureGroupName"),
        ("UpdateFeatureGroup", json!({"FeatureGroupName": "a b"}), bad, "featureGroupName"),
        (
            "UpdateFeatureGroup",
            json!({"FeatureGroupName": "none", "FeatureAdditions": one("x")}),
            "ResourceNotFound",
            "none",
        ),
        (
            "UpdateFeatureGroup",
            json!({"FeatureGroupName": "none", "ThroughputConfig": {"ThroughputMode": "OnDemand"}}),
            "ResourceNotFound",
            "none",
        ),
        ("UpdateFeatureGroup", update(json!({})), bad, "FeatureAdditions"),
        (
            "UpdateFeatureGroup",
            update(json!({"FeatureAdditions": one("x"), "ThroughputConfig": {"ThroughputMode": "OnDemand"}})),
            bad,
            "at a time",
        ),
        (
            "UpdateFeatureGroup",
            update(json!({"FeatureAdditions": one("x"), "OnlineStoreConfig": {"TtlDuration": {}}})),
            bad,
            "at a time",
        ),
        ("UpdateFeatureGroup", add(json!([])), bad, "featureAdditions"),
        ("UpdateFeatureGroup", add(json!(many)), bad, "100"),
        ("UpdateFeatureGroup", add(one("total")), bad, "retyped"),
        ("UpdateFeatureGroup", add(one("TOTAL")), bad, "retyped"),
        ("UpdateFeatureGroup", add(json!([{"FeatureName": "total", "FeatureType": "Integral"}])), bad, "retyped"),
        (
            "UpdateFeatureGroup",
            add(json!([{"FeatureName": "x", "FeatureType": "String"}, {"FeatureName": "x", "FeatureType": "String"}])),
            bad,
            "twice",
        ),
        ("UpdateFeatureGroup", add(one("write_time")), bad, "reserved"),
        ("UpdateFeatureGroup", add(one("granary_x")), bad, "reserved"),
        ("UpdateFeatureGroup", add(one("x-")), bad, "featureName"),
        ("UpdateFeatureGroup", add(json!([{"FeatureName": "x"}])), bad, "featureType"),
        ("UpdateFeatureGroup", add(json!([{"FeatureName": "x", "FeatureType": "Text"}])), bad, "featureType"),
        (
            "UpdateFeatureGroup",
            add(json!([{"FeatureName": "x", "FeatureType": "String", "CollectionType": "Set"}])),
            bad,
            "InMemory",
        ),
        (
            "UpdateFeatureGroup",
            add(
                json!([{"FeatureName": "x", "FeatureType": "Fractional", "CollectionConfig": {"VectorConfig": {"Dimension": 3}}}]),
            ),
            bad,
            "CollectionConfig",
        ),
        ("UpdateFeatureGroup", add(json!("x")), "SerializationException", "request body"),
        ("UpdateFeatureGroup", online(json!({})), bad, "online store"),
        ("UpdateFeatureGroup", online(json!({"TtlDuration": {"Unit": "Days"}})), bad, "value"),
        ("UpdateFeatureGroup", online(json!({"TtlDuration": {"Value": 1}})), bad, "unit"),
        ("UpdateFeatureGroup", online(json!({"TtlDuration": {"Unit": "Years", "Value": 1}})), bad, "unit"),
        ("UpdateFeatureGroup", online(json!({"TtlDuration": {"Unit": "Days", "Value": 0}})), bad, "value"),
        (
            "UpdateFeatureGroup",
            online(json!({"TtlDuration": {"Unit": "Days", "Value": 4_294_967_296_i64}})),
            bad,
            "value",
        ),
        ("UpdateFeatureGroup", online(json!({"StorageType": "InMemory"})), bad, "Standard_V2"),
        ("UpdateFeatureGroup", online(json!({"StorageType": "Tape"})), bad, "storageType"),
        ("UpdateFeatureGroup", throughput(json!({})), bad, "throughput"),
        ("UpdateFeatureGroup", throughput(json!({"ThroughputMode": "Reserved"})), bad, "throughputMode"),
        ("UpdateFeatureGroup", throughput(json!({"ThroughputMode": "Provisioned"})), bad, "capacity units"),
        ("UpdateFeatureGroup", throughput(json!({"ProvisionedReadCapacityUnits": 5})), bad, "capacity units"),
        (
            "UpdateFeatureGroup",
            throughput(json!({"ProvisionedReadCapacityUnits": -1})),
            bad,
            "provisionedReadCapacityUnits",
        ),
    ]
}

fn wrong_metadata() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let of = |more: Value| {
        let mut body = update(json!({"FeatureName": "total"}));
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let parameter = |key: &str, value: &str| json!({"Key": key, "Value": value});
    let add = |parameters: Value| of(json!({ "ParameterAdditions": parameters }));
    let many: Vec<Value> = (0..26).map(|number| parameter(&number.to_string(), "x")).collect();
    let keys: Vec<String> = (0..26).map(|number| number.to_string()).collect();
    let bad = INVALID;
    vec![
        ("DescribeFeatureMetadata", json!({"FeatureName": "total"}), bad, "featureGroupName"),
        ("DescribeFeatureMetadata", update(json!({})), bad, "featureName"),
        ("DescribeFeatureMetadata", of(json!({"FeatureName": "a.b"})), bad, "featureName"),
        ("DescribeFeatureMetadata", of(json!({"FeatureName": "none"})), "ResourceNotFound", "none"),
        ("DescribeFeatureMetadata", of(json!({"FeatureGroupName": "none"})), "ResourceNotFound", "none"),
        ("UpdateFeatureMetadata", json!({"FeatureName": "total", "Description": "x"}), bad, "featureGroupName"),
        ("UpdateFeatureMetadata", update(json!({"Description": "x"})), bad, "featureName"),
        ("UpdateFeatureMetadata", of(json!({})), bad, "description or its parameters"),
        ("UpdateFeatureMetadata", of(json!({"FeatureName": "none", "Description": "x"})), "ResourceNotFound", "none"),
        (
            "UpdateFeatureMetadata",
            of(json!({"FeatureGroupName": "none", "Description": "x"})),
            "ResourceNotFound",
            "none",
        ),
        ("UpdateFeatureMetadata", of(json!({"Description": "x".repeat(256)})), bad, "description"),
        ("UpdateFeatureMetadata", add(json!(many)), bad, "parameterAdditions"),
        ("UpdateFeatureMetadata", add(json!([{"Key": "a"}])), bad, "value"),
        ("UpdateFeatureMetadata", add(json!([parameter("", "x")])), bad, "key"),
        ("UpdateFeatureMetadata", add(json!([parameter("a", "")])), bad, "value"),
        ("UpdateFeatureMetadata", add(json!([parameter("a@b", "x")])), bad, "key"),
        ("UpdateFeatureMetadata", add(json!([parameter("a", &"x".repeat(256))])), bad, "255"),
        ("UpdateFeatureMetadata", add(json!([parameter("a", "1"), parameter("a", "2")])), bad, "twice"),
        ("UpdateFeatureMetadata", of(json!({"ParameterRemovals": keys})), bad, "parameterRemovals"),
        ("UpdateFeatureMetadata", of(json!({"ParameterRemovals": ["a", "a"]})), bad, "twice"),
        (
            "UpdateFeatureMetadata",
            of(json!({"ParameterRemovals": [{"Key": "a"}]})),
            "SerializationException",
            "request body",
        ),
        (
            "UpdateFeatureMetadata",
            of(json!({"ParameterAdditions": [parameter("a", "1")], "ParameterRemovals": ["a"]})),
            bad,
            "both",
        ),
    ]
}

fn wrong_tags() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let other = |resource: &str| format!("arn:aws:sagemaker:us-east-1:000000000000:{resource}");
    let none = other("feature-group/none");
    let of = |arn: &str, tags: Value| json!({"ResourceArn": arn, "Tags": tags});
    let tag = json!([{"Key": "a", "Value": "1"}]);
    let many: Vec<Value> = (0..51).map(|number| json!({"Key": number.to_string(), "Value": ""})).collect();
    let bad = INVALID;
    vec![
        ("AddTags", json!({ "Tags": tag }), bad, "resourceArn"),
        ("AddTags", json!({ "ResourceArn": ARN }), bad, "tags"),
        ("AddTags", of("orders", tag.clone()), bad, "resourceArn"),
        ("AddTags", of("arn:aws:s3:::bucket", tag.clone()), bad, "resourceArn"),
        ("AddTags", of(&other("model/m"), tag.clone()), bad, "model/m"),
        ("AddTags", of(&other("feature-group/a b"), tag.clone()), bad, "a b"),
        ("AddTags", of(&none, tag), bad, "none"),
        ("AddTags", of(&none, json!([])), bad, "none"),
        ("AddTags", of(ARN, json!(many)), bad, "tags"),
        ("AddTags", of(ARN, json!([{"Key": "a"}])), bad, "value"),
        ("AddTags", of(ARN, json!([{"Key": "a*", "Value": ""}])), bad, "key"),
        ("AddTags", of(ARN, json!([{"Key": "aws:a", "Value": ""}])), bad, "reserved"),
        ("AddTags", of(ARN, json!([{"Key": "a", "Value": "x".repeat(257)}])), bad, "256"),
        ("AddTags", of(ARN, json!([{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}])), bad, "twice"),
        ("ListTags", json!({}), bad, "resourceArn"),
        ("ListTags", json!({ "ResourceArn": none }), bad, "none"),
        ("ListTags", json!({"ResourceArn": ARN, "MaxResults": 49}), bad, "maxResults"),
        ("ListTags", json!({"ResourceArn": ARN, "NextToken": "x"}), bad, "NextToken"),
        ("DeleteTags", json!({ "ResourceArn": ARN }), bad, "tagKeys"),
        ("DeleteTags", json!({"ResourceArn": ARN, "TagKeys": []}), bad, "tagKeys"),
        ("DeleteTags", json!({"ResourceArn": ARN, "TagKeys": vec!["x"; 51]}), bad, "tagKeys"),
        ("DeleteTags", json!({"ResourceArn": ARN, "TagKeys": [""]}), bad, "tagKeys"),
        ("DeleteTags", json!({"ResourceArn": none, "TagKeys": ["a"]}), bad, "none"),
    ]
}

fn wrong_searches() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let groups = |expression: Value| json!({"Resource": "FeatureGroup", "SearchExpression": expression});
    let filter = |filter: Value| groups(json!({"Filters": [filter]}));
    let contains = json!({"Name": "FeatureGroupName", "Operator": "Contains", "Value": "x"});
    let deep = (0..6).fold(json!({}), |inner, _| json!({"SubExpressions": [inner]}));
    let more = |member: &str, value: Value| json!({"Resource": "FeatureGroup", member: value});
    let bad = INVALID;
    vec![
        ("Search", json!({}), bad, "resource"),
        ("Search", json!({"Resource": "FeatureGroups"}), bad, "resource"),
        ("Search", json!({"Resource": "TrainingJob"}), bad, "TrainingJob"),
        ("Search", filter(json!({"Value": "x"})), bad, "name"),
        ("Search", filter(json!({"Name": "x".repeat(256), "Value": "x"})), bad, "255"),
        ("Search", filter(json!({"Name": "Colour", "Value": "x"})), bad, "Colour"),
        ("Search", filter(json!({"Name": "FeatureGroupName"})), bad, "value"),
        ("Search", filter(json!({"Name": "FeatureGroupName", "Value": ""})), bad, "value"),
        ("Search", filter(json!({"Name": "FeatureGroupName", "Value": "x".repeat(1_025)})), bad, "1024"),
        ("Search", filter(json!({"Name": "FeatureGroupName", "Operator": "Like", "Value": "x"})), bad, "operator"),
        ("Search", filter(json!({"Name": "FeatureGroupName", "Operator": "LessThan", "Value": "x"})), bad, "LESS_THAN"),
        ("Search", filter(json!({"Name": "CreationTime", "Operator": "LessThan", "Value": "soon"})), bad, "soon"),
        (
            "Search",
            groups(json!({"Filters": [contains, contains]})),
            bad,
            "'CONTAINS' operator usage limit of 1 exceeded.",
        ),
        (
            "Search",
            groups(json!({"Filters": [contains], "SubExpressions": [{"Filters": [contains]}]})),
            bad,
            "'CONTAINS' operator",
        ),
        ("Search", groups(json!({"Filters": vec![contains.clone(); 21]})), bad, "filters"),
        ("Search", groups(json!({"SubExpressions": []})), bad, "subExpressions"),
        ("Search", groups(json!({"SubExpressions": vec![json!({}); 21]})), bad, "subExpressions"),
        ("Search", groups(json!({"Operator": "Xor"})), bad, "operator"),
        ("Search", groups(json!({"NestedFilters": [{"Filters": [contains]}]})), bad, "nestedPropertyName"),
        ("Search", groups(json!({"NestedFilters": [{"NestedPropertyName": "Tags", "Filters": []}]})), bad, "filters"),
        (
            "Search",
            groups(json!({"NestedFilters": [{"NestedPropertyName": "Tags", "Filters": [contains]}]})),
            bad,
            "FeatureGroupName",
        ),
        (
            "Search",
            groups(json!({"NestedFilters": [{"NestedPropertyName": "InputDataConfig", "Filters": [contains]}]})),
            bad,
            "InputDataConfig",
        ),
        ("Search", groups(deep), bad, "deep"),
        ("Search", more("SortBy", json!("Colour")), bad, "Colour"),
        ("Search", more("SortBy", json!("AllTags")), bad, "AllTags"),
        ("Search", more("SortBy", json!("")), bad, "sortBy"),
        ("Search", more("SortOrder", json!("Up")), bad, "sortOrder"),
        ("Search", more("MaxResults", json!(0)), bad, "maxResults"),
        ("Search", more("MaxResults", json!(101)), bad, "maxResults"),
        ("Search", more("NextToken", json!("made up")), bad, "NextToken"),
        ("Search", more("CrossAccountFilterOption", json!("All")), bad, "crossAccountFilterOption"),
    ]
}

fn wrong_reads() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let bad = INVALID;
    vec![
        ("DescribeFeatureGroup", json!({}), bad, "featureGroupName"),
        ("DescribeFeatureGroup", json!({"FeatureGroupName": "a/b"}), bad, "featureGroupName"),
        ("DescribeFeatureGroup", json!({"FeatureGroupName": "none"}), "ResourceNotFound", "none"),
        ("DescribeFeatureGroup", update(json!({"NextToken": "x"})), bad, "NextToken"),
        ("DeleteFeatureGroup", json!({}), bad, "featureGroupName"),
        ("DeleteFeatureGroup", json!({ "FeatureGroupName": ARN }), bad, "featureGroupName"),
        ("DeleteFeatureGroup", json!({"FeatureGroupName": "none"}), "ResourceNotFound", "none"),
        ("ListFeatureGroups", json!({"MaxResults": 0}), bad, "maxResults"),
        ("ListFeatureGroups", json!({"MaxResults": 101}), bad, "maxResults"),
        ("ListFeatureGroups", json!({"NameContains": ""}), bad, "nameContains"),
        ("ListFeatureGroups", json!({"NameContains": "x".repeat(65)}), bad, "nameContains"),
        ("ListFeatureGroups", json!({"SortBy": "Age"}), bad, "sortBy"),
        ("ListFeatureGroups", json!({"SortOrder": "Up"}), bad, "sortOrder"),
        ("ListFeatureGroups", json!({"FeatureGroupStatusEquals": "Gone"}), bad, "featureGroupStatusEquals"),
        ("ListFeatureGroups", json!({"OfflineStoreStatusEquals": "Gone"}), bad, "offlineStoreStatusEquals"),
        ("ListFeatureGroups", json!({"NextToken": "made up"}), bad, "NextToken"),
        ("ListFeatureGroups", json!({"CreationTimeAfter": "soon"}), "SerializationException", "request body"),
    ]
}

#[tokio::test]
async fn wrong_input_is_refused_by_name_and_changes_nothing() {
    let (cluster, api) = with_orders().await;
    let before = cluster.feature_groups();
    for (operation, body, code, says) in wrong_inputs() {
        let answer = control(&api, operation, body.clone()).await;
        let shown = body.to_string().chars().take(300).collect::<String>();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{operation} {shown}: {}", answer.body);
        assert_eq!(answer.error_type.as_deref(), Some(code), "{operation} {shown}: {}", answer.body);
        assert_eq!(answer.body["__type"], code);
        assert_eq!(answer.body["Message"], answer.body["message"]);
        let message = answer.body["Message"].as_str().expect("a message");
        assert!(message.contains(says), "{operation} {shown}: {message}");
        assert_eq!(cluster.feature_groups(), before, "{operation} {shown}");
    }
}
