//! Trino's functions that DataFusion lacks or gives another meaning.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::{Datelike, Months, NaiveDateTime, TimeDelta, Timelike};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::instants::{instant, micros, of_mysql, of_teradata, parse_iso, parse_with};
use super::json;

/// A timestamp without a zone, which Trino calls `timestamp`. Trino keeps milliseconds; the offline store's times are
/// finer, and stay so.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// `timestamp with time zone`. The session's zone, and every other, is UTC.
pub(super) fn timestamp_utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The literal `timestamp '…'`, and a CSV field of that type.
pub(super) const TIMESTAMP_LITERAL: &str = "granary_timestamp";

/// A field of a text file without quotes, as its reader brings it, with its null's text and its escape character: what it
/// means.
pub(super) const FIELD: &str = "granary_field";

/// What a function makes of its arguments' types.
type TypeOf = fn(&[DataType]) -> DataType;
/// What it makes of its arguments, which have one length.
type Run = fn(&[ArrayRef]) -> Result<ArrayRef>;

/// One function of rows.
struct Function {
    name: &'static str,
    signature: Signature,
    type_of: TypeOf,
    run: Run,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok((self.type_of)(arguments))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let array = (self.run)(&arrays)?;
        if scalar {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        } else {
            Ok(ColumnarValue::Array(array))
        }
    }
}

/// Every function of this module.
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let one = |name, counts: &[usize], type_of: TypeOf, run: Run| {
        let counts = counts.iter().map(|count| TypeSignature::Any(*count)).collect();
        let signature = Signature::one_of(counts, Volatility::Immutable);
        Arc::new(ScalarUDF::from(Function { name, signature, type_of, run }))
    };
    vec![
        one(TIMESTAMP_LITERAL, &[1], |_| timestamp(), literal),
        one(FIELD, &[3], |_| DataType::Utf8, field),
        one("from_iso8601_timestamp", &[1], |_| timestamp_utc(), |a| utc(from_iso(&a[0], true)?)),
        one("from_iso8601_timestamp_nanos", &[1], |_| timestamp_utc(), |a| utc(from_iso(&a[0], false)?)),
        one("from_iso8601_date", &[1], |_| DataType::Date32, |a| Ok(cast(&from_iso(&a[0], true)?, &DataType::Date32)?)),
        one("from_unixtime", &[1], |_| timestamp_utc(), |a| utc(from_unixtime(&a[0])?)),
        one("to_unixtime", &[1], |_| DataType::Float64, to_unixtime),
        one("to_iso8601", &[1], |_| DataType::Utf8, to_iso),
        one("to_timestamp", &[2], |_| timestamp(), |a| parsed(a, of_teradata, "to_timestamp")),
        one(
            "to_date",
            &[2],
            |_| DataType::Date32,
            |a| Ok(cast(&parsed(a, of_teradata, "to_date")?, &DataType::Date32)?),
        ),
        one("to_char", &[2], |_| DataType::Utf8, |a| formatted(a, of_teradata, "to_char")),
        one("date_parse", &[2], |_| timestamp(), |a| parsed(a, of_mysql, "date_parse")),
        one("date_format", &[2], |_| DataType::Utf8, |a| formatted(a, of_mysql, "date_format")),
        one("date_diff", &[3], |_| DataType::Int64, date_diff),
        one("date_add", &[3], |types| added_type(&types[2]), date_add),
        one("year", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.year()))),
        one("quarter", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.month0() / 3 + 1))),
        one("month", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.month()))),
        one("week", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.iso_week().week()))),
        one("week_of_year", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.iso_week().week()))),
        one("day", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.day()))),
        one("day_of_month", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.day()))),
        one("day_of_week", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.weekday().number_from_monday()))),
        one("day_of_year", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.ordinal()))),
        one("hour", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.hour()))),
        one("minute", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.minute()))),
        one("second", &[1], |_| DataType::Int64, |a| part(&a[0], |t| i64::from(t.second()))),
        one("json_extract_scalar", &[2], |_| DataType::Utf8, json_extract_scalar),
        one("is_nan", &[1], |_| DataType::Boolean, |a| about(&a[0], f64::is_nan)),
        one("is_finite", &[1], |_| DataType::Boolean, |a| about(&a[0], f64::is_finite)),
        one("is_infinite", &[1], |_| DataType::Boolean, |a| about(&a[0], f64::is_infinite)),
    ]
}

