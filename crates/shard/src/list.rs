//! Listing a feature group's records, slot by slot, a bounded piece at a time.
//!
//! A piece begins after a place and tells the place up to which it looked, in the order of slot and record: nothing else
//! is kept between two calls, so a listing survives writes, leaders and restarts. A record that exists all the while is
//! listed exactly once, since its key never changes.

use std::cmp::Ordering as Order;
use std::collections::btree_map;
use std::iter::Peekable;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use granary_proto::internal::shard_list_response::Result as Listed;
use granary_proto::internal::{
    ListedRecord, RecordPlace, RowResult, ShardListRequest, ShardListed, WrongSlot, row_result::Status,
};
use granary_row::RowView;
use granary_types::{Epoch, FeatureGroupId, FeatureOrdinal, Slot};

use crate::cell::{self, StoredCell};
use crate::store::Inner;
use crate::update::has_expired;
use crate::{Error, ShardStore};

/// The work of one call, in cells looked at. A look into the tree for the beginning of a slot counts as several.
const WORK_MAX: usize = 16_384;
const SLOT_WORK: usize = 16;
/// Bytes of rows in one answer; one larger row goes alone.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Cells taken from the memory table at a time: what a look at all of a slot's may keep is bounded by it.
const MEMORY_CELLS: usize = 1_024;
/// Slot and feature group in front of a record's key.
const PREFIX_LEN: usize = 6;

impl ShardStore {
    /// Lists records after a place: those that exist, and soft-deleted ones where they are asked for. May read the tree:
    /// call it off the async threads.
    ///
    /// # Errors
    /// What reading rows can say; then the store has failed. `Closed`.
    pub fn list(&self, request: &ShardListRequest) -> Result<Listed, Error> {
        loop {
            let replaced = self.inner.replaced.load(Ordering::SeqCst);
            self.inner.check_usable()?;
            let listed = self.inner.list(request).inspect_err(|error| self.inner.fail(error.clone()));
            if self.inner.replaced.load(Ordering::SeqCst) == replaced {
                return listed;
            }
        }
    }
}

impl Inner {
    fn list(&self, request: &ShardListRequest) -> Result<Listed, Error> {
        let slots = match self.slots_to_list(request) {
            Ok(slots) => slots,
            Err(wrong) => return Ok(Listed::WrongSlot(wrong)),
        };
        let mut piece = Piece::new(request);
        for slot in slots {
            if !piece.has_room() {
                // Everything before this slot was looked at.
                piece.listed.end = Some(RecordPlace { slot: slot.0.into(), record: Bytes::new() });
                break;
            }
            self.list_slot(slot, &mut piece)?;
            if piece.listed.end.is_some() {
                break;
            }
        }
        Ok(Listed::Listed(piece.listed))
    }

    /// The slots from the place on, rising; or the first that is not owned as the caller thinks.
    fn slots_to_list(&self, request: &ShardListRequest) -> Result<Vec<Slot>, WrongSlot> {
        let first = request.after.as_ref().map_or(0, |after| after.slot);
        let owned = self.slots.read();
        let mut slots = Vec::new();
        for of_epoch in &request.slots {
            for slot in of_epoch.slots.iter().filter(|slot| **slot >= first) {
                let at = u16::try_from(*slot).ok().and_then(|slot| Some((Slot(slot), owned.epoch_of(Slot(slot))?)));
                match at {
                    Some((slot, epoch)) if epoch == Epoch(of_epoch.epoch) => slots.push(slot),
                    other => return Err(WrongSlot { slot: *slot, epoch: other.map_or(0, |(_, epoch)| epoch.0) }),
                }
            }
        }
        slots.sort_unstable();
        slots.dedup();
        Ok(slots)
    }

