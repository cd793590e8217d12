//! The catalog: which feature groups, nodes and shards there are, and which shard owns each slot.
//!
//! * [`CatalogState`] is the meta group's state machine: pure, it reads no clock and draws nothing, so equal commands
//!   make equal states on every replica. Times stand in the commands.
//! * [`CatalogView`] is what everybody else reads: immutable, shared, made for look-ups by name, id and slot.
//! * [`watch`] keeps a view up to date from any node of the cluster.
//! * [`search`] finds feature groups and features by what is said about them.
//! * [`offline`] says where a new group's history shall lie and what SQL clients call it.
//!
//! The catalog never decides who owns a slot: a shard's own log does, at apply (RG-1). A stale view therefore costs a
//! redirect and never a write, and the data plane serves while the meta group is down.

mod entries;
pub mod offline;
pub mod search;
mod state;
mod view;
pub mod watch;

use granary_types::ErrorKind;

pub use entries::{NodeEntry, ReplicaEntry, ShardEntry};
pub use offline::{OfflineDefaults, resolve_offline};
pub use state::{CATALOG_BYTES_MAX, CatalogState, FOUNDING_NODE_MAX, NODE_COUNT_MAX, UnknownCommand, check_new};
pub use view::CatalogView;
pub use watch::CatalogClient;

/// Why a catalog could not be read from its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field does not hold what it must.
    #[error("read catalog")]
    Malformed(#[source] granary_types::Error),
    /// The slot table is wrong.
    #[error("read slot table of catalog")]
    SlotTable(#[source] granary_placement::Error),
    /// Its parts do not fit each other.
    #[error("catalog contradicts itself: {0}")]
    Contradiction(String),
}

impl From<granary_types::Error> for Error {
    fn from(source: granary_types::Error) -> Self {
        Self::Malformed(source)
    }
}

impl From<granary_placement::Error> for Error {
    fn from(source: granary_placement::Error) -> Self {
        Self::SlotTable(source)
    }
}

impl From<Error> for granary_types::Error {
    fn from(error: Error) -> Self {
        let message = match &error {
            Error::Malformed(source) => format!("{error}: {source}"),
            Error::SlotTable(source) => format!("{error}: {source}"),
            Error::Contradiction(_) => error.to_string(),
        };
        Self::new(ErrorKind::Corrupt, message)
    }
}