fn wrong(message: String) -> DataFusionError {
    DataFusionError::Execution(message)
}

fn texts(array: &ArrayRef) -> Result<StringArray> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Instants of timestamps of any kind, dates and texts.
fn instants(array: &ArrayRef) -> Result<Vec<Option<NaiveDateTime>>> {
    let array = if matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        literal(std::slice::from_ref(array))?
    } else {
        cast(&cast(array, &zoned(array.data_type()))?, &timestamp())?
    };
    Ok(array.as_primitive::<TimestampMicrosecondType>().iter().map(|micros| micros.and_then(instant)).collect())
}

/// The type of microseconds with the zone that `kind` has: so a cast keeps the instant.
fn zoned(kind: &DataType) -> DataType {
    match kind {
        DataType::Timestamp(_, Some(_)) => timestamp_utc(),
        _ => timestamp(),
    }
}

fn timestamps(values: impl Iterator<Item = Result<Option<i64>>>) -> Result<ArrayRef> {
    Ok(Arc::new(values.collect::<Result<TimestampMicrosecondArray>>()?))
}

fn utc(array: ArrayRef) -> Result<ArrayRef> {
    Ok(Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC")))
}

fn milliseconds(micros: i64) -> i64 {
    micros.div_euclid(1_000) * 1_000
}

fn literal(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let parse = |text: &str| {
        let instant = parse_iso(text.trim()).map(micros);
        instant
            .map(Some)
            .ok_or_else(|| wrong(format!("INVALID_CAST_ARGUMENT: value cannot be cast to timestamp: {text}")))
    };
    timestamps(texts(&arguments[0])?.iter().map(|text| text.map_or(Ok(None), parse)))
}

fn field(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (fields, nulls, escapes) = (texts(&arguments[0])?, texts(&arguments[1])?, texts(&arguments[2])?);
    let rows = fields.iter().zip(nulls.iter().zip(escapes.iter()));
    let values = rows.map(|(field, (null, escape))| match field {
        Some(field) if Some(field) == null => Ok(None),
        Some(field) => match escape.and_then(|escape| escape.chars().next()) {
            Some(escape) => unescaped(field, escape).map(Some),
            None => Ok(Some(field.to_owned())),
        },
        None => Ok(None),
    });
    Ok(Arc::new(values.collect::<Result<StringArray>>()?))
}

/// As Hive reads it: `n` and `r` after the escape character are ends of lines, all else means itself. The reader knows no
/// escapes, so one at the end of a field was before a separator or the end of a line, where the field is not to end.
fn unescaped(field: &str, escape: char) -> Result<String> {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        if c != escape {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some(c) => text.push(c),
            None => {
                return Err(wrong(format!(
                    "NOT_SUPPORTED: {field:?} goes on behind an escaped separator or end of line, which is not read"
                )));
            }
        }
    }
    Ok(text)
}

fn from_iso(array: &ArrayRef, to_millis: bool) -> Result<ArrayRef> {
    let parse = |text: &str| match parse_iso(text).map(micros) {
        Some(micros) => Ok(Some(if to_millis { milliseconds(micros) } else { micros })),
        None => Err(wrong(format!("INVALID_FUNCTION_ARGUMENT: Invalid format: {text:?}"))),
    };
    timestamps(texts(array)?.iter().map(|text| text.map_or(Ok(None), parse)))
}

/// Of seconds; of an ISO text too, which is what a dataset builder of SDK 3 writes for event times that are texts.
fn from_unixtime(array: &ArrayRef) -> Result<ArrayRef> {
    if matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return from_iso(array, true);
    }
    let seconds = cast(array, &DataType::Float64)?;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
    let micros = |seconds: f64| {
        let millis = (seconds * 1_000.0).round();
        if millis.abs() > 9e15 || millis.is_nan() {
            return Err(wrong(format!("INVALID_FUNCTION_ARGUMENT: {seconds} is no time in seconds")));
        }
        Ok(Some(millis as i64 * 1_000))
    };
    timestamps(seconds.as_primitive::<Float64Type>().iter().map(|value| value.map_or(Ok(None), micros)))
}

fn to_unixtime(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    #[expect(clippy::cast_precision_loss, reason = "a double is what it returns")]
    let seconds = |instant: NaiveDateTime| micros(instant) as f64 / 1e6;
    let values = instants(&arguments[0])?.into_iter().map(|instant| instant.map(seconds));
    Ok(Arc::new(values.collect::<Float64Array>()))
}

