//! Updates on the leader: merged into their records, proposed with the other writes of their call, and merged again
//! when something was written to a record in between (`docs/adr/0011-update-record.md`).

use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{Write, WriteKind, WriteOutcome};
use granary_shard::Merged;
use granary_types::{Error, ErrorKind};
use prost::Message;

use crate::group_commit::{WriteError, Written, raced, store_error};
use crate::replica::{Replica, read_error};

/// How often an update that lost a race is merged again before its router is told. Each time at least one update of
/// every record in the call is applied.
const ROUNDS_MAX: usize = 16;

pub(crate) fn is_update(write: &Write) -> bool {
    write.kind() == WriteKind::Update
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
        let mut room = self.entry_bytes_max();
        let (mut places, mut entry) = (Vec::new(), Vec::new());
        let mut confirmed = false;
        for place in 0..call.writes.len() {
            let write = &call.writes[place];
            if !is_update(write) {
                places.push(place);
                entry.push(write.clone());
                continue;
            }
            let mut merged = self.store().merge_update(write).map_err(store_error)?;
            if matches!(merged, Merged::Settled(_)) && !confirmed {
                // The state may be older than the call, and this replica may have been deposed.
                let index = self.group().read_index().await.map_err(read_error)?;
                self.caught_up(index).await?;
                confirmed = true;
                merged = self.store().merge_update(write).map_err(store_error)?;
            }
            match merged {
                Merged::Settled(outcome) => {
                    call.index = call.index.max(self.group().applied_index());
                    call.outcomes[place] = Some(outcome);
                }
                Merged::Write(merged) if merged.encoded_len() <= room || entry.is_empty() => {
                    room = room.saturating_sub(merged.encoded_len());
                    places.push(place);
                    entry.push(merged);
                }
                // Another entry's turn.
                Merged::Write(_) => {}
            }
        }
        if !entry.is_empty() {
            let written = self.queue().submit(entry).await?;
            call.take(&places, written);
        }
        Ok(())
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
