//! The lane to one shard: concurrent writes gather into one request.
//!
//! There is no linger. A lone write goes at once; while a few requests are on their way, what arrives waits and
//! then travels together. The wait is bounded in items and bytes, and what does not fit is refused before anything
//! happened. A lane goes one round over the replicas for each request; the pauses between rounds and the change of
//! the shard are the writes' own, since each has its own deadline.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use granary_platform::TaskKind;
use granary_proto::internal::shard_write_response::Result as Answer;
use granary_proto::internal::{ShardWriteRequest, Write, WriteOutcome};
use granary_types::{Error, ErrorKind, ShardId};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::Shared;
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::replicas::{Answered, RoundFailed, Who, ask_round};

/// A write that was applied, or refused at apply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Applied {
    /// The index of its Raft entry.
    pub(crate) index: u64,
    /// What apply said.
    pub(crate) outcome: WriteOutcome,
    /// Whether an attempt before this one was lost and may be applied too, or later.
    pub(crate) may_have_run_before: bool,
}

type Reply = Result<Applied, RoundFailed>;

struct Queued {
    write: Write,
    deadline: Deadline,
    reply: oneshot::Sender<Reply>,
    held: Held,
}

/// A write's share of the lane's bytes, given back with the answer.
struct Held {
    shared: Arc<Shared>,
    bytes: u32,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.metrics.queued_bytes.sub(i64::from(self.bytes));
    }
}

/// The way into the lane. Cheap to clone; the lane ends with its last handle.
#[derive(Clone)]
pub(crate) struct Lane {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    pub(crate) fn start(shared: &Arc<Shared>, shard: ShardId) -> Self {
        let settings = &shared.settings;
        let (sender, receiver) = mpsc::channel(settings.queued_writes_max);
        let driver = Driver {
            shared: Arc::clone(shared),
            shard,
            flights: Arc::new(Semaphore::new(settings.batches_in_flight_max)),
        };
        shared.platform.spawn(TaskKind::Request, "router-lane", driver.run(receiver));
        Self { shared: Arc::clone(shared), sender, bytes: Arc::new(Semaphore::new(settings.queued_bytes_max)) }
    }

    /// Puts a write into the lane. What comes back, comes by the receiver.
    ///
    /// # Errors
    /// `Overloaded` when the lane is full.
    pub(crate) fn enqueue(&self, write: Write, deadline: Deadline) -> Result<oneshot::Receiver<Reply>, Error> {
        let full = || Error::new(ErrorKind::Overloaded, "too many writes wait for the shard");
        let longest = self.shared.settings.queued_bytes_max;
        let bytes = u32::try_from(write.encoded_len().min(longest)).map_err(|_| full())?;
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| full())?;
        self.shared.metrics.queued_bytes.add(i64::from(bytes));
        let held = Held { shared: Arc::clone(&self.shared), bytes, _permit: permit };
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(Queued { write, deadline, reply, held }).map_err(|_| full())?;
        self.shared.metrics.queued_writes.inc();
        Ok(answer)
    }
}

struct Driver {
    shared: Arc<Shared>,
    shard: ShardId,
    flights: Arc<Semaphore>,
}

impl Driver {
    async fn run(self, mut receiver: mpsc::Receiver<Queued>) {
        let mut held_back = VecDeque::new();
        loop {
            let first = match held_back.pop_front() {
                Some(queued) => queued,
                None => match receiver.recv().await {
                    Some(queued) => queued,
                    None => return,
                },
            };
            // While the earlier requests are on their way, what arrives gathers behind the first.
            let Ok(flight) = Arc::clone(&self.flights).acquire_owned().await else { return };
            let batch = self.gather(first, &mut receiver, &mut held_back);
            self.shared.metrics.queued_writes.sub(i64::try_from(batch.len()).unwrap_or(i64::MAX));
            let (shared, shard) = (Arc::clone(&self.shared), self.shard);
            self.shared.platform.spawn(TaskKind::Request, "router-write", async move {
                fly(&shared, shard, batch).await;
                drop(flight);
            });
        }
    }

    fn gather(
        &self,
        first: Queued,
        receiver: &mut mpsc::Receiver<Queued>,
        held_back: &mut VecDeque<Queued>,
    ) -> Vec<Queued> {
        let settings = &self.shared.settings;
        let mut bytes = first.held.bytes as usize;
        let mut batch = vec![first];
        while batch.len() < settings.batch_writes_max {
            let Ok(next) = receiver.try_recv() else { break };
            bytes += next.held.bytes as usize;
            if bytes > settings.batch_bytes_max {
                held_back.push_back(next);
                break;
            }
            batch.push(next);
        }
        batch
    }
}

/// Takes one request round the replicas and gives each write its answer.
async fn fly(shared: &Shared, shard: ShardId, mut batch: Vec<Queued>) {
    // Nobody waits for these any more, and they were not sent.
    batch.retain(|queued| !queued.reply.is_closed());
    let Some(deadline) = batch.iter().map(|queued| queued.deadline).max() else { return };
    shared.metrics.batch_writes.observe(batch.len() as f64);
    let (writes, replies): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|queued| (queued.write, (queued.reply, queued.held))).unzip();
    let request = ShardWriteRequest { shard: shard.0, writes };
    let result = ask_round(shared, shard, Who::Leader, deadline, |mut client| {
        // Cheap: record and row are shared bytes.
        let request = request.clone();
        async move {
            match client.write(request).await?.into_inner().result {
                Some(Answer::Written(written)) => Ok(written),
                Some(Answer::NotLeader(not_leader)) => Err(not_leader_failure(not_leader.leader_node)),
                None => Err(Failure::Lost(Error::new(ErrorKind::Internal, "the node's answer is empty"))),
            }
        }
    })
    .await;
    match result {
        Ok(Answered { answer: written, may_have_run_before }) if written.outcomes.len() == replies.len() => {
            let index = written.raft_index;
            for ((reply, _held), outcome) in replies.into_iter().zip(written.outcomes) {
                // Whoever asked may have gone away; the write stands.
                drop(reply.send(Ok(Applied { index, outcome, may_have_run_before })));
            }
        }
        Ok(Answered { answer: written, .. }) => {
            let message = format!("the node answered {} outcomes for {} writes", written.outcomes.len(), replies.len());
            let failure = Failure::Lost(Error::new(ErrorKind::Internal, message));
            answer_all(replies, &RoundFailed { failure, may_have_run: true });
        }
        Err(failed) => answer_all(replies, &failed),
    }
}

fn answer_all(replies: Vec<(oneshot::Sender<Reply>, Held)>, failed: &RoundFailed) {
    for (reply, _held) in replies {
        drop(reply.send(Err(failed.clone())));
    }
}

/// 0 stands for a leader that is not known.
pub(crate) fn not_leader_failure(leader: u64) -> Failure {
    Failure::NotLeader((leader != 0).then_some(granary_types::NodeId(leader)))
}
