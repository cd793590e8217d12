//! The right side of the join: one feature group's events, indexed by record and time.

use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{BatchCoalescer, filter_record_batch, interleave, is_not_null};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use arrow::row::{Row, RowConverter, SortField};
use granary_types::invariants::{Invariant, check};
use granary_types::{EventTime, Version, supersedes};

use super::events::{self, Events, Operation};
use super::fold::Fold;
use super::keys::Keys;
use super::spine::{Spine, column_index};
use super::{Error, JoinSpec};

/// Rows of the history that are kept together; small enough that a batch of wide records stays in megabytes.
const KEPT_BATCH_ROWS: usize = 8_192;
/// PIT-2 is checked against at most this many visible events of the record, so that debug builds stay usable.
const CHECKED_EVENTS_MAX: usize = 64;
/// In the index: no version wins.
const NO_WINNER: u32 = u32::MAX;

/// One row of the offline table without its features.
#[derive(Debug, Clone, Copy)]
struct Event {
    version: Version,
    key: u32,
    /// Where its features are.
    batch: u32,
    row: u32,
    operation: Operation,
}

impl Event {
    /// The first cut-off that sees the event.
    fn visible_at(&self, only_written_by_cut_off: bool) -> EventTime {
        if only_written_by_cut_off {
            let written = EventTime::from_nanos(i128::from(self.version.stamp.0)).expect("u64 nanoseconds end in 2554");
            self.version.event_time.max(written)
        } else {
            self.version.event_time
        }
    }
}

/// Takes in a feature group's history and keeps what the spine can see.
#[derive(Debug)]
pub struct HistoryBuilder {
    spec: JoinSpec,
    keys: Keys,
    /// For each batch of the spine, for each row.
    spine_keys: Vec<Vec<Option<u32>>>,
    fields: Vec<Arc<Field>>,
    kept: BatchCoalescer,
    /// Features of the kept rows, batch after batch.
    features: Vec<Vec<ArrayRef>>,
    events: Vec<Event>,
    bytes: usize,
}

impl HistoryBuilder {
    /// A history of batches of `schema`, which holds at least the identifier, the features of `spec` and the
    /// columns of [`super::provenance`].
    ///
    /// # Errors
    /// `MissingColumn`, `AmbiguousColumn`, `KeyType`.
    pub fn new(spine: &Spine, spec: JoinSpec, schema: &Schema) -> Result<Self, Error> {
        let field_of =
            |name: &str| column_index("the feature group's history", schema, name).map(|index| schema.field(index));
        let mut keys = Keys::new(field_of(&spec.identifier)?.data_type())?;
        let (key_name, key_columns) = spine.column(&spec.key_column)?;
        let spine_keys =
            key_columns.into_iter().map(|column| keys.number(&key_name, column)).collect::<Result<Vec<_>, _>>()?;

        let placing = events::names(spec.event_time.as_deref());
        let places = placing
            .iter()
            .map(|name| column_index("the feature group's history", schema, name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut kept = vec![Arc::new(Field::new("key", DataType::UInt32, true))];
        kept.extend(events::fields(schema, &places).into_iter().map(Arc::new));
        let mut fields = Vec::with_capacity(spec.features.len());
        for feature in &spec.features {
            let kind = field_of(&feature.feature)?.data_type().clone();
            kept.push(Arc::new(Field::new(&feature.feature, kind.clone(), true)));
            fields.push(Arc::new(Field::new(&feature.output, kind, true)));
        }
        let kept = BatchCoalescer::new(Arc::new(Schema::new(kept)), KEPT_BATCH_ROWS);
        let features = vec![Vec::new(); fields.len()];
        Ok(Self { spec, keys, spine_keys, fields, kept, features, events: Vec::new(), bytes: 0 })
    }

    /// Takes in a batch, in any order, and keeps the rows of the spine's keys.
    ///
    /// # Errors
    /// `MissingColumn`, `Damaged`, `TooManyEvents`.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let column = |name: &str| {
            column_index("the feature group's history", batch.schema_ref(), name)
                .map(|index| ArrayRef::clone(batch.column(index)))
        };
        let numbers = self.keys.find(&column(&self.spec.identifier)?)?;
        if numbers.null_count() == numbers.len() {
            return Ok(());
        }
        let named = is_not_null(&numbers)?;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(numbers)];
        let features = self.spec.features.iter().map(|feature| feature.feature.as_str());
        for name in events::names(self.spec.event_time.as_deref()).into_iter().chain(features) {
            columns.push(column(name)?);
        }
        let wide = RecordBatch::try_new(self.kept.schema(), columns)?;
        self.kept.push_batch(filter_record_batch(&wide, &named)?)?;
        self.index_completed()
    }

    /// What is held in memory, including what [`Self::finish`] will add.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.keys.memory_bytes() + self.events.len() * (size_of::<Event>() + size_of::<u32>())
    }

    /// Sorts the events by record and time and finds the winner after each.
    ///
    /// # Errors
    /// `Damaged`, `TooManyEvents`.
    pub fn finish(mut self) -> Result<History, Error> {
        self.kept.finish_buffered_batch()?;
        self.index_completed()?;
        let only_written = self.spec.only_written_by_cut_off;
        let mut events = self.events;
        events.sort_unstable_by_key(|event| (event.key, event.visible_at(only_written), event.version));
        order_equals(&mut events, &self.features)?;
        let records = record_ranges(&events, self.keys.count());
        let winners = winners(&events, &records);
        for (column, field) in self.features.iter_mut().zip(&self.fields) {
            // What absent rows take.
            column.push(new_null_array(field.data_type(), 1));
        }
        Ok(History {
            look_back_nanos: self.spec.look_back_seconds.map(|seconds| i128::from(seconds) * 1_000_000_000),
            only_written,
            spine_keys: self.spine_keys,
            fields: self.fields,
            features: self.features,
            events,
            records,
            winners,
        })
    }

    fn index_completed(&mut self) -> Result<(), Error> {
        while let Some(batch) = self.kept.next_completed_batch() {
            let index = u32::try_from(self.features.first().map_or(0, Vec::len)).map_err(|_| Error::TooManyEvents)?;
            read_events(&batch, index, self.spec.event_time.is_some(), &mut self.events)?;
            let leading = batch.num_columns() - self.features.len();
            for (column, feature) in self.features.iter_mut().zip(&batch.columns()[leading..]) {
                self.bytes += feature.get_array_memory_size();
                column.push(ArrayRef::clone(feature));
            }
        }
        if self.events.len() >= NO_WINNER as usize { Err(Error::TooManyEvents) } else { Ok(()) }
    }
}

