//! AWS's services around the offline store: Athena, Glue, S3, and the little of STS, IAM and Lake Formation that
//! clients call before them (contract 5.3, 5.4).
//!
//! * `athena` runs SQL and keeps what ran; the SQL itself is `granary_query::trino`'s.
//! * `glue` is the data catalog: feature groups as tables, and the databases and tables that users make.
//! * `s3` serves the warehouse's own objects, so that a laptop needs no S3.
//!
//! What outlives a process is small JSON objects under [`Warehouse::private`], so that any process with this warehouse
//! answers for all of them; `docs/formats/lake.md` describes them. Calls come from the edge with their signature
//! checked.

mod athena;
mod documents;
mod glue;
mod identity;
mod json;
mod place;
mod s3;
mod settings;
mod xml;

use std::sync::Arc;

use axum::body::Body;
use futures::FutureExt;
use futures::future::BoxFuture;
use granary_api::aws::{AwsService, Call, Service};
use granary_offline_store::Warehouse;
use granary_platform::Platform;
use granary_query::QueryService;
use http::Response;

use athena::Athena;
use documents::Documents;
use glue::Glue;
use place::Places;
use s3::S3;
pub use settings::Settings;

/// The services that are answered here.
pub const SERVICES: [Service; 6] =
    [Service::Athena, Service::Glue, Service::S3, Service::Sts, Service::Iam, Service::LakeFormation];

/// AWS's services over one warehouse.
#[derive(Debug)]
pub struct Lake {
    athena: Athena,
    glue: Glue,
    s3: S3,
    settings: Settings,
}

impl Lake {
    /// Services over `warehouse`, whose queries `query` runs.
    ///
    /// # Errors
    /// When the warehouse's root cannot hold their objects.
    pub fn new(
        platform: Platform,
        query: QueryService,
        warehouse: Arc<Warehouse>,
        settings: Settings,
    ) -> Result<Arc<Self>, granary_offline_store::Error> {
        let documents = Documents::new(warehouse.object_store(), warehouse.private()?);
        let places = Arc::new(Places::new(warehouse)?);
        let glue = Glue::new(platform.clone(), documents.clone(), query.clone(), Arc::clone(&places));
        let s3 = S3::new(platform.clone(), documents.clone(), query.clone(), Arc::clone(&places), settings.clone());
        let athena = Athena::new(platform, documents, query, places, glue.clone(), settings.clone());
        Ok(Arc::new(Self { athena, glue, s3, settings }))
    }
}

impl AwsService for Lake {
    fn answer(&self, service: Service, call: Call) -> BoxFuture<'_, Response<Body>> {
        async move {
            match service {
                Service::Athena => self.athena.answer(&call).await,
                Service::Glue => self.glue.answer(&call).await,
                Service::S3 => self.s3.answer(call).await,
                Service::Sts => identity::sts(&call, &self.settings),
                Service::Iam => identity::iam(&call, &self.settings),
                _ => identity::unsupported(service, &call),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use granary_catalog::CatalogView;
    use granary_offline_store::Options;
    use object_store::memory::InMemory;

    use super::*;

    /// The services over memory that is a warehouse at `root`, without feature groups.
    pub(crate) async fn lake(root: &str) -> Arc<Lake> {
        let root = root.parse().expect("a URL");
        let warehouse = Warehouse::over(Arc::new(InMemory::new()), root, Options::default()).await;
        let warehouse = Arc::new(warehouse.expect("a warehouse"));
        let (_, catalog) = tokio::sync::watch::channel(Arc::new(CatalogView::empty()));
        let platform = Platform::system();
        let settings = granary_query::Settings::default();
        let query = QueryService::new(platform.clone(), catalog, Arc::clone(&warehouse), settings, &Default::default());
        let settings = Settings { output_location: Some("s3://results/".to_owned()), ..Settings::default() };
        Lake::new(platform, query.expect("a service"), warehouse, settings).expect("a lake")
    }
}
