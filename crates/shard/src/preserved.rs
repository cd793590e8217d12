//! What a pinned snapshot still needs of the tree, put by before the checkpointer overwrites it.
//!
//! The rule is copy before write. After the pin, before the checkpointer first writes a key, it puts by what the tree
//! holds for that key, be it nothing. The scan takes, for each key it meets, what was put by, and where nothing
//! was, what it read. Why that is the state at the pin, wherever the scan stands and however late it looks:
//!
//! - A key that was not written since the pin: the tree has the cell of the pin, and nothing was put by.
//! - A key that was: the old cell was put by before the new one could be read, and stays put by until the scan has
//!   passed it. Whichever of the two the scan read, it takes the old one; where there was none it leaves the key out.
//! - Cells are never removed, so the scan meets every key of the pin.
//!
//! What is put by in memory is bounded: beyond [`crate::Settings::snapshot_overlay_bytes`] it moves into the tree
//! itself, under keys behind all rows. Those are worth nothing to anybody but the pin they are named after: the
//! checkpointer removes them when that is gone, and so does opening a tree.
//!
//! | stored | layout |
//! |---|---|
//! | key | `0xfe`, number of the pin (u64 BE), the row's key |
//! | value | 0 for no cell, or 1 and the cell |

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use granary_store::Tree;

use crate::Error;
use crate::checkpointer::Worker;
use crate::marker::Marker;
use crate::store::Inner;

/// Sorts behind every row: their keys begin with a slot below 4096.
const SPILL_PREFIX: u8 = 0xfe;
const SPILL_KEY_LEN: usize = 1 + 8;
/// What an entry takes beside the bytes of key and cell: two handles, two allocations, its share of a node.
const ENTRY_OVERHEAD: usize = 160;
/// Spilled cells removed in one step.
const TIDY_CELLS: usize = 1_024;

/// The cells put by for one pin.
#[derive(Debug)]
pub(crate) struct Preserved {
    /// Which pin: counted since the store was opened.
    pin: u64,
    /// The pin's index: maps that complete a later one may hold later cells.
    index: u64,
    /// What was in the tree, by key.
    cells: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    /// Some are in the tree.
    spilled: bool,
    /// The scan has passed this key and all before it.
    passed: Option<Bytes>,
}

impl Preserved {
    pub(crate) fn new(pin: u64, index: u64) -> Self {
        Self { pin, index, cells: BTreeMap::new(), bytes: 0, spilled: false, passed: None }
    }

