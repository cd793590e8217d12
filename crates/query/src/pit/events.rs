//! From the rows of an offline table to events: what each did to its record, and when.
//!
//! Rows of ours say so in the columns of [`provenance`]. Rows of other programs have none of them; they happened at their
//! event time feature, were stamped at their `write_time` (at the beginning of time where it is null) and are a delete
//! where `is_deleted` is true, a put otherwise.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType, UInt32Type};
use granary_types::{EventTime, FeatureType, Version, WriteStamp};

use super::{Error, provenance};

/// What an event does to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Delete,
    Reset,
}

/// The columns that place rows of other programs in time, in the order of [`names`].
const ORIGIN: [&str; 2] = ["write_time", "is_deleted"];

/// The columns that events are read from: ours, then those of other programs' rows where `event_time` names the
/// feature.
pub(crate) fn names(event_time: Option<&str>) -> Vec<&str> {
    let origin = event_time.into_iter().flat_map(|event_time| [event_time].into_iter().chain(ORIGIN));
    provenance::ALL.into_iter().chain(origin).collect()
}

/// Those columns as fields of a batch in which a feature may stand again under its own name.
pub(super) fn fields(schema: &Schema, columns: &[usize]) -> Vec<Field> {
    let of = |(place, column): (usize, &usize)| {
        Field::new(format!("event {place}"), schema.field(*column).data_type().clone(), true)
    };
    columns.iter().enumerate().map(of).collect()
}

/// The events of a batch, row by row.
#[derive(Debug)]
pub(super) struct Events {
    ours: Ours,
    others: Option<Others>,
}

#[derive(Debug)]
struct Ours {
    micros: ArrayRef,
    nanos: ArrayRef,
    stamps: Int64Array,
    operations: StringArray,
}

#[derive(Debug)]
struct Others {
    times: ArrayRef,
    written: ArrayRef,
    deleted: BooleanArray,
}

