//! Features of many entities by column: the read that feeds a model.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use granary_proto::internal::RowResult;
use granary_proto::internal::row_result::Status;
use granary_row::RowView;
use granary_types::{Error, EventTime, FeatureGroup, FeatureOrdinal};

use crate::columns::{Column, Columns};
use crate::read::{Asked, Entry, Outcome, Reading, checked_entry};
use crate::record::{expiry_of, has_expired};
use crate::{Consistency, Router};

/// A read of features by column.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeaturesCommand {
    /// Lists of record identifiers. A list that several selections name is hashed once.
    pub keys: Vec<Vec<String>>,
    /// What to read of which.
    pub selections: Vec<Selection>,
    /// What the reads are promised; each key on its own.
    pub consistency: Consistency,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

/// Features of one group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The group's name.
    pub group: String,
    /// Each at most once. Empty asks for all features.
    pub features: Vec<String>,
    /// Index of the entities in [`FeaturesCommand::keys`].
    pub keys: usize,
}

/// What became of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntityStatus {
    /// It has a record.
    Found,
    /// No record was ever put, or it is deleted.
    NotFound,
    /// Its time to live has passed.
    Expired,
    /// It could not be read.
    Failed,
}

/// What was read of one selection; lists are in the order of the entities.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureColumns {
    /// Its group, which names the features.
    pub group: Arc<FeatureGroup>,
    /// What became of each entity.
    pub statuses: Vec<EntityStatus>,
    /// The event time of each record; `None` for an entity that was not found.
    pub event_times: Vec<Option<EventTime>>,
    /// One for each feature, in the order in which they were asked for.
    pub columns: Vec<Column>,
    /// Why entities failed, with their indexes.
    pub failures: Vec<(usize, Error)>,
}

impl Router {
    /// Reads features of many entities, one request to each shard touched. Each entity succeeds or fails on its own, and those of
    /// one call are not one snapshot. The answers are in the order of the selections.
    ///
    /// # Errors
    /// `Invalid` for no entities or too many, an unknown feature, one that is named twice, a group without online store; `NotFound` for
    /// an unknown group; `Overloaded`.
    pub async fn get_features(&self, command: FeaturesCommand) -> Result<Vec<FeatureColumns>, Error> {
        let began = self.shared.platform.instant();
        let result = self.read_features(command).await;
        self.shared.metrics.ended("get_features", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn read_features(&self, command: FeaturesCommand) -> Result<Vec<FeatureColumns>, Error> {
        let _admitted = self.shared.admit()?;
        let FeaturesCommand { keys, selections, consistency, timeout } = command;
        let named = selections.iter().map(|selection| keys.get(selection.keys).map_or(0, Vec::len));
        self.check_keys(named.sum())?;
        let mut reading = Reading::new(self, consistency);
        let keys: Vec<Vec<_>> = keys.iter().map(|list| list.iter().map(|text| Asked::of(text)).collect()).collect();
        let mut gathering = Vec::with_capacity(selections.len());
        for (number, selection) in selections.iter().enumerate() {
            let group = self.group(&selection.group)?;
            let (entry, ordinals) = checked_selection(group, &selection.features)?;
            let list =
                keys.get(selection.keys).ok_or_else(|| Error::invalid("a selection names keys that are not there"))?;
            gathering.push(Gathering::new(Arc::clone(&entry.group), &ordinals, list.len()));
            reading.add_entry(number, entry);
            for (place, asked) in list.iter().enumerate() {
                reading.add(number, place, asked.clone());
            }
        }
        reading.run(self, timeout).await;
        let now_nanos = self.shared.platform.now_nanos();
        for (number, entity, outcome) in reading.outcomes() {
            gathering[number].add(entity, outcome, now_nanos);
        }
        Ok(gathering.into_iter().map(Gathering::into_columns).collect())
    }
}

/// What the shards are asked for, and the features in the order of the columns.
fn checked_selection(group: Arc<FeatureGroup>, features: &[String]) -> Result<(Entry, Vec<FeatureOrdinal>), Error> {
    let mut seen = HashSet::with_capacity(features.len());
    if let Some(twice) = features.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(Error::invalid(format!("feature {twice:?} is named twice")));
    }
    let entry = checked_entry(group, features)?;
    let ordinals = match &entry.projection {
        None => entry.group.schema.features().iter().map(|feature| feature.ordinal).collect(),
        Some(_) => {
            let by_name = |name: &String| entry.group.schema.by_name(name).map(|feature| feature.ordinal);
            features.iter().filter_map(by_name).collect()
        }
    };
    Ok((entry, ordinals))
}

/// The answers of one selection, as they are gathered in the order of its entities.
struct Gathering {
    group: Arc<FeatureGroup>,
    statuses: Vec<EntityStatus>,
    event_times: Vec<Option<EventTime>>,
    columns: Columns,
    failures: Vec<(usize, Error)>,
}

impl Gathering {
    fn new(group: Arc<FeatureGroup>, ordinals: &[FeatureOrdinal], count: usize) -> Self {
        Self {
            columns: Columns::new(&group.schema, ordinals, count),
            group,
            statuses: Vec::with_capacity(count),
            event_times: Vec::with_capacity(count),
            failures: Vec::new(),
        }
    }

    fn add(&mut self, entity: usize, outcome: Outcome, now_nanos: u64) {
        let judged = outcome.and_then(|row| self.judge(&row, now_nanos));
        let (status, event_time) = judged.unwrap_or_else(|error| {
            self.failures.push((entity, error));
            (EntityStatus::Failed, None)
        });
        self.statuses.push(status);
        self.event_times.push(event_time);
        self.columns.end_entity();
    }

    /// Takes the values of a record that exists and has not expired at `now_nanos` (since the Unix epoch).
    fn judge(&mut self, found: &RowResult, now_nanos: u64) -> Result<(EntityStatus, Option<EventTime>), Error> {
        if found.status() != Status::Found {
            return Ok((EntityStatus::NotFound, None));
        }
        let event_time = EventTime::from_parts(found.event_seconds, found.event_nanos)?;
        let row = RowView::open(&found.row)?;
        if has_expired(expiry_of(&row, event_time), now_nanos) {
            return Ok((EntityStatus::Expired, None));
        }
        self.columns.push(&row)?;
        Ok((EntityStatus::Found, Some(event_time)))
    }

    fn into_columns(self) -> FeatureColumns {
        let Self { group, statuses, event_times, columns, failures } = self;
        FeatureColumns { group, statuses, event_times, columns: columns.into_columns(), failures }
    }
}
