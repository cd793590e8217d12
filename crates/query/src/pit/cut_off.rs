//! Cut-offs: a column of timestamps, texts or numbers as instants.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use granary_types::EventTime;

use super::Error;

/// How a column's values say instants.
#[derive(Clone, Copy)]
enum Form {
    Timestamp(TimeUnit),
    Text,
    Seconds,
    FractionalSeconds,
}

fn form_of(data_type: &DataType) -> Option<Form> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(Form::Timestamp(*unit)),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Form::Text),
        DataType::Dictionary(_, values) => form_of(values),
        kind if kind.is_integer() => Some(Form::Seconds),
        // An untyped null is a column without any cut-off.
        DataType::Null => Some(Form::Seconds),
        DataType::Float32 | DataType::Float64 => Some(Form::FractionalSeconds),
        _ => None,
    }
}

/// Refuses a column that cannot hold cut-offs.
pub(super) fn check_type(column: &str, data_type: &DataType) -> Result<(), Error> {
    form_of(data_type)
        .map(|_| ())
        .ok_or_else(|| Error::CutOffType { column: column.to_owned(), data_type: data_type.to_string() })
}

/// The instants of a column; `None` where it is null, NaN or before the first instant an event may have.
pub(super) fn read(column: &str, array: &ArrayRef) -> Result<Vec<Option<EventTime>>, Error> {
    check_type(column, array.data_type())?;
    let value_error = |reason: String| Error::CutOffValue { column: column.to_owned(), reason };
    match form_of(array.data_type()) {
        Some(Form::Timestamp(unit)) => {
            let ticks = match array.data_type() {
                DataType::Dictionary(_, values) => cast(array, values)?,
                _ => ArrayRef::clone(array),
            };
            let nanos_per_tick = nanos_per_tick(unit);
            let ticks = timestamp_ticks(&ticks, unit);
            Ok(ticks.into_iter().map(|tick| clamp(i128::from(tick?) * nanos_per_tick)).collect())
        }
        Some(Form::Text) => {
            let texts = cast(array, &DataType::Utf8)?;
            let parse = |text: &str| EventTime::parse_iso(text).map_err(|error| value_error(error.message));
            texts.as_string::<i32>().iter().map(|text| text.map(parse).transpose()).collect()
        }
        Some(Form::FractionalSeconds) => {
            let seconds = cast(array, &DataType::Float64)?;
            let parse = |value: f64| fractional(value).map_err(value_error);
            let values = seconds.as_primitive::<Float64Type>().iter();
            values.map(|value| value.map(parse).transpose().map(Option::flatten)).collect()
        }
        Some(Form::Seconds) | None => {
            let seconds = cast(array, &DataType::Int64)?;
            let values = seconds.as_primitive::<Int64Type>().iter();
            Ok(values.map(|value| clamp(i128::from(value?) * 1_000_000_000)).collect())
        }
    }
}

/// A double stands for the shortest decimal that reads back as it: `1700000000.123` as a double lies a little
/// before or after that instant, and a record put at it must be found.
fn fractional(value: f64) -> Result<Option<EventTime>, String> {
    if value.is_nan() {
        return Ok(None);
    }
    if value > EventTime::MAX.seconds() as f64 {
        return Ok(Some(EventTime::MAX));
    }
    if value < EventTime::MIN.seconds() as f64 {
        return Ok(None);
    }
    EventTime::parse_seconds(&value.to_string()).map(Some).map_err(|error| error.message)
}

/// Past the last instant an event may have is as good as the last; before the first, there is nothing to see.
fn clamp(nanos: i128) -> Option<EventTime> {
    if nanos > EventTime::MAX.nanos() { Some(EventTime::MAX) } else { EventTime::from_nanos(nanos).ok() }
}

fn nanos_per_tick(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn timestamp_ticks(array: &ArrayRef, unit: TimeUnit) -> Vec<Option<i64>> {
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().iter().collect(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().iter().collect(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().iter().collect(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Float64Array, Int64Array, StringArray, StringViewArray, TimestampMillisecondArray,
        TimestampNanosecondArray,
    };

    use super::*;

    fn at(text: &str) -> Option<EventTime> {
        Some(EventTime::parse_iso(text).expect("a test's instant"))
    }

    fn read_all(array: impl Array + 'static) -> Vec<Option<EventTime>> {
        read("c", &(Arc::new(array) as ArrayRef)).expect("cut-offs")
    }

    #[test]
    fn every_form_says_the_same_instant() {
        let want = vec![at("2023-11-14T22:13:20.123Z"), None];
        let text = "2023-11-14T22:13:20.123Z";
        assert_eq!(read_all(StringArray::from(vec![Some(text), None])), want);
        assert_eq!(read_all(StringViewArray::from(vec![Some(text), None])), want);
        assert_eq!(read_all(Float64Array::from(vec![Some(1_700_000_000.123), None])), want);
        assert_eq!(read_all(Float64Array::from(vec![Some(1_700_000_000.123), Some(f64::NAN)])), want);
        assert_eq!(read_all(TimestampMillisecondArray::from(vec![Some(1_700_000_000_123), None])), want);
        let zoned = TimestampNanosecondArray::from(vec![Some(1_700_000_000_123_000_000), None]);
        assert_eq!(read_all(zoned.with_timezone("+02:00")), want);
        let whole = vec![at("2023-11-14T22:13:20Z"), None];
        assert_eq!(read_all(Int64Array::from(vec![Some(1_700_000_000), None])), whole);
    }

    #[test]
    fn keeps_nanoseconds() {
        let want = vec![at("2023-11-14T22:13:20.000000001Z")];
        assert_eq!(read_all(TimestampNanosecondArray::from(vec![1_700_000_000_000_000_001])), want);
        assert_eq!(read_all(StringArray::from(vec!["2023-11-14T22:13:20.000000001Z"])), want);
    }

    #[test]
    fn out_of_range_sees_all_or_nothing() {
        assert_eq!(read_all(Int64Array::from(vec![i64::MAX, i64::MIN])), vec![Some(EventTime::MAX), None]);
        let infinite = Float64Array::from(vec![f64::INFINITY, f64::NEG_INFINITY]);
        assert_eq!(read_all(infinite), vec![Some(EventTime::MAX), None]);
    }

    #[test]
    fn refuses_what_is_no_instant() {
        let texts = Arc::new(StringArray::from(vec!["yesterday"])) as ArrayRef;
        assert!(matches!(read("c", &texts), Err(Error::CutOffValue { .. })));
        let flags = Arc::new(BooleanArray::from(vec![true])) as ArrayRef;
        assert!(matches!(read("c", &flags), Err(Error::CutOffType { .. })));
    }
}
