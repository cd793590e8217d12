//! Changes of feature groups: more features, other settings, other words about a feature.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use granary_proto::convert::{features_from_wire, ttl_from_wire};
use granary_proto::internal::{UpdateFeature, UpdateGroup};
use granary_proto::v1;
use granary_proto::v1::update_feature_group_request::Change;
use granary_types::feature_group::{ADDITION_COUNT_MAX, PARAMETER_COUNT_MAX};
use granary_types::{Error, ErrorKind, Feature, FeatureGroup, OnlineConfig, ThroughputConfig};

use super::feature_groups::undated;
use crate::CatalogState;

const STANDARD: &str = "Standard";
const STANDARD_V2: &str = "Standard_V2";
const IN_MEMORY: &str = "InMemory";
const ON_DEMAND: &str = "OnDemand";
const PROVISIONED: &str = "Provisioned";

impl CatalogState {
    /// Adds features, or changes the online store's settings or the throughput. Times rise with every update, whatever
    /// the proposers' clocks say.
    pub(super) fn update_group(&mut self, command: &UpdateGroup) -> Result<Arc<FeatureGroup>, Error> {
        let request = command.request.as_ref().ok_or_else(|| Error::invalid("an update needs a feature group"))?;
        let mut group = FeatureGroup::clone(self.live_group(&request.name)?);
        match &request.change {
            None => return Err(Error::invalid("an update changes features, the online store or the throughput")),
            Some(Change::Additions(additions)) => add_features(&mut group, &additions.features, command.now_ms)?,
            Some(Change::Online(online)) => change_online(&mut group, online)?,
            Some(Change::Throughput(asked)) => group.throughput = Some(changed_throughput(&group, asked)?),
        }
        group.updated_at_ms = command.now_ms.max(group.updated_at_ms + 1);
        self.change_group(group)
    }

    /// Changes the description and the parameters of a feature.
    pub(super) fn update_feature(&mut self, command: &UpdateFeature) -> Result<Arc<FeatureGroup>, Error> {
        let request = command.request.as_ref().ok_or_else(|| Error::invalid("an update needs a feature"))?;
        let mut group = FeatureGroup::clone(self.live_group(&request.feature_group)?);
        let found = group.schema.by_name(&request.feature).ok_or_else(|| {
            let (name, group) = (&request.feature, &group.name);
            Error::new(
                ErrorKind::NotFound,
                format!("Resource Not Found: FeatureGroup {group} has no feature with name {name}"),
            )
        })?;
        let mut feature = found.clone();
        describe(&mut feature, request)?;
        feature.updated_at_ms = command.now_ms.max(feature.updated_at_ms + 1);
        group.schema = group.schema.with_described(feature)?;
        self.change_group(group)
    }
}

fn add_features(group: &mut FeatureGroup, added: &[v1::Feature], now_ms: u64) -> Result<(), Error> {
    if added.is_empty() || added.len() > ADDITION_COUNT_MAX {
        return Err(Error::invalid(format!("an update adds 1 to {ADDITION_COUNT_MAX} features, got {}", added.len())));
    }
    for feature in added {
        let taken = group.schema.features().iter().find(|known| known.name.eq_ignore_ascii_case(&feature.name));
        if let Some(taken) = taken {
            return Err(Error::invalid(format!(
                "feature {:?} is defined already: a feature is never removed, renamed or retyped",
                taken.name
            )));
        }
    }
    let undated: Vec<v1::Feature> = added.iter().cloned().map(undated).collect();
    let mut features = features_from_wire(group.schema.features().len(), &undated)?;
    // 0 stands for features of catalogs from before they had times.
    let now_ms = now_ms.max(1);
    for feature in &mut features {
        feature.check_described()?;
        (feature.created_at_ms, feature.updated_at_ms) = (now_ms, now_ms);
    }
    group.schema = group.schema.with_added(features)?;
    Ok(())
}

fn change_online(group: &mut FeatureGroup, asked: &v1::OnlineChange) -> Result<(), Error> {
    if asked.ttl.is_none() && asked.storage_type.is_empty() {
        return Err(Error::invalid("a change of the online store changes its time to live or its storage type"));
    }
    let name = &group.name;
    let online = group.online.as_mut();
    let online = online.ok_or_else(|| Error::invalid(format!("feature group {name:?} has no online store")))?;
    if let Some(change) = &asked.ttl {
        online.ttl = change.ttl.as_ref().map(ttl_from_wire).transpose()?;
    }
    if !asked.storage_type.is_empty() {
        change_storage(online, &asked.storage_type)?;
    }
    Ok(())
}

