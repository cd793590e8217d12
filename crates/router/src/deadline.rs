//! How long a request may still take, and the pauses between its rounds.

use std::time::Duration;

use granary_platform::Platform;
use tokio::time::Instant;

use crate::Settings;

/// When a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// The settings' time from now, or the caller's if that is shorter.
    pub(crate) fn begin(platform: &Platform, settings: &Settings, timeout: Option<Duration>) -> Self {
        let longest = settings.deadline;
        Self(platform.instant() + timeout.map_or(longest, |timeout| timeout.min(longest)))
    }

    /// What is left of it, at most `longest`; `None` when it has passed.
    pub(crate) fn remaining(self, platform: &Platform, longest: Duration) -> Option<Duration> {
        let left = self.0.saturating_duration_since(platform.instant());
        (!left.is_zero()).then(|| left.min(longest))
    }
}

/// The pauses between rounds: they double, and are jittered so that routers do not march in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    round: u32,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { round: 0 }
    }

    /// The next pause; `None` when there are no more rounds or no time for one.
    pub(crate) fn next(&mut self, platform: &Platform, settings: &Settings, deadline: Deadline) -> Option<Duration> {
        self.round += 1;
        if self.round >= settings.rounds_max {
            return None;
        }
        let doubled = settings.backoff_min.saturating_mul(1 << (self.round - 1).min(16));
        let full = doubled.min(settings.backoff_max);
        // Between a half and the whole of it.
        let chance = u32::try_from(platform.fresh_id() & 0xFFFF).expect("16 bits fit u32");
        let pause = full / 2 + (full / 2).mul_f64(f64::from(chance) / f64::from(0xFFFF_u32));
        deadline.remaining(platform, Duration::MAX).filter(|left| *left > pause).map(|_| pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let platform = Platform::system();
        let settings = Settings { rounds_max: 12, ..Settings::default() };
        let deadline = Deadline::begin(&platform, &settings, None);
        let mut backoff = Backoff::new();
        for round in 0..11_u32 {
            let full = (settings.backoff_min * (1 << round)).min(settings.backoff_max);
            let pause = backoff.next(&platform, &settings, deadline).expect("a round is left");
            assert!(pause >= full / 2 && pause <= full, "round {round}: {pause:?}");
        }
        assert_eq!(backoff.next(&platform, &settings, deadline), None);
    }

    #[test]
    fn the_callers_time_counts_only_where_it_is_shorter() {
        let platform = Platform::system();
        let settings = Settings::default();
        let short = Deadline::begin(&platform, &settings, Some(Duration::from_millis(50)));
        let long = Deadline::begin(&platform, &settings, Some(Duration::from_secs(3_600)));
        assert!(short < long);
        assert!(long.remaining(&platform, Duration::MAX).expect("left") <= settings.deadline);
    }
}
