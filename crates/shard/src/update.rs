//! Merging an update into its record, at the leader, before it is proposed (`docs/adr/0011-update-record.md`).
//!
//! What comes out is a write of the whole merged row with the stamp up to which the record was known. Apply takes it only
//! if nothing was written to the record after that stamp, so it never has to look at the row for its decision.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use granary_proto::convert::write_from_wire;
use granary_proto::internal as wire;
use granary_proto::internal::WriteOutcome;
use granary_proto::internal::write_outcome::Status;
use granary_row::RowView;
use granary_types::record::RECORD_LEN_MAX;
use granary_types::ttl::expires_at;
use granary_types::{EventTime, Version, WriteKind};

use crate::apply::Rows as _;
use crate::cell::{self, StoredCell};
use crate::expiry::has_passed;
use crate::store::Inner;
use crate::{Error, ShardStore};

/// What became of an update.
#[derive(Debug, Clone, PartialEq)]
pub enum Merged {
    /// To be proposed.
    Write(wire::Write),
    /// The outcome, without an entry: a retry of what was applied, or a refusal by the state as it is. A refusal counts
    /// only if that state is not older than the call.
    Settled(WriteOutcome),
}

impl ShardStore {
    /// Merges `update`, as a router sent it, into the record as it is here now. Reads one cell.
    ///
    /// # Errors
    /// `Entry` for a write that is not understood; what reading the row can say, after which the store has failed.
    pub fn merge_update(&self, update: &wire::Write) -> Result<Merged, Error> {
        let write =
            write_from_wire(update.clone()).map_err(|error| Error::Entry { index: 0, detail: error.to_string() })?;
        loop {
            let replaced = self.inner.replaced.load(Ordering::SeqCst);
            let merged = self.inner.merge_update(update, &write);
            // As in a read: what was seen while rows were replaced as a whole does not count.
            if self.inner.replaced.load(Ordering::SeqCst) == replaced {
                return merged;
            }
        }
    }
}

impl Inner {
    fn merge_update(&self, update: &wire::Write, write: &granary_types::Write) -> Result<Merged, Error> {
        self.check_usable()?;
        let (based_on, accepted) = {
            let control = self.control.lock();
            (control.last_stamp, control.recent.stamp_of(write.id))
        };
        if let Some(stamp) = accepted {
            return Ok(settled(Status::Duplicate, 0, stamp.0));
        }
        // Not the control state's: while rows are replaced as a whole, that is still the old one (see `ShardStore::read`).
        let owned = self.slots.read().epoch_of(write.slot);
        if owned != Some(write.epoch) {
            return Ok(settled(Status::WrongShard, owned.map_or(0, |epoch| epoch.0), 0));
        }
        let key = cell::key(write.slot, write.group, write.record.as_bytes());
        // After the stamp: what it shows is at least as new.
        let live = self.live(&key).inspect_err(|error| self.fail(error.clone()))?;
        let Some((version, row)) = live else { return Ok(settled(Status::NoRecord, 0, 0)) };
        let merged = match merge(update, write, version, &row) {
            Ok(Ok(merged)) => merged,
            Ok(Err(refused)) => return Ok(settled(refused, 0, 0)),
            Err(error) => {
                // The cell is whole, so every replica has this row; stopping them all would help nobody.
                tracing::error!(%error, ?key, "stored row or update cannot be merged");
                return Ok(settled(Status::RowUnreadable, 0, 0));
            }
        };
        let event_time = if update.keeps_event_time { version.event_time } else { write.event_time };
        Ok(Merged::Write(wire::Write {
            kind: wire::WriteKind::Update.into(),
            event_seconds: event_time.seconds(),
            event_nanos: event_time.subsec_nanos(),
            row: merged,
            keeps_event_time: false,
            now_nanos: 0,
            based_on: based_on.0,
            ..update.clone()
        }))
    }

    /// Version and row of a record that exists, expired or not.
    pub(crate) fn live(&self, key: &Bytes) -> Result<Option<(Version, Bytes)>, Error> {
        let Some(stored) = self.get(key)? else { return Ok(None) };
        let latest = StoredCell::decode(key, &stored)?.cell.latest;
        Ok(latest.and_then(|latest| Some((latest.version, latest.value?))))
    }
}

/// The merged row, or why the update is refused.
fn merge(
    update: &wire::Write,
    write: &granary_types::Write,
    version: Version,
    row: &Bytes,
) -> Result<Result<Bytes, Status>, granary_row::Error> {
    debug_assert!(matches!(write.kind, WriteKind::Update { .. }), "only updates are merged");
    if has_expired(version.event_time, RowView::open(row)?.ttl_seconds(), update.now_nanos) {
        return Ok(Err(Status::NoRecord));
    }
    if !update.keeps_event_time && write.event_time < version.event_time {
        return Ok(Err(Status::OlderEventTime));
    }
    let merged = granary_row::merge(row, &write.row)?;
    let too_long = RowView::open(&merged)?.text_len() > RECORD_LEN_MAX;
    Ok(if too_long { Err(Status::RecordTooLong) } else { Ok(merged) })
}

/// Whether a record is expired at `now_nanos` (since the Unix epoch), by a clock that the caller was given.
pub(crate) fn has_expired(event_time: EventTime, ttl_seconds: Option<u64>, now_nanos: u64) -> bool {
    ttl_seconds.is_some_and(|seconds| has_passed(expires_at(event_time, seconds), now_nanos))
}

fn settled(status: Status, epoch: u64, stamp: u64) -> Merged {
    Merged::Settled(WriteOutcome { status: status.into(), epoch, stamp })
}
