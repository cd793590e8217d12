//! What a Raft log is made to do in the crash tests, step by step, and what it must hold afterwards. A step follows
//! from its number and the state alone, so that the process that writes and the test that judges agree.

use std::path::Path;

use bytes::Bytes;
use granary_consensus::log_store::LogStore;
use granary_consensus::type_config::{Command, Entry, LogId, Vote};
use granary_consensus::{Error, Settings};
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};

/// Files of the log are short, so that a few hundred steps fill many.
pub(crate) fn settings() -> Settings {
    Settings { log_chunk_bytes: 64 << 10, ..Settings::default() }
}

/// What a log holds, entries by their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) term: u64,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: Vec<LogId>,
}

#[derive(Debug)]
enum Deed {
    Vote(u64),
    Truncate(Option<LogId>),
    Append(Vec<LogId>),
    Commit(LogId),
    Purge(LogId),
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn spread(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

/// The entry of an id: some span pages, most do not.
fn entry(id: &LogId) -> Entry {
    let chance = spread(id.index * 31 + id.leader_id.term);
    let len = if chance.is_multiple_of(9) { 4_000 + chance % 9_000 } else { chance % 300 };
    let fill = (id.index ^ id.leader_id.term) as u8 | 1;
    let command = Command(Bytes::from(vec![fill; usize::try_from(len).unwrap()]));
    Entry { log_id: *id, payload: EntryPayload::Normal(command) }
}

impl State {
    fn next_index(&self) -> u64 {
        let last = self.entries.last().or(self.purged.as_ref());
        last.map_or(0, |last| last.index + 1)
    }

    fn deeds(&self, step: u64) -> Vec<Deed> {
        let chance = spread(step);
        let append = |state: &Self, term, count| {
            Deed::Append((0..count).map(|n| log_id(term, state.next_index() + n)).collect())
        };
        let term = self.term.max(1);
        match chance % 12 {
            _ if self.term == 0 => vec![Deed::Vote(1)],
            0 => vec![Deed::Vote(term + 1)],
            1 if !self.entries.is_empty() => {
                // Another leader takes over and replaces what was not committed.
                let uncommitted = self.entries.iter().filter(|id| Some(**id) > self.committed).count();
                let keep = self.entries.len() - uncommitted.min(1 + (chance >> 8) as usize % 6);
                let last = self.entries[..keep].last().or(self.purged.as_ref()).copied();
                let mut shorter = self.clone();
                shorter.entries.truncate(keep);
                vec![Deed::Vote(term + 1), Deed::Truncate(last), append(&shorter, term + 1, 1 + (chance >> 16) % 4)]
            }
            2 if self.entries.len() > 40 => vec![Deed::Purge(self.entries[self.entries.len() / 2])],
            3 if !self.entries.is_empty() => {
                vec![Deed::Commit(self.entries[self.entries.len() * 3 / 4]), append(self, term, 1)]
            }
            _ => vec![append(self, term, 1 + (chance >> 8) % 12)],
        }
    }

    /// The states that a step leads through, record by record; the last is the one after it.
    pub(crate) fn through(&self, step: u64) -> Vec<Self> {
        let mut states = vec![self.clone()];
        let mut now = self.clone();
        for deed in self.deeds(step) {
            match deed {
                Deed::Vote(term) => now.term = term,
                Deed::Truncate(last) => now.entries.retain(|id| Some(*id) <= last),
                Deed::Commit(id) => now.committed = now.committed.max(Some(id)),
                Deed::Purge(upto) => {
                    now.entries.retain(|id| *id > upto);
                    now.purged = Some(upto);
                }
                Deed::Append(ids) => {
                    for id in ids {
                        states.push(now.clone());
                        now.entries.push(id);
                    }
                }
            }
            states.push(now.clone());
        }
        states
    }

    pub(crate) fn after(&self, step: u64) -> Self {
        self.through(step).pop().expect("at least the state itself")
    }

    /// Does the step.
    pub(crate) async fn step(&self, log: &mut LogStore, step: u64) -> std::io::Result<()> {
        for deed in self.deeds(step) {
            match deed {
                Deed::Vote(term) => log.save_vote(&Vote::new_committed(term, 1)).await?,
                Deed::Truncate(last) => log.truncate_after(last).await?,
                Deed::Append(ids) => log.blocking_append(ids.iter().map(entry)).await?,
                Deed::Commit(id) => log.save_committed(Some(id)).await?,
                Deed::Purge(upto) => log.purge(upto).await?,
            }
        }
        Ok(())
    }

    /// Reads what the log holds, and checks every entry.
    pub(crate) async fn read(log: &mut LogStore) -> Self {
        let found = log.get_log_state().await.unwrap();
        let entries = log.try_get_log_entries(..).await.unwrap();
        let first = found.last_purged_log_id.map_or(0, |id| id.index + 1);
        for (found, index) in entries.iter().zip(first..) {
            assert_eq!(found.log_id.index, index, "entries are dense");
            assert!(*found == entry(&found.log_id), "entry {} has other bytes", found.log_id);
        }
        let entries: Vec<_> = entries.iter().map(|entry| entry.log_id).collect();
        assert_eq!(entries.last().or(found.last_purged_log_id.as_ref()), found.last_log_id.as_ref());
        Self {
            term: log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term),
            committed: log.read_committed().await.unwrap(),
            purged: found.last_purged_log_id,
            entries,
        }
    }

    /// What was promised of a state: all but the committed position, which is not synced, and the last purge.
    fn holds(&self, promised: &Self) -> bool {
        let first = self.purged.max(promised.purged);
        let after =
            |state: &Self| -> Vec<LogId> { state.entries.iter().copied().filter(|id| Some(*id) > first).collect() };
        self.term == promised.term && self.purged <= promised.purged && after(self) == after(promised)
    }

    /// Opens a log after a crash during the step after `self`. The log may hold what any of that step's records made
    /// of it, but nothing else. `None` when it was refused.
    pub(crate) async fn found_after_crash(&self, dir: &Path, step: u64) -> Result<Option<Self>, Error> {
        let mut log = match LogStore::open(dir, &settings()) {
            Ok(log) => log,
            Err(error) if error.is_final() => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = Self::read(&mut log).await;
        log.close();
        let allowed = self.through(step);
        assert!(
            allowed.iter().any(|state| found.holds(state)),
            "step {step}: found {found:?}, which is none of {} states after {self:?}",
            allowed.len()
        );
        Ok(Some(found))
    }
}
