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
