//! Snapshots: the whole state in one stream of bytes, written without stopping apply, and read back.
//!
//! Body (numbers little endian, lengths in bytes):
//!
//! | what | layout |
//! |---|---|
//! | head | magic `GRSHARD` and format version 1, comparable-from index (u64), number of parts (u32) |
//! | control state, in parts | each: length (u64), `ShardControlState` in protobuf; together they merge into one |
//! | cells in key order | each: key length (u32), key, cell length (u32), cell |
//! | end | `u32::MAX`, number of cells (u64), state hash (u128) |
//!
//! Its integrity on disk and on the way is consensus's business (one checksum over the body); here every cell's own
//! checksum, the order, the count and the hash are verified in both directions (RG-2).

use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use granary_proto::internal::ShardControlState;
use granary_types::invariants::{Invariant, check};
use prost::Message;

use crate::checkpointer::Stop;
use crate::control::{Control, ControlImage};
use crate::marker::Marker;
use crate::preserved::{self, Preserved};
use crate::slots::Slots;
use crate::state_hash::StateHash;
use crate::store::Inner;
use crate::{Error, ShardStore, cell};

const MAGIC: [u8; 8] = *b"GRSHARD\x01";
const END: u32 = u32::MAX;
/// Far above what a router lets through (a key of 2 KB, a record of 350 KB).
const FRAME_LEN_MAX: u32 = 64 << 20;
/// Far above the change log's default budget.
const PART_LEN_MAX: u64 = 4 << 30;
/// How many cells are written between two looks at whether anybody still wants them.
const CELLS_PER_LOOK: u64 = 4_096;
/// After how many cells the store is told how far the scan is.
const CELLS_PER_PASS: u64 = 64;

/// The state as of one applied index, held still until it is written or dropped.
///
/// While it is held, apply and checkpoints go on: what they overwrite is put by for it (see `preserved`).
#[derive(Debug)]
pub struct PinnedSnapshot {
    store: Arc<Inner>,
    image: ControlImage,
    replaced: u64,
    /// Counted since the store was opened.
    pin: u64,
}

impl ShardStore {
    /// Pins the state as of the last entry applied. Quick: a map is swapped, the control state's large parts are shared.
    ///
    /// Not during replay into rows that are ahead: a replica that is rebuilt from such a snapshot would start with rows
    /// ahead of its control state, and where they are too far ahead ([`Error::RowsAhead`]) would never get past it.
    ///
    /// # Errors
    /// `Replaying`: try again later. `SnapshotPinned`, `Closed`, or the store's failure.
    pub fn pin_snapshot(&self) -> Result<PinnedSnapshot, Error> {
        let store = Arc::clone(&self.inner);
        let mut control = store.control.lock();
        store.check_usable()?;
        if !control.is_comparable() {
            return Err(Error::Replaying { applied: control.applied_index, ahead_to: control.rows_ahead_to() });
        }
        let mut duty = store.duty.lock();
        if duty.pinned {
            return Err(Error::SnapshotPinned);
        }
        duty.pinned = true;
        store.memory.write().freeze(control.marker());
        let (image, replaced) = (control.image(), store.replaced.load(Ordering::SeqCst));
        let pin = store.pins.fetch_add(1, Ordering::SeqCst);
        *store.preserved.lock() = Some(Preserved::new(pin, image.applied_index));
        store.notify(&mut duty);
        drop(duty);
        drop(control);
        Ok(PinnedSnapshot { store, image, replaced, pin })
    }

    /// Verifies that the rows are whole: every checksum, and that they add up to the state hash. Returns the index at
    /// which that was so and how many cells there are. Takes as long as a snapshot, and like one lets writes go on.
    ///
    /// # Errors
    /// As pinning and writing a snapshot; `Corrupt` and `Engine`, and then the store has failed.
    pub fn scrub(&self) -> Result<(u64, u64), Error> {
        let pinned = self.pin_snapshot()?;
        let (index, cells) = (pinned.index(), pinned.image.rows.hash.cells());
        pinned.write_to(&mut std::io::sink())?;
        Ok((index, cells))
    }

