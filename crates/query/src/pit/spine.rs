//! The left side of the join: its batches and the instant at which each row looks.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use granary_types::EventTime;

use super::{Error, cut_off};

/// Batches of any columns with a cut-off for each row.
#[derive(Debug)]
pub struct Spine {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// For each batch, for each row; `None` looks at nothing.
    cut_offs: Vec<Vec<Option<EventTime>>>,
}

impl Spine {
    /// Reads the cut-offs of `batches`, all of `schema`, from `cut_off_column`.
    ///
    /// Timestamps of any unit are instants (one without a time zone is in UTC); text is ISO-8601 in UTC; numbers
    /// are Unix seconds, a double by its shortest decimal. A null or NaN is no cut-off: the row's features are null.
    ///
    /// # Errors
    /// `MissingColumn`, `AmbiguousColumn`, `CutOffType`, `CutOffValue`.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>, cut_off_column: &str) -> Result<Self, Error> {
        let index = column_index("the spine", &schema, cut_off_column)?;
        let name = schema.field(index).name();
        let cut_offs =
            batches.iter().map(|batch| cut_off::read(name, batch.column(index))).collect::<Result<Vec<_>, _>>()?;
        if batches.is_empty() {
            cut_off::check_type(name, schema.field(index).data_type())?;
        }
        Ok(Self { schema, batches, cut_offs })
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batches, as given.
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// The first and the last cut-off; `None` when no row has one.
    pub fn cut_off_range(&self) -> Option<(EventTime, EventTime)> {
        let all = || self.cut_offs.iter().flatten().flatten().copied();
        Some((all().min()?, all().max()?))
    }

    pub(super) fn cut_offs(&self, batch: usize) -> &[Option<EventTime>] {
        &self.cut_offs[batch]
    }

    /// The column called `name` in each batch, and what the spine calls it.
    pub(super) fn column(&self, name: &str) -> Result<(String, Vec<&ArrayRef>), Error> {
        let index = column_index("the spine", &self.schema, name)?;
        let columns = self.batches.iter().map(|batch| batch.column(index)).collect();
        Ok((self.schema.field(index).name().clone(), columns))
    }
}

/// The column called `name`: by its very name, else the only one that differs in case alone.
pub(super) fn column_index(of: &'static str, schema: &Schema, name: &str) -> Result<usize, Error> {
    let find = |fits: &dyn Fn(&str) -> bool| -> Result<Option<usize>, Error> {
        let mut found = schema.fields().iter().enumerate().filter(|(_, field)| fits(field.name())).map(|(at, _)| at);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::AmbiguousColumn { of, column: name.to_owned() }),
            (first, _) => Ok(first),
        }
    };
    if let Some(index) = find(&|field| field == name)? {
        return Ok(index);
    }
    find(&|field| field.eq_ignore_ascii_case(name))?.ok_or_else(|| Error::MissingColumn { of, column: name.to_owned() })
}
