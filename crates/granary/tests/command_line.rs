//! The command line from outside: exit codes and what is written where, against a stub that answers as told.

use std::net::SocketAddr;
use std::process::{Command, Output};

use granary_proto::convert::{kind_code, kind_of_code, status_of};
use granary_proto::v1::feature_store_server::{FeatureStore, FeatureStoreServer};
use granary_proto::v1::*;
use granary_types::{Error, ErrorKind};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Fails with the kind that the feature group is named after; any other group is served.
#[derive(Debug)]
struct Stub;

fn answer<T>(group: &str, answer: T) -> Result<Response<T>, Status> {
    match ErrorKind::ALL.into_iter().find(|kind| kind_code(*kind) == group) {
        Some(kind) => Err(status_of(&Error::new(kind, "as told"))),
        None => Ok(Response::new(answer)),
    }
}

#[tonic::async_trait]
impl FeatureStore for Stub {
    async fn create_feature_group(
        &self,
        request: Request<CreateFeatureGroupRequest>,
    ) -> Result<Response<FeatureGroup>, Status> {
        let request = request.into_inner();
        answer(&request.name.clone(), FeatureGroup { name: request.name, ..FeatureGroup::default() })
    }

    async fn describe_feature_group(
        &self,
        request: Request<DescribeFeatureGroupRequest>,
    ) -> Result<Response<FeatureGroup>, Status> {
        answer(&request.into_inner().name, FeatureGroup::default())
    }

    async fn list_feature_groups(
        &self,
        _: Request<ListFeatureGroupsRequest>,
    ) -> Result<Response<ListFeatureGroupsResponse>, Status> {
        Ok(Response::new(ListFeatureGroupsResponse::default()))
    }

    async fn delete_feature_group(
        &self,
        request: Request<DeleteFeatureGroupRequest>,
    ) -> Result<Response<DeleteFeatureGroupResponse>, Status> {
        answer(&request.into_inner().name, DeleteFeatureGroupResponse {})
    }

    async fn update_feature_group(
        &self,
        _: Request<UpdateFeatureGroupRequest>,
    ) -> Result<Response<FeatureGroup>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_feature_metadata(
        &self,
        _: Request<UpdateFeatureMetadataRequest>,
    ) -> Result<Response<FeatureGroup>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_tags(&self, _: Request<UpdateTagsRequest>) -> Result<Response<FeatureGroup>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn search(&self, _: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn put_record(&self, request: Request<PutRecordRequest>) -> Result<Response<WriteResponse>, Status> {
        let request = request.into_inner();
        // The session says how many values came, to be seen in the answer.
        let session = vec![u8::try_from(request.record.len()).expect("few")].into();
        answer(&request.feature_group, WriteResponse { session, became_online: true, ..WriteResponse::default() })
    }

    async fn delete_record(&self, request: Request<DeleteRecordRequest>) -> Result<Response<WriteResponse>, Status> {
        answer(&request.into_inner().feature_group, WriteResponse::default())
    }

    async fn get_record(&self, request: Request<GetRecordRequest>) -> Result<Response<GetRecordResponse>, Status> {
        let request = request.into_inner();
        let value = Value { kind: Some(value::Kind::Text("007".to_owned())) };
        let record = vec![FeatureValue { name: "id".to_owned(), value: Some(value) }];
        let found = request.record_identifier == "there";
        answer(&request.feature_group, GetRecordResponse { found, record, ..GetRecordResponse::default() })
    }

    async fn get_features(&self, _: Request<GetFeaturesRequest>) -> Result<Response<GetFeaturesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn batch_get_record(
        &self,
        request: Request<BatchGetRecordRequest>,
    ) -> Result<Response<BatchGetRecordResponse>, Status> {
        let key = request.into_inner().keys.remove(0);
        let record_identifier = key.record_identifiers[0].clone();
        // An identifier that is the name of a kind fails alone, inside of an answer.
        let errors = (kind_of_code(&record_identifier) != ErrorKind::Internal).then(|| BatchError {
            feature_group: key.feature_group.clone(),
            code: record_identifier.clone(),
            record_identifier,
            message: "as told".to_owned(),
        });
        let errors = errors.into_iter().collect();
        answer(&key.feature_group, BatchGetRecordResponse { errors, ..BatchGetRecordResponse::default() })
    }

    async fn batch_write_record(
        &self,
        _: Request<BatchWriteRecordRequest>,
    ) -> Result<Response<BatchWriteRecordResponse>, Status> {
        Ok(Response::new(BatchWriteRecordResponse::default()))
    }

    async fn update_record(&self, _: Request<UpdateRecordRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_records(&self, _: Request<ListRecordsRequest>) -> Result<Response<ListRecordsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ScanRecordsStream = futures::stream::Empty<Result<ScanRecordsResponse, Status>>;

    async fn scan_records(&self, _: Request<ScanRecordsRequest>) -> Result<Response<Self::ScanRecordsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Serves the stub in the background until the runtime is dropped.
fn serve(runtime: &tokio::runtime::Runtime) -> SocketAddr {
    let (ready, address) = oneshot::channel();
    runtime.spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        ready.send(listener.local_addr().expect("bound")).expect("somebody waits");
        let server = tonic::transport::Server::builder().add_service(FeatureStoreServer::new(Stub));
        server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("served");
    });
    address.blocking_recv().expect("the stub started")
}

fn granary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_granary"));
    // The environment of whoever runs the tests must not decide them.
    command.env_clear().args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    granary(arguments).output().expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn every_kind_of_error_has_its_exit_code_whatever_the_command() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let endpoint = format!("http://{}", serve(&runtime));
    for kind in ErrorKind::ALL {
        let expected = match kind {
            ErrorKind::Internal | ErrorKind::Corrupt => 1,
            ErrorKind::Invalid => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown => 4,
            ErrorKind::InUse => 5,
            ErrorKind::Forbidden => 6,
            ErrorKind::LimitExceeded => 7,
            ErrorKind::Conflict => 8,
        };
        let group = kind_code(kind);
        for arguments in [
            vec!["put", group, "id=1"],
            vec!["get", group, "1"],
            vec!["delete", group, "1", "--event-time", "2026-01-01T00:00:00Z"],
            vec!["feature-group", "create", group, "--record-identifier", "id", "--event-time", "at"],
            vec!["feature-group", "describe", group],
        ] {
            let output = run(&[&["--endpoint", &endpoint, "--output", "json"], arguments.as_slice()].concat());
            assert_eq!(code(&output), expected, "{arguments:?}: {output:?}");
            assert!(output.stdout.is_empty(), "errors go to standard error: {output:?}");
            let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
            assert_eq!(error["error"]["kind"], group);
            assert_eq!(error["error"]["message"], "as told");
        }
    }
}

