//! The port behind which an engine keeps a replica's rows: an ordered map of bytes with a marker.
//!
//! The engine is a rebuildable copy, never the durability: that is the Raft log and the snapshot files. So the port
//! asks little of it. One thread writes a tree (the checkpointer), in key order, the marker last; whoever reads may
//! read at any time. [`memory`] is the engine for simulation and tests, which can forget what was not flushed;
//! [`conformance`] is the one suite that every engine passes, [`disk`] what stands around an engine on disk.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub mod chunked;
pub mod conformance;
pub mod disk;
pub mod memory;

/// What an engine can say went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stored bytes are damaged: the tree must be thrown away and rebuilt.
    #[error("engine found corrupt data: {0}")]
    Corrupt(String),
    /// Reading or writing failed.
    #[error("engine input or output failed: {0}")]
    Io(String),
}

/// Pairs of a key and its value, in key order.
pub type Pairs<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), Error>> + Send + 'a>;

/// A node's engine: one tree for each replica it hosts.
pub trait Engine: Send + Sync + fmt::Debug {
    /// `sled`, `fjall`, `memory`.
    fn name(&self) -> &'static str;

    /// Opens the tree called `name`, empty if it was not there.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error>;

    /// Removes the tree called `name` with all it holds; nothing, if there is none. Handles of it may not be used
    /// any more.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn drop_tree(&self, name: &str) -> Result<(), Error>;

    /// Flushes everything and leaves the mark of a clean stop. No tree may be written after it.
    ///
    /// # Errors
    /// `Io`: then the stop counts as unclean.
    fn close(&self) -> Result<(), Error>;

    /// Bytes on disk, for metrics.
    fn size_on_disk(&self) -> u64;
}

/// An ordered map of bytes with a marker that is written after what it speaks of.
///
/// A key is not empty and does not start with the byte `0xff`, which engines use for themselves.
pub trait Tree: Send + Sync + fmt::Debug {
    /// The value of `key`.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Puts or (with `None`) removes the pairs, which come in key order, and then the marker. After a crash of the
    /// process either the marker is there and with it every pair, or a part of the pairs may be there alone; and
    /// nothing of a write is there without all of the writes before it.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn write(&self, pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>, marker: &[u8]) -> Result<(), Error>;

    /// The marker last written.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn marker(&self) -> Result<Option<Bytes>, Error>;

    /// The pairs with keys at or after `from`, in key order, without the marker. Consistent while nobody writes.
    fn scan(&self, from: &[u8]) -> Pairs<'_> {
        self.scan_within(from, 0)
    }

    /// As [`Self::scan`], but only pairs whose keys begin with the first `prefix_len` bytes of `from`, which has as many.
    /// Reads little more than these, and little more than is taken.
    fn scan_within(&self, from: &[u8], prefix_len: usize) -> Pairs<'_>;

    /// Removes everything, the marker first.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn clear(&self) -> Result<(), Error>;
}
