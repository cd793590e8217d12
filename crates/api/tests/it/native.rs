//! gRPC over the same port, with a real client over HTTP/2.

use granary_proto::v1;
use granary_proto::v1::feature_store_client::FeatureStoreClient;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::Channel;

use crate::cluster::{Cluster, orders};

async fn serve(cluster: &Cluster) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let api = cluster.api().await;
    tokio::spawn(async move { axum::serve(listener, api).await });
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URI");
    endpoint.connect().await.expect("it listens")
}

fn text(name: &str, text: &str) -> v1::FeatureValue {
    let kind = v1::value::Kind::Text(text.into());
    v1::FeatureValue { name: name.into(), value: Some(v1::Value { kind: Some(kind) }) }
}

fn put(id: &str) -> v1::PutRecordRequest {
    let number = v1::Value { kind: Some(v1::value::Kind::Integral(7)) };
    let record = vec![
        text("id", id),
        text("at", "2024-01-01T00:00:00Z"),
        v1::FeatureValue { name: "items".into(), value: Some(number) },
    ];
    v1::PutRecordRequest { feature_group: "orders".into(), record, ..v1::PutRecordRequest::default() }
}

#[tokio::test]
async fn records_are_written_and_read() {
    let cluster = Cluster::start().await;
    let mut client = FeatureStoreClient::new(serve(&cluster).await);
    let group = client.create_feature_group(orders()).await.expect("created").into_inner();
    assert_eq!(group.name, "orders");
    let written = client.put_record(put("1")).await.expect("written").into_inner();
    assert!(written.became_online);
    let request = v1::GetRecordRequest {
        feature_group: "orders".into(),
        record_identifier: "1".into(),
        consistency: Some(v1::Consistency {
            level: v1::ConsistencyLevel::Session.into(),
            sessions: vec![written.session],
            max_staleness_ms: 0,
        }),
        ..v1::GetRecordRequest::default()
    };
    let got = client.get_record(request).await.expect("read").into_inner();
    assert!(got.found);
    assert_eq!(got.record, [text("id", "1"), text("at", "2024-01-01T00:00:00Z"), text("items", "7")]);

    let bad = v1::PutRecordRequest { record: vec![text("id", "3")], ..put("3") };
    let entries = vec![put("2"), bad, put("4")];
    let batch = client.batch_write_record(v1::BatchWriteRecordRequest { entries }).await.expect("answered");
    let errors = batch.into_inner().errors;
    assert_eq!((errors.len(), errors[0].entry, errors[0].code.as_str()), (1, 1, "invalid"));

    let identifiers = ["1", "2", "3", "4"].map(str::to_owned).to_vec();
    let keys =
        v1::RecordKeys { feature_group: "orders".into(), record_identifiers: identifiers, feature_names: vec![] };
    let batch = v1::BatchGetRecordRequest { keys: vec![keys], consistency: None };
    let batch = client.batch_get_record(batch).await.expect("answered").into_inner();
    let found: Vec<_> = batch.records.iter().map(|record| record.record_identifier.as_str()).collect();
    assert_eq!(found, ["1", "2", "4"]);
}