    pub(crate) fn is_of(&self, pin: u64) -> bool {
        self.pin == pin
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn entry_bytes(key: &Bytes, cell: Option<&Bytes>) -> usize {
        key.len() + cell.map_or(0, Bytes::len) + ENTRY_OVERHEAD
    }

    fn needs(&self, key: &Bytes) -> bool {
        self.passed.as_ref() < Some(key) && !self.cells.contains_key(key)
    }

    fn put(&mut self, key: Bytes, cell: Option<Bytes>) {
        self.bytes += Self::entry_bytes(&key, cell.as_ref());
        self.cells.insert(key, cell);
    }

    /// Forgets what the scan needs no more.
    fn pass(&mut self, key: Bytes) {
        while let Some(first) = self.cells.first_entry().filter(|first| *first.key() <= key) {
            let (key, cell) = first.remove_entry();
            self.bytes -= Self::entry_bytes(&key, cell.as_ref());
        }
        self.passed = Some(key);
    }
}

/// Whether a key of the tree belongs to no row.
pub(crate) fn is_spilled(key: &[u8]) -> bool {
    key.first() == Some(&SPILL_PREFIX)
}

fn spill_key(pin: u64, key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(SPILL_KEY_LEN + key.len());
    out.put_u8(SPILL_PREFIX);
    out.put_u64(pin);
    out.put_slice(key);
    out.into()
}

fn spill_value(cell: Option<&Bytes>) -> Bytes {
    match cell {
        None => Bytes::from_static(&[0]),
        Some(cell) => [&[1], &cell[..]].concat().into(),
    }
}

fn unspill(key: &[u8], value: &Bytes) -> Result<Option<Bytes>, Error> {
    match value.first() {
        Some(0) if value.len() == 1 => Ok(None),
        Some(1) => Ok(Some(value.slice(1..))),
        _ => Err(Error::corrupt("cell put by for a snapshot is damaged", key)),
    }
}

/// Puts by what the pinned snapshot needs of the keys about to be written.
///
/// # Errors
/// The engine's.
pub(crate) fn before_writing(
    store: &Inner,
    worker: &mut Worker,
    marker: &Marker,
    part: &[(Bytes, Bytes)],
) -> Result<(), Error> {
    for (key, _) in part {
        let spilled_as = match &*store.preserved.lock() {
            // The map was set aside before the pin: these cells are what the snapshot is to hold.
            Some(preserved) if marker.index <= preserved.index => return Ok(()),
            Some(preserved) if preserved.needs(key) => preserved.spilled.then_some(preserved.pin),
            Some(_) => continue,
            None => return Ok(()),
        };
        if let Some(pin) = spilled_as
            && store.tree.get(&spill_key(pin, key))?.is_some()
        {
            continue;
        }
        let cell = store.tree.get(key)?;
        let full = store.preserved.lock().as_mut().and_then(|preserved| {
            preserved.put(key.clone(), cell);
            let full = preserved.bytes > store.settings.snapshot_overlay_bytes;
            full.then(|| (preserved.pin, preserved.cells.clone()))
        });
        if let Some((pin, cells)) = full {
            spill(store, worker, pin, cells)?;
        }
    }
    Ok(())
}

/// Moves what is put by into the tree. It is in memory until it is there.
fn spill(store: &Inner, worker: &mut Worker, pin: u64, cells: BTreeMap<Bytes, Option<Bytes>>) -> Result<(), Error> {
    worker.untidy = true;
    let mut pairs = cells.iter().map(|(key, cell)| (spill_key(pin, key), Some(spill_value(cell.as_ref()))));
    store.tree.write(&mut pairs, &worker.marker.encode())?;
    if let Some(preserved) = store.preserved.lock().as_mut().filter(|preserved| preserved.pin == pin) {
        preserved.spilled = true;
        preserved.cells.clear();
        preserved.bytes = 0;
    }
    Ok(())
}

impl Inner {
    /// The cell of a key as of the pin, given what the scan read; `None` when there was none. Of a pin that is gone,
    /// nothing is known any more.
    pub(crate) fn as_of_pin(&self, pin: u64, key: &Bytes, read: Bytes) -> Result<Option<Bytes>, Error> {
        let spilled = match &*self.preserved.lock() {
            Some(preserved) if preserved.pin == pin => match preserved.cells.get(key) {
                Some(cell) => return Ok(cell.clone()),
                None => preserved.spilled,
            },
            _ => return Ok(Some(read)),
        };
        if spilled && let Some(value) = self.tree.get(&spill_key(pin, key))? {
            return unspill(key, &value);
        }
        Ok(Some(read))
    }

    /// Tells that the scan has passed the key and all before it.
    pub(crate) fn pass(&self, pin: u64, key: Bytes) {
        if let Some(preserved) = self.preserved.lock().as_mut().filter(|preserved| preserved.pin == pin) {
            preserved.pass(key);
        }
    }

    /// Removes some of the spilled cells; only while nothing is pinned.
    pub(crate) fn tidy(&self, worker: &mut Worker) -> Result<(), Error> {
        worker.untidy = remove_spilled(&*self.tree, &worker.marker.encode())? > 0;
        Ok(())
    }
}

/// Removes up to [`TIDY_CELLS`] spilled cells and returns how many they were.
fn remove_spilled(tree: &dyn Tree, marker: &[u8]) -> Result<usize, Error> {
    let keys: Result<Vec<_>, _> =
        tree.scan(&[SPILL_PREFIX]).take(TIDY_CELLS).map(|pair| pair.map(|(key, _)| key)).collect();
    let keys = keys?;
    let removed = keys.len();
    if removed > 0 {
        tree.write(&mut keys.into_iter().map(|key| (key, None)), marker)?;
    }
    Ok(removed)
}

/// Removes what a crash has left of a snapshot that was being written.
///
/// # Errors
/// The engine's.
pub(crate) fn remove_all_spilled(tree: &dyn Tree, marker: &[u8]) -> Result<(), Error> {
    while remove_spilled(tree, marker)? > 0 {}
    Ok(())
}
