//! The native API: `granary.v1.FeatureStore` over gRPC.
//!
//! Errors are statuses by the kind of the error (`granary_proto::convert::status_of`); a deadline that the caller
//! sends (`grpc-timeout`) is honoured where it is shorter than the router's own.

mod features;
mod messages;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use granary_proto::convert::{feature_group_to_wire, kind_code, status_of};
use granary_proto::v1;
use granary_proto::v1::feature_store_server::FeatureStore;
use granary_router::{GetCommand, ListCommand, Router, Session};
use granary_types::Error;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::metrics::Metrics;

const LIST_LIMIT_MAX: usize = 100;

/// `FeatureStore` over a router.
pub struct FeatureStoreService {
    router: Router,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for FeatureStoreService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureStoreService").finish_non_exhaustive()
    }
}

impl FeatureStoreService {
    pub(crate) fn new(router: Router, metrics: Arc<Metrics>) -> Self {
        Self { router, metrics }
    }

    /// Runs an operation, counts it, and makes a response or a status of what came out.
    async fn answer<T>(
        &self,
        operation: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let began = self.router.platform().instant();
        let result = work.await;
        let code = result.as_ref().map_or_else(|error| kind_code(error.kind), |_| "ok");
        self.metrics.answered("grpc", operation, code, began.elapsed().as_secs_f64());
        result.map(Response::new).map_err(|error| status_of(&error))
    }

    fn listed(&self, request: &v1::ListFeatureGroupsRequest) -> Result<v1::ListFeatureGroupsResponse, Error> {
        let limit = match request.limit as usize {
            0 => LIST_LIMIT_MAX,
            limit @ 1..=LIST_LIMIT_MAX => limit,
            limit => return Err(Error::invalid(format!("limit is 0 to {LIST_LIMIT_MAX}, got {limit}"))),
        };
        // The token is the name a page ended with; groups come by rising name.
        let mut groups = self.router.list()?;
        groups.retain(|group| group.name > request.page_token && group.name.contains(&request.name_contains));
        let more = groups.len() > limit;
        groups.truncate(limit);
        let next_page_token = groups.last().filter(|_| more).map(|group| group.name.clone()).unwrap_or_default();
        let feature_groups = groups.iter().map(|group| feature_group_to_wire(group)).collect();
        Ok(v1::ListFeatureGroupsResponse { feature_groups, next_page_token })
    }

    async fn got(
        &self,
        request: v1::GetRecordRequest,
        timeout: Option<Duration>,
    ) -> Result<v1::GetRecordResponse, Error> {
        let command = GetCommand {
            group: request.feature_group,
            identifier: request.record_identifier,
            features: request.feature_names,
            consistency: messages::consistency(request.consistency.as_ref())?,
            timeout,
        };
        let Some(record) = self.router.get(command).await? else { return Ok(v1::GetRecordResponse::default()) };
        let expires_at = messages::expires_at(&record);
        Ok(v1::GetRecordResponse { found: true, record: messages::record(record), expires_at })
    }

    async fn batch_written(
        &self,
        request: v1::BatchWriteRecordRequest,
        timeout: Option<Duration>,
    ) -> Result<v1::BatchWriteRecordResponse, Error> {
        let mut places = Vec::with_capacity(request.entries.len());
        let mut commands = Vec::with_capacity(request.entries.len());
        let mut response = v1::BatchWriteRecordResponse::default();
        for (place, entry) in request.entries.into_iter().enumerate() {
            let place = u32::try_from(place).map_err(|_| Error::invalid("too many entries"))?;
            match messages::put(entry, timeout) {
                Ok(command) => {
                    places.push(place);
                    commands.push(command);
                }
                Err(error) => response.errors.push(messages::write_error(place, &error)),
            }
        }
        let mut session = Session::default();
        let results = match commands.is_empty() && !response.errors.is_empty() {
            true => Vec::new(),
            false => self.router.batch_write(commands).await?,
        };
        for (place, result) in places.into_iter().zip(results) {
            match result {
                Ok(written) => session.merge(&written.session()),
                Err(error) => response.errors.push(messages::write_error(place, &error)),
            }
        }
        response.errors.sort_by_key(|error| error.entry);
        response.session = session.to_token();
        Ok(response)
    }
}

#[tonic::async_trait]
impl FeatureStore for FeatureStoreService {
    async fn create_feature_group(
        &self,
        request: Request<v1::CreateFeatureGroupRequest>,
    ) -> Result<Response<v1::FeatureGroup>, Status> {
        let work = async {
            let group = self.router.create_feature_group(request.into_inner()).await?;
            Ok(feature_group_to_wire(&group))
        };
        self.answer("CreateFeatureGroup", work).await
    }

    async fn describe_feature_group(
        &self,
        request: Request<v1::DescribeFeatureGroupRequest>,
    ) -> Result<Response<v1::FeatureGroup>, Status> {
        let work = async {
            let group = self.router.describe(&request.get_ref().name)?;
            Ok(feature_group_to_wire(&group))
        };
        self.answer("DescribeFeatureGroup", work).await
    }

    async fn list_feature_groups(
        &self,
        request: Request<v1::ListFeatureGroupsRequest>,
    ) -> Result<Response<v1::ListFeatureGroupsResponse>, Status> {
        self.answer("ListFeatureGroups", async { self.listed(request.get_ref()) }).await
    }

    async fn delete_feature_group(
        &self,
        request: Request<v1::DeleteFeatureGroupRequest>,
    ) -> Result<Response<v1::DeleteFeatureGroupResponse>, Status> {
        let work = async {
            self.router.delete(&request.get_ref().name).await?;
            Ok(v1::DeleteFeatureGroupResponse {})
        };
        self.answer("DeleteFeatureGroup", work).await
    }

