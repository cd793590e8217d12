//! Whether a node answers. One that does not is left alone for a while, so that it costs the others little.

use std::time::Duration;

use tokio::time::Instant;

/// How long a node rests after it did not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rests {
    /// The first rest; doubled with each one more in a row.
    pub(crate) min: Duration,
    /// The longest, unless the call took longer.
    pub(crate) max: Duration,
}

/// What is known of one node.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// How often in a row it did not answer.
    failures: u32,
    rests_until: Option<Instant>,
}

impl Health {
    /// Whether others are to be asked first.
    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// It answered. Returns whether that is news.
    pub(crate) fn answered(&mut self) -> bool {
        let news = self.failures > 0;
        *self = Self::default();
        news
    }

    /// It did not answer a call that took so long. Returns whether that is news.
    ///
    /// The rest is at least twice as long as the call, so that a node that hangs holds its callers up for a third of
    /// the time at most. Calls that were under way together count once.
    pub(crate) fn failed(&mut self, took: Duration, now: Instant, rests: Rests) -> bool {
        if self.is_resting(now) {
            return false;
        }
        let doubled = rests.min.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + doubled.min(rests.max).max(2 * took));
        self.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_rests_longer_each_time_until_it_answers() {
        let rests = Rests { min: Duration::from_secs(1), max: Duration::from_secs(3) };
        let (mut health, mut now) = (Health::default(), Instant::now());
        for (seconds, news) in [(1, true), (2, false), (3, false), (3, false)] {
            assert_eq!(health.failed(Duration::ZERO, now, rests), news);
            assert!(!health.failed(Duration::ZERO, now, rests), "a call of the same time");
            let end = now + Duration::from_secs(seconds);
            assert!(health.is_resting(end - Duration::from_millis(1)) && !health.is_resting(end));
            now = end;
        }
        assert!(health.answered() && !health.answered());
        assert!(!health.is_resting(now));
        assert!(health.failed(Duration::from_secs(5), now, rests));
        assert!(health.is_resting(now + Duration::from_secs(9)), "twice the call");
    }
}