#[test]
fn answers_go_to_standard_output() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let endpoint = format!("http://{}", serve(&runtime));
    let on_stub = |arguments: &[&str]| {
        let mut command = granary(arguments);
        command.env("GRANARY_ENDPOINT", &endpoint).output().expect("the binary runs")
    };
    let got = on_stub(&["get", "users", "there"]);
    assert_eq!((code(&got), text(&got.stdout)), (0, "id  007\n"));
    let got = on_stub(&["get", "users", "there", "--output", "json"]);
    assert_eq!(text(&got.stdout), "{\"record\":{\"id\":\"007\"}}\n");
    let missing = on_stub(&["get", "users", "nobody"]);
    assert_eq!((code(&missing), text(&missing.stdout)), (3, ""));
    assert!(text(&missing.stderr).contains("no record \"nobody\" in feature group \"users\""));

    let put = on_stub(&["put", "users", "id=1", "x=2", "event_time=2026-01-01T00:00:00Z", "--output", "json"]);
    let written: serde_json::Value = serde_json::from_slice(&put.stdout).expect("one JSON object");
    assert_eq!((code(&put), &written["session"]), (0, &serde_json::json!("03")));

    let partial = on_stub(&["batch-get", "users", "overloaded"]);
    assert_eq!(code(&partial), 4, "an error inside of an answer counts: {partial:?}");
    let none = on_stub(&["batch-get", "users", "1"]);
    assert_eq!((code(&none), text(&none.stdout)), (0, "0 found\n"));
}

#[test]
fn wrong_usage_is_2_and_nobody_there_is_4() {
    for arguments in [
        &["no-such-command"][..],
        &["put", "users"],
        &["put", "users", "novalue"],
        &["get", "users", "1", "--consistency", "strong"],
        &["config", "--set", "node.engine=abacus"],
        &["config", "--config", "/no/such/file.toml"],
        &["get", "users", "1", "--endpoint", "not a url"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    // Bound and never listening: nobody else is given the port meanwhile.
    let dead = tokio::net::TcpSocket::new_v4().expect("a socket");
    dead.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let endpoint = format!("http://{}", dead.local_addr().expect("it is bound"));
    let output = run(&["get", "users", "1", "--endpoint", &endpoint]);
    assert_eq!(code(&output), 4, "{output:?}");
    assert!(text(&output.stderr).contains("no connection to"), "{output:?}");
}

#[test]
fn mistakes_in_the_configuration_are_reported_together() {
    let mut command = granary(&["config", "--set", "router.deadline=soon", "--set", "nonsense"]);
    let output = command.env("GRANARY__NODE__COLOUR", "blue").output().expect("the binary runs");
    assert_eq!(code(&output), 2);
    let errors = text(&output.stderr);
    for part in ["3 mistakes", "router.deadline", "GRANARY__NODE__COLOUR", "nonsense"] {
        assert!(errors.contains(part), "{part:?} is missing in {errors}");
    }
}

#[test]
fn the_configuration_in_effect_is_printed() {
    let mut command = granary(&["config", "--output", "json", "--set", "log.format=json"]);
    let output = command.env("GRANARY__NODE__ENGINE", "memory").output().expect("the binary runs");
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&config["node"]["engine"], &config["log"]["format"]), (&"memory".into(), &"json".into()));
    assert_eq!(code(&run(&["--help"])), 0);
    assert_eq!(code(&run(&["--version"])), 0);
}