#[tokio::test]
async fn groups_are_listed_in_pages_and_errors_are_statuses() {
    let cluster = Cluster::start().await;
    let mut client = FeatureStoreClient::new(serve(&cluster).await);
    for name in ["a", "b", "c"] {
        let request = v1::CreateFeatureGroupRequest { name: name.into(), ..orders() };
        client.create_feature_group(request).await.expect("created");
    }
    let mut names = Vec::new();
    let mut request = v1::ListFeatureGroupsRequest { limit: 2, ..v1::ListFeatureGroupsRequest::default() };
    loop {
        let page = client.list_feature_groups(request.clone()).await.expect("listed").into_inner();
        names.extend(page.feature_groups.into_iter().map(|group| group.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["a", "b", "c"]);
    let again = v1::CreateFeatureGroupRequest { name: "a".into(), ..orders() };
    assert_eq!(client.create_feature_group(again).await.expect_err("taken").code(), Code::AlreadyExists);
    client.delete_feature_group(v1::DeleteFeatureGroupRequest { name: "a".into() }).await.expect("deleted");
    let describe = v1::DescribeFeatureGroupRequest { name: "a".into() };
    assert_eq!(client.describe_feature_group(describe).await.expect_err("gone").code(), Code::NotFound);
}

fn selection(features: &[&str], keys: &str) -> v1::FeatureSelection {
    let feature_names = features.iter().map(|name| (*name).to_owned()).collect();
    v1::FeatureSelection { feature_group: "orders".into(), feature_names, keys: keys.into() }
}

fn keys(name: &str, record_identifiers: &[&str]) -> v1::EntityKeys {
    let record_identifiers = record_identifiers.iter().map(|id| (*id).to_owned()).collect();
    v1::EntityKeys { name: name.into(), record_identifiers }
}

#[tokio::test]
async fn features_come_by_column() {
    let cluster = Cluster::start().await;
    let mut client = FeatureStoreClient::new(serve(&cluster).await);
    client.create_feature_group(orders()).await.expect("created");
    for id in ["1", "2"] {
        client.put_record(put(id)).await.expect("written");
    }
    let mut long_gone = put("3");
    long_gone.ttl = Some(v1::Ttl { unit: v1::TtlUnit::Seconds.into(), value: 1 });
    client.put_record(long_gone).await.expect("written");
    let noted = vec![text("id", "4"), text("at", "2024-01-01T00:00:00.5Z"), text("note", "é!"), text("total", "1.50")];
    client.put_record(v1::PutRecordRequest { record: noted, ..put("4") }).await.expect("written");

    let request = v1::GetFeaturesRequest {
        keys: vec![keys("a", &["4", "nobody", "1", "3", ""]), keys("b", &["2"])],
        selections: vec![selection(&["note", "items", "total"], "a"), selection(&[], "b")],
        consistency: None,
    };
    let answer = client.get_features(request).await.expect("read").into_inner();
    let [first, second] = answer.selections.as_slice() else { panic!("two selections") };
    let statuses: Vec<_> = first.statuses().collect();
    use v1::EntityStatus::{Expired, Failed, Found, NotFound};
    assert_eq!(statuses, [Found, NotFound, Found, Expired, Failed]);
    assert_eq!(first.event_seconds, [1_704_067_200, 0, 1_704_067_200, 0, 0]);
    assert_eq!(first.event_nanos, [500_000_000, 0, 0, 0, 0]);
    let failure = &first.failures[0];
    assert_eq!((first.failures.len(), failure.entity, failure.code.as_str()), (1, 4, "invalid"));
    let names: Vec<_> = first.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["note", "items", "total"]);
    let texts = v1::Texts { data: "é!".into(), lengths: vec![3, 0, 0, 0, 0] };
    let wanted = [
        (vec![0b1], v1::feature_column::Values::Texts(texts)),
        (vec![0b100], v1::feature_column::Values::Integers(v1::Integers { values: vec![0, 0, 7, 0, 0] })),
        (vec![0b1], v1::feature_column::Values::Doubles(v1::Doubles { values: vec![1.5, 0.0, 0.0, 0.0, 0.0] })),
    ];
    for (column, (present, values)) in first.columns.iter().zip(wanted) {
        assert_eq!((&column.present[..], column.values.as_ref()), (&present[..], Some(&values)), "{}", column.name);
    }
    let names: Vec<_> = second.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "at", "total", "items", "note"]);
    assert!(second.columns[0].present.is_empty() && second.event_nanos.is_empty(), "all there, all whole seconds");
}

#[tokio::test]
async fn a_read_of_features_that_is_wrong_is_refused_as_a_whole() {
    let cluster = Cluster::start().await;
    let mut client = FeatureStoreClient::new(serve(&cluster).await);
    client.create_feature_group(orders()).await.expect("created");
    let of = |keys: Vec<v1::EntityKeys>, selections: Vec<v1::FeatureSelection>| v1::GetFeaturesRequest {
        keys,
        selections,
        consistency: None,
    };
    let unknown = v1::FeatureSelection { feature_group: "nobody".into(), ..selection(&[], "a") };
    let wrongs = [
        (of(vec![], vec![]), Code::InvalidArgument, "1 to 10000"),
        (of(vec![keys("a", &[])], vec![selection(&[], "a")]), Code::InvalidArgument, "1 to 10000"),
        (of(vec![keys("a", &["1"])], vec![selection(&["no"], "a")]), Code::InvalidArgument, "\"no\""),
        (of(vec![keys("a", &["1"])], vec![selection(&["note", "note"], "a")]), Code::InvalidArgument, "twice"),
        (of(vec![keys("a", &["1"])], vec![selection(&[], "c")]), Code::InvalidArgument, "\"c\""),
        (of(vec![keys("a", &["1"]), keys("a", &["2"])], vec![selection(&[], "a")]), Code::InvalidArgument, "\"a\""),
        (of(vec![keys("a", &["1"]), keys("b", &["2"])], vec![selection(&[], "")]), Code::InvalidArgument, "orders"),
        (of(vec![keys("a", &["1"])], vec![unknown]), Code::NotFound, "nobody"),
    ];
    for (request, code, word) in wrongs {
        let refused = client.get_features(request).await.expect_err(word);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    let many: Vec<String> = (0..10_001).map(|n| n.to_string()).collect();
    let many = v1::EntityKeys { name: String::new(), record_identifiers: many };
    let refused = client.get_features(of(vec![many], vec![selection(&[], "")])).await.expect_err("too many");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}
