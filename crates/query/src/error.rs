//! What can go wrong with a query, and what its caller should do about it.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use granary_types::{ErrorKind, with_causes};
use thiserror::Error as ThisError;

use crate::pit;

/// An error of the query service.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Something the request says, or a bound of the service.
    #[error(transparent)]
    Refused(#[from] granary_types::Error),
    /// DataFusion could not plan or run the query.
    #[error("run query")]
    Query(#[source] Box<DataFusionError>),
    /// The join could not be made.
    #[error("join as of cut-offs")]
    Join(#[from] pit::Error),
    /// A feature group's table could not be opened.
    #[error("open offline table")]
    Table(#[from] granary_offline_store::Error),
    /// An answer could not be encoded.
    #[error("encode answer")]
    Encode(#[from] ArrowError),
    /// A metric could not be registered.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The deadline passed.
    #[error("the query took longer than its deadline allows")]
    DeadlinePassed,
    /// The query's task ended without a word: it panicked.
    #[error("the query ended early, which is a bug")]
    Died,
    /// The process is going down.
    #[error("the query service is shutting down")]
    ShuttingDown,
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Query(Box::new(error))
    }
}

impl From<Error> for granary_types::Error {
    /// The error at the role's boundary: DataFusion's own words for a bad query, since they name line and column.
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(error) => error,
            Error::Query(error) => of_datafusion(&error),
            Error::Join(error) => {
                let kind = match &error {
                    pit::Error::Damaged { .. } => ErrorKind::Corrupt,
                    pit::Error::TooManyEvents => ErrorKind::Overloaded,
                    pit::Error::Arrow(_) => ErrorKind::Internal,
                    _ => ErrorKind::Invalid,
                };
                Self::new(kind, with_causes(&error))
            }
            Error::Table(error) => Self::new(error.kind(), with_causes(&error)),
            Error::Encode(_) | Error::Metrics(_) | Error::Died => Self::new(ErrorKind::Internal, with_causes(&error)),
            Error::DeadlinePassed => Self::new(ErrorKind::Unknown, error.to_string()),
            Error::ShuttingDown => Self::new(ErrorKind::Unavailable, error.to_string()),
        }
    }
}

/// A DataFusion error by its kind. One of ours that passed through DataFusion comes out as it went in.
fn of_datafusion(error: &DataFusionError) -> granary_types::Error {
    let root = error.find_root();
    if let DataFusionError::External(source) = root
        && let Some(ours) = source.downcast_ref::<granary_types::Error>()
    {
        return ours.clone();
    }
    let kind = match root {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::Execution(_) => ErrorKind::Invalid,
        DataFusionError::ArrowError(error, _) => of_arrow(error),
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Overloaded,
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
        DataFusionError::ParquetError(_) => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    };
    granary_types::Error::new(kind, root.strip_backtrace())
}

fn of_arrow(error: &ArrowError) -> ErrorKind {
    match error {
        // What the query asks of its data is not possible: a cast, a division.
        ArrowError::ComputeError(_)
        | ArrowError::DivideByZero
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::CastError(_)
        | ArrowError::ParseError(_)
        | ArrowError::InvalidArgumentError(_) => ErrorKind::Invalid,
        // Arrow does input and output in a query only to spill.
        ArrowError::IoError(..) => ErrorKind::Overloaded,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_through_datafusion_comes_out_as_it_went_in() {
        let ours = granary_types::Error::new(ErrorKind::NotFound, "no such thing");
        let wrapped = DataFusionError::External(Box::new(ours.clone())).context("plan");
        assert_eq!(granary_types::Error::from(Error::from(wrapped)), ours);
    }

    #[test]
    fn a_spent_memory_pool_asks_the_caller_to_back_off() {
        let error = DataFusionError::ResourcesExhausted("no memory".to_owned());
        assert_eq!(granary_types::Error::from(Error::from(error)).kind, ErrorKind::Overloaded);
    }
}
