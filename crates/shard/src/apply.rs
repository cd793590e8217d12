//! Apply: what an entry does to the state. A pure function of the two.
//!
//! A refused write leaves no trace: no id, no event. An accepted write gets a stamp later than every one before it, is
//! remembered by its id, and makes exactly one change-log event if it goes offline (CL-1).
//!
//! On replay the rows may be ahead of the entry (see the crate's documentation). Then merging changes nothing, and
//! all control effects are as they were the first time, for none depends on a row but the one that a cell remembers;
//! whether an update or an expiry still holds is decided by the control state alone (`touches.rs`). Only the answer may differ, `SUPERSEDED` for what was
//! `APPLIED`: nobody waits for it.

use std::sync::Arc;

use bytes::Bytes;
use granary_proto::convert;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{self as wire, ShardReply, WriteOutcome, shard_command};
use granary_types::invariants::{Invariant, check};
use granary_types::mutants::{Mutant, is_planted};
use granary_types::{Epoch, Slot, Version, Write, WriteKind, WriteStamp};

use crate::Error;
use crate::cell::{self, HardDelete, StoredCell};
use crate::change_log::Pressure;
use crate::control::Control;
use crate::dedup::Window;

/// The rows, as apply sees them.
pub(crate) trait Rows {
    /// The stored cell.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;
    /// Stores a cell in memory; it replaces the old one in one step.
    fn put(&self, key: Bytes, cell: Bytes);
}

/// The state that one entry is applied to.
#[derive(Debug)]
pub(crate) struct Apply<'a, R> {
    pub(crate) control: &'a mut Control,
    pub(crate) rows: &'a R,
    /// How many write ids are remembered: the same on every replica and at every time.
    pub(crate) window: Window,
    /// The entry's index.
    pub(crate) index: u64,
}