    fn list_slot(&self, slot: Slot, piece: &mut Piece<'_>) -> Result<(), Error> {
        let mut after = piece.begin(slot);
        loop {
            // Memory first: what moves into the tree meanwhile is found there.
            let memory = self.memory.read().after(&after, PREFIX_LEN, MEMORY_CELLS);
            // Where that was not all, cells beyond the last one may be newer than the tree's.
            let known_to = (memory.len() == MEMORY_CELLS).then(|| memory.keys().next_back().cloned()).flatten();
            let from = [&after, &[0][..]].concat();
            let tree = self.tree.scan_within(&from, PREFIX_LEN).peekable();
            for pair in (Newest { memory: memory.into_iter().peekable(), tree }) {
                let (key, stored) = pair?;
                if !piece.has_room() {
                    piece.listed.end = Some(piece.place.clone());
                    return Ok(());
                }
                piece.take(&key, &stored)?;
                if known_to.as_ref() == Some(&key) {
                    break;
                }
            }
            match known_to {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }
}

/// What one call has found so far.
struct Piece<'a> {
    request: &'a ShardListRequest,
    /// Of the rows, where they are asked for; empty for all.
    projection: Option<Vec<FeatureOrdinal>>,
    listed: ShardListed,
    work: usize,
    row_bytes: usize,
    /// Everything up to here was looked at.
    place: RecordPlace,
}

impl<'a> Piece<'a> {
    fn new(request: &'a ShardListRequest) -> Self {
        let ordinal = |ordinal: &u32| u16::try_from(*ordinal).ok().map(FeatureOrdinal);
        let projection = request.rows.as_ref().map(|rows| rows.ordinals.iter().filter_map(ordinal).collect());
        let (listed, place) = (ShardListed::default(), RecordPlace::default());
        Self { request, projection, listed, work: 0, row_bytes: 0, place }
    }

    fn has_room(&self) -> bool {
        let records_max = usize::try_from(self.request.records_max).unwrap_or(usize::MAX);
        self.work < WORK_MAX && self.row_bytes < ROW_BYTES_MAX && self.listed.records.len() < records_max
    }

    /// Goes on to a slot, and returns the key after which its records are wanted.
    fn begin(&mut self, slot: Slot) -> Bytes {
        self.work += SLOT_WORK;
        let after = self.request.after.as_ref().filter(|after| after.slot == u32::from(slot.0));
        let record = after.map_or_else(Bytes::new, |after| after.record.clone());
        let key = cell::key(slot, FeatureGroupId(self.request.feature_group), &record);
        // Also when there is no room for its first cell: the next piece begins here, not where this one did.
        self.place = RecordPlace { slot: slot.0.into(), record };
        key
    }

    fn take(&mut self, key: &Bytes, stored: &Bytes) -> Result<(), Error> {
        self.work += 1;
        self.place.record = key.slice(PREFIX_LEN..);
        let Some(latest) = StoredCell::decode(key, stored)?.cell.latest else { return Ok(()) };
        let Some(row) = latest.value else {
            if self.request.soft_deleted {
                self.listed.records.push(ListedRecord { place: Some(self.place.clone()), row: None });
            }
            return Ok(());
        };
        let event_time = latest.version.event_time;
        let kept = RowView::open(&row).and_then(|view| {
            let expired = has_expired(event_time, view.ttl_seconds(), self.request.now_nanos);
            let row = match &self.projection {
                None => Ok(None),
                Some(all) if all.is_empty() => Ok(Some(row.clone())),
                Some(wanted) => granary_row::project(&row, wanted).map(Some),
            };
            Ok((!expired).then_some(row?))
        });
        match kept {
            Ok(Some(row)) => {
                self.row_bytes += row.as_ref().map_or(0, Bytes::len);
                let row = row.map(|row| RowResult {
                    status: Status::Found.into(),
                    row,
                    event_seconds: event_time.seconds(),
                    event_nanos: event_time.subsec_nanos(),
                    stamp: latest.version.stamp.0,
                    ..RowResult::default()
                });
                self.listed.records.push(ListedRecord { place: Some(self.place.clone()), row });
            }
            Ok(None) => {}
            // The cell is whole, so every replica has this row. It is there, whatever it holds.
            Err(error) => {
                tracing::error!(%error, ?key, "stored row cannot be read for a listing");
                self.listed.records.push(ListedRecord { place: Some(self.place.clone()), row: None });
            }
        }
        Ok(())
    }
}

/// Cells of memory and tree in key order, memory's where both have one.
struct Newest<T: Iterator<Item = Result<(Bytes, Bytes), granary_store::Error>>> {
    memory: Peekable<btree_map::IntoIter<Bytes, Bytes>>,
    tree: Peekable<T>,
}

impl<T: Iterator<Item = Result<(Bytes, Bytes), granary_store::Error>>> Iterator for Newest<T> {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.memory.peek(), self.tree.peek()) {
            (None, _) | (_, Some(Err(_))) => Order::Greater,
            (Some(_), None) => Order::Less,
            (Some((newer, _)), Some(Ok((older, _)))) => newer.cmp(older),
        };
        if order == Order::Equal {
            self.tree.next();
        }
        match order {
            Order::Less | Order::Equal => self.memory.next().map(Ok),
            Order::Greater => self.tree.next().map(|pair| pair.map_err(Error::from)),
        }
    }
}
