//! SageMaker's wire, call by call, as botocore sends and reads it.

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::Cluster;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) error_type: Option<String>,
    request_id: Option<String>,
    pub(crate) body: Value,
}

async fn send(api: &axum::Router, request: Request<Body>) -> Answer {
    let response = api.clone().oneshot(request).await.expect("infallible");
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, error_type, request_id) = (response.status(), header("x-amzn-errortype"), header("x-amzn-requestid"));
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
    Answer { status, error_type, request_id, body }
}

pub(crate) async fn control(api: &axum::Router, operation: &str, body: Value) -> Answer {
    let request = Request::post("/")
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amz-target", format!("SageMaker.{operation}"))
        .body(Body::from(body.to_string()));
    send(api, request.expect("a request")).await
}

pub(crate) async fn runtime(api: &axum::Router, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body);
    send(api, request.expect("a request")).await
}

pub(crate) fn orders() -> Value {
    json!({
        "FeatureGroupName": "orders",
        "RecordIdentifierFeatureName": "id",
        "EventTimeFeatureName": "at",
        "FeatureDefinitions": [
            {"FeatureName": "id", "FeatureType": "String"},
            {"FeatureName": "at", "FeatureType": "String"},
            {"FeatureName": "total", "FeatureType": "Fractional"},
        ],
        "OnlineStoreConfig": {"EnableOnlineStore": true},
        "OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://bucket/features"}},
        "RoleArn": "arn:aws:iam::123456789012:role/features",
    })
}

pub(crate) fn record(id: &str, at: &str, total: &str) -> Value {
    json!({"Record": [
        {"FeatureName": "id", "ValueAsString": id},
        {"FeatureName": "at", "ValueAsString": at},
        {"FeatureName": "total", "ValueAsString": total},
    ]})
}

#[tokio::test]
async fn a_record_goes_in_and_comes_back_as_it_was_put() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let created = control(&api, "CreateFeatureGroup", orders()).await;
    let arn = "arn:aws:sagemaker:us-east-1:000000000000:feature-group/orders";
    assert_eq!((created.status, &created.body), (StatusCode::OK, &json!({"FeatureGroupArn": arn})));
    assert!(created.request_id.is_some());

    let put = runtime(&api, "PUT", "/FeatureGroup/orders", record("a/1", "2024-01-01T00:00:00Z", "15.20")).await;
    assert_eq!((put.status, put.body), (StatusCode::OK, Value::Null));
    let by_arn = "/FeatureGroup/arn%3Aaws%3Asagemaker%3Aus-east-1%3A000000000000%3Afeature-group%2Forders";
    let got = runtime(&api, "GET", &format!("{by_arn}?RecordIdentifierValueAsString=a%2F1"), Value::Null).await;
    assert_eq!(got.body, record("a/1", "2024-01-01T00:00:00Z", "15.20"));
    let projected = "/FeatureGroup/orders?RecordIdentifierValueAsString=a%2F1&FeatureName=total";
    let got = runtime(&api, "GET", projected, Value::Null).await;
    assert_eq!(got.body, json!({"Record": [{"FeatureName": "total", "ValueAsString": "15.20"}]}));

    let batch = json!({"Identifiers": [
        {"FeatureGroupName": "orders", "RecordIdentifiersValueAsString": ["a/1", "none"], "FeatureNames": ["total"]},
        {"FeatureGroupName": "nowhere", "RecordIdentifiersValueAsString": ["x"]},
    ]});
    let got = runtime(&api, "POST", "/BatchGetRecord", batch).await;
    assert_eq!(got.body["Records"].as_array().map(Vec::len), Some(1));
    assert_eq!(got.body["Records"][0]["RecordIdentifierValueAsString"], "a/1");
    assert_eq!(got.body["Errors"][0]["ErrorCode"], "ResourceNotFound");
    assert_eq!(got.body["UnprocessedIdentifiers"], json!([]));

    let delete = "/FeatureGroup/orders?RecordIdentifierValueAsString=a%2F1&EventTime=2024-01-02T00%3A00%3A00Z";
    let deleted = runtime(&api, "DELETE", delete, Value::Null).await;
    assert_eq!((deleted.status, deleted.body), (StatusCode::OK, Value::Null));
    let got = runtime(&api, "GET", "/FeatureGroup/orders?RecordIdentifierValueAsString=a%2F1", Value::Null).await;
    assert_eq!((got.status, got.body), (StatusCode::OK, json!({})));
}

