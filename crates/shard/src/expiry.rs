//! Expired records, found by the leader and removed by entries (`docs/adr/0014-expiry.md`).
//!
//! A look goes through a piece of the tree, in the order of keys, and finds records that have expired by the clock it
//! is given. Each is then read again, and a hard delete proposed that holds only if nothing wrote to the record since:
//! apply asks the same control state as for an update ([`crate::touches`]) and reads no clock.

use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use granary_proto::convert::write_from_wire;
use granary_proto::internal as wire;
use granary_row::RowView;
use granary_types::ttl::expires_at;
use granary_types::{EventTime, FeatureGroupId, Slot};

use crate::cell::{self, StoredCell};
use crate::preserved;
use crate::store::Inner;
use crate::{Error, ShardStore};

/// A record that was found expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredRecord {
    /// Its slot.
    pub slot: Slot,
    /// Its feature group.
    pub group: FeatureGroupId,
    /// Its identifier.
    pub record: Bytes,
    /// When it expired.
    pub expires_at: EventTime,
}

/// What a look at a piece of the tree found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// In the order of keys.
    pub expired: Vec<ExpiredRecord>,
    /// How many cells were looked at.
    pub cells: usize,
    /// How many records have a time to live, expired or not.
    pub with_ttl: u64,
    /// The last key looked at; `None` at the end of the tree.
    pub reached: Option<Bytes>,
}

impl ShardStore {
    /// Looks at up to `cells_max` cells of the tree after the key `after` for records that have expired at `now_nanos`
    /// since the Unix epoch. What the memory table holds is found once it is in the tree. Reads the tree: call it off
    /// the async threads.
    ///
    /// # Errors
    /// What reading the tree can say; then the store has failed. `Closed`.
    pub fn look_for_expired(&self, after: &[u8], cells_max: usize, now_nanos: u64) -> Result<Look, Error> {
        self.inner.check_usable()?;
        self.inner.look_for_expired(after, cells_max, now_nanos).inspect_err(|error| self.inner.fail(error.clone()))
    }

    /// The write to propose for `expiry`, a write of that kind at the time of expiry, if the record still expires at
    /// that time and has by the message's clock. Reads one cell.
    ///
    /// # Errors
    /// As [`Self::merge_update`].
    pub fn confirm_expiry(&self, expiry: wire::Write) -> Result<Option<wire::Write>, Error> {
        let write =
            write_from_wire(expiry.clone()).map_err(|error| Error::Entry { index: 0, detail: error.to_string() })?;
        loop {
            let replaced = self.inner.replaced.load(Ordering::SeqCst);
            let based_on = self.inner.basis_of_expiry(&write, expiry.now_nanos)?;
            // As in a read: what was seen while rows were replaced as a whole does not count.
            if self.inner.replaced.load(Ordering::SeqCst) == replaced {
                return Ok(based_on.map(|(based_on, epoch)| wire::Write { epoch, based_on, now_nanos: 0, ..expiry }));
            }
        }
    }
}

impl Inner {
    fn look_for_expired(&self, after: &[u8], cells_max: usize, now_nanos: u64) -> Result<Look, Error> {
        let mut look = Look::default();
        let mut from = after.to_vec();
        if !from.is_empty() {
            from.push(0);
        }
        for pair in self.tree.scan(&from).take(cells_max) {
            let (key, stored) = pair?;
            if !preserved::is_spilled(&key) {
                look.take(&key, &stored, now_nanos)?;
            }
            look.reached = Some(key);
            look.cells += 1;
        }
        if look.cells < cells_max {
            look.reached = None;
        }
        Ok(look)
    }

    /// The stamp up to which the record is known, and the slot's epoch, if the record expires as the write says.
    fn basis_of_expiry(&self, write: &granary_types::Write, now_nanos: u64) -> Result<Option<(u64, u64)>, Error> {
        self.check_usable()?;
        let based_on = self.control.lock().last_stamp;
        // As reads see it: the control state's is the old one while rows are replaced as a whole.
        let Some(epoch) = self.slots.read().epoch_of(write.slot) else { return Ok(None) };
        let key = cell::key(write.slot, write.group, write.record.as_bytes());
        // After the stamp: what it shows is at least as new.
        let live = self.live(&key).inspect_err(|error| self.fail(error.clone()))?;
        let expiry = live.and_then(|(version, row)| expiry_of(version.event_time, &row));
        let holds = expiry == Some(write.event_time) && has_passed(write.event_time, now_nanos);
        Ok(holds.then_some((based_on.0, epoch.0)))
    }
}

impl Look {
    fn take(&mut self, key: &Bytes, stored: &Bytes, now_nanos: u64) -> Result<(), Error> {
        let latest = StoredCell::decode(key, stored)?.cell.latest;
        let Some(expiry) = latest.and_then(|latest| expiry_of(latest.version.event_time, &latest.value?)) else {
            return Ok(());
        };
        self.with_ttl += 1;
        if !has_passed(expiry, now_nanos) {
            return Ok(());
        }
        let mut record = key.clone();
        let place = (record.try_get_u16(), record.try_get_u32());
        let (Ok(slot), Ok(group)) = place else { return Err(Error::corrupt("key is too short for a record", key)) };
        let (slot, group) = (Slot(slot), FeatureGroupId(group));
        self.expired.push(ExpiredRecord { slot, group, record, expires_at: expiry });
        Ok(())
    }
}

/// When a record expires, if it has a time to live. A row that cannot be read never does.
fn expiry_of(event_time: EventTime, row: &Bytes) -> Option<EventTime> {
    RowView::open(row).ok()?.ttl_seconds().map(|seconds| expires_at(event_time, seconds))
}

/// Whether a time of expiry lies in the past at `now_nanos` since the Unix epoch, by a clock that the caller was given.
pub(crate) fn has_passed(expiry: EventTime, now_nanos: u64) -> bool {
    expiry.nanos() <= i128::from(now_nanos)
}
