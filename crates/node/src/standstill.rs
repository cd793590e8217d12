//! When a leader's own disk stands still.
//!
//! Raft goes on without it: the followers are a majority, and commit what the leader itself cannot sync. But such a leader
//! keeps in memory what it cannot write, answers nothing any more once that is full, and would stay the leader all the
//! while, because it sends heartbeats. So it hands over to a follower whose disk works. Safety does not depend on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::Metrics;
use crate::replica::Replica;

/// How often a leader is looked at within the time that it may stand still.
const LOOKS: u32 = 8;

/// How far a leader is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// The position in its Raft log up to which a sync was asked for.
    pub(crate) log_wanted: u64,
    /// The position up to which it was synced.
    pub(crate) log_synced: u64,
    /// The last entry that is committed.
    pub(crate) committed: u64,
    /// The last entry that was applied here.
    pub(crate) applied: u64,
}

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standstill {
    /// A sync of the Raft log does not end, and the followers commit without this replica.
    LogSync,
    /// Committed entries are not applied: the memory table is full, and the engine takes nothing.
    Apply,
}

impl Standstill {
    /// The metric's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LogSync => "log-sync",
            Self::Apply => "apply",
        }
    }
}

/// Something that should move on, and since when it has not.
#[derive(Debug, Default)]
struct Mark {
    at: u64,
    /// Since when, and what was committed then.
    since: Option<(Instant, u64)>,
}

impl Mark {
    /// How long it has stood at `at` with something left to do, and what was committed when that began.
    fn look(&mut self, now: Instant, at: u64, wanted: u64, committed: u64) -> Option<(Duration, u64)> {
        if at >= wanted || at != self.at {
            self.since = None;
        }
        self.at = at;
        if at >= wanted {
            return None;
        }
        let (since, committed) = *self.since.get_or_insert((now, committed));
        Some((now.duration_since(since), committed))
    }
}

/// Watches one leader.
#[derive(Debug)]
pub(crate) struct Standstills {
    longest: Duration,
    log: Mark,
    apply: Mark,
}

impl Standstills {
    /// Nothing may stand still for longer than this.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, log: Mark::default(), apply: Mark::default() }
    }

    /// The replica does not lead: begins anew.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.longest);
    }

    /// What has stood still for too long, if anything has; then begins anew, so that it is told once in that time. A
    /// majority that stands still as well leads no better: then nothing is said of the log.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen) -> Option<Standstill> {
        let log = self.log.look(now, seen.log_synced, seen.log_wanted, seen.committed);
        let apply = self.apply.look(now, seen.applied, seen.committed, seen.committed);
        let stands = match (log, apply) {
            (_, Some((time, _))) if time >= self.longest => Standstill::Apply,
            (Some((time, before)), _) if time >= self.longest && seen.committed > before => Standstill::LogSync,
            _ => return None,
        };
        self.forget();
        Some(stands)
    }
}

/// Looks at one replica, and hands over when it leads and its disk stands still. A task of its own: what waits for an
/// entry to be applied cannot see that none is.
pub(crate) struct Watch {
    replica: Arc<Replica>,
    standstills: Standstills,
    metrics: Arc<Metrics>,
}

impl Watch {
    /// Hands over after `longest`.
    pub(crate) fn new(replica: Arc<Replica>, longest: Duration, metrics: Arc<Metrics>) -> Self {
        Self { replica, standstills: Standstills::new(longest), metrics }
    }

    /// Until the process shuts down.
    pub(crate) async fn run(mut self) {
        let platform = self.replica.platform().clone();
        let tick = (self.standstills.longest / LOOKS).max(Duration::from_millis(10));
        loop {
            tokio::select! {
                () = platform.sleep(tick) => {}
                () = platform.shutdown_begun() => return,
            }
            if self.replica.leads() {
                self.hand_over_if_stuck(platform.instant()).await;
            } else {
                self.standstills.forget();
            }
        }
    }

    async fn hand_over_if_stuck(&mut self, now: Instant) {
        let group = self.replica.group();
        let status = group.status();
        let seen = Seen {
            log_wanted: group.log_wanted_end(),
            log_synced: group.log_end(),
            committed: status.committed,
            applied: status.applied,
        };
        let Some(stands) = self.standstills.look(now, seen) else { return };
        let (shard, stands) = (self.replica.shard(), stands.name());
        tracing::warn!(%shard, stands, "this leader's disk stands still, handing over leadership");
        if group.transfer_leadership().await {
            self.metrics.handed_over.with_label_values(&[&shard.to_string(), stands]).inc();
        } else {
            tracing::warn!(%shard, stands, "there is nobody to hand over to, this replica goes on leading");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(3);

    /// Looks once a second, at what `seen` says of that second; tells when something was said, and what.
    fn looked(seconds: u64, seen: impl Fn(u64) -> Seen) -> Vec<(u64, Standstill)> {
        let (began, mut standstills) = (Instant::now(), Standstills::new(LONGEST));
        let look = |second| {
            let said = standstills.look(began + Duration::from_secs(second), seen(second));
            said.map(|stands| (second, stands))
        };
        (0..seconds).filter_map(look).collect()
    }

    #[test]
    fn a_leader_that_moves_on_however_slowly_is_left_alone() {
        let slow = |second| Seen {
            log_wanted: 100 + second,
            log_synced: second / 2,
            committed: second,
            applied: second.saturating_sub(2),
        };
        assert_eq!(looked(20, slow), []);
        let idle = |_| Seen { log_wanted: 7, log_synced: 7, committed: 7, applied: 7 };
        assert_eq!(looked(20, idle), []);
    }

    #[test]
    fn a_log_that_hangs_while_the_followers_commit_is_told_once_in_a_while() {
        let hangs = |second| Seen { log_wanted: 10, log_synced: 5, committed: second, applied: second };
        assert_eq!(looked(8, hangs), [(3, Standstill::LogSync), (7, Standstill::LogSync)]);
    }

    #[test]
    fn a_log_that_hangs_with_everybody_elses_is_left_alone() {
        let all_hang = |_| Seen { log_wanted: 10, log_synced: 5, committed: 4, applied: 4 };
        assert_eq!(looked(20, all_hang), []);
    }

    #[test]
    fn a_leader_that_applies_nothing_is_told() {
        let full = |second| Seen { log_wanted: second, log_synced: second, committed: second.max(1), applied: 0 };
        assert_eq!(looked(5, full), [(3, Standstill::Apply)]);
    }
}