impl<R: Rows> Apply<'_, R> {
    /// Applies the entry. After an error the state is worth nothing.
    ///
    /// # Errors
    /// `Entry` for a command or write that is not understood; what reading the rows can say.
    pub(crate) fn command(mut self, command: wire::ShardCommand) -> Result<ShardReply, Error> {
        use shard_command::Command;
        let mut reply = ShardReply::default();
        match command.command {
            Some(Command::Write(batch)) => reply.outcomes = self.batch(batch)?,
            Some(Command::Seal(seal)) => self.seal(WriteStamp(seal.stamp)),
            Some(Command::Trim(trim)) => self.control.change_log.trim(trim.sequence),
            Some(Command::OpenSlots(open)) => self.open_slots(&open)?,
            None => return Err(self.not_understood("unknown command")),
        }
        self.control.applied_index = self.index;
        Ok(reply)
    }

    fn not_understood(&self, detail: impl Into<String>) -> Error {
        Error::Entry { index: self.index, detail: detail.into() }
    }

    fn batch(&mut self, batch: wire::WriteBatch) -> Result<Vec<WriteOutcome>, Error> {
        let last_before = self.control.change_log.last_sequence();
        let mut outcomes = Vec::with_capacity(batch.writes.len());
        let mut accepted_offline = 0;
        for (place, write) in (0_u64..).zip(batch.writes) {
            let offline = write.offline;
            let proposed = WriteStamp(batch.stamp.saturating_add(place));
            let outcome = self.write(proposed, write, batch.change_log_budget)?;
            let accepted = matches!(outcome.status(), Status::Applied | Status::Superseded);
            accepted_offline += u64::from(accepted && offline);
            outcomes.push(outcome);
        }
        let events = self.control.change_log.last_sequence() - last_before;
        check(Invariant::OneEventPerWrite, events == accepted_offline, || {
            format!("{accepted_offline} accepted writes made {events} events at index {}", self.index)
        });
        Ok(outcomes)
    }

    fn write(&mut self, proposed: WriteStamp, message: wire::Write, budget: u64) -> Result<WriteOutcome, Error> {
        let write =
            convert::write_from_wire(message.clone()).map_err(|error| self.not_understood(error.to_string()))?;
        if let Some(stamp) = self.control.recent.stamp_of(write.id) {
            return Ok(outcome(Status::Duplicate, 0, stamp.0));
        }
        let owned = self.control.slots.epoch_of(write.slot);
        if owned != Some(write.epoch) {
            return Ok(outcome(Status::WrongShard, owned.map_or(0, |epoch| epoch.0), 0));
        }
        let pressure = Pressure::of(self.control.change_log.bytes(), budget);
        if write.targets.offline && pressure == Pressure::Refuse {
            return Ok(outcome(Status::ChangeLogFull, 0, 0));
        }
        let key = write.targets.online.then(|| cell::key(write.slot, write.group, write.record.as_bytes()));
        if let (Some(based_on), Some(key)) = (write.kind.based_on(), &key)
            && self.control.touches.last(key) > based_on
            && !is_planted(Mutant::UpdatesBlindly)
        {
            return Ok(outcome(Status::Raced, 0, 0));
        }
        // Used up even if a hard delete turns out stale: a stamp belongs to one write, which is how a cell that is ahead
        // on replay tells what was decided about it, and no stamp depends on a row.
        let proposed = if is_planted(Mutant::ApplyReadsClock) { by_own_clock() } else { proposed };
        let stamp = self.control.last_stamp.next(proposed);
        self.control.last_stamp = stamp;
        let status = match key {
            Some(key) => {
                // Whatever becomes of the write: the row must have no say in it.
                self.control.touches.note(&key, stamp);
                self.online(key, &write, stamp)?
            }
            None => Status::Applied,
        };
        if status == Status::StaleHardDelete {
            return Ok(outcome(status, 0, 0));
        }
        self.control.recent.insert(write.id, stamp, self.window);
        if write.targets.offline {
            self.control.change_log.append(stamp, event_of(message));
        }
        Ok(outcome(status, 0, stamp.0))
    }

    /// Merges the write into its cell.
    fn online(&mut self, key: Bytes, write: &Write, stamp: WriteStamp) -> Result<Status, Error> {
        let stored = self.rows.get(&key)?;
        let old = stored.as_ref().map(|stored| StoredCell::decode(&key, stored)).transpose()?.unwrap_or_default();
        let version = Version { event_time: write.event_time, stamp };
        let new = match write.kind {
            WriteKind::HardDelete => match old.hard_delete(stamp, write.event_time) {
                HardDelete::Reset => old.reset(stamp),
                HardDelete::Done => return Ok(Status::Applied),
                HardDelete::Stale => return Ok(Status::StaleHardDelete),
                HardDelete::Untold => return Err(Error::RowsAhead { index: self.index }),
            },
            // That it holds was decided by the control state. A cell that is ahead has been through it.
            WriteKind::Expiry { .. } if old.cell.reset >= Some(stamp) => return Ok(Status::Applied),
            WriteKind::Expiry { .. } => old.reset(stamp),
            WriteKind::Put | WriteKind::Update { .. } | WriteKind::SoftDelete
                if !old.cell.accepts(&version) && !is_planted(Mutant::ForgetsEventTime) =>
            {
                return Ok(Status::Superseded);
            }
            WriteKind::Put | WriteKind::Update { .. } => old.write(version, Some(write.row.clone())),
            WriteKind::SoftDelete => old.write(version, None),
        };
        check(Invariant::NothingSupersedesOnline, !new.cell.accepts(&version), || {
            format!("{version:?} supersedes what was stored for it at index {}", self.index)
        });
        let encoded = new.encode(&key);
        match stored {
            Some(stored) => self.control.rows.hash.replace(cell::digest(&stored), cell::digest(&encoded)),
            None => self.control.rows.hash.add(cell::digest(&encoded)),
        }
        self.rows.put(key, encoded);
        Ok(Status::Applied)
    }

    fn seal(&mut self, proposed: WriteStamp) {
        if self.control.change_log.has_open_events() {
            self.control.last_stamp = self.control.last_stamp.max(proposed);
            self.control.change_log.seal(self.control.last_stamp);
        }
    }

    fn open_slots(&mut self, open: &wire::OpenSlots) -> Result<(), Error> {
        let stream = convert::stream_from_wire(open.stream.as_ref());
        let stream = stream.map_err(|error| self.not_understood(error.to_string()))?;
        let slots = Arc::make_mut(&mut self.control.slots);
        for slot in &open.slots {
            let Ok(slot) = u16::try_from(*slot) else {
                return Err(self.not_understood(format!("slot {slot} is out of range")));
            };
            slots.open(Slot(slot), Epoch(open.epoch));
        }
        self.control.change_log.name(stream);
        Ok(())
    }
}

/// What the change log keeps of an accepted write. To whoever reads it, an update is a put of the merged row, and an
/// expiry a hard delete.
fn event_of(write: wire::Write) -> wire::Write {
    let kind = match write.kind() {
        wire::WriteKind::Update => wire::WriteKind::Put,
        wire::WriteKind::Expiry => wire::WriteKind::HardDelete,
        kind => kind,
    };
    wire::Write { kind: kind.into(), based_on: 0, ..write }
}

/// What apply must never do: only for the mutant of that name.
fn by_own_clock() -> WriteStamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WriteStamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn outcome(status: Status, epoch: u64, stamp: u64) -> WriteOutcome {
    WriteOutcome { status: status.into(), epoch, stamp }
}
