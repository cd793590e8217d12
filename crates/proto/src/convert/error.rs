//! Error kinds as gRPC statuses and as the short codes of batch errors.

use granary_types::{Error, ErrorKind};
use tonic::{Code, Status};

/// The gRPC status of an error.
pub fn status_of(error: &Error) -> Status {
    let code = match error.kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InUse => Code::AlreadyExists,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Overloaded => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unknown => Code::DeadlineExceeded,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, error.message.clone())
}

/// What a status means to the caller. A connection that broke while a call was under way reads as `Unknown`.
pub fn kind_of_status(status: &Status) -> ErrorKind {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::InUse,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Forbidden,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Unavailable | Code::FailedPrecondition | Code::Aborted => ErrorKind::Unavailable,
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => ErrorKind::Unknown,
        Code::DataLoss => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    }
}

/// The code of a kind in batch errors and on the command line.
pub fn kind_code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not_found",
        ErrorKind::InUse => "in_use",
        ErrorKind::Forbidden => "forbidden",
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