/// Reads the key numbers and events of a kept batch.
fn read_events(batch: &RecordBatch, index: u32, with_others: bool, events: &mut Vec<Event>) -> Result<(), Error> {
    let keys = batch.column(0).as_primitive::<UInt32Type>();
    let read = Events::read(batch, 1, with_others)?;
    events.reserve(batch.num_rows());
    for row in 0..batch.num_rows() {
        let (version, operation) = read.event(row)?;
        events.push(Event {
            version,
            key: keys.value(row),
            batch: index,
            row: u32::try_from(row).map_err(|_| Error::TooManyEvents)?,
            operation,
        });
    }
    Ok(())
}

/// Puts events of one version in an order that does not depend on the order of arrival. Granary makes no such events; rows
/// of other programs may say the same times. A delete comes first, and so stays; of puts the one with the lesser features.
fn order_equals(events: &mut [Event], features: &[Vec<ArrayRef>]) -> Result<(), Error> {
    for equals in events.chunk_by_mut(|one, other| (one.key, one.version) == (other.key, other.version)) {
        if equals.len() < 2 {
            continue;
        }
        let places: Vec<(usize, usize)> =
            equals.iter().map(|event| (event.batch as usize, event.row as usize)).collect();
        let mut values = Vec::with_capacity(features.len());
        for column in features {
            let arrays: Vec<&dyn Array> = column.iter().map(AsRef::as_ref).collect();
            values.push(interleave(&arrays, &places)?);
        }
        let fields = values.iter().map(|values| SortField::new(values.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&values)?;
        let mut order: Vec<(bool, Row<'_>, Event)> = Vec::with_capacity(equals.len());
        order.extend(equals.iter().zip(&rows).map(|(event, row)| (event.operation == Operation::Put, row, *event)));
        order.sort_unstable_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        for (place, (.., event)) in equals.iter_mut().zip(order) {
            *place = event;
        }
    }
    Ok(())
}

/// Where each key's events begin, and after the last key where they end.
fn record_ranges(events: &[Event], keys: usize) -> Vec<u32> {
    let mut starts = vec![0_u32; keys + 1];
    for event in events {
        starts[event.key as usize + 1] += 1;
    }
    for index in 1..starts.len() {
        starts[index] += starts[index - 1];
    }
    starts
}

/// For each event, the winner among it and the events of its record before it.
fn winners(events: &[Event], records: &[u32]) -> Vec<u32> {
    let mut winners = Vec::with_capacity(events.len());
    let mut fold = Fold::default();
    for bounds in records.windows(2) {
        fold.clear();
        for index in bounds[0]..bounds[1] {
            let event = &events[index as usize];
            match event.operation {
                Operation::Put | Operation::Delete => fold.write(event.version, index),
                Operation::Reset => fold.reset(event.version.stamp),
            }
            winners.push(fold.winner().unwrap_or(NO_WINNER));
        }
    }
    winners
}

/// One feature group's events that a spine can see, ready to be asked.
#[derive(Debug)]
pub struct History {
    look_back_nanos: Option<i128>,
    only_written: bool,
    spine_keys: Vec<Vec<Option<u32>>>,
    fields: Vec<Arc<Field>>,
    /// For each feature its kept batches and, last, one null.
    features: Vec<Vec<ArrayRef>>,
    /// By key, then by when they become visible.
    events: Vec<Event>,
    records: Vec<u32>,
    winners: Vec<u32>,
}

impl History {
    /// The output columns.
    pub fn fields(&self) -> &[Arc<Field>] {
        &self.fields
    }

    /// The output schema of this side alone.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.clone()))
    }

    /// How many events are held.
    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// The features of `cut_offs.len()` rows of the spine's batch `batch` from row `offset` on.
    pub(super) fn as_of(
        &self,
        batch: usize,
        offset: usize,
        cut_offs: &[Option<EventTime>],
    ) -> Result<Vec<ArrayRef>, Error> {
        let keys = &self.spine_keys[batch][offset..offset + cut_offs.len()];
        let found: Vec<Option<&Event>> =
            keys.iter().zip(cut_offs).map(|(key, cut_off)| self.lookup((*key)?, (*cut_off)?)).collect();
        let take = |column: &Vec<ArrayRef>| {
            let arrays: Vec<&dyn Array> = column.iter().map(AsRef::as_ref).collect();
            let absent = (column.len() - 1, 0);
            let places: Vec<(usize, usize)> = found
                .iter()
                .map(|event| event.map_or(absent, |event| (event.batch as usize, event.row as usize)))
                .collect();
            interleave(&arrays, &places).map_err(Error::from)
        };
        self.features.iter().map(take).collect()
    }

    /// The record's newest put as of `cut_off`, if the record exists then.
    fn lookup(&self, key: u32, cut_off: EventTime) -> Option<&Event> {
        let record = self.records[key as usize] as usize..self.records[key as usize + 1] as usize;
        let events = &self.events[record.clone()];
        let visible = events.partition_point(|event| event.visible_at(self.only_written) <= cut_off);
        let winner = self.winners[record.clone()][..visible].last().filter(|winner| **winner != NO_WINNER);
        let winner = winner.map(|winner| &self.events[*winner as usize]);
        self.check(winner, cut_off, record.start..record.start + visible);
        let winner = winner.filter(|event| event.operation == Operation::Put)?;
        let age = cut_off.nanos() - winner.version.event_time.nanos();
        if self.look_back_nanos.is_some_and(|look_back| age > look_back) {
            return None;
        }
        Some(winner)
    }

    /// PIT-1 always, PIT-2 in debug builds over the newest of the visible events.
    fn check(&self, winner: Option<&Event>, cut_off: EventTime, visible: Range<usize>) {
        if let Some(winner) = winner {
            check(Invariant::NothingAfterCutOff, winner.visible_at(self.only_written) <= cut_off, || {
                format!("version {:?} was joined as of {cut_off}", winner.version)
            });
        }
        if !cfg!(debug_assertions) {
            return;
        }
        let events = &self.events[visible];
        let reset = events.iter().filter(|event| event.operation == Operation::Reset);
        let reset = reset.map(|event| event.version.stamp).max();
        for event in events.iter().rev().take(CHECKED_EVENTS_MAX) {
            let counts = event.operation != Operation::Reset && reset.is_none_or(|reset| event.version.stamp > reset);
            let beaten = winner.is_some_and(|winner| !supersedes(&event.version, &winner.version));
            check(Invariant::NothingNewerLeftOut, !counts || beaten, || {
                format!("version {:?} was left out as of {cut_off}", event.version)
            });
        }
    }
}
