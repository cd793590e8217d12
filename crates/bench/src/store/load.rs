//! Feature groups are made where they are missing, and filled.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use granary_proto::convert::{kind_of_code, kind_of_status};
use granary_proto::v1::{
    BatchWriteRecordRequest, CreateFeatureGroupRequest, DescribeFeatureGroupRequest, Feature, FeatureGroup,
    OfflineConfig, OnlineConfig, UpdateTagsRequest,
};
use granary_types::{Error, ErrorKind};
use tonic::Status;

use super::Store;
use crate::workload::{EVENT_TIME, IDENTIFIER};

/// Bytes of values in one request, some: far below what a router takes.
const BATCH_BYTES: u64 = 256 << 10;
/// Records in one request, at most; a router takes 1,000.
const BATCH_RECORDS_MAX: u64 = 500;
/// Requests under way, so that every shard has work while others answer.
const BATCHES_IN_FLIGHT: usize = 8;
/// Longer than an election with everything it entails.
const RETRY_FOR: Duration = Duration::from_secs(60);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The tag that says how many records were loaded: those of the keys below.
const LOADED: &str = "bench-loaded";

impl Store {
    /// Makes the groups that are missing. Returns how many records each one has to be loaded with to be full: the
    /// number of its entities, and how many of these an earlier run has loaded.
    ///
    /// # Errors
    /// `Invalid` where a group of the name has another shape; what the server says.
    pub async fn prepare(&self) -> Result<Vec<Filling>, Error> {
        let mut fillings = Vec::new();
        for index in 0..self.workload.groups.len() {
            let request = self.create_request(index);
            let group = match self.client().create_feature_group(request.clone()).await {
                Ok(created) => created.into_inner(),
                Err(status) if kind_of_status(&status) == ErrorKind::InUse => self.describe(&request.name).await?,
                Err(status) => return Err(error(&status)),
            };
            same_shape(&request, &group)?;
            let loaded = group.tags.get(LOADED).and_then(|count| count.parse().ok()).unwrap_or(0);
            let entities = self.workload.groups[index].entities;
            fillings.push(Filling { group: index, name: request.name, entities, loaded });
        }
        Ok(fillings)
    }

    pub(super) async fn describe(&self, name: &str) -> Result<FeatureGroup, Error> {
        let request = DescribeFeatureGroupRequest { name: name.to_owned() };
        let answer = self.client().describe_feature_group(request).await;
        Ok(answer.map_err(|status| error(&status))?.into_inner())
    }

    fn create_request(&self, index: usize) -> CreateFeatureGroupRequest {
        let feature = |(name, kind): (String, granary_proto::v1::FeatureType)| Feature {
            name,
            r#type: kind.into(),
            ..Feature::default()
        };
        CreateFeatureGroupRequest {
            name: self.group_name(index),
            features: self.workload.groups[index].features().into_iter().map(feature).collect(),
            record_identifier_feature: IDENTIFIER.to_owned(),
            event_time_feature: EVENT_TIME.to_owned(),
            online: Some(OnlineConfig::default()),
            offline: Some(OfflineConfig::default()),
            description: format!("made by granary bench {}", self.workload.id),
            ..CreateFeatureGroupRequest::default()
        }
    }

    /// Puts every record of a group from key `filling.loaded` on, and notes at the group that it has them. `progress` is
    /// told of every batch how many records it had.
    ///
    /// # Errors
    /// What the server says, once it is nothing that passes.
    pub async fn fill(&self, filling: &Filling, progress: impl Fn(u64)) -> Result<(), Error> {
        let record_bytes = self.workload.groups[filling.group].record_bytes().max(1);
        let batch = (BATCH_BYTES / record_bytes).clamp(1, BATCH_RECORDS_MAX);
        let progress = &progress;
        let batches = (filling.loaded..filling.entities).step_by(usize::try_from(batch).unwrap_or(1)).map(|first| {
            let keys = first..(first + batch).min(filling.entities);
            async move {
                let count = keys.end - keys.start;
                self.put_all(filling.group, keys).await?;
                progress(count);
                Ok::<(), Error>(())
            }
        });
        stream::iter(batches).buffer_unordered(BATCHES_IN_FLIGHT).try_collect::<Vec<()>>().await?;
        let set = HashMap::from([(LOADED.to_owned(), filling.entities.to_string())]);
        let request = UpdateTagsRequest { feature_group: filling.name.clone(), set, remove: Vec::new() };
        self.client().update_tags(request).await.map_err(|status| error(&status))?;
        Ok(())
    }

