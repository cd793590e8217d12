//! What can go wrong in a shard's store.

use std::sync::Arc;

use granary_types::ErrorKind;

/// Why the store could not do what it was asked. Cheap to clone: a failure is told to everybody who asks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A stored cell or marker fails its checksum: the tree must be thrown away and rebuilt.
    #[error("stored bytes are corrupt: {what} key={key}")]
    Corrupt {
        /// What is wrong with them.
        what: &'static str,
        /// The key in hex, empty for the marker.
        key: String,
    },
    /// The engine failed.
    #[error("store engine failed")]
    Engine(#[source] Arc<granary_store::Error>),
    /// The engine panicked while it was written to.
    #[error("store engine panicked: {0}")]
    EnginePanicked(String),
    /// A committed entry that this program does not understand. Skipping it would make the replica diverge, so the
    /// replica stops.
    #[error("raft entry cannot be applied index={index}: {detail}")]
    Entry {
        /// Its index in the Raft log.
        index: u64,
        /// What is not understood.
        detail: String,
    },
    /// On replay, the rows are so far ahead of the entry that the first decision about a hard delete cannot be read
    /// back. The store empties its tree: opened again, it is rebuilt from the newest snapshot.
    #[error("rows are ahead of the raft entry and must be rebuilt index={index}")]
    RowsAhead {
        /// The entry's index.
        index: u64,
    },
    /// A snapshot's body is not what it should be.
    #[error("snapshot body is not usable: {0}")]
    Snapshot(String),
    /// Reading or writing a snapshot's body failed.
    #[error("{action} snapshot body")]
    SnapshotIo {
        /// `read` or `write`.
        action: &'static str,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// A change-log segment fails its checksums or is not dense.
    #[error("change-log segment is corrupt: {0}")]
    Segment(String),
    /// On replay, the rows are ahead of the entries applied, or may be in places: they are no snapshot of that state.
    #[error("rows are ahead of the applied entries, a snapshot must wait applied={applied} ahead_to={ahead_to}")]
    Replaying {
        /// The last entry applied.
        applied: u64,
        /// The entry to which the rows are ahead.
        ahead_to: u64,
    },
    /// There is a pinned snapshot already; one at a time.
    #[error("a snapshot is pinned already")]
    SnapshotPinned,
    /// The state was replaced by another snapshot while this one was written.
    #[error("the state was replaced while the snapshot was written")]
    SnapshotReplaced,
    /// The store is closed.
    #[error("store is closed")]
    Closed,
}

impl Error {
    /// What the caller should do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Corrupt { .. } | Self::RowsAhead { .. } | Self::Snapshot(_) | Self::Segment(_) => ErrorKind::Corrupt,
            Self::Engine(error) => match **error {
                granary_store::Error::Corrupt(_) => ErrorKind::Corrupt,
                granary_store::Error::Io(_) => ErrorKind::Internal,
            },
            Self::EnginePanicked(_) => ErrorKind::Corrupt,
            Self::Entry { .. } | Self::SnapshotIo { .. } => ErrorKind::Internal,
            Self::Replaying { .. } | Self::SnapshotPinned | Self::SnapshotReplaced | Self::Closed => {
                ErrorKind::Unavailable
            }
        }
    }

    /// Whether the tree must be thrown away: open the store again as [`crate::TreeTrust::Untrusted`].
    pub fn wants_rebuild(&self) -> bool {
        self.kind() == ErrorKind::Corrupt
    }

    pub(crate) fn corrupt(what: &'static str, key: &[u8]) -> Self {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::Corrupt { what, key }
    }

    pub(crate) fn reading(source: std::io::Error) -> Self {
        Self::SnapshotIo { action: "read", source: Arc::new(source) }
    }

    pub(crate) fn writing(source: std::io::Error) -> Self {
        Self::SnapshotIo { action: "write", source: Arc::new(source) }
    }
}

impl From<granary_store::Error> for Error {
    fn from(error: granary_store::Error) -> Self {
        Self::Engine(Arc::new(error))
    }
}
