//! Feature groups: created and deleted by the meta group, described from the catalog as this router knows it. What
//! changes them is in [`crate::changes`].

use std::sync::Arc;
use std::time::Duration;

use granary_catalog::{CatalogView, OfflineDefaults, check_new, resolve_offline};
use granary_proto::convert::{feature_group_from_wire, features_from_wire, kind_of_code};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Reply;
use granary_proto::internal::{CreateGroup, DeleteGroup, MetaCommand, MetaError, MetaReply, ProposeRequest};
use granary_proto::v1::CreateFeatureGroupRequest;
use granary_types::{Error, ErrorKind, FeatureGroup};

use crate::Router;
use crate::deadline::{Backoff, Deadline};
use crate::failure::Failure;

/// How often a creation is tried in another second. Each try fails only if one more group took the name that second.
const CREATIONS_MAX: u32 = 5;

/// What the meta group answered, and whether it was asked before: an earlier attempt may have been applied too.
pub(crate) struct Proposed {
    pub(crate) reply: Reply,
    /// The catalog's version after it.
    pub(crate) version: u64,
    pub(crate) is_retry: bool,
}

impl Router {
    /// Creates a feature group and returns it once this router's own catalog shows it, so that a put that follows
    /// finds it.
    ///
    /// # Errors
    /// `Invalid` for a group that breaks a rule; `InUse` when the name is taken; `LimitExceeded` when there are as many
    /// groups as may be; `Unavailable` or `Unknown` when the meta group did not answer.
    pub async fn create_feature_group(&self, request: CreateFeatureGroupRequest) -> Result<Arc<FeatureGroup>, Error> {
        let began = self.shared.platform.instant();
        // Boxed: the command travels in it, and callers should not carry its size.
        let result = Box::pin(self.create_unmeasured(request)).await;
        self.shared.metrics.ended("create_feature_group", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn create_unmeasured(&self, request: CreateFeatureGroupRequest) -> Result<Arc<FeatureGroup>, Error> {
        let _admitted = self.shared.admit()?;
        let platform = &self.shared.platform;
        let deadline = Deadline::begin(platform, &self.shared.settings, None);
        for _ in 0..CREATIONS_MAX {
            let now_ms = platform.now_millis();
            if let Some(group) = self.create_at(now_ms, request.clone(), deadline).await? {
                return Ok(group);
            }
            // Locations and tables are named by the second of creation, and another group has this one's.
            platform.sleep(Duration::from_millis(1_000 - now_ms % 1_000)).await;
        }
        Err(Error::new(ErrorKind::Unavailable, "groups of almost the same name are being created, try again"))
    }

    /// Creates the group as of `now_ms`; `None` when its location is taken in this second.
    async fn create_at(
        &self,
        now_ms: u64,
        request: CreateFeatureGroupRequest,
        deadline: Deadline,
    ) -> Result<Option<Arc<FeatureGroup>>, Error> {
        let settings = &self.shared.settings;
        let name = request.name.clone();
        for feature in features_from_wire(0, &request.features)? {
            feature.check_described()?;
        }
        let mut create = CreateGroup {
            request: Some(request),
            now_ms,
            feature_groups_max: settings.feature_groups_max,
            ..CreateGroup::default()
        };
        let defaults = OfflineDefaults {
            account: settings.account_id.clone(),
            region: settings.region.clone(),
            s3_uri: settings.default_s3_uri.clone(),
        };
        resolve_offline(&mut create, &defaults)?;
        check_new(&create)?;
        let proposed = self.propose(Command::CreateFeatureGroup(create), deadline).await?;
        match proposed.reply {
            Reply::FeatureGroup(group) => {
                let group = Arc::new(feature_group_from_wire(&group)?);
                self.catalog_shows(|view| view.group_by_id(group.id).is_some()).await;
                Ok(Some(group))
            }
            // The name may be taken by an earlier attempt of this very call, whose answer was lost.
            Reply::Error(error) if proposed.is_retry && kind_of_code(&error.kind) == ErrorKind::InUse => {
                let ours =
                    |view: &CatalogView| view.group(&name).filter(|group| group.created_at_ms == now_ms).cloned();
                self.catalog_shows(|view| ours(view).is_some()).await;
                ours(&self.shared.view()).map(Some).ok_or_else(|| error_of(error))
            }
            Reply::Error(error) if kind_of_code(&error.kind) == ErrorKind::Unavailable => Ok(None),
            Reply::Error(error) => Err(error_of(error)),
            Reply::Node(_) | Reply::Done(_) => Err(odd_reply()),
        }
    }

    /// Deletes a feature group: its records are unreadable when this returns; the history stays.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` or `Unknown` when the meta group did not answer.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let began = self.shared.platform.instant();
        let result = self.delete_group_unmeasured(name).await;
        self.shared.metrics.ended("delete_feature_group", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn delete_group_unmeasured(&self, name: &str) -> Result<(), Error> {
        let _admitted = self.shared.admit()?;
        let deadline = Deadline::begin(&self.shared.platform, &self.shared.settings, None);
        let group = self.shared.view().group(name).cloned();
        let before = group.as_ref().map(|group| group.id);
        // A clock that went back must not take a change back.
        let now_ms = self.shared.platform.now_millis().max(group.map_or(0, |group| group.updated_at_ms + 1));
        let delete = DeleteGroup { name: name.to_owned(), now_ms };
        let proposed = self.propose(Command::DeleteFeatureGroup(delete), deadline).await?;
        match proposed.reply {
            Reply::Error(error) => {
                let is_gone = kind_of_code(&error.kind) == ErrorKind::NotFound;
                let by_this_call = proposed.is_retry && before.is_some();
                if !(is_gone && by_this_call) {
                    return Err(error_of(error));
                }
            }
            Reply::Done(_) | Reply::FeatureGroup(_) => {}
            Reply::Node(_) => return Err(odd_reply()),
        }
        self.catalog_shows(|view| view.group(name).is_none_or(|group| Some(group.id) != before)).await;
        Ok(())
    }

    /// The feature group called `name`, as this router's catalog knows it.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` before there is a catalog.
    pub fn describe(&self, name: &str) -> Result<Arc<FeatureGroup>, Error> {
        self.group(name)
    }

    /// The feature groups that are not deleted, by rising name.
    ///
    /// # Errors
    /// `Unavailable` before there is a catalog.
    pub fn list(&self) -> Result<Vec<Arc<FeatureGroup>>, Error> {
        let view = self.shared.view();
        if view.version == 0 {
            return Err(no_catalog());
        }
        Ok(view.groups().cloned().collect())
    }

    pub(crate) fn group(&self, name: &str) -> Result<Arc<FeatureGroup>, Error> {
        let view = self.shared.view();
        view.group(name).cloned().ok_or_else(|| {
            if view.version == 0 {
                return no_catalog();
            }
            Error::new(
                ErrorKind::NotFound,
                format!("Resource Not Found: Amazon SageMaker can't find a FeatureGroup with name {name}"),
            )
        })
    }

    /// Has the meta group run a command, by way of any node.
    pub(crate) async fn propose(&self, command: Command, deadline: Deadline) -> Result<Proposed, Error> {
        let request = ProposeRequest { command: Some(MetaCommand { command: Some(command) }) };
        let (platform, settings) = (&self.shared.platform, &self.shared.settings);
        let mut backoff = Backoff::new();
        let mut may_have_run = false;
        let mut is_retry = false;
        let mut last = no_catalog();
        loop {
            let view = self.shared.view();
            for node in view.nodes() {
                let Some(time) = deadline.remaining(platform, settings.attempt_timeout) else { break };
                let mut client = self.shared.nodes.meta(&node.address)?;
                let failure = match tokio::time::timeout(time, client.propose(request.clone())).await {
                    Ok(Ok(response)) => match response.into_inner().reply {
                        Some(MetaReply { version, result: Some(reply) }) => {
                            return Ok(Proposed { reply, version, is_retry });
                        }
                        Some(MetaReply { result: None, .. }) | None => Failure::Lost(odd_reply()),
                    },
                    Ok(Err(status)) => Failure::from(status),
                    Err(_) => Failure::Lost(Error::new(ErrorKind::Unknown, "the node did not answer in time")),
                };
                self.shared.metrics.failed_attempts.with_label_values(&[failure.reason()]).inc();
                may_have_run |= matches!(failure, Failure::Lost(_));
                is_retry = true;
                let ends = failure.is_final();
                last = failure.into_error();
                if ends {
                    return Err(last);
                }
            }
            let Some(pause) = backoff.next(platform, settings, deadline) else {
                let kind = if may_have_run { ErrorKind::Unknown } else { last.kind };
                return Err(Error::new(kind, format!("the meta group did not answer: {}", last.message)));
            };
            self.shared.metrics.retries.with_label_values(&["propose", "refused"]).inc();
            platform.sleep(pause).await;
        }
    }

    /// Waits a while for the own catalog; what was committed stays so when it is late.
    pub(crate) async fn catalog_shows(&self, predicate: impl FnMut(&CatalogView) -> bool) {
        let mut catalog = self.shared.catalog.clone();
        let waited = granary_catalog::watch::wait_for(&mut catalog, predicate, self.shared.settings.catalog_wait).await;
        if let Err(error) = waited {
            tracing::warn!(%error, "the router's catalog does not show a change that was committed");
        }
    }
}

pub(crate) fn error_of(error: MetaError) -> Error {
    Error::new(kind_of_code(&error.kind), error.message)
}

pub(crate) fn odd_reply() -> Error {
    Error::new(ErrorKind::Internal, "the meta group's reply does not fit the command")
}

fn no_catalog() -> Error {
    Error::new(ErrorKind::Unavailable, "the router has not received the catalog yet")
}