    /// Replaces the state by a snapshot's body; `index` is the snapshot's.
    ///
    /// With `local`, the snapshot is this replica's own: rows that the tree holds from before and that are at least as
    /// new are kept, and the body's are not read. Until it is done, reads answer `WRONG_SHARD`. Not to be called
    /// while an entry is applied.
    ///
    /// # Errors
    /// `Snapshot`, `Segment`, `SnapshotIo`, `Corrupt`, `Engine`: when rows were touched already, the store has failed.
    pub fn restore(&self, index: u64, local: bool, body: &mut dyn Read) -> Result<(), Error> {
        self.inner.check_usable()?;
        let mut body = BufReader::with_capacity(1 << 18, body);
        let mut control = read_control(&mut body)?;
        // Blank and membership entries after the last command are in the snapshot, too.
        control.applied_index = control.applied_index.max(index);
        let kept = self.inner.control.lock().rows;
        if local && kept.index > 0 && kept.index >= control.rows.index {
            control.rows = kept;
            self.inner.publish(control);
            return Ok(());
        }
        self.inner.replace_rows(control, &mut body)
    }
}

impl PinnedSnapshot {
    /// The index of the last entry in it.
    pub fn index(&self) -> u64 {
        self.image.applied_index
    }

    /// Writes the body. Takes as long as a scan of the tree; belongs on a thread that may block.
    ///
    /// # Errors
    /// `SnapshotIo`, `SnapshotReplaced`, `Closed`; `Corrupt` and `Engine`, and then the store has failed.
    pub fn write_to(self, out: &mut dyn Write) -> Result<(), Error> {
        self.wait_for_rows()?;
        let mut out = BufWriter::with_capacity(1 << 18, out);
        self.write_control(&mut out)?;
        let written = self.write_cells(&mut out)?;
        // Before the hash is judged: a tree that was written meanwhile proves nothing.
        self.check_wanted()?;
        let accounted = self.image.rows.hash;
        let equal = check(Invariant::EqualReplicas, written == accounted, || {
            format!("rows at index {} are {written:?}, apply accounted for {accounted:?}", self.index())
        });
        if !equal {
            let error = Error::corrupt("rows do not add up to the state hash", &[]);
            self.store.fail(error.clone());
            return Err(error);
        }
        let end = [&END.to_le_bytes()[..], &written.cells().to_le_bytes(), &written.value().to_le_bytes()].concat();
        out.write_all(&end).and_then(|()| out.flush()).map_err(Error::writing)
    }

    /// Waits until the tree holds everything up to the pinned index. What comes after that is put by.
    fn wait_for_rows(&self) -> Result<(), Error> {
        let unwritten = || self.store.memory.read().oldest_frozen().is_some_and(|it| it.marker.index <= self.index());
        drop(self.store.wait_while(|duty| !duty.stopped && unwritten()));
        self.check_wanted()
    }

    fn check_wanted(&self) -> Result<(), Error> {
        self.store.check_usable()?;
        if self.store.duty.lock().stop != Stop::No {
            return Err(Error::Closed);
        }
        if self.store.replaced.load(Ordering::SeqCst) != self.replaced {
            return Err(Error::SnapshotReplaced);
        }
        Ok(())
    }

    fn write_control(&self, out: &mut impl Write) -> Result<(), Error> {
        let count = u32::try_from(self.image.parts_count()).expect("segments of a bounded change log");
        let head = [&MAGIC[..], &self.image.rows.comparable_from.to_le_bytes(), &count.to_le_bytes()].concat();
        out.write_all(&head).map_err(Error::writing)?;
        for part in self.image.parts() {
            let part = part.encode_to_vec();
            out.write_all(&(part.len() as u64).to_le_bytes()).map_err(Error::writing)?;
            out.write_all(&part).map_err(Error::writing)?;
        }
        Ok(())
    }