#[tokio::test]
async fn a_feature_group_lives_and_goes() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    control(&api, "CreateFeatureGroup", orders()).await;
    let described = control(&api, "DescribeFeatureGroup", json!({"FeatureGroupName": "orders"})).await;
    assert_eq!(described.body["FeatureGroupStatus"], "Created");
    assert_eq!(described.body["OfflineStoreStatus"], json!({"Status": "Active"}));
    let resolved = &described.body["OfflineStoreConfig"]["S3StorageConfig"]["ResolvedOutputS3Uri"];
    let prefix = "s3://bucket/features/000000000000/sagemaker/us-east-1/offline-store/orders-";
    assert!(resolved.as_str().is_some_and(|uri| uri.starts_with(prefix)), "{resolved}");

    let again = control(&api, "CreateFeatureGroup", orders()).await;
    assert_eq!((again.status.as_u16(), again.error_type.as_deref()), (400, Some("ResourceInUse")));
    let message = "Resource Already Exists: FeatureGroup with name orders already exists. Choose a different name.\n\
                   Info: Feature Group 'orders' already exists.";
    assert_eq!(again.body["Message"], message);
    assert_eq!(again.body["__type"], "ResourceInUse");

    let listed = control(&api, "ListFeatureGroups", json!({})).await;
    assert_eq!(listed.body["FeatureGroupSummaries"][0]["FeatureGroupName"], "orders");
    let deleted = control(&api, "DeleteFeatureGroup", json!({"FeatureGroupName": "orders"})).await;
    assert_eq!(deleted.status, StatusCode::OK);
    let gone = control(&api, "DescribeFeatureGroup", json!({"FeatureGroupName": "orders"})).await;
    assert_eq!((gone.status.as_u16(), gone.error_type.as_deref()), (400, Some("ResourceNotFound")));
}

#[tokio::test]
async fn unknown_groups_fail_as_on_aws() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let put = runtime(&api, "PUT", "/FeatureGroup/none", record("1", "2024-01-01T00:00:00Z", "1")).await;
    assert_eq!((put.status.as_u16(), put.error_type.as_deref()), (400, Some("ValidationError")));
    let text = "Resource Not Found: Amazon SageMaker can't find a FeatureGroup with name none";
    assert_eq!(put.body["Message"], text);
    let got = runtime(&api, "GET", "/FeatureGroup/none?RecordIdentifierValueAsString=1", Value::Null).await;
    assert_eq!((got.status.as_u16(), got.error_type.as_deref()), (404, Some("ResourceNotFound")));
    let deleted = control(&api, "DeleteFeatureGroup", json!({"FeatureGroupName": "none"})).await;
    assert_eq!((deleted.status.as_u16(), deleted.error_type.as_deref()), (400, Some("ResourceNotFound")));
}

#[tokio::test]
async fn faults_of_records_are_validation_errors() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    control(&api, "CreateFeatureGroup", orders()).await;
    let cases = [
        record("1", "2024-01-01", "1"),
        record("1", "2024-01-01T00:00:00Z", "one"),
        record("", "2024-01-01T00:00:00Z", "1"),
        json!({"Record": [{"FeatureName": "id", "ValueAsString": "1"}]}),
        json!({"Record": [{"FeatureName": "price", "ValueAsString": "1"}]}),
    ];
    for case in cases {
        let put = runtime(&api, "PUT", "/FeatureGroup/orders", case.clone()).await;
        assert_eq!((put.status.as_u16(), put.error_type.as_deref()), (400, Some("ValidationError")), "{case}");
    }
}

#[tokio::test]
async fn anything_else_is_an_unknown_operation() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let unknown = control(&api, "CreateModel", json!({})).await;
    assert_eq!((unknown.status.as_u16(), unknown.error_type.as_deref()), (400, Some("UnknownOperationException")));
    let unknown = runtime(&api, "POST", "/FeatureGroup/orders/Records", json!({})).await;
    assert_eq!(unknown.error_type.as_deref(), Some("UnknownOperationException"));
}

#[tokio::test]
async fn operators_are_answered() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    for path in ["/livez", "/readyz"] {
        let response = api.clone().oneshot(Request::get(path).body(Body::empty()).expect("a request")).await;
        assert_eq!(response.expect("infallible").status(), StatusCode::OK, "{path}");
    }
    control(&api, "ListFeatureGroups", json!({})).await;
    let request = Request::get("/metrics").body(Body::empty()).expect("a request");
    let response = api.clone().oneshot(request).await.expect("infallible");
    let text = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    let text = String::from_utf8(text.to_vec()).expect("UTF-8");
    assert!(text.contains("granary_api_requests_total{code=\"ok\",operation=\"ListFeatureGroups\""), "{text}");
    assert!(text.contains("granary_router_queued_writes"), "{text}");
}
