//! A write on its way to a shard: parsed, checked, encoded once, opaque from here to the Parquet file.

use bytes::Bytes;

use crate::{Epoch, EventTime, FeatureGroupId, RecordIdentifier, Slot, WriteId, WriteStamp};

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteKind {
    /// Replaces the whole record.
    Put,
    /// Hides the record; a version like any other.
    SoftDelete,
    /// Resets the record: forgets its event-time watermark.
    HardDelete,
    /// Replaces some values of a live record. The row is the merged one, and holds only if nothing was written to the
    /// record since it was read.
    Update {
        /// The last stamp of the shard when the record was read.
        based_on: WriteStamp,
    },
    /// Resets a record that has expired, as of the moment it did: a hard delete that holds only if nothing was written
    /// to the record since it was found expired.
    Expiry {
        /// The last stamp of the shard when the record was read.
        based_on: WriteStamp,
    },
}

impl WriteKind {
    /// For a write that holds only if its record is still as it was read: the last stamp of the shard at that time.
    pub fn based_on(self) -> Option<WriteStamp> {
        match self {
            Self::Update { based_on } | Self::Expiry { based_on } => Some(based_on),
            Self::Put | Self::SoftDelete | Self::HardDelete => None,
        }
    }
}

/// Which stores a write goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Targets {
    /// The latest value.
    pub online: bool,
    /// The history.
    pub offline: bool,
}

/// A write as it stands in a Raft entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// For deduplication; the same on every retry.
    pub id: WriteId,
    /// Where its record identifier hashes to.
    pub slot: Slot,
    /// The epoch of the slot's placement that the router knew.
    pub epoch: Epoch,
    /// The group.
    pub group: FeatureGroupId,
    /// The record.
    pub record: RecordIdentifier,
    /// The caller's time.
    pub event_time: EventTime,
    /// Put or delete.
    pub kind: WriteKind,
    /// Which stores.
    pub targets: Targets,
    /// When the call arrived at the router, in microseconds since the Unix epoch.
    pub invoked_at_us: i64,
    /// The encoded row (`granary-row`); for deletes a row that holds only identifier and event time.
    pub row: Bytes,
}
