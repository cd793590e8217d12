//! Ports: binding, serving HTTP/1.1 and HTTP/2 on one of them, probes and metrics, and being told to stop.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use granary_api::Readiness;
use granary_api::aws::AwsService;
use granary_api::aws::gate::Gate;
use granary_platform::{Platform, TaskKind};
use granary_proto::DESCRIPTORS;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::server::NamedService;
use tonic::service::Routes;

/// Binds `address`, saying which one when that fails.
///
/// # Errors
/// When the address is taken or not of this machine.
pub(crate) async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Serves until shutdown; requests under way are finished.
pub(crate) fn serve(platform: &Platform, listener: TcpListener, service: axum::Router) -> JoinHandle<()> {
    use axum::serve::ListenerExt;
    let stop = platform.clone();
    // Small answers must not wait for more to come; a socket that cannot be told so still serves.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    platform.spawn(TaskKind::Service, "port", async move {
        let served = axum::serve(listener, service).with_graceful_shutdown(async move { stop.shutdown_begun().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "serve");
        }
    })
}

/// A gRPC service with health and reflection beside it.
///
/// # Errors
/// When the descriptors for reflection cannot be read.
pub(crate) async fn grpc_service<S>(service: S) -> anyhow::Result<axum::Router>
where
    S: tower::Service<axum::http::Request<tonic::body::Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<S>().await;
    let reflection =
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1()?;
    let mut routes = Routes::builder();
    routes.add_service(service).add_service(health_service).add_service(reflection);
    Ok(routes.routes().prepare().into_axum_router())
}

/// Routes, and AWS's services for every request that none of them is for. Where access keys are configured, a call must
/// be signed with one.
pub(crate) fn with_aws(
    routes: axum::Router,
    handler: Arc<dyn AwsService>,
    settings: &granary_api::Settings,
    platform: &Platform,
) -> axum::Router {
    let gate = Arc::new(Gate::new(platform, settings));
    let answer = move |request: Request| {
        let (handler, gate) = (Arc::clone(&handler), Arc::clone(&gate));
        async move {
            let kind = request.headers().get(CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
                return tonic::Status::unimplemented("no such service here").into_http();
            }
            let answer = async |request| match gate.admit(request).await {
                Ok((service, call)) => handler.answer(service, call).await,
                Err(refused) => *refused.response,
            };
            gate.identified(request, answer).await
        }
    };
    routes.fallback(answer)
}

/// `/metrics`, `/livez` and `/readyz` of a role that serves no HTTP otherwise.
#[derive(Clone)]
pub(crate) struct Probes {
    registry: Registry,
    readiness: Readiness,
}

impl Probes {
    pub(crate) fn new(registry: Registry, readiness: Readiness) -> Self {
        Self { registry, readiness }
    }

    pub(crate) fn into_service(self) -> axum::Router {
        axum::Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn ready(State(probes): State<Probes>) -> impl IntoResponse {
    match (probes.readiness)() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&probes.registry.gather(), &mut text) {
        Ok(()) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    }
}

/// Listens for Ctrl-C and SIGTERM from now on. Once for each process, before anything is started: a signal that comes
/// while something starts must not get lost.
///
/// # Errors
/// When the system refuses the handlers.
pub(crate) fn listen_for_signals(platform: &Platform) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let asked = platform.clone();
    platform.spawn(TaskKind::Request, "signals", async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        asked.ask_to_stop();
    });
    Ok(())
}

/// Returns when the process is asked to stop, or with the reason when it cannot go on.
///
/// # Errors
/// What [`Platform::fail`] was told: whoever waits stops in order and ends with this error.
pub(crate) async fn until_told_to_stop(platform: &Platform) -> anyhow::Result<()> {
    tokio::select! {
        () = platform.stop_asked() => Ok(()),
        why = platform.failed() => Err(anyhow::anyhow!("the process cannot go on: {why}")),
    }
}
