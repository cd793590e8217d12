//! How fresh a replica is known to be: the ground under reads at bounded staleness.
//!
//! A read index asked for at instant `t` covers every write acknowledged before `t`. A replica that has applied it
//! may therefore answer, until `t + d`, any read that tolerates a staleness of `d`. Only this process's monotonic
//! clock is compared with itself; no clock of another node is trusted.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A confirmed point: at `asked_at` the group's committed writes reached up to `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// When the round that confirmed it was started.
    pub asked_at: Instant,
    /// The read index it returned.
    pub index: u64,
}

/// The newest confirmed point of one replica.
#[derive(Debug, Default)]
pub struct Freshness {
    newest: Mutex<Option<Confirmed>>,
    /// One confirmation at a time; who waits for it takes its result if that is fresh enough.
    asking: tokio::sync::Mutex<()>,
}

impl Freshness {
    /// Notes a confirmation.
    pub fn note(&self, confirmed: Confirmed) {
        let mut newest = self.newest.lock();
        if newest.is_none_or(|have| confirmed.asked_at > have.asked_at) {
            *newest = Some(confirmed);
        }
    }

    /// An index that covers every write acknowledged more than `staleness` ago, asking for a new one only when the
    /// newest is too old.
    ///
    /// # Errors
    /// What `ask` returns.
    pub async fn index_within<E, F>(
        &self,
        staleness: Duration,
        now: impl Fn() -> Instant,
        ask: impl FnOnce() -> F,
    ) -> Result<u64, E>
    where
        F: Future<Output = Result<u64, E>>,
    {
        let fresh = |at: Instant| {
            let newest = *self.newest.lock();
            newest.filter(|confirmed| at.saturating_duration_since(confirmed.asked_at) <= staleness)
        };
        if let Some(confirmed) = fresh(now()) {
            return Ok(confirmed.index);
        }
        let _asking = self.asking.lock().await;
        if let Some(confirmed) = fresh(now()) {
            return Ok(confirmed.index);
        }
        let asked_at = now();
        let index = ask().await?;
        self.note(Confirmed { asked_at, index });
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn asks_only_when_too_old() {
        let freshness = Freshness::default();
        let start = Instant::now();
        let at = |ms: u64| move || start + Duration::from_millis(ms);
        let bound = Duration::from_millis(100);
        let answer = |index| move || async move { Ok::<_, Infallible>(index) };
        assert_eq!(freshness.index_within(bound, at(0), answer(5)).await, Ok(5));
        assert_eq!(freshness.index_within(bound, at(100), answer(6)).await, Ok(5));
        assert_eq!(freshness.index_within(bound, at(101), answer(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn freshness_counts_from_before_the_leader_was_asked() {
        let freshness = Freshness::default();
        let (start, passed) = (Instant::now(), std::cell::Cell::new(Duration::ZERO));
        let now = || start + passed.get();
        let bound = Duration::from_millis(100);
        // The answer takes 80 ms; what it says may be as old as the question.
        let slow = |index| {
            let passed = &passed;
            move || async move {
                passed.set(passed.get() + Duration::from_millis(80));
                Ok::<_, Infallible>(index)
            }
        };
        assert_eq!(freshness.index_within(bound, now, slow(5)).await, Ok(5));
        passed.set(Duration::from_millis(100));
        assert_eq!(freshness.index_within(bound, now, slow(6)).await, Ok(5), "asked 100 ms ago");
        passed.set(Duration::from_millis(101));
        assert_eq!(freshness.index_within(bound, now, slow(7)).await, Ok(7), "asked 101 ms ago, heard 21 ms ago");
        // An answer to an older question does not count as fresher for coming later.
        freshness.note(Confirmed { asked_at: start, index: 9 });
        assert_eq!(freshness.index_within(bound, now, slow(8)).await, Ok(7));
    }

    #[tokio::test]
    async fn who_waits_for_another_ones_question_takes_its_answer_only_if_it_is_fresh_enough() {
        let freshness = Freshness::default();
        let (start, passed) = (Instant::now(), std::cell::Cell::new(Duration::ZERO));
        let now = || start + passed.get();
        let bound = Duration::from_millis(100);
        let answered = tokio::sync::Semaphore::new(0);
        let first = freshness.index_within(bound, now, || async {
            answered.acquire().await.expect("is open").forget();
            Ok::<_, Infallible>(1)
        });
        let second = freshness.index_within(bound, now, || async { Ok::<_, Infallible>(2) });
        let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        passed.set(Duration::from_millis(150));
        answered.add_permits(1);
        assert_eq!((first.await, second.await), (Ok(1), Ok(2)), "the first question was asked 150 ms ago");
    }
}