    async fn update_feature_group(
        &self,
        request: Request<v1::UpdateFeatureGroupRequest>,
    ) -> Result<Response<v1::FeatureGroup>, Status> {
        let work = async {
            let group = self.router.update_feature_group(request.into_inner()).await?;
            Ok(feature_group_to_wire(&group))
        };
        self.answer("UpdateFeatureGroup", work).await
    }

    async fn update_feature_metadata(
        &self,
        request: Request<v1::UpdateFeatureMetadataRequest>,
    ) -> Result<Response<v1::FeatureGroup>, Status> {
        let work = async {
            let group = self.router.update_feature_metadata(request.into_inner()).await?;
            Ok(feature_group_to_wire(&group))
        };
        self.answer("UpdateFeatureMetadata", work).await
    }

    async fn update_tags(&self, request: Request<v1::UpdateTagsRequest>) -> Result<Response<v1::FeatureGroup>, Status> {
        let work = async {
            let group = self.router.update_tags(request.into_inner()).await?;
            Ok(feature_group_to_wire(&group))
        };
        self.answer("UpdateTags", work).await
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        let work = async { Ok(messages::found(self.router.search(request.into_inner()).await?)) };
        self.answer("Search", work).await
    }

    async fn put_record(&self, request: Request<v1::PutRecordRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        let work = async {
            let command = messages::put(request.into_inner(), timeout)?;
            Ok(messages::written(&self.router.put(command).await?))
        };
        self.answer("PutRecord", work).await
    }

    async fn delete_record(
        &self,
        request: Request<v1::DeleteRecordRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        let work = async {
            let command = messages::delete(request.into_inner(), timeout)?;
            Ok(messages::written(&self.router.delete_record(command).await?))
        };
        self.answer("DeleteRecord", work).await
    }

    async fn get_record(
        &self,
        request: Request<v1::GetRecordRequest>,
    ) -> Result<Response<v1::GetRecordResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        self.answer("GetRecord", self.got(request.into_inner(), timeout)).await
    }

    async fn batch_get_record(
        &self,
        request: Request<v1::BatchGetRecordRequest>,
    ) -> Result<Response<v1::BatchGetRecordResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        let work = async {
            let command = messages::batch_get(request.into_inner(), timeout)?;
            let answer = self.router.batch_get(command.clone()).await?;
            messages::batch_answer(&command, answer)
        };
        self.answer("BatchGetRecord", work).await
    }

    async fn get_features(
        &self,
        request: Request<v1::GetFeaturesRequest>,
    ) -> Result<Response<v1::GetFeaturesResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        let work = async {
            let command = features::command(request.into_inner(), timeout)?;
            features::answer(self.router.get_features(command).await?)
        };
        self.answer("GetFeatures", work).await
    }

    async fn batch_write_record(
        &self,
        request: Request<v1::BatchWriteRecordRequest>,
    ) -> Result<Response<v1::BatchWriteRecordResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        self.answer("BatchWriteRecord", self.batch_written(request.into_inner(), timeout)).await
    }

    async fn update_record(
        &self,
        request: Request<v1::UpdateRecordRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        let work = async {
            let command = messages::update(request.into_inner(), timeout)?;
            Ok(messages::written(&self.router.update_record(command).await?))
        };
        self.answer("UpdateRecord", work).await
    }

    async fn list_records(
        &self,
        request: Request<v1::ListRecordsRequest>,
    ) -> Result<Response<v1::ListRecordsResponse>, Status> {
        let timeout = timeout_of(request.metadata());
        let work = async {
            let command = messages::list(request.into_inner(), timeout)?;
            Ok(messages::listed(self.router.list_records(command).await?))
        };
        self.answer("ListRecords", work).await
    }

    type ScanRecordsStream = Pin<Box<dyn Stream<Item = Result<v1::ScanRecordsResponse, Status>> + Send>>;

    async fn scan_records(
        &self,
        request: Request<v1::ScanRecordsRequest>,
    ) -> Result<Response<Self::ScanRecordsStream>, Status> {
        let first = messages::scan(request.into_inner()).map_err(|error| status_of(&error))?;
        let scan = Scan { router: self.router.clone(), metrics: Arc::clone(&self.metrics), next: Some(first) };
        Ok(Response::new(Box::pin(stream::try_unfold(scan, Scan::page))))
    }
}

/// The pages of a scan, each read when the one before has been taken.
struct Scan {
    router: Router,
    metrics: Arc<Metrics>,
    /// The next page; `None` after the last one.
    next: Option<ListCommand>,
}

impl Scan {
    async fn page(mut self) -> Result<Option<(v1::ScanRecordsResponse, Self)>, Status> {
        let Some(mut command) = self.next.take() else { return Ok(None) };
        let began = self.router.platform().instant();
        let result = self.router.list_records(command.clone()).await;
        let code = result.as_ref().map_or_else(|error| kind_code(error.kind), |_| "ok");
        self.metrics.answered("grpc", "ScanRecords", code, began.elapsed().as_secs_f64());
        let answer = result.map_err(|error| status_of(&error))?;
        if answer.next.is_some() {
            command.after.clone_from(&answer.next);
            self.next = Some(command);
        }
        Ok(Some((messages::scanned(answer), self)))
    }
}

/// `grpc-timeout`: up to eight digits and a unit, H M S m u n. A malformed one counts as none.
fn timeout_of(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_is_read() {
        let cases = [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("5u", Some(Duration::from_micros(5))),
            ("", None),
            ("S", None),
            ("1x", None),
            ("123456789S", None),
            ("-1S", None),
        ];
        for (text, expected) in cases {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ASCII"));
            assert_eq!(timeout_of(&metadata), expected, "{text:?}");
        }
        assert_eq!(timeout_of(&MetadataMap::new()), None);
    }
}
