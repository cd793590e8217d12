//! Group commit: many client writes in one Raft entry.
//!
//! One task per replica drains what waits, stamps it with the leader's clock and proposes it as one entry; up to
//! `entries_in_flight_max` entries are under way at a time, and while they are, the next one gathers. There is no
//! linger: a lone write goes at once. The queue is bounded in items and bytes; beyond the bound a write is refused
//! as overloaded, before anything happened.
//!
//! Updates that lost a race (`updates.rs`) are merged here once more, while no entry of this queue is under way: then
//! nothing can be written to their records in between.

use std::sync::Arc;

use bytes::Bytes;
use granary_consensus::{Group, ProposeError};
use granary_platform::{Platform, TaskKind};
use granary_proto::internal::{self, shard_command::Command, write_outcome::Status};
use granary_shard::{Pressure, ShardStore};
use granary_types::{Error, ErrorKind, NodeId};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::updates::Draft;
use crate::{Metrics, Settings};

/// What a refused or failed write means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// Nothing happened here; the leader, where it is known.
    NotLeader(Option<NodeId>),
    /// As the error's kind says.
    Failed(Error),
}

/// What apply answered.
#[derive(Debug)]
pub struct Written {
    /// The index of the Raft entry.
    pub index: u64,
    /// One outcome for each write, in order.
    pub outcomes: Vec<internal::WriteOutcome>,
}

struct Submission {
    writes: Vec<internal::Write>,
    /// The writes are updates, to be merged when nothing else is under way.
    unmerged: bool,
    bytes: usize,
    answer: oneshot::Sender<Result<Written, WriteError>>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// The queue in front of a replica's Raft group. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriteQueue {
    sender: mpsc::Sender<Submission>,
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl WriteQueue {
    /// Starts the queue's task.
    pub fn start(
        platform: &Platform,
        group: Group,
        store: Arc<ShardStore>,
        settings: &Settings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(settings.queued_writes_max);
        let batcher = Batcher {
            platform: platform.clone(),
            group,
            store,
            metrics,
            entry_bytes_max: settings.entry_bytes_max,
            entries_in_flight_max: settings.entries_in_flight_max,
            in_flight: Arc::new(Semaphore::new(settings.entries_in_flight_max)),
        };
        platform.spawn(TaskKind::Request, "group-commit", batcher.run(receiver));
        Self {
            sender,
            items: Arc::new(Semaphore::new(settings.queued_writes_max)),
            bytes: Arc::new(Semaphore::new(settings.queued_bytes_max)),
            bytes_max: settings.queued_bytes_max,
        }
    }

    /// Proposes the writes together and answers after they are applied.
    ///
    /// # Errors
    /// `NotLeader`; `Overloaded` when the queue is full; `Unknown` when the entry may or may not be committed.
    pub async fn submit(&self, writes: Vec<internal::Write>) -> Result<Written, WriteError> {
        self.enqueue(writes, false).await
    }

    /// Merges updates into their records when nothing else of this queue is under way, proposes them, and answers after
    /// they are applied. Of several for one record the first one is applied and the others are `RACED`, and so are those
    /// for which the entry has no room.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_unmerged(&self, updates: Vec<internal::Write>) -> Result<Written, WriteError> {
        self.enqueue(updates, true).await
    }

    async fn enqueue(&self, writes: Vec<internal::Write>, unmerged: bool) -> Result<Written, WriteError> {
        let overloaded = || WriteError::Failed(Error::new(ErrorKind::Overloaded, "the shard's write queue is full"));
        let bytes = writes.iter().map(Message::encoded_len).sum::<usize>();
        let count = u32::try_from(writes.len()).map_err(|_| overloaded())?;
        let weight = u32::try_from(bytes.min(self.bytes_max)).map_err(|_| overloaded())?;
        let permits = (
            Arc::clone(&self.items).try_acquire_many_owned(count).map_err(|_| overloaded())?,
            Arc::clone(&self.bytes).try_acquire_many_owned(weight).map_err(|_| overloaded())?,
        );
        let (answer, answered) = oneshot::channel();
        let submission = Submission { writes, unmerged, bytes, answer, _permits: permits };
        self.sender.try_send(submission).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => {
                WriteError::Failed(Error::new(ErrorKind::Unavailable, "the replica is stopping"))
            }
        })?;
        let lost =
            || WriteError::Failed(Error::new(ErrorKind::Unknown, "the replica stopped with the write under way"));
        answered.await.map_err(|_| lost())?
    }
}

struct Batcher {
    platform: Platform,
    group: Group,
    store: Arc<ShardStore>,
    metrics: Arc<Metrics>,
    entry_bytes_max: usize,
    entries_in_flight_max: usize,
    in_flight: Arc<Semaphore>,
}