    fn write_cells(&self, out: &mut impl Write) -> Result<StateHash, Error> {
        let mut hash = StateHash::default();
        for (place, pair) in (0_u64..).zip(self.store.tree.scan(&[])) {
            if place % CELLS_PER_LOOK == 0 {
                self.check_wanted()?;
            }
            let pinned = pair.map_err(Error::from).and_then(|(key, read)| self.as_pinned(key, read));
            let Some(Pinned { key, cell, digest }) = pinned.inspect_err(|error| self.store.fail(error.clone()))? else {
                continue;
            };
            hash.add(digest);
            for bytes in [&key, &cell] {
                let len = u32::try_from(bytes.len()).expect("a cell is far below 4 GiB");
                out.write_all(&len.to_le_bytes()).map_err(Error::writing)?;
                out.write_all(bytes).map_err(Error::writing)?;
            }
            if place % CELLS_PER_PASS == 0 {
                self.store.pass(self.pin, key);
            }
        }
        Ok(hash)
    }

    /// What belongs into the snapshot of a pair that the scan read; `None` for nothing.
    fn as_pinned(&self, key: Bytes, read: Bytes) -> Result<Option<Pinned>, Error> {
        if preserved::is_spilled(&key) {
            return Ok(None);
        }
        let Some(cell) = self.store.as_of_pin(self.pin, &key, read)? else { return Ok(None) };
        let digest = cell::verify(&key, &cell)?;
        Ok(Some(Pinned { key, cell, digest }))
    }
}

/// A verified pair as of the pin.
struct Pinned {
    key: Bytes,
    cell: Bytes,
    digest: u128,
}

impl Drop for PinnedSnapshot {
    fn drop(&mut self) {
        let mut duty = self.store.duty.lock();
        duty.pinned = false;
        let mut preserved = self.store.preserved.lock();
        if preserved.as_ref().is_some_and(|preserved| preserved.is_of(self.pin)) {
            *preserved = None;
        }
        drop(preserved);
        self.store.notify(&mut duty);
    }
}

impl Inner {
    /// Loads the rows of a body in place of all there are.
    fn replace_rows(&self, control: Control, body: &mut impl Read) -> Result<(), Error> {
        // Keeps the checkpointer away until it is done.
        let mut worker = self.worker.lock();
        // In this order: see `ShardStore::read`.
        *self.slots.write() = Arc::new(Slots::default());
        self.replaced.fetch_add(1, Ordering::SeqCst);
        *self.preserved.lock() = None;
        self.memory.write().clear();
        let marker = Marker { index: control.applied_index, ..control.rows };
        worker.replaced(marker);
        let loaded = self.load_rows(&marker, body);
        // What readers cached meanwhile may be of the old rows.
        self.cache.clear();
        match &loaded {
            Ok(()) => {
                self.publish(Control { rows: marker, ..control });
                self.duty.lock().written_index = marker.index;
            }
            Err(error) => self.fail(error.clone()),
        }
        drop(worker);
        self.notify(&mut self.duty.lock());
        self.room.notify_waiters();
        loaded
    }

    fn load_rows(&self, marker: &Marker, body: &mut impl Read) -> Result<(), Error> {
        self.tree.clear()?;
        let mut cells = BodyCells { body, hash: StateHash::default(), last_key: Bytes::new(), end: None };
        self.tree.write(&mut cells, &Marker::loading())?;
        let end = cells.end.unwrap_or_else(|| Err(Error::Snapshot("rows have no end".to_owned())))?;
        if cells.hash != end || end != marker.hash {
            return Err(Error::Snapshot(format!("rows do not add up to the state hash index={}", marker.index)));
        }
        Ok(self.tree.write(&mut std::iter::empty(), &marker.encode())?)
    }

