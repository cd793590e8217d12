//! The stored form of a record: its key and its cell.
//!
//! Key: slot (u16 BE), feature group id (u32 BE), record identifier bytes. So a slot is one range of keys.
//!
//! Cell (numbers little endian):
//!
//! | bytes | what |
//! |---|---|
//! | 16 | digest: xxh3-128 of all that follows, seeded with xxh3-64 of the key |
//! | 1 | format version, 1 |
//! | 1 | flags: 1 has a reset, 2 has a latest version, 4 that version is a soft delete, 8 even earlier resets are forgotten |
//! | 1 | n, the number of earlier resets |
//! | 8 | the reset's stamp, if there is one |
//! | 8 n | stamps of earlier resets, rising |
//! | 20 | the latest version, if there is one: event time seconds (i64), nanoseconds (u32), stamp (u64) |
//! | rest | the row, for a live record |
//!
//! The digest is checksum and identity at once: it proves the cell whole and under its own key, and the state hash
//! is a sum of digests, so that replacing a cell needs no hashing of the old one.
//!
//! A cell is never removed: a hard delete leaves its reset behind, which a slot move needs.

use bytes::{Buf, BufMut, Bytes};
use granary_types::{Cell, EventTime, FeatureGroupId, Slot, Version, Versioned, WriteStamp};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::Error;

const FORMAT: u8 = 1;
const DIGEST_LEN: usize = 16;
const HEADER_LEN: usize = DIGEST_LEN + 3;
const VERSION_LEN: usize = 20;
const HAS_RESET: u8 = 1;
const HAS_LATEST: u8 = 2;
const SOFT_DELETE: u8 = 4;
const FORGOT_RESETS: u8 = 8;

/// How many resets before the last one a cell remembers. Only that many hard deletes of one record between two
/// snapshots can be replayed into rows that are ahead; past it the rows are rebuilt ([`Error::RowsAhead`]).
const EARLIER_RESETS: usize = 8;

/// The key of a record's cell.
pub(crate) fn key(slot: Slot, group: FeatureGroupId, record: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(6 + record.len());
    key.put_u16(slot.0);
    key.put_u32(group.0);
    key.put_slice(record);
    key.into()
}

/// The digest that an encoded cell carries: what it adds to the state hash. Zero for bytes too short for a cell.
pub(crate) fn digest(cell: &[u8]) -> u128 {
    cell.first_chunk::<DIGEST_LEN>().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// Checks an encoded cell against its digest and returns that.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn verify(key: &[u8], cell: &[u8]) -> Result<u128, Error> {
    let digest = digest(cell);
    if cell.len() < HEADER_LEN || digest != digest_of(key, &cell[DIGEST_LEN..]) {
        return Err(Error::corrupt("cell fails its checksum", key));
    }
    Ok(digest)
}

fn digest_of(key: &[u8], body: &[u8]) -> u128 {
    xxh3_128_with_seed(body, xxh3_64(key))
}

/// What becomes of a hard delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HardDelete {
    /// It resets the cell.
    Reset,
    /// It did so already: the cell is ahead of the entry.
    Done,
    /// It is older than the live record, or was when it was applied first.
    Stale,
    /// The cell is too far ahead to tell.
    Untold,
}

/// A cell as it is stored: with the resets that replay needs (see the crate's documentation).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoredCell {
    /// Settled: nothing is shadowed.
    pub(crate) cell: Cell<Bytes>,
    /// The newest resets before `cell.reset`, rising.
    earlier_resets: Vec<WriteStamp>,
    /// There were resets before those, too.
    forgot_resets: bool,
}

impl StoredCell {
    /// Merges a put or, with no row, a soft delete. The caller asked [`Cell::accepts`] before.
    pub(crate) fn write(self, version: Version, row: Option<Bytes>) -> Self {
        Self { cell: self.cell.merge(Cell::of(version, row)).settle(), ..self }
    }

    /// Merges a hard delete.
    pub(crate) fn reset(mut self, stamp: WriteStamp) -> Self {
        if let Some(earlier) = self.cell.reset {
            self.earlier_resets.push(earlier);
            let surplus = self.earlier_resets.len().saturating_sub(EARLIER_RESETS);
            self.forgot_resets |= surplus > 0;
            self.earlier_resets.drain(..surplus);
        }
        Self { cell: self.cell.merge(Cell::reset_at(stamp)).settle(), ..self }
    }

