//! The encoded row: one record's values in bytes, from the router to the Parquet file.
//!
//! A row is encoded once, at the router, and then carried as opaque bytes by the Raft entry, the memory table, the
//! engine and the change log. It describes itself by feature ordinal, so nobody between router and compactor needs
//! the schema. Values are packed by type; an absent feature costs one byte. A read opens the bytes in place
//! ([`RowView`]) and takes out what it wants; [`project`] makes a smaller row of the same format.
//!
//! Every access is checked: bytes that are no row give [`Error`], never a panic. What is *not* here is a checksum:
//! flipped bits may still form a row, so whoever stores rows keeps a checksum beside them.
//!
//! The bytes are laid out in `docs/formats/row.md`.

use granary_types::ErrorKind;

mod encode;
mod format;
mod view;

pub use encode::{decode, encode, encode_delete, encode_update, merge, project};
pub use view::{Elements, RowView, ValueRef, Values};

/// The format version this build writes, the first byte of every row.
pub const FORMAT_VERSION: u8 = 1;

/// Bytes that are no row of a format this build knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A row of a later build, or damaged at its first byte.
    #[error("row has an unknown format version: version={0}")]
    UnknownFormat(u8),
    /// The bytes break the format.
    #[error("row is corrupt: {0}")]
    Corrupt(String),
}

impl From<Error> for granary_types::Error {
    fn from(error: Error) -> Self {
        Self::new(ErrorKind::Corrupt, error.to_string())
    }
}
