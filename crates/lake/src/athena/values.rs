//! Values as Athena writes them, and its names for their types.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, Utc};

use super::executions::Column;

/// What Athena tells of a column.
pub(super) fn column(name: &str, kind: &DataType) -> Column {
    let (precision, scale) = match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => (i32::MAX, 0),
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 | DataType::UInt64 => (19, 0),
        DataType::Float32 | DataType::Float64 => (17, 0),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            (i32::from(*precision), i32::from(*scale))
        }
        DataType::Timestamp(..) => (3, 0),
        _ => (0, 0),
    };
    Column { name: name.to_owned(), kind: type_name(kind).to_owned(), precision, scale }
}

/// Athena's name of a type in the metadata of a result.
fn type_name(kind: &DataType) -> &'static str {
    match kind {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::UInt8 => "tinyint",
        DataType::Int16 | DataType::UInt16 => "smallint",
        DataType::Int32 | DataType::UInt32 => "integer",
        DataType::Int64 | DataType::UInt64 => "bigint",
        DataType::Float16 | DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            "decimal"
        }
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Time32(_) | DataType::Time64(_) => "time",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "varbinary",
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "array",
        DataType::Map(..) => "map",
        DataType::Struct(_) => "row",
        // A column of nothing but nulls.
        DataType::Null => "unknown",
        _ => "varchar",
    }
}

/// Writes the values of one column.
pub(super) struct Writer {
    array: ArrayRef,
    kind: Kind,
}

enum Kind {
    Real,
    Double,
    /// With what follows the time.
    Timestamp(TimeUnit, &'static str),
    Bytes,
    List(Box<Writer>, Vec<(usize, usize)>),
    Struct(Vec<(String, Writer)>),
    /// As Arrow writes it.
    Plain,
}

impl Writer {
    pub(super) fn new(array: &ArrayRef) -> Self {
        let kind = match array.data_type() {
            DataType::Float32 => Kind::Real,
            DataType::Float64 => Kind::Double,
            DataType::Timestamp(unit, None) => Kind::Timestamp(*unit, ""),
            DataType::Timestamp(unit, Some(_)) => Kind::Timestamp(*unit, " UTC"),
            DataType::Binary => Kind::Bytes,
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let place = |at: &i32| usize::try_from(*at).unwrap_or_default();
                let places = list.value_offsets().windows(2).map(|pair| (place(&pair[0]), place(&pair[1])));
                Kind::List(Box::new(Self::new(list.values())), places.collect())
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                Kind::Struct(columns.map(|(field, column)| (field.name().clone(), Self::new(column))).collect())
            }
            _ => Kind::Plain,
        };
        Self { array: array.clone(), kind }
    }

    /// The value at `row`; `false` for a null, of which nothing is written.
    pub(super) fn write(&self, row: usize, out: &mut String) -> Result<bool, ArrowError> {
        if self.array.is_null(row) || *self.array.data_type() == DataType::Null {
            return Ok(false);
        }
        match &self.kind {
            Kind::Real => number(
                f64::from(self.array.as_primitive::<Float32Type>().value(row)),
                Some(self.array.as_primitive::<Float32Type>().value(row)),
                out,
            ),
            Kind::Double => number(self.array.as_primitive::<Float64Type>().value(row), None, out),
            Kind::Timestamp(unit, zone) => {
                let time = self.instant(*unit, row);
                match time {
                    Some(time) => append(out, format_args!("{}{zone}", time.format("%Y-%m-%d %H:%M:%S%.3f"))),
                    None => return Err(ArrowError::ComputeError("a timestamp is beyond the calendar".to_owned())),
                }
            }
            Kind::Bytes => {
                for (at, byte) in self.array.as_binary::<i32>().value(row).iter().enumerate() {
                    append(out, format_args!("{}{byte:02x}", if at > 0 { " " } else { "" }));
                }
            }
            Kind::List(values, places) => {
                let (from, to) = places[row];
                out.push('[');
                for at in from..to {
                    if at > from {
                        out.push_str(", ");
                    }
                    values.write_inside(at, out)?;
                }
                out.push(']');
            }
            Kind::Struct(fields) => {
                out.push('{');
                for (at, (name, values)) in fields.iter().enumerate() {
                    append(out, format_args!("{}{name}=", if at > 0 { ", " } else { "" }));
                    values.write_inside(row, out)?;
                }
                out.push('}');
            }
            Kind::Plain => {
                let options = FormatOptions::default();
                append(out, format_args!("{}", ArrayFormatter::try_new(self.array.as_ref(), &options)?.value(row)));
            }
        }
        Ok(true)
    }

    fn write_inside(&self, row: usize, out: &mut String) -> Result<(), ArrowError> {
        if !self.write(row, out)? {
            out.push_str("null");
        }
        Ok(())
    }

