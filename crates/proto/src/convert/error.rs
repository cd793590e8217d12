//! Error kinds as gRPC statuses and as the short codes of batch errors.

use granary_types::{Error, ErrorKind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata of a status, where its code alone does not tell the kind.
const KIND: &str = "granary-error-kind";

/// The code of the one kind that shares its status with another.
const LIMIT_EXCEEDED: &str = "limit_exceeded";

/// The gRPC status of an error. A quota that is used up and a budget that is spent have the same code, and are told
/// apart by the metadata `granary-error-kind: limit_exceeded`.
pub fn status_of(error: &Error) -> Status {
    let code = match error.kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InUse => Code::AlreadyExists,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Overloaded | ErrorKind::LimitExceeded => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unknown => Code::DeadlineExceeded,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    let mut status = Status::new(code, error.message.clone());
    if error.kind == ErrorKind::LimitExceeded {
        status.metadata_mut().insert(KIND, MetadataValue::from_static(LIMIT_EXCEEDED));
    }
    status
}

/// What a status means to the caller. A connection that broke while a call was under way reads as `Unknown`.
pub fn kind_of_status(status: &Status) -> ErrorKind {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::InUse,
        Code::Aborted => ErrorKind::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Forbidden,
        Code::ResourceExhausted if is_limit(status) => ErrorKind::LimitExceeded,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Unavailable | Code::FailedPrecondition => ErrorKind::Unavailable,
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => ErrorKind::Unknown,
        Code::DataLoss => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    }
}

fn is_limit(status: &Status) -> bool {
    status.metadata().get(KIND).is_some_and(|kind| kind.as_bytes() == LIMIT_EXCEEDED.as_bytes())
}

/// The code of a kind in batch errors and on the command line.
pub fn kind_code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not_found",
        ErrorKind::InUse => "in_use",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Forbidden => "forbidden",
        ErrorKind::LimitExceeded => LIMIT_EXCEEDED,
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Unknown => "unknown",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Internal => "internal",
    }
}

/// The kind of a code; `Internal` for one this build does not know.
pub fn kind_of_code(code: &str) -> ErrorKind {
    ErrorKind::ALL.into_iter().find(|kind| kind_code(*kind) == code).unwrap_or(ErrorKind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            assert_eq!(kind_of_status(&status_of(&Error::new(kind, "x"))), kind);
            assert_eq!(kind_of_code(kind_code(kind)), kind);
        }
    }
}