fn to_iso(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let pattern = match arguments[0].data_type() {
        DataType::Date32 | DataType::Date64 => "%Y-%m-%d",
        DataType::Timestamp(_, Some(_)) => "%Y-%m-%dT%H:%M:%S%.3fZ",
        _ => "%Y-%m-%dT%H:%M:%S%.3f",
    };
    let values = instants(&arguments[0])?.into_iter().map(|instant| instant.map(|t| t.format(pattern).to_string()));
    Ok(Arc::new(values.collect::<StringArray>()))
}

type Pattern = fn(&str) -> Option<String>;

/// chrono's pattern for each row; the one before is kept, since nearly always there is only one.
fn patterns(array: &ArrayRef, read: Pattern, function: &str) -> Result<Vec<Option<String>>> {
    let mut last: Option<(String, String)> = None;
    let texts = texts(array)?;
    let one = |text: &str| {
        if let Some((from, pattern)) = &last
            && from == text
        {
            return Ok(Some(pattern.clone()));
        }
        let pattern = read(text).ok_or_else(|| wrong(format!("{function} does not know the format {text:?}")))?;
        last = Some((text.to_owned(), pattern.clone()));
        Ok(Some(pattern))
    };
    let mut one = one;
    texts.iter().map(|text| text.map_or(Ok(None), &mut one)).collect()
}

fn parsed(arguments: &[ArrayRef], read: Pattern, function: &str) -> Result<ArrayRef> {
    let patterns = patterns(&arguments[1], read, function)?;
    let texts = texts(&arguments[0])?;
    timestamps(texts.iter().zip(&patterns).map(|pair| match pair {
        (Some(text), Some(pattern)) => match parse_with(text, pattern) {
            Some(instant) => Ok(Some(micros(instant))),
            None => Err(wrong(format!("INVALID_FUNCTION_ARGUMENT: {function} cannot read {text:?}"))),
        },
        _ => Ok(None),
    }))
}

fn formatted(arguments: &[ArrayRef], read: Pattern, function: &str) -> Result<ArrayRef> {
    let patterns = patterns(&arguments[1], read, function)?;
    let values = instants(&arguments[0])?.into_iter().zip(patterns);
    let values = values.map(|(instant, pattern)| Some(instant?.format(&pattern?).to_string()));
    Ok(Arc::new(values.collect::<StringArray>()))
}

/// A unit of `date_diff` and `date_add`.
enum Unit {
    Micros(i64),
    Months(i64),
}

fn unit(text: &str) -> Result<Unit> {
    const SECOND: i64 = 1_000_000;
    Ok(match text.to_ascii_lowercase().as_str() {
        "millisecond" => Unit::Micros(1_000),
        "second" => Unit::Micros(SECOND),
        "minute" => Unit::Micros(60 * SECOND),
        "hour" => Unit::Micros(3_600 * SECOND),
        "day" => Unit::Micros(86_400 * SECOND),
        "week" => Unit::Micros(7 * 86_400 * SECOND),
        "month" => Unit::Months(1),
        "quarter" => Unit::Months(3),
        "year" => Unit::Months(12),
        _ => return Err(wrong(format!("INVALID_FUNCTION_ARGUMENT: {text:?} is not a valid TIME field"))),
    })
}

/// Whole units from the first to the second, towards zero.
fn date_diff(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (units, from, to) = (texts(&arguments[0])?, instants(&arguments[1])?, instants(&arguments[2])?);
    let values = units.iter().zip(from.into_iter().zip(to)).map(|row| match row {
        (Some(text), (Some(from), Some(to))) => Ok(Some(match unit(text)? {
            Unit::Micros(width) => {
                let between = micros(to).checked_sub(micros(from));
                between.ok_or_else(|| wrong("date_diff goes beyond the calendar".to_owned()))? / width
            }
            Unit::Months(width) => months_between(from, to) / width,
        })),
        _ => Ok(None),
    });
    Ok(Arc::new(values.collect::<Result<Int64Array>>()?))
}

fn months_between(from: NaiveDateTime, to: NaiveDateTime) -> i64 {
    if to < from {
        return -months_between(to, from);
    }
    let count = |t: NaiveDateTime| i64::from(t.year()) * 12 + i64::from(t.month0());
    let months = count(to) - count(from);
    let whole = u32::try_from(months).ok().and_then(|months| from.checked_add_months(Months::new(months)));
    if whole.is_some_and(|whole| whole > to) { months - 1 } else { months }
}

