//! Updates on the leader: merged into their records, proposed with the other writes of their call, and merged again
//! when something was written to a record in between (`docs/adr/0011-update-record.md`).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_platform::Platform;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{Write, WriteKind, WriteOutcome};
use granary_shard::{Merged, ShardStore};
use granary_types::{Error, ErrorKind};
use prost::Message;

use crate::group_commit::{WriteError, Written, store_error};
use crate::replica::{KEYS_INLINE_MAX, Replica, read_error};

/// How often an update that lost a race is merged again before its router is told. Each time at least one update of
/// every record in the call is applied.
const ROUNDS_MAX: usize = 16;

pub(crate) fn is_update(write: &Write) -> bool {
    write.kind() == WriteKind::Update
}

/// Whether a write holds only if nothing was written to its record since it was read.
fn is_conditional(write: &Write) -> bool {
    matches!(write.kind(), WriteKind::Update | WriteKind::Expiry)
}

/// An update as its router sent it: nothing was ever written at stamp 0.
fn is_unmerged(write: &Write) -> bool {
    is_update(write) && write.based_on == 0
}

/// The outcome of an update that is to be merged again.
fn raced() -> WriteOutcome {
    WriteOutcome { status: Status::Raced.into(), ..WriteOutcome::default() }
}

/// The writes of one entry, and the outcomes of those that do not go into it.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) entry: Vec<Write>,
    /// One for each write, in order; `None` for those in the entry.
    pub(crate) outcomes: Vec<Option<WriteOutcome>>,
}

impl Draft {
    /// Merges the updates among the writes into their records, as far as `room` has bytes for them. `RACED` are those for
    /// which it has none, and updates and expiries of a record that the entry writes to before: apply would say so.
    ///
    /// # Errors
    /// When the store has failed: nothing is to be proposed.
    pub(crate) async fn of(
        platform: &Platform,
        store: &Arc<ShardStore>,
        room: usize,
        writes: Vec<Write>,
    ) -> Result<Self, WriteError> {
        if writes.iter().filter(|write| is_unmerged(write)).count() <= KEYS_INLINE_MAX {
            return Self::merged(store, room, writes);
        }
        let store = Arc::clone(store);
        platform.blocking(move || Self::merged(&store, room, writes)).await.unwrap_or_else(|error| {
            Err(WriteError::Failed(Error::new(ErrorKind::Internal, format!("merge updates: {error}"))))
        })
    }

    fn merged(store: &ShardStore, mut room: usize, writes: Vec<Write>) -> Result<Self, WriteError> {
        if !writes.iter().any(is_conditional) {
            return Ok(Self { outcomes: vec![None; writes.len()], entry: writes });
        }
        let (mut draft, mut written) = (Self::default(), HashSet::new());
        for write in writes {
            let record = (write.feature_group, write.record.clone());
            let outcome = if is_conditional(&write) && written.contains(&record) {
                Some(raced())
            } else {
                draft.take(store, &mut room, write)?
            };
            if outcome.is_none() {
                written.insert(record);
            }
            draft.outcomes.push(outcome);
        }
        Ok(draft)
    }

    /// Puts a write into the entry, or says its outcome.
    fn take(&mut self, store: &ShardStore, room: &mut usize, write: Write) -> Result<Option<WriteOutcome>, WriteError> {
        let write = if is_unmerged(&write) {
            let merged = match store.merge_update(&write).map_err(store_error)? {
                Merged::Settled(outcome) => return Ok(Some(outcome)),
                Merged::Write(merged) => merged,
            };
            let bytes = merged.encoded_len();
            // The first one goes in however large it is.
            if bytes > *room && !self.entry.is_empty() {
                return Ok(Some(raced()));
            }
            *room = room.saturating_sub(bytes);
            merged
        } else {
            write
        };
        self.entry.push(write);
        Ok(None)
    }

    /// Whether the state as it is had a say in an outcome.
    fn settles(&self) -> bool {
        self.outcomes.iter().flatten().any(|outcome| outcome.status() != Status::Raced)
    }
}

/// A call's writes and what is known of their outcomes.
struct Call {
    writes: Vec<Write>,
    outcomes: Vec<Option<WriteOutcome>>,
    index: u64,
}

