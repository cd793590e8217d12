//! The port: tells gRPC, SageMaker and operators' requests apart, and gives every request an id.
//!
//! Paths are matched raw. An ARN travels as one percent-encoded segment, which a decoding router would split.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use granary_platform::Platform;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use prometheus::{Encoder, Registry, TextEncoder};
use tower::ServiceExt;
use tracing::Instrument;

use crate::Readiness;
use crate::aws::signature::{self, AccessKeys, Refusal};
use crate::aws::{self, AwsService, Service};
use crate::rest::{Fault, Rest};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const REQUEST_ID_LEN_MAX: usize = 128;

/// What the port serves.
pub(crate) struct Edge {
    pub(crate) grpc: axum::Router,
    pub(crate) rest: Rest,
    pub(crate) aws: BTreeMap<Service, Arc<dyn AwsService>>,
    pub(crate) platform: Platform,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) body_bytes_max: usize,
    pub(crate) access_keys: Option<AccessKeys>,
}

pub(crate) async fn handle(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Response<Body> {
    let id = request_id(request.headers(), &edge.platform);
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
    let mut response = edge.answer(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

impl Edge {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if is_grpc(request.headers()) {
            return self.grpc.clone().oneshot(request).await.into_response();
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/livez") => plain(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => match (self.readiness)() {
                Ok(()) => plain(StatusCode::OK, "ok\n"),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            _ => self.aws(request).await,
        }
    }

    async fn aws(&self, request: Request<Body>) -> Response<Body> {
        let call = match aws::read(request, self.body_bytes_max).await {
            Ok(call) => call,
            Err(refused) => return *refused,
        };
        let service = Service::of(&call);
        if let Some(keys) = &self.access_keys {
            let now = i64::try_from(self.platform.now_millis() / 1_000).unwrap_or(i64::MAX);
            match signature::verify(keys, service, &call, now) {
                Ok(caller) => tracing::debug!(access_key_id = caller.access_key_id, "signed"),
                Err(refusal) => return self.refused(service, refusal),
            }
        }
        match self.aws.get(&service) {
            Some(handler) => handler.answer(service, call).await,
            None if service == Service::SageMaker => self.rest.answer(call).await,
            None => Fault::served_elsewhere(service, &call).into_response(),
        }
    }

    fn refused(&self, service: Service, refusal: Refusal) -> Response<Body> {
        tracing::debug!(service = service.signing_name(), ?refusal, "signature refused");
        self.rest.refused(refusal.code(service));
        refusal.into_response(service)
    }

    fn metrics(&self) -> Response<Body> {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => plain(StatusCode::OK, text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// The caller's request id where it sent a usable one, else a fresh UUID.
fn request_id(headers: &HeaderMap, platform: &Platform) -> HeaderValue {
    let usable = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= REQUEST_ID_LEN_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(usable).cloned().unwrap_or_else(|| {
        let fresh = uuid::Builder::from_random_bytes(platform.fresh_id().to_be_bytes()).into_uuid();
        HeaderValue::from_str(&fresh.to_string()).expect("a UUID is ASCII")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_request_id_is_kept() {
        let platform = Platform::system();
        let mut headers = HeaderMap::new();
        assert_eq!(request_id(&headers, &platform).len(), 36);
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(request_id(&headers, &platform), "abc-1");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b"));
        assert_ne!(request_id(&headers, &platform), "a b");
    }
}
