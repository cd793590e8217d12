//! Which round a read may join (R1), and what bounds the rounds.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::poll;
use granary_consensus::ReadError;
use granary_consensus::read_index::read_queue;
use tokio::sync::{Semaphore, watch};

/// A majority that answers when the test says so, with what was committed when it was asked.
struct Majority {
    committed: Cell<u64>,
    asked: watch::Sender<usize>,
    answers: Semaphore,
}

impl Majority {
    fn new(committed: u64) -> Arc<Self> {
        let asked = watch::channel(0).0;
        #[allow(clippy::arc_with_non_send_sync, reason = "one thread")]
        Arc::new(Self { committed: Cell::new(committed), asked, answers: Semaphore::new(0) })
    }

    async fn round(&self) -> Result<u64, ReadError> {
        let committed = self.committed.get();
        self.asked.send_modify(|asked| *asked += 1);
        self.answers.acquire().await.unwrap().forget();
        Ok(committed)
    }
}

#[tokio::test]
async fn a_read_joins_only_a_round_that_starts_after_it_arrived() {
    let majority = Majority::new(1);
    let (queue, rounds) = read_queue(16, Duration::from_secs(60));
    let mut running = pin!(rounds.run(|| majority.round()));
    let mut early = pin!(queue.read_index());
    assert!(poll!(&mut early).is_pending());
    assert!(poll!(&mut running).is_pending());
    assert_eq!(*majority.asked.borrow(), 1, "the first round is under way");

    // A write is acknowledged, and only then two more reads begin.
    majority.committed.set(2);
    let mut late = pin!(queue.read_index());
    let mut later = pin!(queue.read_index());
    assert!(poll!(&mut late).is_pending());
    assert!(poll!(&mut later).is_pending());
    assert!(poll!(&mut running).is_pending());
    assert_eq!(*majority.asked.borrow(), 1, "one round at a time");

    majority.answers.add_permits(1);
    assert!(poll!(&mut running).is_pending());
    assert_eq!(early.await, Ok(1));
    assert!(poll!(&mut late).is_pending(), "the round began before this read");
    assert_eq!(*majority.asked.borrow(), 2);

    majority.answers.add_permits(1);
    assert!(poll!(&mut running).is_pending());
    assert_eq!(late.await, Ok(2));
    assert_eq!(later.await, Ok(2));
    assert_eq!(*majority.asked.borrow(), 2, "both joined one round");
}

#[tokio::test]
async fn a_round_that_hangs_is_cut_off() {
    let (queue, rounds) = read_queue(16, Duration::from_millis(20));
    tokio::spawn(rounds.run(std::future::pending));
    assert_eq!(queue.read_index().await, Err(ReadError::Unavailable));
    assert_eq!(queue.read_index().await, Err(ReadError::Unavailable), "the next round is another one");
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let (queue, rounds) = read_queue(1, Duration::from_secs(60));
    let mut first = pin!(queue.read_index());
    assert!(poll!(&mut first).is_pending());
    assert_eq!(queue.read_index().await, Err(ReadError::Overloaded));
    drop(rounds);
    assert_eq!(first.await, Err(ReadError::Stopped));
}
