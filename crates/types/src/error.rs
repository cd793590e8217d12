//! What a failure means to the caller. Kinds are contract, messages are for people.

use thiserror::Error as ThisError;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Fix the request. Nothing was changed.
    Invalid,
    /// The thing does not exist.
    NotFound,
    /// The name is taken, or the thing is in use.
    InUse,
    /// What is stored is newer than what the request builds on: read it again. Nothing was changed.
    Conflict,
    /// The caller may not.
    Forbidden,
    /// A quota is used up: delete something, or have it raised. Nothing was changed.
    LimitExceeded,
    /// Back off: a budget is spent. Nothing was changed.
    Overloaded,
    /// Retry later or elsewhere. Nothing was changed.
    Unavailable,
    /// The deadline passed; the request may have been applied. Retry with the same write id.
    Unknown,
    /// Stored bytes failed a check.
    Corrupt,
    /// A bug.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tests that walk the table.
    pub const ALL: [Self; 11] = [
        Self::Invalid,
        Self::NotFound,
        Self::InUse,
        Self::Conflict,
        Self::Forbidden,
        Self::LimitExceeded,
        Self::Overloaded,
        Self::Unavailable,
        Self::Unknown,
        Self::Corrupt,
        Self::Internal,
    ];
}

/// An error at a role's boundary: a kind that decides, a message that explains.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{message}")]
pub struct Error {
    /// What the caller should do.
    pub kind: ErrorKind,
    /// Lowercase, no full stop, names what is wrong.
    pub message: String,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Shorthand for the commonest kind.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }
}

/// An error and what caused it, in one line: for whoever tells it and does not hand it on. A cause that is told already
/// is left out, for some libraries tell it in the error itself.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, ThisError)]
    #[error("{0}")]
    struct Caused(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn causes_are_told_once() {
        let caused = |text, source| Caused(text, Some(Box::new(source)));
        let error = caused("write row", caused("sync file: disk is full", Caused("disk is full", None)));
        assert_eq!(with_causes(&error), "write row: sync file: disk is full");
        assert_eq!(
            with_causes(&caused("write row", caused("sync file", Caused("disk is full", None)))),
            "write row: sync file: disk is full"
        );
        assert_eq!(with_causes(&Caused("alone", None)), "alone");
    }
}