impl Events {
    /// The columns of [`names`], from place `first` of the batch on.
    pub(super) fn read(batch: &RecordBatch, first: usize, with_others: bool) -> Result<Self, Error> {
        let column = |at: usize, kind: &DataType| cast(batch.column(first + at), kind);
        let microseconds = DataType::Timestamp(TimeUnit::Microsecond, None);
        let ours = Ours {
            micros: column(0, &microseconds)?,
            nanos: column(1, &DataType::UInt32)?,
            stamps: column(2, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
            operations: column(3, &DataType::Utf8)?.as_string::<i32>().clone(),
        };
        let others = || -> Result<Others, Error> {
            // A number's text is the shortest that reads back as the same number.
            Ok(Others {
                times: ArrayRef::clone(batch.column(first + 4)),
                written: column(5, &microseconds)?,
                deleted: column(6, &DataType::Boolean)?.as_boolean().clone(),
            })
        };
        Ok(Self { ours, others: with_others.then(others).transpose()? })
    }

    /// The version and effect of a row.
    pub(super) fn event(&self, row: usize) -> Result<(Version, Operation), Error> {
        let Ours { micros, nanos, stamps, operations } = &self.ours;
        let nulls = [micros.is_null(row), nanos.is_null(row), stamps.is_null(row), operations.is_null(row)];
        match &self.others {
            Some(others) if nulls.iter().all(|null| *null) => return others.event(row),
            _ => {}
        }
        if let Some(place) = nulls.iter().position(|null| *null) {
            let name = provenance::ALL[place];
            let reason = format!("column {name:?} is null in a row, which another program may have written");
            return Err(Error::Damaged { reason });
        }
        let micros = micros.as_primitive::<TimestampMicrosecondType>().value(row);
        let event_time = event_time(micros, nanos.as_primitive::<UInt32Type>().value(row))?;
        Ok((Version { event_time, stamp: stamp(stamps.value(row))? }, operation(operations.value(row))?))
    }
}

impl Others {
    fn event(&self, row: usize) -> Result<(Version, Operation), Error> {
        let wrong = |reason: String| Error::Damaged { reason: format!("a row of another program: {reason}") };
        if self.times.is_null(row) {
            return Err(wrong("it has no event time".to_owned()));
        }
        let kind = if self.times.data_type().is_numeric() { FeatureType::Fractional } else { FeatureType::String };
        let text = cast(&self.times.slice(row, 1), &DataType::Utf8)?;
        let event_time =
            EventTime::parse(kind, text.as_string::<i32>().value(0)).map_err(|error| wrong(error.message))?;
        let written = self.written.as_primitive::<TimestampMicrosecondType>();
        let micros = if written.is_null(row) { 0 } else { written.value(row) };
        let stamp = WriteStamp(u64::try_from(micros).unwrap_or(0).saturating_mul(1_000));
        let deleted = !self.deleted.is_null(row) && self.deleted.value(row);
        Ok((Version { event_time, stamp }, if deleted { Operation::Delete } else { Operation::Put }))
    }
}

fn event_time(micros: i64, nanos: u32) -> Result<EventTime, Error> {
    if nanos > 999 {
        return Err(Error::Damaged { reason: format!("event nanoseconds below the microsecond are {nanos}") });
    }
    EventTime::from_nanos(i128::from(micros) * 1_000 + i128::from(nanos))
        .map_err(|error| Error::Damaged { reason: error.message })
}

fn stamp(value: i64) -> Result<WriteStamp, Error> {
    u64::try_from(value).map(WriteStamp).map_err(|_| Error::Damaged { reason: format!("write stamp is {value}") })
}

fn operation(text: &str) -> Result<Operation, Error> {
    match text {
        "put" => Ok(Operation::Put),
        "delete" => Ok(Operation::Delete),
        "reset" => Ok(Operation::Reset),
        other => Err(Error::Damaged { reason: format!("unknown operation {other:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, TimestampMicrosecondArray};

    use super::*;

    fn batch(times: ArrayRef, written: Vec<Option<i64>>, deleted: Vec<Option<bool>>) -> RecordBatch {
        let rows = times.len();
        let columns: Vec<(String, ArrayRef)> = [
            Arc::new(TimestampMicrosecondArray::from(vec![None; rows])) as ArrayRef,
            Arc::new(Int32Array::from(vec![None; rows])),
            Arc::new(Int64Array::from(vec![None; rows])),
            Arc::new(StringArray::from(vec![None::<&str>; rows])),
            times,
            Arc::new(TimestampMicrosecondArray::from(written)),
            Arc::new(BooleanArray::from(deleted)),
        ]
        .into_iter()
        .enumerate()
        .map(|(place, column)| (format!("event {place}"), column))
        .collect();
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .expect("a batch")
    }

    #[test]
    fn rows_of_other_programs_are_placed_by_their_own_columns() {
        let times = StringArray::from(vec!["2024-01-01T00:00:00.5Z", "2024-01-01T00:00:00Z"]);
        let batch = batch(Arc::new(times), vec![Some(7), None], vec![Some(true), None]);
        let events = Events::read(&batch, 0, true).expect("events");
        let at = |text| EventTime::parse_iso(text).expect("an instant");
        let (version, operation) = events.event(0).expect("an event");
        assert_eq!(version, Version { event_time: at("2024-01-01T00:00:00.5Z"), stamp: WriteStamp(7_000) });
        assert_eq!(operation, Operation::Delete);
        let (version, operation) = events.event(1).expect("an event");
        assert_eq!(version, Version { event_time: at("2024-01-01T00:00:00Z"), stamp: WriteStamp(0) });
        assert_eq!(operation, Operation::Put);
        let refused = Events::read(&batch, 0, false).expect("events").event(0);
        assert!(matches!(refused, Err(Error::Damaged { .. })));
    }

    #[test]
    fn their_event_times_may_be_unix_seconds_and_must_be_instants() {
        let times = Float64Array::from(vec![Some(1_700_000_000.25), None]);
        let events = Events::read(&batch(Arc::new(times), vec![None; 2], vec![None; 2]), 0, true).expect("events");
        assert_eq!(events.event(0).expect("an event").0.event_time.nanos(), 1_700_000_000_250_000_000);
        assert!(matches!(events.event(1), Err(Error::Damaged { .. })));
        let times = StringArray::from(vec!["yesterday"]);
        let events = Events::read(&batch(Arc::new(times), vec![None], vec![None]), 0, true).expect("events");
        assert!(matches!(events.event(0), Err(Error::Damaged { .. })));
    }
}