    /// Decides about a hard delete stamped `stamp`, or reads back what was decided when the cell is ahead of it.
    ///
    /// A stamp belongs to one write, even to a refused hard delete, and a cell changes in the order of stamps. So a cell that holds something later
    /// than `stamp` has been through this decision: it was a reset if and only if the cell remembers that reset.
    pub(crate) fn hard_delete(&self, stamp: WriteStamp, event_time: EventTime) -> HardDelete {
        if self.cell.reset == Some(stamp) || self.earlier_resets.contains(&stamp) {
            return HardDelete::Done;
        }
        if self.cell.reset > Some(stamp) {
            let forgotten = self.forgot_resets && self.earlier_resets.first().is_some_and(|oldest| stamp < *oldest);
            return if forgotten { HardDelete::Untold } else { HardDelete::Stale };
        }
        match &self.cell.latest {
            Some(latest) if latest.version.stamp > stamp => HardDelete::Stale,
            Some(latest) if latest.value.is_some() && latest.version.event_time > event_time => HardDelete::Stale,
            _ => HardDelete::Reset,
        }
    }

    /// The stored bytes.
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let row = self.cell.live();
        let resets_len = 8 * (usize::from(self.cell.reset.is_some()) + self.earlier_resets.len());
        let mut out = Vec::with_capacity(HEADER_LEN + resets_len + VERSION_LEN + row.map_or(0, Bytes::len));
        out.put_bytes(0, DIGEST_LEN);
        out.put_u8(FORMAT);
        out.put_u8(self.flags());
        out.put_u8(u8::try_from(self.earlier_resets.len()).expect("at most EARLIER_RESETS"));
        for reset in self.cell.reset.iter().chain(&self.earlier_resets) {
            out.put_u64_le(reset.0);
        }
        if let Some(Versioned { version, .. }) = &self.cell.latest {
            out.put_i64_le(version.event_time.seconds());
            out.put_u32_le(version.event_time.subsec_nanos());
            out.put_u64_le(version.stamp.0);
        }
        if let Some(row) = row {
            out.put_slice(row);
        }
        let digest = digest_of(key, &out[DIGEST_LEN..]);
        out[..DIGEST_LEN].copy_from_slice(&digest.to_le_bytes());
        out.into()
    }

    fn flags(&self) -> u8 {
        let mut flags = if self.forgot_resets { FORGOT_RESETS } else { 0 };
        if self.cell.reset.is_some() {
            flags |= HAS_RESET;
        }
        if let Some(latest) = &self.cell.latest {
            flags |= HAS_LATEST;
            if latest.value.is_none() {
                flags |= SOFT_DELETE;
            }
        }
        flags
    }

    /// Checks and decodes stored bytes. The row shares them.
    ///
    /// # Errors
    /// `Corrupt`: a wrong checksum, another key's cell, or a format this program does not know.
    pub(crate) fn decode(key: &[u8], stored: &Bytes) -> Result<Self, Error> {
        verify(key, stored)?;
        Self::decode_body(stored.slice(DIGEST_LEN..)).ok_or_else(|| Error::corrupt("cell is of an unknown format", key))
    }

    fn decode_body(mut body: Bytes) -> Option<Self> {
        let format = body.try_get_u8().ok()?;
        let flags = body.try_get_u8().ok()?;
        let earlier_count = body.try_get_u8().ok()?;
        if format != FORMAT || flags & !(HAS_RESET | HAS_LATEST | SOFT_DELETE | FORGOT_RESETS) != 0 {
            return None;
        }
        let reset = if flags & HAS_RESET == 0 { None } else { Some(WriteStamp(body.try_get_u64_le().ok()?)) };
        let mut earlier_resets = Vec::with_capacity(usize::from(earlier_count));
        for _ in 0..earlier_count {
            earlier_resets.push(WriteStamp(body.try_get_u64_le().ok()?));
        }
        let latest = if flags & HAS_LATEST == 0 {
            None
        } else {
            let seconds = body.try_get_i64_le().ok()?;
            let event_time = EventTime::from_parts(seconds, body.try_get_u32_le().ok()?).ok()?;
            let stamp = WriteStamp(body.try_get_u64_le().ok()?);
            let value = (flags & SOFT_DELETE == 0).then_some(body);
            Some(Versioned { version: Version { event_time, stamp }, value })
        };
        let forgot_resets = flags & FORGOT_RESETS != 0;
        Some(Self { cell: Cell { reset, latest, shadowed: Vec::new() }, earlier_resets, forgot_resets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> EventTime {
        EventTime::from_parts(seconds, 7).expect("in range")
    }

    fn put(cell: StoredCell, seconds: i64, stamp: u64) -> StoredCell {
        cell.write(
            Version { event_time: time(seconds), stamp: WriteStamp(stamp) },
            Some(Bytes::from(format!("row {stamp}"))),
        )
    }

    #[test]
    fn survives_encoding() {
        let key = key(Slot(7), FeatureGroupId(3), b"r");
        let live = put(StoredCell::default().reset(WriteStamp(1)).reset(WriteStamp(2)), -5, 3);
        let deleted =
            live.clone().write(Version { event_time: time(9), stamp: WriteStamp(4) }, None).reset(WriteStamp(5));
        let forgetful = (1..=20).fold(StoredCell::default(), |cell, stamp| cell.reset(WriteStamp(stamp)));
        for cell in [StoredCell::default(), live, deleted, forgetful] {
            assert_eq!(StoredCell::decode(&key, &cell.encode(&key)).expect("own bytes"), cell);
        }
    }

    #[test]
    fn every_flipped_bit_is_found_and_so_is_a_wrong_key() {
        let at = key(Slot(7), FeatureGroupId(3), b"r");
        let stored = put(StoredCell::default().reset(WriteStamp(1)), 5, 3).encode(&at);
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredCell::decode(&at, &Bytes::from(damaged)).is_err(), "bit {bit}");
        }
        assert!(StoredCell::decode(&key(Slot(7), FeatureGroupId(4), b"r"), &stored).is_err());
        assert!(StoredCell::decode(&at, &stored.slice(..10)).is_err());
    }

    #[test]
    fn keys_of_a_slot_are_one_range() {
        let first = key(Slot(255), FeatureGroupId(u32::MAX), b"\xff");
        assert!(first < key(Slot(256), FeatureGroupId(0), b"a"));
        assert!(key(Slot(1), FeatureGroupId(2), b"z") < key(Slot(1), FeatureGroupId(256), b"a"));
    }

    #[test]
    fn a_cell_ahead_tells_what_was_decided_about_hard_deletes() {
        // Put 10, hard delete 5 (stale), hard delete 20 (reset), put 3, hard delete 1 (stale), hard delete 4 (reset).
        let mut cell = put(StoredCell::default(), 10, 1);
        assert_eq!(cell.hard_delete(WriteStamp(2), time(5)), HardDelete::Stale);
        assert_eq!(cell.hard_delete(WriteStamp(3), time(20)), HardDelete::Reset);
        cell = put(cell.reset(WriteStamp(3)), 3, 4);
        assert_eq!(cell.hard_delete(WriteStamp(5), time(1)), HardDelete::Stale);
        cell = put(cell.reset(WriteStamp(6)), 0, 7);
        let decided = [(2, 5), (3, 20), (5, 1), (6, 4)]
            .map(|(stamp, seconds)| cell.hard_delete(WriteStamp(stamp), time(seconds)));
        assert_eq!(decided, [HardDelete::Stale, HardDelete::Done, HardDelete::Stale, HardDelete::Done]);
    }

    #[test]
    fn a_cell_too_far_ahead_says_so() {
        let reset_to = |last| (2..=last).fold(StoredCell::default(), |cell, stamp| cell.reset(WriteStamp(stamp)));
        // As many as it remembers, with the last one: it is certain about all before them.
        let cell = reset_to(10);
        assert_eq!(cell.earlier_resets.len(), EARLIER_RESETS);
        assert_eq!(cell.hard_delete(WriteStamp(1), time(1)), HardDelete::Stale);
        assert_eq!(cell.hard_delete(WriteStamp(2), time(1)), HardDelete::Done);
        assert_eq!(reset_to(11).hard_delete(WriteStamp(1), time(1)), HardDelete::Untold);
        assert_eq!(reset_to(11).hard_delete(WriteStamp(3), time(1)), HardDelete::Done);
        let cell = reset_to(20);
        assert_eq!(cell.hard_delete(WriteStamp(1), time(1)), HardDelete::Untold);
        assert_eq!(cell.hard_delete(WriteStamp(15), time(1)), HardDelete::Done);
        assert_eq!(cell.hard_delete(WriteStamp(21), time(1)), HardDelete::Reset);
    }
}
