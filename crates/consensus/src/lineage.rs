//! What a replica writes into its own Raft log about itself: whose log it is, and where each start of the replica
//! began in it.
//!
//! Positions of a log never go back, and each start draws a random number. So two positions of one replica can be
//! compared even when they come from different starts: an older copy of the log ends before what another replica
//! remembers of it, and a copy that ran on by itself has another start in the place of one that is remembered.
//!
//! In the log it is text, repeated at the beginning of every file:
//! `1 <cluster>/<group>/<replica> <count>:<nonce>@<position> …`, the oldest start first, numbers decimal but cluster and
//! nonce.

use std::fmt::Write;

use crate::group::GroupSpec;

const FORMAT: &str = "1";
/// Older starts are forgotten. What others remember of those is compared with the oldest that is known.
const STARTS_KEPT: usize = 16;

/// One start of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// How many there were, with this one.
    pub(crate) count: u64,
    /// Drawn at the start. Never nought.
    pub(crate) nonce: u64,
    /// Where the log ended when it began.
    pub(crate) at: u64,
}

/// How far a replica was at some time, as it told others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) count: u64,
    pub(crate) nonce: u64,
    /// The position up to which its log was synced.
    pub(crate) end: u64,
}

/// Why what is known of a replica cannot be true of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error("another process runs as this replica, on a copy of its directory")]
    Twin,
    #[error("the replica was started again elsewhere since")]
    Superseded,
    #[error("raft log is an older copy: {missing} bytes that the replica had acknowledged are missing")]
    Older { missing: u64 },
    #[error("raft log is a copy that went its own way")]
    Forked,
}

/// The starts of a replica, the present one last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lineage(Vec<Start>);

impl Lineage {
    /// The lineage as it stands in the log, and one start more.
    ///
    /// # Errors
    /// Whose log it is, if it is not this replica's.
    pub(crate) fn next(text: Option<&str>, spec: &GroupSpec, nonce: u64, at: u64) -> Result<Self, String> {
        let mut starts = match text {
            None => Vec::new(),
            Some(text) => parse(text, spec).ok_or_else(|| text.chars().take(80).collect::<String>())?,
        };
        let count = starts.last().map_or(0, |start| start.count) + 1;
        starts.push(Start { count, nonce: nonce.max(1), at });
        starts.drain(..starts.len().saturating_sub(STARTS_KEPT));
        Ok(Self(starts))
    }

    /// As it stands in the log.
    pub(crate) fn text(&self, spec: &GroupSpec) -> String {
        let mut text = format!("{FORMAT} {}", owner(spec));
        for Start { count, nonce, at } in &self.0 {
            write!(text, " {count}:{nonce:016x}@{at}").expect("writing to a string");
        }
        text
    }

    pub(crate) fn now(&self) -> Start {
        *self.0.last().expect("there is always the present start")
    }

    /// Holds what others know of this replica against its log, which ends at `end` now.
    pub(crate) fn check(&self, known: Standing, end: u64) -> Result<(), Contradiction> {
        let now = self.now();
        if known.count > now.count {
            return Err(Contradiction::Superseded);
        }
        let same = self.0.iter().find(|start| start.count == known.count);
        if same.is_some_and(|same| same.nonce != known.nonce) {
            return Err(if known.count == now.count { Contradiction::Twin } else { Contradiction::Forked });
        }
        // What it had at the end of that start is what the next one began with.
        let next = self.0.iter().find(|start| start.count > known.count);
        let reached = next.map_or(end, |next| next.at);
        match known.end.checked_sub(reached) {
            Some(missing) if missing > 0 => Err(Contradiction::Older { missing }),
            _ => Ok(()),
        }
    }
}

/// Whose log it is.
pub(crate) fn owner(spec: &GroupSpec) -> String {
    format!("{:032x}/{}/{}", spec.cluster.0, spec.group, spec.replica)
}

fn parse(text: &str, spec: &GroupSpec) -> Option<Vec<Start>> {
    let mut words = text.split(' ');
    if words.next() != Some(FORMAT) || words.next() != Some(&owner(spec)) {
        return None;
    }
    words.map(parse_start).collect()
}

fn parse_start(word: &str) -> Option<Start> {
    let (count, rest) = word.split_once(':')?;
    let (nonce, at) = rest.split_once('@')?;
    Some(Start { count: count.parse().ok()?, nonce: u64::from_str_radix(nonce, 16).ok()?, at: at.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use granary_types::{ClusterId, ReplicaId, ShardId};

    use super::*;

    fn spec(replica: u64) -> GroupSpec {
        GroupSpec { cluster: ClusterId(7), group: ShardId(3), replica: ReplicaId(replica), dir: Default::default() }
    }

    fn lineage(starts: &[(u64, u64)]) -> Lineage {
        let mut text = None;
        let mut lineage = None;
        for (nonce, at) in starts {
            let next = Lineage::next(text.as_deref(), &spec(1), *nonce, *at).expect("its own");
            text = Some(next.text(&spec(1)));
            lineage = Some(next);
        }
        lineage.expect("one start at least")
    }

    #[test]
    fn a_log_of_another_replica_is_told() {
        let text = lineage(&[(5, 0)]).text(&spec(1));
        assert!(Lineage::next(Some(&text), &spec(1), 6, 100).is_ok());
        assert!(Lineage::next(Some(&text), &spec(2), 6, 100).is_err());
        assert!(Lineage::next(Some("1 nonsense"), &spec(1), 6, 100).is_err());
    }

    #[test]
    fn what_others_know_is_held_against_the_right_start() {
        // Three starts, at 0, 100 and 250 bytes; the log now ends at 400.
        let lineage = lineage(&[(11, 0), (22, 100), (33, 250)]);
        let check = |count, nonce, end| lineage.check(Standing { count, nonce, end }, 400);
        assert_eq!(check(3, 33, 400), Ok(()));
        assert_eq!(check(3, 33, 401), Err(Contradiction::Older { missing: 1 }));
        assert_eq!(check(2, 22, 250), Ok(()));
        assert_eq!(check(2, 22, 260), Err(Contradiction::Older { missing: 10 }), "the present start hides nothing");
        assert_eq!(check(1, 11, 100), Ok(()));
        assert_eq!(check(1, 12, 50), Err(Contradiction::Forked));
        assert_eq!(check(3, 34, 300), Err(Contradiction::Twin));
        assert_eq!(check(4, 44, 300), Err(Contradiction::Superseded));
    }

    #[test]
    fn old_starts_are_forgotten_but_positions_are_not() {
        let starts: Vec<_> = (1..=40).map(|n| (n, n * 10)).collect();
        let lineage = lineage(&starts);
        assert_eq!(lineage.now().count, 40);
        assert_eq!(lineage.check(Standing { count: 3, nonce: 3, end: 40 }, 500), Ok(()));
        assert!(lineage.check(Standing { count: 3, nonce: 3, end: 300 }, 500).is_err(), "25 starts later it had 250");
    }
}
