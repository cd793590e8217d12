//! The point-in-time join: for each row of a spine, the newest record of a feature group as of the row's cut-off.
//!
//! Pure computation over Arrow batches: no SQL, no I/O, no clock. `docs/adr/0004-point-in-time-join.md` says why
//! it means what it means. In short, for a spine row of key `k` and cut-off `c`:
//!
//! 1. What counts are the events of `k` with event time at or before `c`; with
//!    [`JoinSpec::only_written_by_cut_off`] also written (their stamp) at or before `c`.
//! 2. They are folded as the online store folds them: what is stamped at or before the newest reset among them
//!    does not count, and of the rest the version that nothing supersedes wins.
//! 3. A soft delete that wins means absent. So does a winner older than the look-back, measured from `c`.
//! 4. Absent, a null key and a null cut-off all give null features. Every spine row comes out once, in its place.
//!
//! Invariants: PIT-1 (nothing from after the cut-off) and PIT-2 (nothing newer left out), checked on every row in
//! debug builds.
//!
//! What it costs: spine and history are held in memory, the history only with the features that are joined and
//! the records that the spine names, plus 44 bytes an event. A join is a sort of the events and one binary search
//! for each spine row and group; resets, deletes and late writes cost nothing extra. Streaming both sides comes
//! later.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use thiserror::Error as ThisError;

mod cut_off;
mod events;
mod fold;
mod history;
mod keys;
#[cfg(test)]
mod oracle;
mod spine;

pub(crate) use events::names as placing_columns;
pub use history::{History, HistoryBuilder};
pub use spine::Spine;

/// The offline table's columns that place an event in time; no feature may be called so.
pub mod provenance {
    /// Event time, `timestamp(us, UTC)`, rounded down.
    pub const EVENT_TIME: &str = "granary_event_time";
    /// What the event time has below its microsecond, 0 to 999 nanoseconds.
    pub const EVENT_NANOS: &str = "granary_event_nanos";
    /// The write stamp, `bigint`.
    pub const WRITE_STAMP: &str = "granary_write_stamp";
    /// `put`, `delete` or `reset`.
    pub const OPERATION: &str = "granary_operation";
    /// All of them, in the order a history may be asked for.
    pub const ALL: [&str; 4] = [EVENT_TIME, EVENT_NANOS, WRITE_STAMP, OPERATION];
}

/// Why a join cannot be made.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A column that was named is not there.
    #[error("{of} has no column {column:?}")]
    MissingColumn {
        /// Spine or history.
        of: &'static str,
        /// As asked for.
        column: String,
    },
    /// A name fits several columns.
    #[error("{of} has more than one column {column:?}, give one of them another name")]
    AmbiguousColumn {
        /// Spine or history.
        of: &'static str,
        /// As asked for.
        column: String,
    },
    /// The cut-off is no instant.
    #[error("cut-off column {column:?} must be a timestamp, ISO-8601 text or Unix seconds, got type {data_type}")]
    CutOffType {
        /// Its name.
        column: String,
        /// Its type.
        data_type: String,
    },
    /// One cut-off cannot be read.
    #[error("cut-off column {column:?} holds what is no instant: {reason}")]
    CutOffValue {
        /// Its name.
        column: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The spine's key cannot name a record.
    #[error("spine column {column:?} of type {data_type} cannot be compared with record identifiers of type {wanted}")]
    KeyType {
        /// Its name.
        column: String,
        /// Its type.
        data_type: String,
        /// The history's.
        wanted: String,
    },
    /// Two output columns would have one name.
    #[error("the join would give two columns called {column:?}, rename it in the spine")]
    DuplicateOutput {
        /// The name.
        column: String,
    },
    /// The history is not what an offline table holds.
    #[error("history is damaged: {reason}")]
    Damaged {
        /// How.
        reason: String,
    },
    /// More than four thousand million events.
    #[error("the history holds more events than one join can index")]
    TooManyEvents,
    /// Arrow refused.
    #[error("compute over arrow arrays")]
    Arrow(#[from] ArrowError),
}

/// What is joined of one feature group, and how.
#[derive(Debug, Clone)]
pub struct JoinSpec {
    /// The spine's column that holds the record identifier.
    pub key_column: String,
    /// The history's column that holds it: the group's record identifier feature.
    pub identifier: String,
    /// The history's column that holds the event time feature, by which rows of other programs are placed; without it
    /// such rows are refused.
    pub event_time: Option<String>,
    /// The features to take, in order.
    pub features: Vec<JoinedFeature>,
    /// Winners whose event time is more than this many seconds before the row's cut-off count as absent.
    pub look_back_seconds: Option<u64>,
    /// Leave out what was written after the row's cut-off.
    pub only_written_by_cut_off: bool,
}

/// A feature and the column it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedFeature {
    /// The history's column.
    pub feature: String,
    /// The output's column.
    pub output: String,
}

/// A spine with the histories of the groups that are joined to it.
#[derive(Debug)]
pub struct Join {
    spine: Arc<Spine>,
    histories: Vec<History>,
    schema: SchemaRef,
}

impl Join {
    /// Brings together what was built over one and the same spine.
    ///
    /// # Errors
    /// `DuplicateOutput` when two columns would have one name.
    pub fn new(spine: Arc<Spine>, histories: Vec<History>) -> Result<Self, Error> {
        let mut fields: Vec<Arc<Field>> = spine.schema().fields().iter().cloned().collect();
        for field in histories.iter().flat_map(History::fields) {
            if fields.iter().any(|other| other.name() == field.name()) {
                return Err(Error::DuplicateOutput { column: field.name().clone() });
            }
            fields.push(Arc::clone(field));
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { spine, histories, schema })
    }

    /// The spine's columns, then each group's features in the order of the histories.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// How many events of the histories are held.
    pub fn event_count(&self) -> usize {
        self.histories.iter().map(History::event_count).sum()
    }

    /// The join, in the order of the spine, in batches of at most `rows_max` rows.
    pub fn batches(&self, rows_max: usize) -> impl Iterator<Item = Result<RecordBatch, Error>> + '_ {
        let step = rows_max.max(1);
        self.spine.batches().iter().enumerate().flat_map(move |(index, batch)| {
            (0..batch.num_rows())
                .step_by(step)
                .map(move |offset| self.slice(index, offset, step.min(batch.num_rows() - offset)))
        })
    }

    fn slice(&self, index: usize, offset: usize, length: usize) -> Result<RecordBatch, Error> {
        let mut columns: Vec<ArrayRef> = self.spine.batches()[index].slice(offset, length).columns().to_vec();
        let cut_offs = &self.spine.cut_offs(index)[offset..offset + length];
        for history in &self.histories {
            columns.extend(history.as_of(index, offset, cut_offs)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
