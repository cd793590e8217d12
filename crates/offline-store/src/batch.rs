//! From change-log events to columns: rows are read in place and appended to Arrow builders, one pass over each row.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use granary_row::{RowView, ValueRef};
use granary_types::{EventTime, FeatureGroup, StreamId, WriteId, WriteKind, WriteStamp};

use crate::Error;
use crate::schema::{arrow_schema, feature_type};

/// What the event did to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Replaced it.
    Put,
    /// Hid it.
    Delete,
    /// Made the online store forget it.
    Reset,
}

impl Operation {
    /// As it stands in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Reset => "reset",
        }
    }
}

impl From<WriteKind> for Operation {
    fn from(kind: WriteKind) -> Self {
        match kind {
            // An update's event is a put of the merged row.
            WriteKind::Put | WriteKind::Update { .. } => Self::Put,
            WriteKind::SoftDelete => Self::Delete,
            // An expiry's event is a hard delete at the time of expiry.
            WriteKind::HardDelete | WriteKind::Expiry { .. } => Self::Reset,
        }
    }
}

/// One event of a change log on its way into its group's table.
#[derive(Debug, Clone)]
pub struct OfflineRow {
    /// The change log it is from.
    pub stream: StreamId,
    /// Its number there.
    pub sequence: u64,
    /// The version's stamp.
    pub stamp: WriteStamp,
    /// When the call arrived at the router, microseconds since the Unix epoch.
    pub invoked_at_us: i64,
    /// The caller's time.
    pub event_time: EventTime,
    /// What it did.
    pub operation: Operation,
    /// Which write made it.
    pub write_id: WriteId,
    /// The encoded row (`granary-row`).
    pub row: Bytes,
}

impl OfflineRow {
    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::CorruptRow { stream: self.stream.to_string(), sequence: self.sequence, reason: reason.into() }
    }

    /// Opens the encoded row and checks that its schema is known.
    pub(crate) fn open(&self, group: &FeatureGroup) -> Result<RowView<'_>, Error> {
        let view = RowView::open(&self.row).map_err(|error| self.corrupt(error.to_string()))?;
        if view.schema_version() > group.schema.version {
            return Err(Error::NewerSchema { row: view.schema_version().0, known: group.schema.version.0 });
        }
        Ok(view)
    }
}

/// A record identifier as files are sorted by it: text by its bytes, numbers by value.
#[derive(Debug, Clone, Copy)]
enum Key<'a> {
    Text(&'a str),
    Integral(i64),
    Fractional(f64),
}

impl Key<'_> {
    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Integral(a), Self::Integral(b)) => a.cmp(b),
            (Self::Fractional(a), Self::Fractional(b)) => a.total_cmp(b),
            // One group's identifiers are of one type.
            _ => std::cmp::Ordering::Equal,
        }
    }
}

/// The rows by (record identifier, event time, write stamp).
///
/// # Errors
/// [`Error::CorruptRow`] for a row without identifier, [`Error::NewerSchema`].
pub(crate) fn sorted<'a>(group: &FeatureGroup, rows: &'a [OfflineRow]) -> Result<Vec<&'a OfflineRow>, Error> {
    let mut keyed = Vec::with_capacity(rows.len());
    for row in rows {
        let key = match row.open(group)?.value(group.record_identifier) {
            Some(ValueRef::String(text)) => Key::Text(text),
            Some(ValueRef::Integral { value, .. }) => Key::Integral(value),
            Some(ValueRef::Fractional { value, .. }) => Key::Fractional(value),
            Some(ValueRef::Collection(_)) | None => return Err(row.corrupt("it has no record identifier")),
        };
        keyed.push((key, row));
    }
    keyed.sort_by(|(a, left), (b, right)| {
        let versions =
            (left.event_time, left.stamp, left.sequence).cmp(&(right.event_time, right.stamp, right.sequence));
        a.compare(b).then(versions)
    });
    Ok(keyed.into_iter().map(|(_, row)| row).collect())
}

