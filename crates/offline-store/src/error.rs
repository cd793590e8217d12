//! What can go wrong between a row and a committed table version.

use granary_types::{ErrorKind, FeatureGroupId};
use thiserror::Error as ThisError;

/// An error of the offline store.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The warehouse's URL or a group's location cannot be used.
    #[error("use location: {reason} location={location}")]
    Location {
        /// As given.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object store does not refuse a second conditional put, so that two commits of one version could both
    /// succeed.
    #[error("the object store ignores conditional puts, which table commits need location={location}")]
    NoConditionalPut {
        /// The warehouse.
        location: String,
    },
    /// The feature group keeps no history.
    #[error("feature group has no offline store group={group}")]
    NoOfflineStore {
        /// The group's name.
        group: String,
    },
    /// The table at the group's location belongs to another group, or has a column of another type.
    #[error("table does not fit the feature group: {reason} group={group}")]
    TableMismatch {
        /// The group.
        group: FeatureGroupId,
        /// What differs.
        reason: String,
    },
    /// The table's log is not the one this handle has read: its newest commit was deleted, cut or replaced. A fresh
    /// handle begins with what stands there now.
    #[error("table log was deleted, cut or replaced location={location} version={version}")]
    Replaced {
        /// The table.
        location: String,
        /// The version that this handle had read.
        version: u64,
    },
    /// The object store did not answer the first request made of it.
    #[error(
        "the object store does not answer: check its address, and that there are credentials location={location} seconds={seconds}"
    )]
    Unreachable {
        /// The warehouse.
        location: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A row does not decode, or not by its group's schema.
    #[error("decode row: {reason} stream={stream} sequence={sequence}")]
    CorruptRow {
        /// The row's stream.
        stream: String,
        /// Its place there.
        sequence: u64,
        /// What is wrong.
        reason: String,
    },
    /// A row was written under a newer schema than the caller's view of the group: refresh the catalog and retry.
    #[error("row is newer than the known schema row_schema={row} known_schema={known}")]
    NewerSchema {
        /// The row's schema version.
        row: u32,
        /// The group's.
        known: u32,
    },
    /// The object store failed.
    #[error("reach object store")]
    ObjectStore(#[from] object_store::Error),
    /// The table's log could not be read or written. A commit that ended so may have been made: read the offsets.
    #[error("reach table log")]
    Table(#[from] deltalake_core::DeltaTableError),
    /// A commit lost against others again and again.
    #[error("table is too busy to commit attempts={attempts}")]
    Busy {
        /// How often it was tried.
        attempts: usize,
    },
    /// Rows could not be built into columns.
    #[error("build columns")]
    Arrow(#[from] arrow::error::ArrowError),
    /// Columns could not be written as Parquet.
    #[error("encode parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Iceberg metadata cannot be made of what stands there, or is not what Granary wrote. The table itself is as it was.
    #[error("build iceberg metadata: {reason}")]
    Iceberg {
        /// What is wrong.
        reason: String,
    },
    /// A manifest or manifest list that the newest Iceberg document names is not in the table's directory: it was deleted, or
    /// the document was copied from another place. The next document begins anew.
    #[error("iceberg metadata names a file that is not there uri={uri}")]
    IcebergLost {
        /// The file.
        uri: String,
    },
    /// Another program's metadata document would change more than the properties of the table, or is none.
    #[error("adopt iceberg metadata: {reason}")]
    IcebergProposal {
        /// What is wrong with it.
        reason: String,
    },
    /// What another program's metadata document builds on is not what there is now: read it again. Nothing was changed.
    #[error("iceberg metadata has changed since it was read: {reason}")]
    IcebergOutdated {
        /// What changed.
        reason: String,
    },
    /// A file of Iceberg metadata could not be encoded or decoded.
    #[error("encode or decode avro")]
    Avro(#[source] apache_avro::Error),
    /// A file of the local disk could not be created or synced.
    #[error("sync local disk")]
    Io(#[from] std::io::Error),
    /// An offset stood lower than one read before (CP-2).
    #[error("table offset retreated stream={stream} from={from} to={to}")]
    OffsetRetreated {
        /// The stream.
        stream: String,
        /// What was read before.
        from: u64,
        /// What is read now.
        to: u64,
    },
    /// A blocking task died.
    #[error("blocking task ended early")]
    TaskDied,
}

impl Error {
    /// What a caller should do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Location { .. } | Self::NoConditionalPut { .. } | Self::NoOfflineStore { .. } => ErrorKind::Invalid,
            Self::CorruptRow { .. } | Self::OffsetRetreated { .. } => ErrorKind::Corrupt,
            Self::Replaced { .. } | Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::NewerSchema { .. } | Self::ObjectStore(_) | Self::Table(_) | Self::Busy { .. } | Self::Io(_) => {
                ErrorKind::Unavailable
            }
            Self::IcebergProposal { .. } => ErrorKind::Invalid,
            Self::IcebergOutdated { .. } => ErrorKind::Conflict,
            Self::Iceberg { .. } | Self::IcebergLost { .. } | Self::Avro(_) => ErrorKind::Internal,
            Self::TableMismatch { .. } | Self::Arrow(_) | Self::Parquet(_) | Self::TaskDied => ErrorKind::Internal,
        }
    }
}
