//! Which feature groups there are.

use std::sync::Arc;

use granary_proto::convert::{feature_group_from_wire, feature_group_to_wire};
use granary_proto::internal::{CreateGroup, DeleteGroup};
use granary_proto::v1;
use granary_types::{Error, ErrorKind, FeatureGroup, FeatureGroupId, FeatureGroupStatus, OfflineConfig};
use prost::Message;

use crate::{CatalogState, offline};

/// The most bytes that feature groups may take in the catalog, which goes whole into one message to every router:
/// half of what a message may have.
pub const CATALOG_BYTES_MAX: usize = granary_proto::MESSAGE_LEN_MAX / 2;

impl CatalogState {
    /// Creates a feature group under a fresh id.
    pub(super) fn create_group(&mut self, command: &CreateGroup) -> Result<Arc<FeatureGroup>, Error> {
        let group = Arc::new(new_group(self.next_feature_group, command)?);
        if self.names.contains_key(&group.name) {
            return Err(Error::new(
                ErrorKind::InUse,
                format!(
                    "Resource Already Exists: FeatureGroup with name {} already exists. Choose a different name.",
                    group.name
                ),
            ));
        }
        self.check_place_is_free(&group, command)?;
        self.check_group_count(command.feature_groups_max)?;
        self.check_room(message_len(&group))?;
        let next = self.next_feature_group.checked_add(1);
        self.next_feature_group =
            next.ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "feature group ids are used up"))?;
        self.names.insert(group.name.clone(), group.id);
        self.keep_group(group.clone());
        Ok(group)
    }

    /// Marks a feature group deleted and frees its name. Its spec stays, found by id.
    pub(super) fn delete_group(&mut self, command: &DeleteGroup) -> Result<(), Error> {
        let mut group = FeatureGroup::clone(self.live_group(&command.name)?);
        self.names.remove(&command.name);
        group.status = FeatureGroupStatus::Deleted;
        group.updated_at_ms = command.now_ms;
        self.keep_group(Arc::new(group));
        Ok(())
    }

    /// The group called `name`, unless it is deleted.
    pub(super) fn live_group(&self, name: &str) -> Result<&Arc<FeatureGroup>, Error> {
        self.names.get(name).map(|id| &self.groups[id]).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("Resource Not Found: Amazon SageMaker can't find a FeatureGroup with name {name}"),
            )
        })
    }

    /// Puts a changed group in the place of what it was, if the catalog has room for what it grew by.
    pub(super) fn change_group(&mut self, group: FeatureGroup) -> Result<Arc<FeatureGroup>, Error> {
        let before = self.groups.get(&group.id).map_or(0, |before| message_len(before));
        self.check_room(message_len(&group).saturating_sub(before))?;
        let group = Arc::new(group);
        self.keep_group(Arc::clone(&group));
        Ok(group)
    }

    fn check_group_count(&self, most: u32) -> Result<(), Error> {
        if most > 0 && self.names.len() >= most as usize {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("Resource Limit Exceeded: there are {} feature groups, and may be {most}", self.names.len()),
            ));
        }
        Ok(())
    }

    fn check_room(&self, bytes: usize) -> Result<(), Error> {
        if self.groups_bytes + bytes > CATALOG_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the catalog is full used={} needed={bytes} limit={CATALOG_BYTES_MAX}", self.groups_bytes),
            ));
        }
        Ok(())
    }

    /// Puts a group in, instead of the one with its id if there is one.
    pub(super) fn keep_group(&mut self, group: Arc<FeatureGroup>) {
        self.groups_bytes += message_len(&group);
        if let Some(before) = self.groups.insert(group.id, group) {
            self.groups_bytes -= message_len(&before);
        }
    }

    /// Two groups never share a directory of the offline store, nor a table that was named for them: both names hold
    /// the second of creation only, so that a group which is deleted and created again within it would write into
    /// its predecessor's table.
    fn check_place_is_free(&self, group: &FeatureGroup, command: &CreateGroup) -> Result<(), Error> {
        let Some(place) = &group.offline else { return Ok(()) };
        let named_by_caller =
            command.request.as_ref().and_then(|request| request.offline.as_ref()?.data_catalog.as_ref());
        for other in self.groups.values() {
            let Some(taken) = &other.offline else { continue };
            let same_table = tables_meet(place, taken);
            if place.resolved_uri == taken.resolved_uri || (same_table && named_by_caller.is_none()) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "offline location is taken by feature group {:?} of the same second, try again",
                        other.name
                    ),
                ));
            }
            let alive = other.status == FeatureGroupStatus::Created;
            if same_table && alive && !place.disable_glue_table_creation {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!("data catalog table belongs to feature group {:?}", other.name),
                ));
            }
        }
        Ok(())
    }
}

/// Whether two groups are described as the same table, as SQL clients see it: without regard to case.
fn tables_meet(one: &OfflineConfig, other: &OfflineConfig) -> bool {
    match (&one.data_catalog, &other.data_catalog) {
        (Some(one), Some(other)) => {
            one.table.eq_ignore_ascii_case(&other.table)
                && one.database.eq_ignore_ascii_case(&other.database)
                && one.catalog.eq_ignore_ascii_case(&other.catalog)
        }
        _ => false,
    }
}

/// The group that a command describes, checked as every group is.
fn new_group(id: u32, command: &CreateGroup) -> Result<FeatureGroup, Error> {
    let request = command.request.clone().ok_or_else(|| Error::invalid("a feature group needs a description"))?;
    let offline = request.offline.map(|offline| v1::OfflineConfig {
        resolved_uri: command.resolved_uri.clone(),
        data_catalog: command.data_catalog.clone(),
        ..offline
    });
    if let Some(offline) = &offline {
        offline::check_uri("resolved output", &offline.resolved_uri)?;
    }
    feature_group_from_wire(&v1::FeatureGroup {
        id,
        name: request.name,
        features: request.features.into_iter().map(undated).collect(),
        record_identifier_feature: request.record_identifier_feature,
        event_time_feature: request.event_time_feature,
        online: request.online,
        offline,
        throughput: request.throughput,
        role_arn: request.role_arn,
        description: request.description,
        tags: request.tags,
        created_at_ms: command.now_ms,
        updated_at_ms: command.now_ms,
        schema_version: 1,
        status: v1::FeatureGroupStatus::Created.into(),
    })
}

/// Checks what a new group must keep to, before its creation is proposed. Not in apply: there a rule is part of the
/// history for ever, and these may change.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn check_new(command: &CreateGroup) -> Result<(), Error> {
    new_group(0, command)?.check_new()
}

/// A definition without the times that only answers have: a feature is as old as the change that brought it.
pub(super) fn undated(feature: v1::Feature) -> v1::Feature {
    v1::Feature { created_at_ms: 0, updated_at_ms: 0, ..feature }
}

fn message_len(group: &FeatureGroup) -> usize {
    feature_group_to_wire(group).encoded_len()
}

/// The id of a group and of its name, as an index holds them.
pub(super) fn live_name(group: &FeatureGroup) -> Option<(String, FeatureGroupId)> {
    (group.status == FeatureGroupStatus::Created).then(|| (group.name.clone(), group.id))
}
