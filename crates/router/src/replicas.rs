//! Which replica to ask, and in what order: one round over the replicas of a shard.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use granary_catalog::CatalogView;
use granary_link::Link;
use granary_proto::internal::shard_client::ShardClient;
use granary_types::{Error, ErrorKind, NodeId, ShardId};
use parking_lot::Mutex;

use crate::Shared;
use crate::deadline::Deadline;
use crate::failure::Failure;

/// Who led each shard when last heard of. A guess: a wrong one costs a redirect.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    guesses: Mutex<HashMap<ShardId, NodeId>>,
    turn: AtomicUsize,
}

impl Leaders {
    fn get(&self, shard: ShardId) -> Option<NodeId> {
        self.guesses.lock().get(&shard).copied()
    }

    fn learn(&self, shard: ShardId, node: NodeId) {
        self.guesses.lock().insert(shard, node);
    }

    fn forget(&self, shard: ShardId, node: NodeId) {
        let mut guesses = self.guesses.lock();
        if guesses.get(&shard) == Some(&node) {
            guesses.remove(&shard);
        }
    }
}

/// Who may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Only the leader, so the guess goes first.
    Leader,
    /// Any replica, so they take turns.
    Any,
}

/// The nodes of a shard that were not yet asked in this round.
#[derive(Debug)]
struct Round {
    untried: VecDeque<NodeId>,
}

impl Round {
    fn begin(shared: &Shared, view: &CatalogView, shard: ShardId, who: Who) -> Self {
        let entry = view.shards().iter().find(|entry| entry.id == shard);
        let mut untried: VecDeque<NodeId> =
            entry.into_iter().flat_map(|entry| &entry.replicas).map(|replica| replica.node).collect();
        if !untried.is_empty() {
            let turn = shared.leaders.turn.fetch_add(1, Ordering::Relaxed);
            let start = turn % untried.len();
            untried.rotate_left(start);
        }
        let mut round = Self { untried };
        if let (Who::Leader, Some(guess)) = (who, shared.leaders.get(shard)) {
            round.prefer(guess);
        }
        round
    }

    /// Asks `node` next, if it is a replica's and was not asked yet.
    fn prefer(&mut self, node: NodeId) -> bool {
        let Some(place) = self.untried.iter().position(|other| *other == node) else { return false };
        self.untried.remove(place);
        self.untried.push_front(node);
        true
    }
}

/// An answer, and what came before it in its round.
#[derive(Debug, Clone)]
pub(crate) struct Answered<T> {
    /// What the replica said.
    pub(crate) answer: T,
    /// Whether an attempt before it may have been applied.
    pub(crate) may_have_run_before: bool,
}

/// A round in which no replica answered.
#[derive(Debug, Clone)]
pub(crate) struct RoundFailed {
    /// What the last or the gravest failure was.
    pub(crate) failure: Failure,
    /// Whether any of the attempts may have been applied.
    pub(crate) may_have_run: bool,
}

/// Asks the replicas of a shard, each at most once, until one answers.
pub(crate) async fn ask_round<T, F, Fut>(
    shared: &Shared,
    shard: ShardId,
    who: Who,
    deadline: Deadline,
    call: F,
) -> Result<Answered<T>, RoundFailed>
where
    F: Fn(ShardClient<Link>) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let view = shared.view();
    let mut round = Round::begin(shared, &view, shard, who);
    let nobody = Error::new(ErrorKind::Unavailable, format!("no replica of the shard can be reached: shard={shard}"));
    let mut failed = RoundFailed { failure: Failure::Refused(nobody), may_have_run: false };
    while let Some(node) = round.untried.pop_front() {
        let Some(time) = deadline.remaining(&shared.platform, shared.settings.attempt_timeout) else { break };
        let Some(address) = view.node_address(node) else { continue };
        let client = match shared.nodes.shard(address) {
            Ok(client) => client,
            Err(error) => {
                failed.failure = Failure::Refused(error);
                continue;
            }
        };
        let failure = match tokio::time::timeout(time, call(client)).await {
            Ok(Ok(answer)) => {
                if who == Who::Leader {
                    shared.leaders.learn(shard, node);
                }
                return Ok(Answered { answer, may_have_run_before: failed.may_have_run });
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Lost(Error::new(ErrorKind::Unknown, "the node did not answer in time")),
        };
        shared.metrics.failed_attempts.with_label_values(&[failure.reason()]).inc();
        tracing::debug!(%shard, %node, ?failure, "attempt failed");
        failed.may_have_run |= matches!(failure, Failure::Lost(_));
        if who == Who::Leader {
            shared.leaders.forget(shard, node);
        }
        if let Failure::NotLeader(Some(leader)) = failure
            && round.prefer(leader)
        {
            shared.leaders.learn(shard, leader);
        }
        let ends = failure.is_final();
        failed.failure = failure;
        if ends {
            break;
        }
    }
    Err(failed)
}
