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
