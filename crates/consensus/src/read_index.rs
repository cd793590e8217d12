//! Batched ReadIndex: many reads, one round to the majority.
//!
//! The rule that keeps LIN-1 (R1): a read joins only a round that **starts after the read arrived**. One round is
//! under way at a time; the next takes in everybody who arrived meanwhile. The queue is bounded.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::ReadError;
use crate::stats::Stats;

/// Answers `Ok(index)` or an error to everybody who joined the round.
pub type Answer = Result<u64, ReadError>;

/// Where reads wait for the next round. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadQueue {
    waiting: mpsc::Sender<oneshot::Sender<Answer>>,
}

/// Runs the rounds.
#[derive(Debug)]
pub struct ReadRounds {
    arrivals: mpsc::Receiver<oneshot::Sender<Answer>>,
    joined_max: usize,
    timeout: Duration,
    stats: Arc<Stats>,
}

/// A queue of at most `queued_max` reads, and its rounds, each cut off after `timeout`.
pub fn read_queue(queued_max: usize, timeout: Duration) -> (ReadQueue, ReadRounds) {
    read_queue_counted(queued_max, timeout, Arc::default())
}

pub(crate) fn read_queue_counted(queued_max: usize, timeout: Duration, stats: Arc<Stats>) -> (ReadQueue, ReadRounds) {
    let (waiting, arrivals) = mpsc::channel(queued_max.max(1));
    (ReadQueue { waiting }, ReadRounds { arrivals, joined_max: queued_max.max(1), timeout, stats })
}

impl ReadQueue {
    /// The index that a read that begins now must wait for.
    ///
    /// # Errors
    /// `Overloaded` when the queue is full, `Stopped` when no rounds run any more, and what the round says.
    pub async fn read_index(&self) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.waiting.try_send(sender).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        answer.await.map_err(|_| ReadError::Stopped)?
    }
}

impl ReadRounds {
    /// Runs one round after the other while anybody waits; ends when the last [`ReadQueue`] is gone.
    ///
    /// `round` asks a majority whether this replica still leads and says up to where it has committed.
    pub async fn run<F, Fut>(mut self, round: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Answer>,
    {
        let mut joined = Vec::new();
        while self.arrivals.recv_many(&mut joined, self.joined_max).await > 0 {
            // Everybody in `joined` arrived before this line, and whoever arrives after it waits in the channel.
            joined.retain(|waiter| !waiter.is_closed());
            if joined.is_empty() {
                continue;
            }
            self.stats.read_rounds.add(1);
            self.stats.reads_joined.add(joined.len() as u64);
            let answer = tokio::time::timeout(self.timeout, round()).await.unwrap_or(Err(ReadError::Unavailable));
            if answer.is_err() {
                self.stats.read_rounds_failed.add(1);
            }
            for waiter in joined.drain(..) {
                // A read that gave up at its deadline needs no answer.
                let _ = waiter.send(answer.clone());
            }
        }
    }
}