impl Batcher {
    async fn run(self, mut receiver: mpsc::Receiver<Submission>) {
        let mut held: Option<Submission> = None;
        loop {
            let first = match held.take() {
                Some(submission) => submission,
                None => match receiver.recv().await {
                    Some(submission) => submission,
                    None => return,
                },
            };
            // What arrives while earlier entries are on their way travels in one entry.
            let Ok(mut permit) = Arc::clone(&self.in_flight).acquire_owned().await else { return };
            let mut batch = vec![first];
            let mut bytes = batch[0].bytes;
            while let Ok(next) = receiver.try_recv() {
                if bytes + next.bytes > self.entry_bytes_max {
                    held = Some(next);
                    break;
                }
                bytes += next.bytes;
                batch.push(next);
            }
            self.slow_down().await;
            // Whoever has given up meanwhile asks again; its first try need not go through the Raft log too.
            batch.retain(|submission| !submission.answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            if batch.iter().any(|submission| submission.unmerged) {
                let others = u32::try_from(self.entries_in_flight_max.saturating_sub(1)).unwrap_or(u32::MAX);
                let Ok(others) = Arc::clone(&self.in_flight).acquire_many_owned(others).await else { return };
                permit.merge(others);
                // In front, where no other write of the entry comes before them.
                batch.sort_by_key(|submission| !submission.unmerged);
            }
            self.propose(batch, permit).await;
        }
    }

    /// The change log is three quarters full: take writes at the pace at which it can still be drained.
    async fn slow_down(&self) {
        if self.store.pressure() >= Pressure::Slow {
            self.metrics.writes_slowed.with_label_values(&[&self.shard(), "change-log"]).inc();
            self.platform.sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn shard(&self) -> String {
        self.group.spec().group.to_string()
    }

    /// Puts a batch into one entry, with its updates merged, and says what each submission waits for. `None` when the store
    /// has failed, and everybody was told.
    async fn draft(&self, batch: Vec<Submission>) -> Option<(Vec<internal::Write>, Vec<Answer>)> {
        let (mut writes, mut counts, mut answers) = (Vec::new(), Vec::new(), Vec::with_capacity(batch.len()));
        for Submission { writes: mut submitted, answer, _permits, .. } in batch {
            counts.push(submitted.len());
            writes.append(&mut submitted);
            answers.push(Answer { settled: Vec::new(), answer, _permits });
        }
        match Draft::of(&self.platform, &self.store, self.entry_bytes_max, writes).await {
            Ok(Draft { entry, outcomes }) => {
                let mut outcomes = outcomes.into_iter();
                for (answer, count) in answers.iter_mut().zip(counts) {
                    answer.settled = outcomes.by_ref().take(count).collect();
                }
                Some((entry, answers))
            }
            Err(error) => {
                answers.into_iter().for_each(|answer| answer.fail(error.clone()));
                None
            }
        }
    }

    async fn propose(&self, batch: Vec<Submission>, permit: OwnedSemaphorePermit) {
        let Some((writes, answers)) = self.draft(batch).await else { return };
        if writes.is_empty() {
            let index = self.group.applied_index();
            answers.into_iter().for_each(|answer| answer.send(index, &mut std::iter::empty()));
            return;
        }
        self.metrics.writes_per_entry.observe(writes.len() as f64);
        let change_log_budget = self.store.change_log_budget();
        let command =
            Command::Write(internal::WriteBatch { stamp: self.platform.now_nanos(), writes, change_log_budget });
        let command = Bytes::from(internal::ShardCommand { command: Some(command) }.encode_to_vec());
        let (group, metrics, shard) = (self.group.clone(), Arc::clone(&self.metrics), self.shard());
        self.platform.spawn(TaskKind::Request, "propose-writes", async move {
            let result = group.propose(command).await;
            drop(permit);
            match result.map_err(write_error).and_then(|proposed| Ok((proposed.index, outcomes(&proposed.reply)?))) {
                Ok((index, outcomes)) => {
                    let full = outcomes.iter().filter(|outcome| outcome.status() == Status::ChangeLogFull).count();
                    metrics.writes_refused.with_label_values(&[&shard, "change-log-full"]).inc_by(full as u64);
                    let mut outcomes = outcomes.into_iter();
                    answers.into_iter().for_each(|answer| answer.send(index, &mut outcomes));
                }
                Err(error) => answers.into_iter().for_each(|answer| answer.fail(error.clone())),
            }
        });
    }
}

/// What a submission waits for.
struct Answer {
    /// One for each of its writes: the outcome, where it does not go into the entry.
    settled: Vec<Option<internal::WriteOutcome>>,
    answer: oneshot::Sender<Result<Written, WriteError>>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Answer {
    /// Answers with the next outcomes of the entry, as many as are its own.
    fn send(self, index: u64, outcomes: &mut impl Iterator<Item = internal::WriteOutcome>) {
        let mine = self.settled.into_iter().map_while(|settled| settled.or_else(|| outcomes.next())).collect();
        // Whoever asked may have gone away; the write stands.
        drop(self.answer.send(Ok(Written { index, outcomes: mine })));
    }

    fn fail(self, error: WriteError) {
        drop(self.answer.send(Err(error)));
    }
}

/// What a failure of the store means to the writer: nothing was proposed.
pub(crate) fn store_error(error: granary_shard::Error) -> WriteError {
    WriteError::Failed(Error::new(ErrorKind::Unavailable, format!("replica failed: {error}")))
}

fn outcomes(reply: &Bytes) -> Result<Vec<internal::WriteOutcome>, WriteError> {
    internal::ShardReply::decode(reply.clone())
        .map(|reply| reply.outcomes)
        .map_err(|error| WriteError::Failed(Error::new(ErrorKind::Internal, format!("decode apply's reply: {error}"))))
}

/// What a failed proposal means to the writer.
pub fn write_error(error: ProposeError) -> WriteError {
    match error {
        ProposeError::NotLeader { leader } => WriteError::NotLeader(leader.map(|(_, node)| node)),
        ProposeError::Unavailable => {
            WriteError::Failed(Error::new(ErrorKind::Unavailable, "the shard has no leader that can commit"))
        }
        ProposeError::Unknown => {
            WriteError::Failed(Error::new(ErrorKind::Unknown, "the write may or may not be committed"))
        }
        ProposeError::Overloaded => {
            WriteError::Failed(Error::new(ErrorKind::Overloaded, "the shard's proposals are at their bound"))
        }
        error @ ProposeError::TooLarge { .. } => WriteError::Failed(Error::invalid(error.to_string())),
        ProposeError::Stopped => WriteError::Failed(Error::new(ErrorKind::Unavailable, "the replica is stopping")),
    }
}