    fn instant(&self, unit: TimeUnit, row: usize) -> Option<DateTime<Utc>> {
        match unit {
            TimeUnit::Second => {
                DateTime::from_timestamp(self.array.as_primitive::<TimestampSecondType>().value(row), 0)
            }
            TimeUnit::Millisecond => {
                DateTime::from_timestamp_millis(self.array.as_primitive::<TimestampMillisecondType>().value(row))
            }
            TimeUnit::Microsecond => {
                DateTime::from_timestamp_micros(self.array.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            TimeUnit::Nanosecond => {
                let nanos = self.array.as_primitive::<TimestampNanosecondType>().value(row);
                Some(DateTime::from_timestamp_nanos(nanos))
            }
        }
    }
}

fn append(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
}

/// As Java writes a double, or a float where `real` is one: at least one digit after the point, and an exponent from ten
/// million on and below a thousandth.
fn number(value: f64, real: Option<f32>, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
        return;
    }
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    let size = value.abs();
    if size == 0.0 || (1e-3..1e7).contains(&size) {
        match real {
            Some(real) => append(out, format_args!("{real:?}")),
            None => append(out, format_args!("{value:?}")),
        }
        return;
    }
    let text = match real {
        Some(real) => format!("{real:e}"),
        None => format!("{value:e}"),
    };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if digits.contains('.') { "" } else { ".0" };
    append(out, format_args!("{digits}{point}E{exponent}"));
}

/// Rows of a batch in Athena's CSV: everything in quotes, quotes doubled, nulls empty without quotes.
pub(super) fn csv(batch: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
    let writers: Vec<Writer> = batch.columns().iter().map(Writer::new).collect();
    let mut value = String::new();
    for row in 0..batch.num_rows() {
        for (at, writer) in writers.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            value.clear();
            if writer.write(row, &mut value)? {
                field(&value, out);
            }
        }
        out.push('\n');
    }
    Ok(())
}

/// The line of names.
pub(super) fn csv_header<'a>(names: impl Iterator<Item = &'a str>, out: &mut String) {
    for (at, name) in names.enumerate() {
        if at > 0 {
            out.push(',');
        }
        field(name, out);
    }
    out.push('\n');
}

fn field(value: &str, out: &mut String) {
    out.push('"');
    if value.contains('"') {
        out.push_str(&value.replace('"', "\"\""));
    } else {
        out.push_str(value);
    }
    out.push('"');
}

/// One record of such a CSV from the beginning of `text`, and its length in bytes; `None` when it is not whole. A record
/// of one column that is null is an empty line.
pub(super) fn record(text: &[u8]) -> Option<(Vec<Option<String>>, usize)> {
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (value, end) = match text.get(at)? {
            b'"' => {
                let (value, end) = quoted(text, at + 1)?;
                (Some(value), end)
            }
            _ => (None, at),
        };
        fields.push(value);
        match text.get(end)? {
            b',' => at = end + 1,
            _ => return Some((fields, end + 1)),
        }
    }
}

fn quoted(text: &[u8], from: usize) -> Option<(String, usize)> {
    let mut value = Vec::new();
    let mut at = from;
    loop {
        match (*text.get(at)?, text.get(at + 1)) {
            (b'"', Some(b'"')) => {
                value.push(b'"');
                at += 2;
            }
            // What comes after the last quote must be seen to know that it is the last one.
            (b'"', Some(_)) => return Some((String::from_utf8_lossy(&value).into_owned(), at + 1)),
            (b'"', None) => return None,
            (byte, _) => {
                value.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int64Type;

    use super::*;

    fn lines(array: ArrayRef) -> Vec<String> {
        let batch = RecordBatch::try_from_iter([("a", array)]).expect("a column");
        let mut out = String::new();
        csv(&batch, &mut out).expect("values");
        out.lines().map(str::to_owned).collect()
    }

    #[test]
    fn values_are_written_as_athena_does() {
        let texts = StringArray::from(vec![Some("a\"b"), Some(""), None, Some("x,y")]);
        assert_eq!(lines(Arc::new(texts)), ["\"a\"\"b\"", "\"\"", "", "\"x,y\""]);
        assert_eq!(lines(Arc::new(BooleanArray::from(vec![true, false]))), ["\"true\"", "\"false\""]);
        assert_eq!(lines(Arc::new(Int32Array::from(vec![-7]))), ["\"-7\""]);
        let doubles = Float64Array::from(vec![1.0, 0.1, -0.0, 1e7, 1.5e-5, 123_456.789, f64::NAN, f64::INFINITY, 1e21]);
        assert_eq!(
            lines(Arc::new(doubles)),
            [
                "\"1.0\"",
                "\"0.1\"",
                "\"-0.0\"",
                "\"1.0E7\"",
                "\"1.5E-5\"",
                "\"123456.789\"",
                "\"NaN\"",
                "\"Infinity\"",
                "\"1.0E21\""
            ]
        );
        assert_eq!(lines(Arc::new(Float32Array::from(vec![0.1, 1e8]))), ["\"0.1\"", "\"1.0E8\""]);
        let decimals = Decimal128Array::from(vec![12_345]).with_precision_and_scale(10, 2).expect("fits");
        assert_eq!(lines(Arc::new(decimals)), ["\"123.45\""]);
        assert_eq!(lines(Arc::new(Date32Array::from(vec![19_000]))), ["\"2022-01-08\""]);
        let times = TimestampMicrosecondArray::from(vec![1_605_312_000_123_456]);
        assert_eq!(lines(Arc::new(times.clone())), ["\"2020-11-14 00:00:00.123\""]);
        assert_eq!(lines(Arc::new(times.with_timezone("UTC"))), ["\"2020-11-14 00:00:00.123 UTC\""]);
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        assert_eq!(lines(Arc::new(lists)), ["\"[1, null]\"", "", "\"[]\""]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = b"\"a\"\"b\",,\"\",\"x\ny\"\n\"next\"\n";
        let (fields, len) = record(text).expect("a record");
        assert_eq!(fields, [Some("a\"b".to_owned()), None, Some(String::new()), Some("x\ny".to_owned())]);
        assert_eq!(&text[len..], b"\"next\"\n");
        assert_eq!(record(b"\n").expect("an empty line"), (vec![None], 1));
        for cut in 0..len {
            assert_eq!(record(&text[..cut]), None, "{cut}");
        }
    }
}
