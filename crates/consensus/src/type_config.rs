//! The one set of types that all Raft groups run openraft with.
//!
//! Commands and replies are opaque bytes, so that the meta group and every shard share one type, one log store and
//! one network. No type here derives serde: what stands on disk or goes over the wire has its form in
//! [`crate::codec`].

use std::fmt;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::raft::responder::Responder;
use openraft::type_config::alias;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A command of a group's state machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the state machine answered to a command; empty for entries that carry none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Reply(pub Bytes);

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reply of {} bytes", self.0.len())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a replica lives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Peer {
    /// The node's id.
    pub node: u64,
    /// `host:port` of the node's peer listener.
    pub address: String,
}

/// Where openraft leaves the outcome of a proposal. Holds the proposal's share of the budget until then.
#[derive(Debug)]
pub struct Respond<T> {
    reply: oneshot::Sender<T>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T> Respond<T> {
    /// A responder and the receiver of its outcome.
    pub fn new(permit: Option<OwnedSemaphorePermit>) -> (Self, oneshot::Receiver<T>) {
        let (reply, outcome) = oneshot::channel();
        (Self { reply, _permit: permit }, outcome)
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Respond<T> {
    fn on_complete(self, result: T) {
        // Whoever asked may have given up at its deadline.
        let _ = self.reply.send(result);
    }
}

/// The type configuration of every Raft group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Reply;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, Peer>;
    type Entry = openraft::Entry<Self::LeaderId, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Respond<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// (term, leader, index) of an entry.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// (term, replica, whether a majority granted it).
pub type Vote = alias::VoteOf<TypeConfig>;
/// An entry of the Raft log.
pub type Entry = alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type Payload = alias::PayloadOf<TypeConfig>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Peer>;
/// A membership and the entry that wrote it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// What openraft knows of a snapshot.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
