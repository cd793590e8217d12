//! SageMaker's wire: JSON 1.1 for the control plane (`POST /`, `X-Amz-Target`), REST-JSON for the runtime.
//!
//! Only this module knows SageMaker's shapes, constraints and error names. Each operation has a file: it reads its
//! shape, checks the constraints that botocore leaves to the server (patterns, enums, maxima), and turns it into a
//! command of the router. Members it does not know are ignored, as on AWS.
//!
//! Who calls was settled before ([`crate::aws::signature`]); what a caller may do is not decided yet.
//! What is the same, what differs and what is absent stands in `docs/api/sagemaker.md`.

mod batch_get_record;
mod batch_write_record;
mod constraints;
mod control;
mod create_feature_group;
mod definitions;
mod delete_feature_group;
mod delete_record;
mod describe_feature_group;
mod fault;
mod feature_metadata;
mod get_record;
mod list_feature_groups;
mod list_records;
mod names;
mod put_record;
mod query;
mod runtime;
mod search;
mod shapes;
mod tagging;
mod tags;
mod update_feature_group;
mod update_record;

use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use granary_router::Router;
use granary_types::WriteId;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use fault::Fault;
pub use fault::Plane;

use crate::Settings;
pub(crate) use crate::aws::Call;
use crate::metrics::Metrics;
use control::ControlOperation;
use runtime::RuntimeOperation;

const TARGET_PREFIX: &str = "SageMaker.";
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

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

/// The operations that are served: those of feature groups and those of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation<'a> {
    Control(ControlOperation),
    /// With the feature group's segment of the path as it came; empty where the path names none.
    Runtime(RuntimeOperation, &'a str),
}

impl<'a> Operation<'a> {
    /// By method, raw path and target header.
    fn of(call: &'a Call) -> Option<Self> {
        let path = call.uri.path();
        if call.method == Method::POST && path == "/" {
            let name = call.target()?.strip_prefix(TARGET_PREFIX)?;
            return ControlOperation::named(name).map(Self::Control);
        }
        RuntimeOperation::at(&call.method, path).map(|(operation, segment)| Self::Runtime(operation, segment))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Control(operation) => operation.name(),
            Self::Runtime(operation, _) => operation.name(),
        }
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

    /// Counts a request that its signature kept out.
    pub(crate) fn refused(&self, code: &'static str) {
        self.metrics.answered("aws", "signature", code, 0.0);
    }

    /// Answers any request, also one that is for nothing here.
    pub(crate) async fn answer(&self, call: Call) -> Response<Body> {
        let began = self.router.platform().instant();
        let Some(operation) = Operation::of(&call) else {
            self.metrics.answered("sagemaker", "unknown", "UnknownOperationException", 0.0);
            return Fault::unknown_operation(&call).into_response();
        };
        let result = self.run(operation, &call).await;
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

    async fn run(&self, operation: Operation<'_>, call: &Call) -> Result<Bytes, Fault> {
        match operation {
            Operation::Control(operation) => self.run_control(operation, call).await,
            Operation::Runtime(operation, segment) => self.run_runtime(operation, segment, call).await,
        }
    }
}

/// A shape as the body of an answer.
fn body_of<T: Serialize>(shape: &T) -> Result<Bytes, Fault> {
    serde_json::to_vec(shape).map(Bytes::from).map_err(|error| Fault::internal(&error))
}

fn response(operation: Operation<'_>, body: Bytes) -> Response<Body> {
    let kind = match operation {
        Operation::Control(_) => "application/x-amz-json-1.1",
        Operation::Runtime(..) => "application/json",
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Uri};

    use super::*;

    #[test]
    fn an_sdks_invocation_id_is_the_write_id() {
        let (uri, body) = (Uri::from_static("/FeatureGroup/a"), Bytes::new());
        let mut put = Call { method: Method::PUT, uri, headers: HeaderMap::new(), body };
        assert_eq!(put.write_id(), None);
        put.headers.insert(INVOCATION_ID, HeaderValue::from_static("00000000-0000-0000-0000-00000000000a"));
        assert_eq!(put.write_id(), Some(WriteId(10)));
        put.headers.insert(INVOCATION_ID, HeaderValue::from_static("no uuid"));
        assert_eq!(put.write_id(), None);
    }
}