/// A batch with the columns of [`arrow_schema`], one row for each of `rows`, in their order.
///
/// # Errors
/// [`Error::CorruptRow`] when a row does not decode or has a value of another type than its feature,
/// [`Error::NewerSchema`] when it was written under a schema the group does not have.
pub fn record_batch(group: &FeatureGroup, rows: &[&OfflineRow]) -> Result<RecordBatch, Error> {
    let schema = arrow_schema(group);
    let mut features: Vec<Column> = group.schema.features().iter().map(|f| Column::new(&feature_type(f))).collect();
    let mut provenance = Provenance::default();
    for row in rows {
        append_values(group, row, &mut features)?;
        provenance.append(row);
    }
    let columns = features.into_iter().map(Column::finish).chain(provenance.finish()).collect();
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn append_values(group: &FeatureGroup, row: &OfflineRow, columns: &mut [Column]) -> Result<(), Error> {
    let view = row.open(group)?;
    let mut filled = 0;
    for (ordinal, value) in view.values() {
        let place = usize::from(ordinal.0);
        if place >= columns.len() {
            return Err(row.corrupt(format!("it has a feature {ordinal}, the group has {}", columns.len())));
        }
        columns[filled..place].iter_mut().for_each(Column::append_null);
        if !columns[place].append(&value) {
            let name = &group.schema.features()[place].name;
            return Err(row.corrupt(format!("the value of feature {name:?} is of another type")));
        }
        filled = place + 1;
    }
    columns[filled..].iter_mut().for_each(Column::append_null);
    Ok(())
}

/// The builder of one feature's column.
enum Column {
    Text(StringBuilder),
    Integral(Int64Builder),
    Fractional(Float64Builder),
    Texts(ListBuilder<StringBuilder>),
}

impl Column {
    fn new(kind: &DataType) -> Self {
        match kind {
            DataType::Int64 => Self::Integral(Int64Builder::new()),
            DataType::Float64 => Self::Fractional(Float64Builder::new()),
            DataType::List(element) => {
                let element: Arc<Field> = element.clone();
                Self::Texts(ListBuilder::new(StringBuilder::new()).with_field(element))
            }
            _ => Self::Text(StringBuilder::new()),
        }
    }

    /// Whether the value is of the column's type.
    fn append(&mut self, value: &ValueRef<'_>) -> bool {
        match (self, value) {
            (Self::Text(column), ValueRef::String(text)) => column.append_value(text),
            (Self::Integral(column), ValueRef::Integral { value, .. }) => column.append_value(*value),
            (Self::Fractional(column), ValueRef::Fractional { value, .. }) => column.append_value(*value),
            (Self::Texts(column), ValueRef::Collection(texts)) => column.append_value(texts.clone().map(Some)),
            _ => return false,
        }
        true
    }

    fn append_null(&mut self) {
        match self {
            Self::Text(column) => column.append_null(),
            Self::Integral(column) => column.append_null(),
            Self::Fractional(column) => column.append_null(),
            Self::Texts(column) => column.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        let mut builder: Box<dyn ArrayBuilder> = match self {
            Self::Text(column) => Box::new(column),
            Self::Integral(column) => Box::new(column),
            Self::Fractional(column) => Box::new(column),
            Self::Texts(column) => Box::new(column),
        };
        builder.finish()
    }
}

/// The builders of the columns that every table has.
#[derive(Default)]
struct Provenance {
    write_time: TimestampMicrosecondBuilder,
    invoked: TimestampMicrosecondBuilder,
    is_deleted: BooleanBuilder,
    event_time: TimestampMicrosecondBuilder,
    event_nanos: Int32Builder,
    stamp: Int64Builder,
    operation: StringBuilder,
    write_id: StringBuilder,
    stream: StringBuilder,
    sequence: Int64Builder,
}

impl Provenance {
    fn append(&mut self, row: &OfflineRow) {
        let below_micros = row.event_time.subsec_nanos() % 1_000;
        self.write_time.append_value(row.stamp.micros());
        self.invoked.append_value(row.invoked_at_us);
        self.is_deleted.append_value(row.operation != Operation::Put);
        self.event_time.append_value(row.event_time.micros());
        self.event_nanos.append_value(i32::try_from(below_micros).expect("below 1000"));
        // Stamps are nanoseconds since 1970: they fit until the year 2262.
        self.stamp.append_value(i64::try_from(row.stamp.0).unwrap_or(i64::MAX));
        self.operation.append_value(row.operation.as_str());
        self.write_id.append_value(format!("{:032x}", row.write_id.0));
        self.stream.append_value(row.stream.to_string());
        self.sequence.append_value(i64::try_from(row.sequence).expect("a stream never has 2^63 events"));
    }

    fn finish(mut self) -> [ArrayRef; 10] {
        let timestamps = |column: TimestampMicrosecondBuilder| column.with_timezone("UTC").finish();
        [
            Arc::new(timestamps(self.write_time)),
            Arc::new(timestamps(self.invoked)),
            Arc::new(self.is_deleted.finish()),
            Arc::new(timestamps(self.event_time)),
            Arc::new(self.event_nanos.finish()),
            Arc::new(self.stamp.finish()),
            Arc::new(self.operation.finish()),
            Arc::new(self.write_id.finish()),
            Arc::new(self.stream.finish()),
            Arc::new(self.sequence.finish()),
        ]
    }
}