/// One way only. To ask for what the group has changes nothing, so that a retry does not fail.
fn change_storage(online: &mut OnlineConfig, asked: &str) -> Result<(), Error> {
    let present = online.storage_type.as_deref().unwrap_or(STANDARD);
    if present == asked {
        return Ok(());
    }
    if (present, asked) != (STANDARD, STANDARD_V2) {
        return Err(Error::invalid(format!(
            "the storage type changes from {STANDARD} to {STANDARD_V2} only, not from {present} to {asked}"
        )));
    }
    online.storage_type = Some(asked.to_owned());
    Ok(())
}

/// What the group has, with what was asked for over it.
fn changed_throughput(group: &FeatureGroup, asked: &v1::Throughput) -> Result<ThroughputConfig, Error> {
    if asked.mode.is_empty() && asked.read_units.is_none() && asked.write_units.is_none() {
        return Err(Error::invalid("a change of the throughput changes its mode or its units"));
    }
    let present = group.throughput.as_ref();
    let mode = match asked.mode.as_str() {
        "" => present.map_or(ON_DEMAND, |present| present.mode.as_str()),
        mode @ (ON_DEMAND | PROVISIONED) => mode,
        other => {
            return Err(Error::invalid(format!("a throughput mode is {ON_DEMAND} or {PROVISIONED}, got {other:?}")));
        }
    };
    if mode == ON_DEMAND {
        if asked.read_units.is_some() || asked.write_units.is_some() {
            return Err(Error::invalid(format!("throughput mode {ON_DEMAND} takes no capacity units")));
        }
        return Ok(ThroughputConfig { mode: mode.to_owned(), read_units: None, write_units: None });
    }
    let storage = group.online.as_ref().and_then(|online| online.storage_type.as_deref());
    if storage == Some(IN_MEMORY) {
        return Err(Error::invalid(format!("storage type {IN_MEMORY} takes throughput mode {ON_DEMAND} only")));
    }
    let read_units = asked.read_units.or(present.and_then(|present| present.read_units));
    let write_units = asked.write_units.or(present.and_then(|present| present.write_units));
    if read_units.is_none() || write_units.is_none() {
        return Err(Error::invalid(format!("throughput mode {PROVISIONED} needs read and write capacity units")));
    }
    Ok(ThroughputConfig { mode: mode.to_owned(), read_units, write_units })
}

fn describe(feature: &mut Feature, request: &v1::UpdateFeatureMetadataRequest) -> Result<(), Error> {
    if request.description.is_none() && request.set_parameters.is_empty() && request.remove_parameters.is_empty() {
        return Err(Error::invalid("an update of a feature changes its description or its parameters"));
    }
    if let Some(text) = &request.description {
        feature.description = (!text.is_empty()).then(|| text.clone());
    }
    let (set, remove) = (&request.set_parameters, &request.remove_parameters);
    change_entries("parameter", &mut feature.parameters, set, remove, PARAMETER_COUNT_MAX)?;
    feature.check_described()
}

/// Takes entries out and puts entries in, of which there may be `most`. Taking out one that is not there changes
/// nothing, so that a retry does not fail.
pub(super) fn change_entries(
    what: &str,
    entries: &mut BTreeMap<String, String>,
    set: &HashMap<String, String>,
    remove: &[String],
    most: usize,
) -> Result<(), Error> {
    if set.len() > most || remove.len() > most {
        return Err(Error::invalid(format!("a change sets and removes at most {most} {what}s")));
    }
    let before = entries.len();
    for key in remove {
        if set.contains_key(key) {
            return Err(Error::invalid(format!("{what} {key:?} is both set and removed")));
        }
        entries.remove(key);
    }
    entries.extend(set.clone());
    // A group may have been made with more, and may then lose some.
    if entries.len() > most.max(before) {
        let message = format!("Resource Limit Exceeded: there would be {} {what}s, and may be {most}", entries.len());
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    Ok(())
}
