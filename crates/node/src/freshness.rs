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
}
