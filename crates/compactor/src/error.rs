//! Why a round was given up.

use granary_types::{FeatureGroupId, StreamId};
use thiserror::Error as ThisError;

/// An error of the compactor. None is fatal: if nothing else is said, the round is forgotten and begun
/// anew from the offsets in the tables.
#[derive(Debug, ThisError)]
pub enum Error {
    /// No replica of the shard answered. Nothing is forgotten for it: they are asked again later.
    #[error("read change log stream={stream}")]
    ReadChangeLog {
        /// The stream.
        stream: StreamId,
        /// What the last of them said, or why it said nothing.
        #[source]
        source: tonic::Status,
    },
    /// A replica answered with another stream than the catalog names.
    #[error("change log is another stream stream={stream} answered={answered}")]
    OtherStream {
        /// The stream the catalog names.
        stream: StreamId,
        /// What the replica said.
        answered: String,
    },
    /// Events are missing between what is committed or held and what a replica gave (CL-2).
    #[error("change log has a gap stream={stream} expected={expected} got={got}")]
    Gap {
        /// The stream.
        stream: StreamId,
        /// The number that had to come next.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// A segment or an event in it does not decode.
    #[error("decode change log: {reason} stream={stream}")]
    CorruptSegment {
        /// The stream.
        stream: StreamId,
        /// What is wrong.
        reason: String,
    },
    /// Another compactor moved a stream's offset while this one worked on the same events.
    #[error("another compactor committed first group={group}")]
    Moved {
        /// The table's feature group.
        group: FeatureGroupId,
    },
    /// The offsets read back after the commits do not reach what was committed (CL-3).
    #[error("offset read back does not reach the events stream={stream} group={group} offset={offset} events={events}")]
    NotCovered {
        /// The stream.
        stream: StreamId,
        /// The table's feature group.
        group: FeatureGroupId,
        /// What the table says.
        offset: u64,
        /// What had to be reached.
        events: u64,
    },
    /// The table does not hold what was trimmed from the change log because it held it: it was deleted or cut, or an
    /// older copy of it was put back. It is not written to until the history is back, or an operator has given it up.
    #[error(
        "offline table lacks history that was acknowledged: put it back, or give it up by `granary offline give-up` \
         group={group} location={location} stream={stream} offset={offset} acknowledged={trimmed}"
    )]
    LostHistory {
        /// The table's feature group.
        group: FeatureGroupId,
        /// Where the table is, or was.
        location: String,
        /// The first stream whose events are missing.
        stream: StreamId,
        /// How far the table goes; 0 for one that is not there.
        offset: u64,
        /// How far it went.
        trimmed: u64,
    },
    /// The offline table failed.
    #[error("write offline table group={group}")]
    Table {
        /// The table's feature group.
        group: FeatureGroupId,
        /// Why.
        #[source]
        source: granary_offline_store::Error,
    },
    /// A blocking task died.
    #[error("blocking task ended early")]
    TaskDied,
}
