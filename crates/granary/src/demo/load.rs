//! Creates the feature groups and puts every record, each acknowledged before it counts.

use std::collections::HashMap;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use granary_proto::convert::kind_of_code;
use granary_proto::v1::{
    BatchWriteRecordRequest, CreateFeatureGroupRequest, DescribeFeatureGroupRequest, FeatureValue, Granularity,
    OfflineConfig, OnlineConfig, PutRecordRequest, Value, value,
};
use granary_types::{Error, ErrorKind};

use super::input::{Input, Row};
use super::patience::{Patience, may_retry};
use super::summary::{Summary, thousands};
use super::{Demo, offline};
use crate::progress::Step;

/// Records in one request: some 150 KB.
const BATCH_RECORDS: usize = 500;
/// Requests under way, so that every shard has work while others answer: 4,000 records, far below a router's bounds.
const BATCHES_IN_FLIGHT: usize = 8;

/// Rows of a feature group's history before the demo put anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Versions that were put.
    pub(super) put: usize,
    /// Marks of deletions.
    pub(super) deleted: usize,
}

/// What was there before, by feature group; empty histories on a fresh cluster.
pub(super) type Before = HashMap<&'static str, Rows>;
/// How many records were acknowledged, by feature group.
pub(super) type Acknowledged = HashMap<&'static str, usize>;

/// Creates both feature groups, or finds them from an earlier run.
pub(super) async fn create_groups(demo: &Demo) -> anyhow::Result<Before> {
    let mut before = Before::new();
    for input in [&demo.weather, &demo.flights] {
        let created = demo.client.store.clone().create_feature_group(create_request(input)).await;
        let rows = match created.map_err(|status| demo.client.error(&status)) {
            Ok(_) => {
                demo.progress.say(&format!("created feature group {}", input.group));
                Rows::default()
            }
            Err(error) if error.kind == ErrorKind::InUse => earlier_run(demo, input).await?,
            Err(error) => return Err(error.into()),
        };
        before.insert(input.group, rows);
    }
    Ok(before)
}

fn create_request(input: &Input) -> CreateFeatureGroupRequest {
    let mut offline = OfflineConfig::default();
    // A year of sparse event times: by the hour it would be 8,760 small files for each group.
    offline.set_granularity(Granularity::Day);
    CreateFeatureGroupRequest {
        name: input.group.to_owned(),
        features: input.definitions(),
        record_identifier_feature: input.identifier.to_owned(),
        event_time_feature: "time_hour".to_owned(),
        online: Some(OnlineConfig::default()),
        offline: Some(offline),
        description: "made by granary demo".to_owned(),
        ..CreateFeatureGroupRequest::default()
    }
}

/// The history of a group that is there already; an error if it is somebody else's.
async fn earlier_run(demo: &Demo, input: &Input) -> anyhow::Result<Rows> {
    let request = DescribeFeatureGroupRequest { name: input.group.to_owned() };
    let group = demo.client.store.clone().describe_feature_group(request).await;
    let group = group.map_err(|status| demo.client.error(&status))?.into_inner();
    if group.features != input.definitions() {
        let message = format!("there is a feature group {} with other features than the demo's", input.group);
        return Err(Error::new(ErrorKind::InUse, message).into());
    }
    offline::caught_up(demo, input.group).await?;
    let rows = offline::rows_of(demo, input.group).await?;
    demo.progress.say(&format!("found feature group {} with {} versions", input.group, thousands(rows.put)));
    Ok(rows)
}

/// Puts every record of both inputs through the router.
pub(super) async fn put_all(demo: &Demo, summary: &mut Summary) -> anyhow::Result<Acknowledged> {
    let mut acknowledged = Acknowledged::new();
    for input in [&demo.weather, &demo.flights] {
        let step = demo.progress.count(&format!("putting {}", input.group), input.records.len(), "records");
        let started = demo.platform.instant();
        let step_of = &step;
        let counts = stream::iter(input.records.chunks(BATCH_RECORDS))
            .map(|rows| async move { put_batch(demo, input, rows, step_of).await })
            .buffer_unordered(BATCHES_IN_FLIGHT)
            .try_collect::<Vec<usize>>()
            .await
            .with_context(|| format!("put {}", input.group))?;
        let (count, took) = (counts.iter().sum(), started.elapsed());
        step.done(&format!("{} records in {:.1} s", thousands(count), took.as_secs_f64()));
        summary.did(format!("put {} (replicated, fsynced on a majority)", input.group), count, "records", took);
        acknowledged.insert(input.group, count);
    }
    Ok(acknowledged)
}

/// Puts some records until each is acknowledged; returns how many.
async fn put_batch(demo: &Demo, input: &Input, rows: &[Row], step: &Step) -> anyhow::Result<usize> {
    // A retry says the same write id, so that a write whose outcome is unknown is never made twice.
    let ids: Vec<u128> = rows.iter().map(|_| demo.platform.fresh_id()).collect();
    let mut pending: Vec<usize> = (0..rows.len()).collect();
    let mut patience = Patience::new(demo);
    loop {
        let entries = pending.iter().map(|&index| entry(input, &rows[index], ids[index])).collect();
        let answer = demo.client.store.clone().batch_write_record(BatchWriteRecordRequest { entries }).await;
        let error = match answer.map_err(|status| demo.client.error(&status)) {
            Ok(answer) => {
                let errors = answer.into_inner().errors;
                let failed: Vec<usize> = errors.iter().map(|error| pending[error.entry as usize]).collect();
                step.add(pending.len() - failed.len());
                pending = failed;
                let hard = errors.iter().find(|error| !may_retry(kind_of_code(&error.code))).or(errors.first());
                match hard {
                    None => return Ok(rows.len()),
                    Some(error) => Error::new(kind_of_code(&error.code), error.message.clone()),
                }
            }
            Err(error) => error,
        };
        patience.wait_after(demo, error).await?;
    }
}

