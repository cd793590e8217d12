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
