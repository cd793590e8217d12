//! `GetFeatures`: the request as a command of the router, its columns as messages.

use std::collections::HashMap;
use std::time::Duration;

use granary_proto::convert::kind_code;
use granary_proto::v1;
use granary_proto::v1::feature_column::Values as WireValues;
use granary_proto::v1::lists::Elements as WireElements;
use granary_router::{Column, EntityStatus, FeatureColumns, FeaturesCommand, Selection, Texts, Values};
use granary_types::{Error, FeatureGroup};

use super::messages;

pub(super) fn command(request: v1::GetFeaturesRequest, timeout: Option<Duration>) -> Result<FeaturesCommand, Error> {
    let consistency = messages::consistency(request.consistency.as_ref())?;
    let mut place_of = HashMap::with_capacity(request.keys.len());
    for (place, keys) in request.keys.iter().enumerate() {
        if place_of.insert(keys.name.clone(), place).is_some() {
            return Err(Error::invalid(format!("two lists of keys are called {:?}", keys.name)));
        }
    }
    let only = (request.keys.len() == 1).then_some(0);
    let selection = |selection: v1::FeatureSelection| {
        let named = place_of.get(&selection.keys).copied().or(only.filter(|_| selection.keys.is_empty()));
        let keys = named.ok_or_else(|| {
            Error::invalid(format!(
                "no list of keys is called {:?}, which feature group {:?} takes",
                selection.keys, selection.feature_group
            ))
        })?;
        Ok(Selection { group: selection.feature_group, features: selection.feature_names, keys })
    };
    let selections = request.selections.into_iter().map(selection).collect::<Result<_, Error>>()?;
    let keys = request.keys.into_iter().map(|keys| keys.record_identifiers).collect();
    Ok(FeaturesCommand { keys, selections, consistency, timeout })
}

/// The columns of every selection. When nothing at all could be read for the moment, the call fails as a whole.
pub(super) fn answer(selections: Vec<FeatureColumns>) -> Result<v1::GetFeaturesResponse, Error> {
    let mut failures = selections.iter().flat_map(|read| read.failures.iter().map(|(_, error)| error));
    let asked: usize = selections.iter().map(|read| read.statuses.len()).sum();
    let failed = selections.iter().map(|read| read.failures.len()).sum::<usize>();
    if failed == asked
        && let Some(first) = failures.next()
        && messages::is_passing(first.kind)
        && failures.all(|error| messages::is_passing(error.kind))
    {
        return Err(first.clone());
    }
    Ok(v1::GetFeaturesResponse { selections: selections.into_iter().map(selection).collect() })
}

fn selection(read: FeatureColumns) -> v1::FeatureColumns {
    let FeatureColumns { group, statuses, event_times, columns, failures } = read;
    let seconds = event_times.iter().map(|time| time.map_or(0, |time| time.seconds()));
    let nanos = event_times.iter().map(|time| time.map_or(0, |time| time.subsec_nanos()));
    let all_whole = nanos.clone().all(|nanos| nanos == 0);
    v1::FeatureColumns {
        feature_group: group.name.clone(),
        statuses: statuses.into_iter().map(|status| wire_status(status).into()).collect(),
        event_seconds: seconds.collect(),
        event_nanos: if all_whole { Vec::new() } else { nanos.collect() },
        columns: columns.into_iter().map(|read| column(&group, read)).collect(),
        failures: failures.into_iter().map(|(entity, error)| failure(entity, error)).collect(),
    }
}

fn wire_status(status: EntityStatus) -> v1::EntityStatus {
    match status {
        EntityStatus::Found => v1::EntityStatus::Found,
        EntityStatus::NotFound => v1::EntityStatus::NotFound,
        EntityStatus::Expired => v1::EntityStatus::Expired,
        EntityStatus::Failed => v1::EntityStatus::Failed,
    }
}

fn failure(entity: usize, error: Error) -> v1::EntityFailure {
    let entity = u32::try_from(entity).expect("a read takes fewer entities");
    v1::EntityFailure { entity, code: kind_code(error.kind).to_owned(), message: error.message }
}

fn column(group: &FeatureGroup, read: Column) -> v1::FeatureColumn {
    let name = group.schema.by_ordinal(read.feature).map(|feature| feature.name.clone());
    let values = match read.values {
        Values::Doubles(values) => WireValues::Doubles(v1::Doubles { values }),
        Values::Integers(values) => WireValues::Integers(v1::Integers { values }),
        Values::Texts(texts) => WireValues::Texts(wire_texts(texts)),
        Values::Lists(counts, elements) => WireValues::Lists(v1::Lists { counts, elements: wire_elements(*elements) }),
    };
    v1::FeatureColumn { name: name.unwrap_or_default(), present: read.present.into_bits().into(), values: Some(values) }
}

fn wire_elements(elements: Values) -> Option<WireElements> {
    match elements {
        Values::Doubles(values) => Some(WireElements::Doubles(v1::Doubles { values })),
        Values::Integers(values) => Some(WireElements::Integers(v1::Integers { values })),
        Values::Texts(texts) => Some(WireElements::Texts(wire_texts(texts))),
        // Collections hold scalars.
        Values::Lists(..) => None,
    }
}

fn wire_texts(texts: Texts) -> v1::Texts {
    v1::Texts { data: texts.data, lengths: texts.lengths }
}
