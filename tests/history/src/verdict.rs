//! What a checker says: nothing found, or the few operations that prove a violation, in plain words.

use std::fmt;

use crate::model::Key;

/// A promise that a history can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A read returns what was put: never a value that nobody put, that certainly failed, or that was put later.
    NoPhantom,
    /// Linearizable reads and acknowledged writes fit one order that real time allows (LIN-1, ON-1).
    Linearizable,
    /// A read at session level sees the session's acknowledged writes.
    Session,
    /// A read at bounded staleness sees what was acknowledged longer ago than the bound.
    BoundedStaleness,
    /// When writes have ended and replicas have caught up, reads at every level agree.
    Eventual,
    /// Every acknowledged write counts in the final linearizable read of its key, and each such key has one (WR-1).
    Durable,
    /// Log indexes and stamps of one shard rise with real time, and one entry stands at one index.
    LogOrder,
    /// Each acknowledged write is in the offline table once, each unknown one at most once, and nothing else (CL-1, CP-1).
    OfflineOnce,
    /// An update replaces some values of the record that stands when it is applied, and of no other.
    UpdateStandsOn,
    /// Streams are dense, and no offset is ahead of a missing event or behind a row (CL-2, CP-1, CP-2).
    OfflineOffset,
    /// Replicas at one applied index have one state hash (RG-2).
    ReplicasEqual,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPhantom => "no phantom",
            Self::Linearizable => "linearizable",
            Self::Session => "session",
            Self::BoundedStaleness => "bounded staleness",
            Self::Eventual => "eventual",
            Self::Durable => "durable",
            Self::LogOrder => "log order",
            Self::OfflineOnce => "offline exactly once",
            Self::UpdateStandsOn => "update stands on",
            Self::OfflineOffset => "offline offset",
            Self::ReplicasEqual => "replicas equal",
        })
    }
}

/// A broken promise and the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// Of which record, where it is about one.
    pub key: Option<Key>,
    /// What cannot be, in one sentence.
    pub claim: String,
    /// The operations that prove it, in order.
    pub story: Vec<String>,
}

impl Violation {
    pub(crate) fn new(rule: Rule, key: Option<&Key>, claim: impl Into<String>, story: Vec<(u64, String)>) -> Self {
        let mut in_order = story;
        in_order.sort();
        let mut story: Vec<String> = Vec::new();
        for (_, told) in in_order {
            if !story.contains(&told) {
                story.push(told);
            }
        }
        Self { rule, key: key.cloned(), claim: claim.into(), story }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken", self.rule)?;
        if let Some(key) = &self.key {
            write!(f, " for {key}")?;
        }
        write!(f, ": {}", self.claim)?;
        for line in &self.story {
            write!(f, "\n  - {line}")?;
        }
        Ok(())
    }
}
