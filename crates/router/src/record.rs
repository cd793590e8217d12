//! A record as a read returns it: taken out of its encoded row once, and judged for expiry on the way.

use std::sync::Arc;

use granary_proto::internal::RowResult;
use granary_row::{RowView, ValueRef};
use granary_types::record::RawValue;
use granary_types::ttl::expires_at;
use granary_types::{Error, EventTime, FeatureGroup, FeatureOrdinal};

/// A record that exists and has not expired.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineRecord {
    /// Its group, which names the features.
    pub group: Arc<FeatureGroup>,
    /// Values by rising ordinal, in the texts that were put. Only those that were asked for.
    pub values: Vec<(FeatureOrdinal, RawValue)>,
    /// The caller's time.
    pub event_time: EventTime,
    /// When it expires, if a time to live holds for it.
    pub expires_at: Option<EventTime>,
}

impl OnlineRecord {
    /// The features' names and values, in order of definition.
    pub fn named(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        // A feature that was added since this router's catalog has no name here yet.
        let name_of = |ordinal| self.group.schema.by_ordinal(ordinal).map(|feature| feature.name.as_str());
        self.values.iter().filter_map(move |(ordinal, value)| Some((name_of(*ordinal)?, value)))
    }

    /// The record in a row that was found; `None` when it had expired at `now_nanos` (since the Unix epoch).
    pub(crate) fn open(group: &Arc<FeatureGroup>, found: &RowResult, now_nanos: u64) -> Result<Option<Self>, Error> {
        let event_time = EventTime::from_parts(found.event_seconds, found.event_nanos)?;
        let row = RowView::open(&found.row)?;
        let expires_at = expiry_of(&row, event_time);
        if has_expired(expires_at, now_nanos) {
            return Ok(None);
        }
        let values = row.values().map(|(ordinal, value)| (ordinal, owned(&value))).collect();
        Ok(Some(Self { group: Arc::clone(group), values, event_time, expires_at }))
    }
}

/// When a record expires, if a time to live holds for it.
pub(crate) fn expiry_of(row: &RowView<'_>, event_time: EventTime) -> Option<EventTime> {
    row.ttl_seconds().map(|seconds| expires_at(event_time, seconds))
}

/// Whether a record that expires at `end` has expired at `now_nanos` (since the Unix epoch).
pub(crate) fn has_expired(end: Option<EventTime>, now_nanos: u64) -> bool {
    end.is_some_and(|end| end.nanos() <= i128::from(now_nanos))
}

fn owned(value: &ValueRef<'_>) -> RawValue {
    match value {
        ValueRef::Collection(elements) => RawValue::List(elements.clone().map(str::to_owned).collect()),
        scalar => RawValue::Text(scalar.text()),
    }
}