    /// Puts these records until each is acknowledged. Only what changed nothing is tried again.
    async fn put_all(&self, group: usize, keys: std::ops::Range<u64>) -> Result<(), Error> {
        let mut pending: Vec<u64> = keys.collect();
        let (give_up_at, mut backoff) = (self.platform.instant() + RETRY_FOR, BACKOFF_MIN);
        loop {
            let now = self.platform.now_nanos();
            let entries = pending.iter().map(|&key| self.put_request(group, key, 0, now)).collect();
            let answer = self.client().batch_write_record(BatchWriteRecordRequest { entries }).await;
            let error = match answer.map_err(|status| error(&status)) {
                Ok(answer) => {
                    let errors = answer.into_inner().errors;
                    pending = errors.iter().map(|error| pending[error.entry as usize]).collect();
                    let passes = |code: &str| may_retry(kind_of_code(code));
                    match errors.iter().find(|error| !passes(&error.code)).or(errors.first()) {
                        None => return Ok(()),
                        Some(error) => Error::new(kind_of_code(&error.code), error.message.clone()),
                    }
                }
                Err(error) => error,
            };
            if !may_retry(error.kind) || self.platform.instant() >= give_up_at {
                return Err(error);
            }
            self.platform.sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// A group and how full it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filling {
    /// Index of the group.
    pub group: usize,
    /// Its whole name.
    pub name: String,
    /// Records that it should have: of the keys below.
    pub entities: u64,
    /// Records that an earlier run has loaded: of the keys below.
    pub loaded: u64,
}

fn may_retry(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Overloaded | ErrorKind::Unavailable)
}

fn error(status: &Status) -> Error {
    Error::new(kind_of_status(status), status.message())
}

/// A group of the same name may be somebody else's.
fn same_shape(wanted: &CreateFeatureGroupRequest, found: &FeatureGroup) -> Result<(), Error> {
    let features = |features: &[Feature]| {
        features.iter().map(|it| (it.name.clone(), it.r#type, it.collection)).collect::<Vec<_>>()
    };
    let differs = if found.record_identifier_feature != wanted.record_identifier_feature {
        "another record identifier"
    } else if found.event_time_feature != wanted.event_time_feature {
        "another event time"
    } else if features(&found.features) != features(&wanted.features) {
        "other features"
    } else if found.online.is_none() || found.offline.is_none() {
        "not both an online and an offline store"
    } else {
        return Ok(());
    };
    let name = &wanted.name;
    Err(Error::invalid(format!(
        "there is a feature group {name:?} with {differs}: delete it, or give another --prefix"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_nothing_is_tried_again() {
        let retried: Vec<_> = ErrorKind::ALL.into_iter().filter(|&kind| may_retry(kind)).collect();
        assert_eq!(retried, [ErrorKind::Overloaded, ErrorKind::Unavailable]);
    }

    #[test]
    fn a_group_of_another_shape_is_refused_by_name() {
        let feature = |name: &str, kind: i32| Feature { name: name.to_owned(), r#type: kind, ..Feature::default() };
        let wanted = CreateFeatureGroupRequest {
            name: "bench-x".to_owned(),
            features: vec![feature("entity", 1), feature("at", 3)],
            record_identifier_feature: "entity".to_owned(),
            event_time_feature: "at".to_owned(),
            ..CreateFeatureGroupRequest::default()
        };
        let right = FeatureGroup {
            features: wanted.features.clone(),
            record_identifier_feature: "entity".to_owned(),
            event_time_feature: "at".to_owned(),
            online: Some(OnlineConfig::default()),
            offline: Some(OfflineConfig::default()),
            ..FeatureGroup::default()
        };
        assert_eq!(same_shape(&wanted, &right), Ok(()));
        let wrong = [
            FeatureGroup { record_identifier_feature: "at".to_owned(), ..right.clone() },
            FeatureGroup { event_time_feature: "entity".to_owned(), ..right.clone() },
            FeatureGroup { features: vec![feature("entity", 2), feature("at", 3)], ..right.clone() },
            FeatureGroup { features: vec![feature("entity", 1)], ..right.clone() },
            FeatureGroup { offline: None, ..right },
        ];
        for found in wrong {
            let error = same_shape(&wanted, &found).expect_err("another shape");
            assert!(error.kind == ErrorKind::Invalid && error.message.contains("bench-x"), "{error}");
        }
    }
}