fn entry(input: &Input, row: &Row, id: u128) -> PutRecordRequest {
    let record = row.present().map(|(place, text)| FeatureValue {
        name: input.features[place].0.to_owned(),
        value: Some(Value { kind: Some(value::Kind::Text(text.to_owned())) }),
    });
    PutRecordRequest {
        feature_group: input.group.to_owned(),
        record: record.collect(),
        write_id: id.to_be_bytes().to_vec().into(),
        ..PutRecordRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use granary_proto::v1::feature_store_server::{FeatureStore, FeatureStoreServer};
    use granary_proto::v1::*;
    use tokio::net::TcpListener;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Response, Status};

    use super::super::input::{flights_of, rows, weather_of};
    use super::*;
    use crate::client::Client;
    use crate::progress::Progress;

    /// Loses its first answer, refuses every second entry of the next request, and then takes everything.
    #[derive(Debug, Clone, Default)]
    struct Unreliable {
        calls: Arc<Mutex<Vec<Vec<Vec<u8>>>>>,
    }

    #[tonic::async_trait]
    impl FeatureStore for Unreliable {
        async fn batch_write_record(
            &self,
            request: Request<BatchWriteRecordRequest>,
        ) -> Result<Response<BatchWriteRecordResponse>, Status> {
            let ids = request.into_inner().entries.iter().map(|entry| entry.write_id.to_vec()).collect::<Vec<_>>();
            let mut calls = self.calls.lock().expect("not poisoned");
            calls.push(ids);
            let refused = |entry| BatchWriteError { entry, code: "overloaded".to_owned(), message: String::new() };
            match calls.len() {
                1 => Err(Status::unavailable("lost")),
                2 => Ok(BatchWriteRecordResponse { errors: vec![refused(1), refused(3)], ..Default::default() }.into()),
                _ => Ok(BatchWriteRecordResponse::default().into()),
            }
        }

        async fn create_feature_group(
            &self,
            _: Request<CreateFeatureGroupRequest>,
        ) -> Result<Response<FeatureGroup>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn describe_feature_group(
            &self,
            _: Request<DescribeFeatureGroupRequest>,
        ) -> Result<Response<FeatureGroup>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn list_feature_groups(
            &self,
            _: Request<ListFeatureGroupsRequest>,
        ) -> Result<Response<ListFeatureGroupsResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn delete_feature_group(
            &self,
            _: Request<DeleteFeatureGroupRequest>,
        ) -> Result<Response<DeleteFeatureGroupResponse>, Status> {
            Err(Status::unimplemented(""))
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

        async fn put_record(&self, _: Request<PutRecordRequest>) -> Result<Response<WriteResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn delete_record(&self, _: Request<DeleteRecordRequest>) -> Result<Response<WriteResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn get_record(&self, _: Request<GetRecordRequest>) -> Result<Response<GetRecordResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn get_features(&self, _: Request<GetFeaturesRequest>) -> Result<Response<GetFeaturesResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn batch_get_record(
            &self,
            _: Request<BatchGetRecordRequest>,
        ) -> Result<Response<BatchGetRecordResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn update_record(&self, _: Request<UpdateRecordRequest>) -> Result<Response<WriteResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn list_records(&self, _: Request<ListRecordsRequest>) -> Result<Response<ListRecordsResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        type ScanRecordsStream = stream::Empty<Result<ScanRecordsResponse, Status>>;

        async fn scan_records(
            &self,
            _: Request<ScanRecordsRequest>,
        ) -> Result<Response<Self::ScanRecordsStream>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_is_put_again_under_the_same_id() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stub = Unreliable::default();
        let server = tonic::transport::Server::builder().add_service(FeatureStoreServer::new(stub.clone()));
        let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

        let row: &[Option<&str>] = &[Some("EWR"), Some("2013-01-01T00:00:00Z")];
        let demo = Demo {
            client: Client::new(&address.to_string(), Duration::from_secs(10)).expect("an address"),
            platform: granary_platform::Platform::system(),
            progress: Progress::new(),
            flights: flights_of(Vec::new()),
            weather: weather_of(rows(&[row; 4])),
        };
        let step = demo.progress.count("test", 4, "records");
        let count = put_batch(&demo, &demo.weather, &demo.weather.records, &step).await.expect("in the end");
        serving.abort();

        let calls = stub.calls.lock().expect("not poisoned").clone();
        assert_eq!((count, calls.len()), (4, 3));
        assert_eq!(calls[0], calls[1], "an outcome that is unknown is asked for under the same ids");
        assert_eq!(calls[2], [calls[0][1].clone(), calls[0][3].clone()], "only what was refused is put again");
    }
}
