//! Changes of feature groups, and search over them. A change is one command of the meta group; the catalog that it
//! makes is pushed to every router, and this one waits for its own before it answers.

use std::sync::Arc;

use granary_catalog::CatalogView;
use granary_catalog::search::{Found, search};
use granary_proto::convert::feature_group_from_wire;
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Reply;
use granary_proto::internal::{UpdateFeature, UpdateGroup, UpdateTags};
use granary_proto::v1;
use granary_proto::v1::update_feature_group_request::Change;
use granary_types::{Error, ErrorKind, FeatureGroup};

use crate::Router;
use crate::deadline::Deadline;
use crate::groups::{error_of, odd_reply};

impl Router {
    /// Adds features to a group, or changes its online store or its throughput. This router takes puts of the new
    /// features when it returns.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for what cannot be changed so; `LimitExceeded`; `Unavailable` or `Unknown` when the meta
    /// group did not answer.
    pub async fn update_feature_group(
        &self,
        request: v1::UpdateFeatureGroupRequest,
    ) -> Result<Arc<FeatureGroup>, Error> {
        let now_ms = self.shared.platform.now_millis();
        let added: Vec<String> = match &request.change {
            Some(Change::Additions(additions)) => additions.features.iter().map(|added| added.name.clone()).collect(),
            _ => Vec::new(),
        };
        let name = request.name.clone();
        // The features may have been added by an earlier attempt of this very call, whose answer was lost.
        let ours = move |view: &CatalogView| {
            let group = view.group(&name)?;
            let is_ours = |name: &String| group.schema.by_name(name).is_some_and(|it| it.created_at_ms == now_ms);
            (!added.is_empty() && added.iter().all(is_ours)).then(|| Arc::clone(group))
        };
        let command = Command::UpdateFeatureGroup(UpdateGroup { request: Some(request), now_ms });
        self.measured_change("update_feature_group", command, ours).await
    }

    /// Changes the description and the parameters of a feature, and returns its group.
    ///
    /// # Errors
    /// As [`Router::update_feature_group`]; `NotFound` also for the feature.
    pub async fn update_feature_metadata(
        &self,
        request: v1::UpdateFeatureMetadataRequest,
    ) -> Result<Arc<FeatureGroup>, Error> {
        let now_ms = self.shared.platform.now_millis();
        let command = Command::UpdateFeature(UpdateFeature { request: Some(request), now_ms });
        self.measured_change("update_feature_metadata", command, |_| None).await
    }

    /// Sets and removes tags of a group.
    ///
    /// # Errors
    /// As [`Router::update_feature_group`].
    pub async fn update_tags(&self, request: v1::UpdateTagsRequest) -> Result<Arc<FeatureGroup>, Error> {
        let command = Command::UpdateTags(UpdateTags { request: Some(request) });
        self.measured_change("update_tags", command, |_| None).await
    }

    /// Searches feature groups or features in the catalog as this router knows it.
    ///
    /// # Errors
    /// `Invalid` for a search that is wrong; `Overloaded`; `Unavailable` before there is a catalog.
    pub async fn search(&self, request: v1::SearchRequest) -> Result<Found, Error> {
        let began = self.shared.platform.instant();
        let result = self.search_unmeasured(request).await;
        self.shared.metrics.ended("search", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn search_unmeasured(&self, request: v1::SearchRequest) -> Result<Found, Error> {
        let admitted = self.shared.admit()?;
        self.ready()?;
        let view = self.shared.view();
        let settings = &self.shared.settings;
        let arn_prefix = format!("arn:aws:sagemaker:{}:{}:feature-group/", settings.region, settings.account_id);
        // A pass over a catalog of many features takes long enough to hold up what is served beside it.
        let found = self.shared.platform.blocking(move || {
            // Its place is taken until it is done, also when nobody waits for it any more.
            let _admitted = admitted;
            search(&view, &arn_prefix, &request)
        });
        let found = found.await;
        found.map_err(|error| Error::new(ErrorKind::Internal, format!("search: {error}")))?
    }

    /// `ours` finds, after a refusal, what an earlier attempt of the same call did.
    async fn measured_change(
        &self,
        operation: &str,
        command: Command,
        ours: impl Fn(&CatalogView) -> Option<Arc<FeatureGroup>>,
    ) -> Result<Arc<FeatureGroup>, Error> {
        let began = self.shared.platform.instant();
        // Boxed: the command travels in it, and callers should not carry its size.
        let result = Box::pin(self.change(command, ours)).await;
        self.shared.metrics.ended(operation, began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn change(
        &self,
        command: Command,
        ours: impl Fn(&CatalogView) -> Option<Arc<FeatureGroup>>,
    ) -> Result<Arc<FeatureGroup>, Error> {
        let _admitted = self.shared.admit()?;
        let deadline = Deadline::begin(&self.shared.platform, &self.shared.settings, None);
        let proposed = self.propose(command, deadline).await?;
        let is_refused = matches!(proposed.reply, Reply::Error(_));
        if !is_refused || proposed.is_retry {
            self.catalog_shows(|view| view.version >= proposed.version).await;
        }
        match proposed.reply {
            Reply::FeatureGroup(group) => Ok(Arc::new(feature_group_from_wire(&group)?)),
            Reply::Error(error) => {
                let done = proposed.is_retry.then(|| ours(&self.shared.view())).flatten();
                done.ok_or_else(|| error_of(error))
            }
            Reply::Node(_) | Reply::Done(_) => Err(odd_reply()),
        }
    }
}