/// What `date_add` makes of an instant of a type: the same.
fn added_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Date32 => DataType::Date32,
        other => zoned(other),
    }
}

fn date_add(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (units, counts) = (texts(&arguments[0])?, cast(&arguments[1], &DataType::Int64)?);
    let rows = units.iter().zip(counts.as_primitive::<Int64Type>().iter()).zip(instants(&arguments[2])?);
    let array = timestamps(rows.map(|row| match row {
        ((Some(text), Some(count)), Some(instant)) => {
            let moved = match unit(text)? {
                Unit::Micros(width) => {
                    count.checked_mul(width).map(TimeDelta::microseconds).and_then(|by| instant.checked_add_signed(by))
                }
                Unit::Months(width) => count.checked_mul(width).and_then(|months| add_months(instant, months)),
            };
            moved.map(|moved| Some(micros(moved))).ok_or_else(|| wrong("date_add goes beyond the calendar".to_owned()))
        }
        _ => Ok(None),
    }))?;
    match added_type(arguments[2].data_type()) {
        DataType::Date32 => Ok(Arc::new(cast(&array, &DataType::Date32)?.as_primitive::<Date32Type>().clone())),
        DataType::Timestamp(_, Some(_)) => utc(array),
        _ => Ok(array),
    }
}

fn add_months(instant: NaiveDateTime, months: i64) -> Option<NaiveDateTime> {
    let by = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    if months < 0 { instant.checked_sub_months(by) } else { instant.checked_add_months(by) }
}

fn part(array: &ArrayRef, of: fn(NaiveDateTime) -> i64) -> Result<ArrayRef> {
    Ok(Arc::new(instants(array)?.into_iter().map(|instant| instant.map(of)).collect::<Int64Array>()))
}

fn json_extract_scalar(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (documents, paths) = (texts(&arguments[0])?, texts(&arguments[1])?);
    let values = documents.iter().zip(paths.iter()).map(|row| match row {
        (Some(document), Some(path)) => json::scalar(document, path).map_err(wrong),
        _ => Ok(None),
    });
    Ok(Arc::new(values.collect::<Result<StringArray>>()?))
}

fn about(array: &ArrayRef, of: fn(f64) -> bool) -> Result<ArrayRef> {
    let array = cast(array, &DataType::Float64)?;
    let values = array.as_primitive::<Float64Type>().iter().map(|value| value.map(of));
    Ok(Arc::new(values.collect::<BooleanArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![micros]))
    }

    #[test]
    fn fields_are_read_as_hive_does() {
        let of = |text: &str, null: &str, escape: &str| {
            let arguments = [text, null, escape].map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef);
            let values = field(&arguments)?;
            let values = values.as_string::<i32>();
            Ok::<_, DataFusionError>(values.is_valid(0).then(|| values.value(0).to_owned()))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("\\N", "\\N", "").expect("read"), None);
        assert_eq!(of("\\N", "\\N", "\\").expect("read"), None);
        assert_eq!(of("", "\\N", "").expect("read"), some(""));
        assert_eq!(of("", "", "").expect("read"), None);
        assert_eq!(of("a\\\\b\\tc\\nd", "\\N", "\\").expect("read"), some("a\\btc\nd"));
        assert_eq!(of("a\\b", "\\N", "").expect("read"), some("a\\b"));
        assert!(of("a\\", "\\N", "\\").is_err());
    }

    #[test]
    fn times_that_are_too_far_apart_are_an_error() {
        let unit: ArrayRef = Arc::new(StringArray::from(vec!["day"]));
        let far = 8_000_000_000_000_000_000;
        let days = date_diff(&[Arc::clone(&unit), at(0), at(far)]).expect("days");
        assert_eq!(days.as_primitive::<Int64Type>().value(0), 92_592_592);
        let refused = date_diff(&[unit, at(-far), at(far)]).expect_err("too far").to_string();
        assert!(refused.contains("beyond the calendar"), "{refused}");
    }

    #[test]
    fn seconds_beyond_the_calendar_are_an_error() {
        for seconds in [1e18, -1e18, f64::NAN, f64::INFINITY] {
            let seconds: ArrayRef = Arc::new(Float64Array::from(vec![seconds]));
            assert!(from_unixtime(&seconds).is_err());
        }
    }
}
