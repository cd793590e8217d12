//! SageMaker's wire: JSON 1.1 for the control plane (`POST /`, `X-Amz-Target`), REST-JSON for the runtime.
//!
//! Only this module knows SageMaker's shapes, constraints and error names. Each operation has a file: it reads its
//! shape, checks the constraints that botocore leaves to the server (patterns, enums, maxima), and turns it into a
//! command of the router. Members it does not know are ignored, as on AWS.
//!
//! Signatures (SigV4) are not verified and credentials are not looked at: whoever reaches the port may call.
//! What is the same, what differs and what is absent stands in `docs/api/sagemaker.md`.

mod batch_get_record;
mod constraints;
mod create_feature_group;
mod delete_feature_group;
mod delete_record;
mod describe_feature_group;
mod fault;
mod get_record;
mod list_feature_groups;
mod names;
mod put_record;
mod query;
mod shapes;

use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use granary_router::Router;
use granary_types::WriteId;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use fault::Fault;
pub use fault::Plane;

use crate::Settings;
use crate::metrics::Metrics;

const TARGET: &str = "x-amz-target";
const TARGET_PREFIX: &str = "SageMaker.";
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// The body as a shape; an empty body is an empty object.
    fn shape<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| Fault::serialization(&error))
    }

    /// The id that an AWS SDK keeps over its retries of one call.
    fn write_id(&self) -> Option<WriteId> {
        let text = self.headers.get(INVOCATION_ID)?.to_str().ok()?;
        uuid::Uuid::parse_str(text).ok().map(|id| WriteId(id.as_u128()))
    }
}

/// The operations that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    CreateFeatureGroup,
    DescribeFeatureGroup,
    ListFeatureGroups,
    DeleteFeatureGroup,
    PutRecord,
    GetRecord,
    DeleteRecord,
    BatchGetRecord,
}

impl Operation {
    /// By method, raw path and target header; with the feature group's segment of the path as it came.
    fn of(call: &Call) -> Option<(Self, &str)> {
        let path = call.uri.path();
        if let Some(segment) = path.strip_prefix("/FeatureGroup/")
            && !segment.contains('/')
        {
            return match call.method {
                Method::PUT => Some((Self::PutRecord, segment)),
                Method::GET => Some((Self::GetRecord, segment)),
                Method::DELETE => Some((Self::DeleteRecord, segment)),
                _ => None,
            };
        }
        if call.method != Method::POST {
            return None;
        }
        match path {
            "/BatchGetRecord" => Some((Self::BatchGetRecord, "")),
            "/" => match call.headers.get(TARGET)?.to_str().ok()?.strip_prefix(TARGET_PREFIX)? {
                "CreateFeatureGroup" => Some((Self::CreateFeatureGroup, "")),
                "DescribeFeatureGroup" => Some((Self::DescribeFeatureGroup, "")),
                "ListFeatureGroups" => Some((Self::ListFeatureGroups, "")),
                "DeleteFeatureGroup" => Some((Self::DeleteFeatureGroup, "")),
                _ => None,
            },
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CreateFeatureGroup => "CreateFeatureGroup",
            Self::DescribeFeatureGroup => "DescribeFeatureGroup",
            Self::ListFeatureGroups => "ListFeatureGroups",
            Self::DeleteFeatureGroup => "DeleteFeatureGroup",
            Self::PutRecord => "PutRecord",
            Self::GetRecord => "GetRecord",
            Self::DeleteRecord => "DeleteRecord",
            Self::BatchGetRecord => "BatchGetRecord",
        }
    }

    fn is_control(self) -> bool {
        matches!(
            self,
            Self::CreateFeatureGroup | Self::DescribeFeatureGroup | Self::ListFeatureGroups | Self::DeleteFeatureGroup
        )
    }
}

/// The SageMaker side of the edge.
pub(crate) struct Rest {
    router: Router,
    settings: Settings,
    metrics: Arc<Metrics>,
}

impl Rest {
    pub(crate) fn new(router: Router, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self { router, settings, metrics }
    }

