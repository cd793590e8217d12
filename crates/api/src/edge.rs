//! The port: tells gRPC, SageMaker and operators' requests apart, and hands what speaks AWS's protocols to the gate.
//!
//! Paths are matched raw. An ARN travels as one percent-encoded segment, which a decoding router would split.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use prometheus::{Encoder, Registry, TextEncoder};
use tower::ServiceExt;

use crate::Readiness;
use crate::aws::gate::Gate;
use crate::aws::{AwsService, Service};
use crate::rest::{Fault, Rest};

/// What the port serves.
pub(crate) struct Edge {
    pub(crate) grpc: axum::Router,
    pub(crate) rest: Rest,
    pub(crate) aws: BTreeMap<Service, Arc<dyn AwsService>>,
    pub(crate) gate: Gate,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
}

pub(crate) async fn handle(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Response<Body> {
    edge.gate.identified(request, async |request| edge.answer(request).await).await
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
        let (service, call) = match self.gate.admit(request).await {
            Ok(admitted) => admitted,
            Err(refused) => {
                refused.code.inspect(|code| self.rest.refused(code));
                return *refused.response;
            }
        };
        match self.aws.get(&service) {
            Some(handler) => handler.answer(service, call).await,
            None if service == Service::SageMaker => self.rest.answer(call).await,
            None => Fault::served_elsewhere(service, &call).into_response(),
        }
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