impl Call {
    /// Places without an outcome.
    fn open(&self) -> Vec<usize> {
        (0..self.writes.len()).filter(|place| self.outcomes[*place].is_none()).collect()
    }

    /// Takes the outcomes of the writes at `places`. Updates that lost a race stay open.
    fn take(&mut self, places: &[usize], written: Written) {
        self.index = self.index.max(written.index);
        for (place, outcome) in places.iter().zip(written.outcomes) {
            if outcome.status() != Status::Raced {
                self.outcomes[*place] = Some(outcome);
            }
        }
    }

    fn end(self) -> Written {
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(raced)).collect();
        Written { index: self.index, outcomes }
    }
}

impl Replica {
    /// Writes of which some are updates, as routers sent them.
    pub(crate) async fn write_with_updates(&self, writes: Vec<Write>) -> Result<Written, WriteError> {
        let outcomes = vec![None; writes.len()];
        let mut call = Call { writes, outcomes, index: 0 };
        self.first_round(&mut call).await?;
        for _ in 0..ROUNDS_MAX {
            let places = call.open();
            if places.is_empty() {
                break;
            }
            let updates = places.iter().map(|place| call.writes[*place].clone()).collect();
            match self.queue().submit_unmerged(updates).await {
                Ok(written) => call.take(&places, written),
                // These may have been applied, and some of the call's writes are.
                Err(WriteError::Failed(error)) if error.kind == ErrorKind::Unknown => {
                    return Err(WriteError::Failed(error));
                }
                // These were not; what was applied before stands.
                Err(_) => break,
            }
        }
        Ok(call.end())
    }

    /// Merges each update once and proposes all writes together, as far as one entry has room.
    async fn first_round(&self, call: &mut Call) -> Result<(), WriteError> {
        let confirmed = self.confirm_in_term().await?;
        let mut draft = self.draft(call).await?;
        if draft.settles() && !confirmed {
            // The state may be older than the call, and this replica may have been deposed.
            self.confirm().await?;
            draft = self.draft(call).await?;
        }
        let mut places = Vec::with_capacity(draft.entry.len());
        for (place, outcome) in draft.outcomes.into_iter().enumerate() {
            match outcome {
                None => places.push(place),
                Some(outcome) if outcome.status() == Status::Raced => {}
                Some(outcome) => {
                    call.index = call.index.max(self.group().applied_index());
                    call.outcomes[place] = Some(outcome);
                }
            }
        }
        if !places.is_empty() {
            let written = self.queue().submit(draft.entry).await?;
            call.take(&places, written);
        }
        Ok(())
    }

    async fn draft(&self, call: &Call) -> Result<Draft, WriteError> {
        Draft::of(self.platform(), self.store(), self.entry_bytes_max(), call.writes.clone()).await
    }

    /// Before the first merge or expiry in a term, applies all that earlier leaders left: an update based on an older state would
    /// most likely be `RACED`, and the versions that they ran might not have noted what it is checked against. Returns
    /// whether it did so.
    pub(crate) async fn confirm_in_term(&self) -> Result<bool, WriteError> {
        let term = self.group().leadership().borrow().term;
        if self.current_in_term().load(Ordering::Relaxed) == term {
            return Ok(false);
        }
        self.confirm().await?;
        self.current_in_term().store(term, Ordering::Relaxed);
        Ok(true)
    }

    /// Makes sure that this replica leads, and that its state is not older than this call.
    async fn confirm(&self) -> Result<(), WriteError> {
        let index = self.group().read_index().await.map_err(read_error)?;
        self.caught_up(index).await
    }
}

/// Refuses what only a leader makes: a router that merges updates itself would have no say in what came in between.
///
/// # Errors
/// `Invalid`.
pub(crate) fn check_from_router(write: &Write) -> Result<(), Error> {
    if write.kind() == WriteKind::Expiry {
        return Err(Error::invalid("only a shard's leader removes expired records"));
    }
    if write.based_on != 0 {
        return Err(Error::invalid("only a shard's leader merges updates"));
    }
    Ok(())
}
