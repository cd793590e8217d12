//! Reads of single rows. The consistency of a read is the caller's business: it waits for the right applied index
//! before it comes here.

use std::sync::atomic::Ordering;

use granary_proto::internal::{RecordKey, RowResult, row_result::Status};
use granary_types::{Epoch, FeatureGroupId, FeatureOrdinal, Slot};

use crate::apply::Rows as _;
use crate::cell::{self, StoredCell};
use crate::store::Inner;
use crate::{Error, ShardStore};

impl ShardStore {
    /// Reads one record: its row with the features of `projection` (ascending; empty means all), event time and stamp.
    ///
    /// `NOT_FOUND` for what was never put or is deleted; whether a record is expired is judged by the caller.
    /// `WRONG_SHARD` unless the slot is owned at exactly the key's epoch. `CORRUPT` when what is stored fails its
    /// checksum; then the store has failed and answers nothing else from now on (ST-1).
    pub fn read(&self, key: &RecordKey, projection: &[FeatureOrdinal]) -> RowResult {
        loop {
            let replaced = self.inner.replaced.load(Ordering::SeqCst);
            let result = self.inner.read(key, projection);
            // A restore takes the slots away, counts, and only then touches the rows. So what was read while the
            // count stood still was not read out of rows half replaced.
            if self.inner.replaced.load(Ordering::SeqCst) == replaced {
                return result;
            }
        }
    }

    /// The epoch at which the slot is owned.
    pub fn owner_epoch(&self, slot: Slot) -> Option<Epoch> {
        self.inner.slots.read().epoch_of(slot)
    }
}

impl Inner {
    fn read(&self, key: &RecordKey, projection: &[FeatureOrdinal]) -> RowResult {
        if self.has_failed() {
            return status(Status::Corrupt);
        }
        let slot = u16::try_from(key.slot).ok().map(Slot);
        let owned = slot.and_then(|slot| self.slots.read().epoch_of(slot));
        let (Some(slot), true) = (slot, owned == Some(Epoch(key.epoch))) else {
            return RowResult { epoch: owned.map_or(0, |epoch| epoch.0), ..status(Status::WrongShard) };
        };
        match self.read_owned(slot, key, projection) {
            Ok(result) => result,
            Err(error) => {
                self.fail(error);
                status(Status::Corrupt)
            }
        }
    }

    fn read_owned(&self, slot: Slot, key: &RecordKey, projection: &[FeatureOrdinal]) -> Result<RowResult, Error> {
        let key = cell::key(slot, FeatureGroupId(key.feature_group), &key.record);
        let Some(stored) = self.get(&key)? else {
            return Ok(status(Status::NotFound));
        };
        let cell = StoredCell::decode(&key, &stored)?.cell;
        let Some((version, row)) = cell.latest.and_then(|latest| Some((latest.version, latest.value?))) else {
            return Ok(status(Status::NotFound));
        };
        let row = if projection.is_empty() {
            row
        } else {
            match granary_row::project(&row, projection) {
                Ok(row) => row,
                Err(error) => {
                    // The cell is whole, so every replica has this row, and stopping them all would help nobody.
                    tracing::error!(%error, ?key, "stored row cannot be projected");
                    return Ok(status(Status::Corrupt));
                }
            }
        };
        Ok(RowResult {
            row,
            event_seconds: version.event_time.seconds(),
            event_nanos: version.event_time.subsec_nanos(),
            stamp: version.stamp.0,
            ..status(Status::Found)
        })
    }
}

fn status(status: Status) -> RowResult {
    RowResult { status: status.into(), ..RowResult::default() }
}
