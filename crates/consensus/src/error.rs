//! What can go wrong with a Raft group, by what the caller should do about it.

use std::io;
use std::path::PathBuf;

use granary_types::{NodeId, ReplicaId};

use crate::type_config::LogId;

/// A group that cannot start or cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the group cannot be read or written.
    #[error("{action}: path={}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record of the Raft log is damaged and acknowledged entries follow it: the replica must rejoin from a peer.
    #[error("raft log is damaged, rejoin from a peer: path={} offset={offset}", path.display())]
    LogDamaged {
        /// The file.
        path: PathBuf,
        /// The first byte of the record that cannot be read, in the file.
        offset: u64,
    },
    /// The log ends before what was synced of it: its tail was cut off, or its last file removed.
    #[error("raft log lost what was synced, the replica must be replaced: path={} noted={noted} found={found}", path.display())]
    LogShort {
        /// The file that ends early, or the directory.
        path: PathBuf,
        /// The position in the log up to which it was synced.
        noted: u64,
        /// The position at which it ends.
        found: u64,
    },
    /// A file of the log cannot be read, or does not follow the one before it.
    #[error("raft log cannot be read, the replica must be replaced: path={}", path.display())]
    LogUnreadable {
        /// The log's directory, or the file.
        path: PathBuf,
        /// What was found.
        source: io::Error,
    },
    /// A file of the log does not begin where the one before it ends: removed, exchanged or copied over another.
    #[error("raft log has a file missing or out of place, the replica must be replaced: path={}", path.display())]
    LogOutOfPlace {
        /// The file, or the directory.
        path: PathBuf,
    },
    /// The note beside the log is damaged: a loss could not be told from a torn write.
    #[error("note beside the raft log is damaged, the replica must be replaced: path={}", path.display())]
    LogNoteDamaged {
        /// The note.
        path: PathBuf,
    },
    /// The note beside the log is gone: a loss could not be told from a torn write.
    #[error("note beside the raft log is missing, the replica must be replaced: path={}", path.display())]
    LogNoteMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The log is another replica's.
    #[error("raft log belongs to another replica: path={} found={found} expected={expected}", path.display())]
    LogForeign {
        /// The log's directory.
        path: PathBuf,
        /// Whose it says it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The log was purged beyond the newest valid snapshot: the replica needs one from a peer
    /// ([`crate::fetch_snapshot`]).
    #[error(
        "no valid snapshot covers the purged raft log, one is needed from a peer: purged={purged} snapshot={snapshot:?}"
    )]
    SnapshotMissing {
        /// The last purged entry.
        purged: LogId,
        /// The last entry of the newest valid snapshot.
        snapshot: Option<LogId>,
    },
    /// The settings contradict each other.
    #[error("settings are invalid: {0}")]
    Settings(String),
    /// The members to initialise the group with are not usable.
    #[error("members are invalid: {0}")]
    Members(String),
    /// openraft refused or stopped.
    #[error("raft failed: {0}")]
    Raft(String),
}

impl Error {
    /// Whether another try would fail the same way: the replica's own log is gone, damaged or another's.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::LogDamaged { .. }
                | Self::LogShort { .. }
                | Self::LogUnreadable { .. }
                | Self::LogOutOfPlace { .. }
                | Self::LogNoteDamaged { .. }
                | Self::LogNoteMissing { .. }
                | Self::LogForeign { .. }
        )
    }

    /// A word for it, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::LogDamaged { .. } => "log-damaged",
            Self::LogShort { .. } => "log-short",
            Self::LogUnreadable { .. } => "log-unreadable",
            Self::LogOutOfPlace { .. } => "log-out-of-place",
            Self::LogNoteDamaged { .. } => "log-note-damaged",
            Self::LogNoteMissing { .. } => "log-note-missing",
            Self::LogForeign { .. } => "log-foreign",
            Self::SnapshotMissing { .. } => "snapshot-missing",
            Self::Io { .. } | Self::Settings(_) | Self::Members(_) | Self::Raft(_) => "other",
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// A proposal without an outcome. All but `Unknown` mean that the command is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, or none is known to.
    #[error("replica does not lead: leader={leader:?}")]
    NotLeader {
        /// The leader as far as this replica knows.
        leader: Option<(ReplicaId, NodeId)>,
    },
    /// The command is longer than the longest.
    #[error("command is too long: len={len} max={max}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The longest in bytes.
        max: usize,
    },
    /// The budget of unanswered proposals is spent: back off.
    #[error("too many proposals are under way")]
    Overloaded,
    /// The leader lost its majority: retry later.
    #[error("leader has no majority")]
    Unavailable,
    /// Whether the command was or will be applied is not known: retry with the same write id.
    #[error("outcome of the proposal is unknown")]
    Unknown,
    /// The group was stopped, or failed.
    #[error("group is stopped")]
    Stopped,
}

/// A read that has no index to wait for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another replica leads, or none is known to.
    #[error("replica does not lead: leader={leader:?}")]
    NotLeader {
        /// The leader as far as this replica knows.
        leader: Option<(ReplicaId, NodeId)>,
    },
    /// Too many reads wait: back off.
    #[error("too many reads are waiting")]
    Overloaded,
    /// No majority confirmed the leader in time: retry later.
    #[error("leader was not confirmed by a majority")]
    Unavailable,
    /// The group was stopped, or failed.
    #[error("group is stopped")]
    Stopped,
}

/// Waiting for an applied index ended without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It was not applied in time.
    #[error("index was not applied in time")]
    Timeout,
    /// The group was stopped, or failed.
    #[error("group is stopped")]
    Stopped,
}
