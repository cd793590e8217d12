//! The words of Granary as types: feature groups, values, records, event times, record versions, ids and
//! error kinds, and the one rule [`supersedes`] that decides between two versions of a record.
//!
//! This crate is the ground floor. It reads no clock, does no I/O and knows no wire or disk format: those have
//! types of their own, with conversions that can fail. It keeps the invariant ids ([`invariants`]).

pub mod error;
pub mod event_time;
pub mod feature_group;
pub mod ids;
pub mod invariants;
pub mod mutants;
pub mod record;
pub mod ttl;
pub mod value;
pub mod version;
pub mod write;

pub use error::{Error, ErrorKind, with_causes};
pub use event_time::EventTime;
pub use feature_group::{
    CollectionType, Feature, FeatureGroup, FeatureGroupStatus, FeatureType, Granularity, OfflineConfig, OnlineConfig,
    Schema, ThroughputConfig,
};
pub use ids::{
    ClusterId, Epoch, FeatureGroupId, FeatureOrdinal, NodeId, ReplicaId, SchemaVersion, ShardId, Slot, StreamId,
    StreamPosition, WriteId,
};
pub use record::{Record, RecordIdentifier};
pub use ttl::{Ttl, TtlUnit};
pub use value::{FeatureValue, Value};
pub use version::{Cell, Version, Versioned, WriteStamp, supersedes};
pub use write::{Targets, Write, WriteKind};