    /// Makes a control state the store's own.
    fn publish(&self, control: Control) {
        *self.slots.write() = Arc::clone(&control.slots);
        self.change_log_bytes.store(control.change_log.bytes(), Ordering::Relaxed);
        let mut own = self.control.lock();
        *own = control;
        self.samples.lock().clear();
    }
}

fn read_control(body: &mut impl Read) -> Result<Control, Error> {
    if read_array::<8>(body)? != MAGIC {
        return Err(Error::Snapshot("it does not begin as one of format 1".to_owned()));
    }
    let comparable_from = u64::from_le_bytes(read_array(body)?);
    let count = u32::from_le_bytes(read_array(body)?);
    let mut state = ShardControlState::default();
    for _ in 0..count {
        let len = u64::from_le_bytes(read_array(body)?);
        if len > PART_LEN_MAX {
            return Err(Error::Snapshot(format!("a part of the control state has {len} bytes")));
        }
        // Not `merge` of bytes into the state at hand: it would copy what decoding from `Bytes` shares.
        let part = ShardControlState::decode(read_bytes(body, len)?);
        merge(&mut state, part.map_err(|error| Error::Snapshot(error.to_string()))?);
    }
    Control::from_wire(state, comparable_from)
}

/// Puts a part into the state: the first part has the scalars, each later one a single other field.
fn merge(state: &mut ShardControlState, mut part: ShardControlState) {
    if part.applied_index > 0 || part.next_sequence > 0 {
        *state = part;
        return;
    }
    state.segments.append(&mut part.segments);
    if !part.open_events.is_empty() {
        state.open_events = part.open_events;
    }
    if !part.recent_writes.is_empty() {
        state.recent_writes = part.recent_writes;
    }
    if !part.touches.is_empty() {
        state.touches = part.touches;
    }
}

/// The cells of a body as they are read; the first error ends them and is left in `end`.
struct BodyCells<'a, R> {
    body: &'a mut R,
    hash: StateHash,
    last_key: Bytes,
    end: Option<Result<StateHash, Error>>,
}

impl<R: Read> BodyCells<'_, R> {
    fn read_cell(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        let key_len = u32::from_le_bytes(read_array(self.body)?);
        if key_len == END {
            let cells = u64::from_le_bytes(read_array(self.body)?);
            let sum = u128::from_le_bytes(read_array(self.body)?);
            self.end = Some(Ok(StateHash::from_parts(sum, cells)));
            return Ok(None);
        }
        let key = self.read_frame(key_len)?;
        let cell_len = u32::from_le_bytes(read_array(self.body)?);
        let cell = self.read_frame(cell_len)?;
        if key <= self.last_key {
            return Err(Error::Snapshot("rows are not in order".to_owned()));
        }
        self.hash.add(cell::verify(&key, &cell)?);
        self.last_key = key.clone();
        Ok(Some((key, cell)))
    }

    fn read_frame(&mut self, len: u32) -> Result<Bytes, Error> {
        if len > FRAME_LEN_MAX {
            return Err(Error::Snapshot(format!("a frame has {len} bytes")));
        }
        read_bytes(self.body, u64::from(len))
    }
}

impl<R: Read> Iterator for BodyCells<'_, R> {
    type Item = (Bytes, Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        match self.read_cell() {
            Ok(pair) => pair.map(|(key, cell)| (key, Some(cell))),
            Err(error) => {
                self.end = Some(Err(error));
                None
            }
        }
    }
}

fn read_array<const N: usize>(body: &mut impl Read) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    body.read_exact(&mut bytes).map_err(Error::reading)?;
    Ok(bytes)
}

/// Grows with what is there, so that a wrong length cannot take all memory.
fn read_bytes(body: &mut impl Read, len: u64) -> Result<Bytes, Error> {
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(1 << 20)).expect("at most 1 MiB"));
    let read = body.take(len).read_to_end(&mut bytes).map_err(Error::reading)?;
    if read as u64 == len { Ok(bytes.into()) } else { Err(Error::Snapshot("it is cut short".to_owned())) }
}
