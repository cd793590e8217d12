//! Proposals: from a command to its place in the log and the state machine's reply.
//!
//! Several may be under way at once, in the order in which they were started. Their number is bounded in bytes; a
//! share of the budget is given back when Raft is done with the command, not when the proposer loses patience.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_types::{NodeId, ReplicaId};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use crate::ProposeError;
use crate::stats::Stats;
use crate::type_config::{Command, Respond, TypeConfig};

/// What a short command counts as: an entry's share of the log's and Raft's bookkeeping.
const COMMAND_COST_MIN: usize = 4 << 10;

/// An applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Its index in the Raft log.
    pub index: u64,
    /// What the state machine answered.
    pub reply: Bytes,
}

/// A command that was handed to Raft. Dropping it gives up the answer, not the command.
#[derive(Debug)]
#[must_use = "the command may be applied whether or not the answer is awaited"]
pub struct PendingProposal {
    outcome: oneshot::Receiver<ClientWriteResult<TypeConfig>>,
    replica: ReplicaId,
    stats: Arc<Stats>,
    acknowledged: Acknowledged,
}

/// The highest index that a proposer here was told of: every read index from then on covers it (LIN-1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged(Arc<AtomicU64>);

impl Acknowledged {
    pub(crate) fn highest(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn raise(&self, index: u64) {
        self.0.fetch_max(index, Ordering::SeqCst);
    }
}

impl PendingProposal {
    /// Waits for the outcome, however long it takes.
    ///
    /// # Errors
    /// As [`crate::Group::propose`], without a timeout.
    pub async fn wait(self) -> Result<Proposed, ProposeError> {
        let outcome = match self.outcome.await {
            Ok(Ok(written)) => {
                self.acknowledged.raise(written.log_id.index);
                return Ok(Proposed { index: written.log_id.index, reply: written.data.0 });
            }
            Ok(Err(error)) => propose_error(error, self.replica),
            // Raft stopped with the command in hand.
            Err(_) => ProposeError::Unknown,
        };
        self.stats.proposals_failed.add(1);
        Err(outcome)
    }

    /// Waits for the outcome at most that long.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] after the timeout; otherwise as [`Self::wait`].
    pub async fn wait_for(self, timeout: Duration) -> Result<Proposed, ProposeError> {
        tokio::time::timeout(timeout, self.wait()).await.unwrap_or(Err(ProposeError::Unknown))
    }
}

/// The room for commands under way, in units of [`COMMAND_COST_MIN`].
#[derive(Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / COMMAND_COST_MIN).max(1))))
    }

    pub(crate) async fn acquire(&self, len: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.0).acquire_many_owned(units(len)).await
    }

    pub(crate) fn try_acquire(&self, len: usize) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.0).try_acquire_many_owned(units(len))
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }
}

fn units(len: usize) -> u32 {
    u32::try_from(len.div_ceil(COMMAND_COST_MIN)).unwrap_or(u32::MAX).max(1)
}

/// Hands a command to Raft.
pub(crate) async fn start<SM: openraft::storage::RaftStateMachine<TypeConfig>>(
    raft: &openraft::Raft<TypeConfig, SM>,
    stats: &Arc<Stats>,
    acknowledged: &Acknowledged,
    command: Bytes,
    permit: OwnedSemaphorePermit,
) -> Result<PendingProposal, ProposeError> {
    stats.proposals.add(1);
    stats.proposal_bytes.add(command.len() as u64);
    let (responder, outcome) = Respond::new(Some(permit));
    raft.client_write_ff(Command(command), Some(responder)).await.map_err(|_| ProposeError::Stopped)?;
    let replica = ReplicaId(*raft.node_id());
    Ok(PendingProposal { outcome, replica, stats: Arc::clone(stats), acknowledged: acknowledged.clone() })
}

fn propose_error(error: ClientWriteError<TypeConfig>, me: ReplicaId) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => match leader_elsewhere(&forward, me) {
            Some(leader) => ProposeError::NotLeader { leader },
            None => ProposeError::Unavailable,
        },
        // A new leader's log replaced this one's tail: the entry may have been committed by another replica.
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
        // Never for a command.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => ProposeError::Unknown,
    }
}

/// Where to go instead; `None` when this replica leads but may not serve.
pub(crate) fn leader_elsewhere(
    forward: &ForwardToLeader<TypeConfig>,
    me: ReplicaId,
) -> Option<Option<(ReplicaId, NodeId)>> {
    if forward.reason == ForwardReason::LeaseExpired || forward.leader_id == Some(me.0) {
        return None;
    }
    let node = forward.leader_node.as_ref().map_or(0, |peer| peer.node);
    Some(forward.leader_id.map(|leader| (ReplicaId(leader), NodeId(node))))
}
