//! The roles of a process and how they are wired: each in its own file, put together only here.
//!
//! | role | serves | needs |
//! |---|---|---|
//! | `node` | the peer port: Raft, shards, change log, meta group | a disk, the seeds |
//! | `router` | the public API on one port | the seeds |
//! | `compactor` | metrics | the seeds, the object store |
//! | `query` | SQL, joins, Athena, Glue and S3 on one port | the seeds, the object store |
//! | `dev` | all of it in one process | a disk |

pub(crate) mod dev;
mod http;
mod parts;
pub(crate) mod ports;

use std::sync::Arc;

use anyhow::Context;
use granary_compactor::Compactor;
use granary_lake::Lake;
use granary_offline_store::Warehouse;
use granary_platform::Platform;
use granary_proto::v1::query_server::QueryServer;
use granary_query::QueryService;

use crate::config::Config;
use crate::telemetry;
use parts::Parts;
use ports::{Probes, bind, serve, until_told_to_stop};

/// Hosts replicas until told to stop.
pub(crate) async fn node(config: Config, platform: Platform) -> anyhow::Result<()> {
    let registry = telemetry::registry(&platform)?;
    let listener = bind(&config.node.listen).await?;
    let advertise = match &config.cluster.advertise {
        Some(advertise) => advertise.clone(),
        None => listener.local_addr()?.to_string(),
    };
    let probes = bind(&config.metrics.listen).await?;
    let parts = Parts::new(&config, &platform);
    let settings = parts.node(config.node.data_dir.clone(), advertise.clone(), config.cluster.seeds.clone());
    tracing::info!(advertise, data_dir = %config.node.data_dir.display(), "node starts");
    // The node has no place until enough seeds answer: being told to stop must not wait for that.
    let node = tokio::select! {
        node = granary_node::Node::start(settings, &platform, listener, &registry) => Arc::new(node?),
        told = until_told_to_stop(&platform) => return told,
    };
    let asked = Arc::clone(&node);
    let ready = Arc::new(move || if asked.is_ready() { Ok(()) } else { Err("replicas have no leader yet".to_owned()) });
    let server = serve(&platform, probes, Probes::new(registry, ready).into_service());
    let told = until_told_to_stop(&platform).await;
    node.hand_over().await;
    node.stop().await;
    platform.begin_shutdown();
    server.await.context("serve probes")?;
    told
}

/// Serves the public API until told to stop.
pub(crate) async fn router(config: Config, platform: Platform) -> anyhow::Result<()> {
    let registry = telemetry::registry(&platform)?;
    let listener = bind(&config.router.listen).await?;
    let parts = Parts::new(&config, &platform);
    let catalog = granary_catalog::watch::follow(&platform, config.cluster.seeds.clone());
    let router = granary_router::Router::new(platform.clone(), catalog, parts.router(), &registry);
    let ready = router.clone();
    let readiness = Arc::new(move || ready.ready().map_err(|error| error.to_string()));
    let api = granary_api::Api::new(router, parts.api()?, registry, readiness).into_service().await?;
    tracing::info!(listen = %listener.local_addr()?, "router serves");
    let server = serve(&platform, listener, api);
    let told = until_told_to_stop(&platform).await;
    platform.begin_shutdown();
    server.await.context("serve the public API")?;
    told
}

/// The offline store as compactors see it.
pub(crate) async fn warehouse(config: &Config, platform: &Platform) -> anyhow::Result<Arc<Warehouse>> {
    Parts::new(config, platform).warehouse(&config.node.data_dir).await
}

/// Moves the change log into the offline store until told to stop.
pub(crate) async fn compactor(config: Config, platform: Platform) -> anyhow::Result<()> {
    let registry = telemetry::registry(&platform)?;
    let probes = bind(&config.metrics.listen).await?;
    let parts = Parts::new(&config, &platform);
    let warehouse = parts.warehouse(&config.node.data_dir).await?;
    let catalog = granary_catalog::watch::follow(&platform, config.cluster.seeds.clone());
    let compactor = Compactor::new(platform.clone(), catalog, warehouse, parts.compactor(), &registry)?;
    let server = serve(&platform, probes, Probes::new(registry, Arc::new(|| Ok(()))).into_service());
    tracing::info!("compactor runs");
    let stop = platform.clone();
    let (told, ()) = tokio::join!(
        async move {
            let told = until_told_to_stop(&stop).await;
            stop.begin_shutdown();
            told
        },
        compactor.run(),
    );
    server.await.context("serve probes")?;
    told
}

/// Serves SQL and point-in-time joins until told to stop.
pub(crate) async fn query(config: Config, platform: Platform) -> anyhow::Result<()> {
    let registry = telemetry::registry(&platform)?;
    let (listener, probes) = (bind(&config.query.listen).await?, bind(&config.metrics.listen).await?);
    let parts = Parts::new(&config, &platform);
    let warehouse = parts.warehouse(&config.node.data_dir).await?;
    let catalog = granary_catalog::watch::follow(&platform, config.cluster.seeds.clone());
    let runtime = parts::query_runtime()?;
    let settings = parts.query(Some(runtime.handle().clone()));
    let seen = catalog.clone();
    let service = QueryService::new(platform.clone(), catalog, Arc::clone(&warehouse), settings, &registry)?;
    let lake = parts.lake(&warehouse, false);
    let lake = Lake::new(platform.clone(), service.clone(), warehouse, lake)?;
    let service = Arc::new(service);
    let readiness = Arc::new(move || {
        if seen.borrow().version > 0 { Ok(()) } else { Err("the catalog has not been received yet".to_owned()) }
    });
    let probes = serve(&platform, probes, Probes::new(registry, readiness).into_service());
    let routes = http::routes(&service);
    let grpc = ports::grpc_service(QueryServer::from_arc(service)).await?.merge(routes);
    let port = ports::with_aws(grpc, lake, &parts.api()?, &platform);
    tracing::info!(listen = %listener.local_addr()?, "query service serves");
    let server = serve(&platform, listener, port);
    let told = until_told_to_stop(&platform).await;
    platform.begin_shutdown();
    server.await.context("serve queries")?;
    probes.await.context("serve probes")?;
    runtime.shutdown_background();
    told
}
