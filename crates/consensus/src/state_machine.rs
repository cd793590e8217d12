//! What a replicated state machine must be able to do, be it a shard's or the meta group's.

use std::fmt;
use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;

use bytes::Bytes;

/// Writes one snapshot's body. Holds what it needs to stay consistent while the state machine goes on applying.
pub trait SnapshotSource: Send {
    /// The applied index the snapshot is at: every entry up to it is in it, none after.
    fn index(&self) -> u64;

    /// Writes the body. Runs on a blocking thread, may take long, never stops `apply`.
    ///
    /// # Errors
    /// When reading the state or writing the body fails: the snapshot is discarded.
    fn write_to(self: Box<Self>, out: &mut dyn Write) -> std::io::Result<()>;
}

/// A deterministic state machine: equal commands in equal order make equal states and equal replies.
///
/// `apply` reads no clock and no randomness, and its effects depend on the state and the entry alone.
pub trait StateMachine: Send + Sync + fmt::Debug + 'static {
    /// Applies the committed command at `index` and returns the reply. Indexes rise but are not dense: blank and
    /// membership entries do not come here.
    ///
    /// # Errors
    /// When the command cannot be applied: the replica stops. It never skips an entry, for then it would diverge.
    fn apply(&self, index: u64, command: &Bytes) -> std::io::Result<Bytes>;

    /// Returns when there is room to apply more: bounded memory, felt by whoever proposes.
    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Pins the state as of the last applied command for a snapshot. Called between two calls of `apply`, so it must
    /// be quick: the long work belongs into [`SnapshotSource::write_to`], while `apply` goes on.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn snapshot(&self) -> std::io::Result<Box<dyn SnapshotSource>>;

    /// Replaces the state by a snapshot's body, whose checksum was found right. `index` is the snapshot's.
    ///
    /// At the start of a process, `local` is true: the body is the replica's own newest snapshot, and a state
    /// machine that kept a trusted newer state of its own may keep it.
    ///
    /// # Errors
    /// When the body cannot be read or the state cannot be written: the replica stops.
    fn restore(&self, index: u64, local: bool, body: &mut dyn Read) -> std::io::Result<()>;
}
