//! The public API on one port: gRPC and the SageMaker Feature Store wire protocol, over HTTP/1.1 and HTTP/2 without
//! TLS (h2c).
//!
//! The edge parses, checks and answers; it decides nothing. What a record means is in `granary-types`, where it goes
//! in `granary-router`. Only [`rest`] knows SageMaker's shapes and error names, only [`grpc`] the public protobuf.
//!
//! | request | goes to |
//! |---|---|
//! | `content-type: application/grpc…` | gRPC: `FeatureStore`, health, reflection, and what [`Api::with_grpc`] added |
//! | `POST /` with `X-Amz-Target: SageMaker.<Op>` | SageMaker's control plane |
//! | `/FeatureGroup/{name or ARN}…`, `/BatchGetRecord` | SageMaker's runtime |
//! | what is signed for another AWS service | what [`Api::with_aws`] added |
//! | `GET /metrics`, `/livez`, `/readyz` | operators |
//!
//! Requests to AWS's services must be signed (SigV4) where access keys are configured; gRPC and operators' requests are
//! not authenticated.

pub mod aws;
mod edge;
pub mod grpc;
mod metrics;
pub mod rest;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use granary_proto::v1::feature_store_server::FeatureStoreServer;
use granary_proto::{DESCRIPTORS, MESSAGE_LEN_MAX};
use granary_router::Router;
use prometheus::Registry;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic_health::server::HealthReporter;

use aws::gate::Gate;
use aws::signature::AccessKeys;
use aws::{AwsService, Service};
use edge::Edge;
use grpc::FeatureStoreService;
use metrics::Metrics;
use rest::Rest;

/// What the edge needs to know about its deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The AWS account in ARNs: 12 digits.
    pub account_id: String,
    /// The AWS region in ARNs.
    pub region: String,
    /// The keys that requests to AWS's services must be signed with; any request is taken without.
    pub access_keys: Option<AccessKeys>,
    /// The largest body of a REST request, in bytes. A record of 350 KB whose every character is escaped takes 2 MB.
    pub body_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            account_id: "000000000000".into(),
            region: "us-east-1".into(),
            access_keys: None,
            body_bytes_max: 16 << 20,
        }
    }
}

/// Says whether the process can serve; why not, if not. Asked at every `GET /readyz`.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The parts of the public API, to be made into one service.
pub struct Api {
    router: Router,
    settings: Settings,
    registry: Registry,
    readiness: Readiness,
    grpc: RoutesBuilder,
    health: HealthReporter,
    aws: BTreeMap<Service, Arc<dyn AwsService>>,
    routes: axum::Router,
}

impl Api {
    /// The API over `router`: gRPC `FeatureStore`, health and reflection, and the SageMaker wire. `GET /metrics`
    /// shows what is in `registry`, where the API's own metrics go too.
    pub fn new(router: Router, settings: Settings, registry: Registry, readiness: Readiness) -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut grpc = RoutesBuilder::default();
        grpc.add_service(health_service);
        Self { router, settings, registry, readiness, grpc, health, aws: BTreeMap::new(), routes: axum::Router::new() }
    }

    /// Adds a gRPC service, such as `granary.v1.Query`, on the same port.
    #[must_use]
    pub fn with_grpc<S>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.grpc.add_service(service);
        self
    }

    /// Adds other AWS services than SageMaker on the same port.
    #[must_use]
    pub fn with_aws(mut self, services: &[Service], handler: &Arc<dyn AwsService>) -> Self {
        self.aws.extend(services.iter().map(|service| (*service, Arc::clone(handler))));
        self
    }

    /// Adds plain HTTP routes, which go before everything else but have paths that nobody else uses.
    #[must_use]
    pub fn with_routes(mut self, routes: axum::Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// The gRPC health of the services here, to be changed when one of them comes or goes.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// The service, ready to be served, as by `axum::serve`.
    ///
    /// # Errors
    /// When the descriptors that reflection shows cannot be read.
    pub async fn into_service(mut self) -> Result<axum::Router, tonic_reflection::server::Error> {
        let metrics = Arc::new(Metrics::register(&self.registry));
        let feature_store =
            FeatureStoreServer::new(FeatureStoreService::new(self.router.clone(), Arc::clone(&metrics)))
                .max_decoding_message_size(MESSAGE_LEN_MAX)
                .max_encoding_message_size(MESSAGE_LEN_MAX);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()?;
        self.health.set_serving::<FeatureStoreServer<FeatureStoreService>>().await;
        self.grpc.add_service(feature_store).add_service(reflection);
        let edge = Edge {
            grpc: self.grpc.routes().prepare().into_axum_router(),
            gate: Gate::new(self.router.platform(), &self.settings),
            aws: self.aws,
            rest: Rest::new(self.router, self.settings, metrics),
            registry: self.registry,
            readiness: self.readiness,
        };
        Ok(axum::Router::new().fallback(edge::handle).with_state(Arc::new(edge)).merge(self.routes))
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("settings", &self.settings).finish_non_exhaustive()
    }
}