    /// Answers any request, also one that is for nothing here.
    pub(crate) async fn answer(&self, call: Call) -> Response<Body> {
        let began = self.router.platform().instant();
        let Some((operation, segment)) = Operation::of(&call) else {
            self.metrics.answered("sagemaker", "unknown", "UnknownOperationException", 0.0);
            return Fault::unknown_operation(&call).into_response();
        };
        let result = self.run(operation, segment, &call).await;
        let code = result.as_ref().map_or_else(|fault| fault.code, |_| "ok");
        self.metrics.answered("sagemaker", operation.name(), code, began.elapsed().as_secs_f64());
        match result {
            Ok(body) => response(operation, body),
            Err(fault) => {
                tracing::debug!(operation = operation.name(), code = fault.code, message = fault.message, "refused");
                fault.into_response()
            }
        }
    }

    async fn run(&self, operation: Operation, segment: &str, call: &Call) -> Result<Bytes, Fault> {
        match operation {
            Operation::CreateFeatureGroup => self.create_feature_group(call).await,
            Operation::DescribeFeatureGroup => self.describe_feature_group(call),
            Operation::ListFeatureGroups => self.list_feature_groups(call),
            Operation::DeleteFeatureGroup => self.delete_feature_group(call).await,
            Operation::PutRecord => self.put_record(segment, call).await,
            Operation::GetRecord => self.get_record(segment, call).await,
            Operation::DeleteRecord => self.delete_record(segment, call).await,
            Operation::BatchGetRecord => self.batch_get_record(call).await,
        }
    }
}

/// A shape as the body of an answer.
fn body_of<T: Serialize>(shape: &T) -> Result<Bytes, Fault> {
    serde_json::to_vec(shape).map(Bytes::from).map_err(|error| Fault::internal(&error))
}

fn response(operation: Operation, body: Bytes) -> Response<Body> {
    let kind = if operation.is_control() { "application/x-amz-json-1.1" } else { "application/json" };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: Method, uri: &str, target: Option<&'static str>) -> Call {
        let mut headers = HeaderMap::new();
        if let Some(target) = target {
            headers.insert(TARGET, HeaderValue::from_static(target));
        }
        Call { method, uri: uri.parse().expect("a URI"), headers, body: Bytes::new() }
    }

    #[test]
    fn paths_are_matched_raw() {
        let arn = "/FeatureGroup/arn%3Aaws%3Asagemaker%3Aus-east-1%3A123456789012%3Afeature-group%2Fmy-fg";
        let put = call(Method::PUT, arn, None);
        assert_eq!(Operation::of(&put), Some((Operation::PutRecord, &arn["/FeatureGroup/".len()..])));
        let get = call(Method::GET, "/FeatureGroup/a?RecordIdentifierValueAsString=1%2F2", None);
        assert_eq!(Operation::of(&get), Some((Operation::GetRecord, "a")));
        assert_eq!(Operation::of(&call(Method::POST, "/FeatureGroup/a/ListRecords", None)), None);
        assert_eq!(Operation::of(&call(Method::POST, "/FeatureGroup/a", None)), None);
    }

    #[test]
    fn the_control_plane_is_told_by_its_target() {
        let describe = call(Method::POST, "/", Some("SageMaker.DescribeFeatureGroup"));
        assert_eq!(Operation::of(&describe), Some((Operation::DescribeFeatureGroup, "")));
        assert_eq!(Operation::of(&call(Method::POST, "/", Some("SageMaker.CreateModel"))), None);
        assert_eq!(Operation::of(&call(Method::POST, "/", Some("AmazonAthena.ListFeatureGroups"))), None);
        assert_eq!(Operation::of(&call(Method::POST, "/", None)), None);
    }

    #[test]
    fn an_sdks_invocation_id_is_the_write_id() {
        let mut put = call(Method::PUT, "/FeatureGroup/a", None);
        assert_eq!(put.write_id(), None);
        put.headers.insert(INVOCATION_ID, HeaderValue::from_static("00000000-0000-0000-0000-00000000000a"));
        assert_eq!(put.write_id(), Some(WriteId(10)));
        put.headers.insert(INVOCATION_ID, HeaderValue::from_static("no uuid"));
        assert_eq!(put.write_id(), None);
    }
}
