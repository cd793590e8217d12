//! The tree's marker: what its rows are, written after them, and what is about to be written, before it is.
//!
//! A checkpoint writes its cells in parts. A crash in the middle of one leaves some of its cells and not others, and
//! then nobody could tell a row that the part has not reached from one that the engine has lost. So each part is
//! announced first: by key, the digest of the cell that the tree holds and of the one that it will hold. With that, a
//! scan after any crash proves the tree (ST-1): every announced key holds one of its two cells, and all others add up.
//!
//! Numbers little endian:
//!
//! | what | layout |
//! |---|---|
//! | head | format version (u8, 2), kind (u8: 0 whole, 1 loading, 2 a part is being written) |
//! | rows | applied index (u64), comparable from (u64), cells (u64), state hash (u128) |
//! | the part, of kind 2 | each cell: length of key (u32), key, digest before (u128, 0 for no cell), digest after (u128) |
//! | end | xxh3-64 of all before it (u64) |

use bytes::{Buf, BufMut, Bytes};
use granary_store::Tree;
use xxhash_rust::xxh3::xxh3_64;

use crate::state_hash::StateHash;
use crate::{Error, cell};

const FORMAT: u8 = 2;
const ROWS_LEN: usize = 1 + 1 + 8 + 8 + 8 + 16;
const SUM_LEN: usize = 8;

const WHOLE: u8 = 0;
const LOADING: u8 = 1;
const WRITING: u8 = 2;

/// What is known of the rows of a tree, or of a memory table and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marker {
    /// The rows hold every entry up to this one.
    pub(crate) index: u64,
    /// And, in places, entries up to this one (a checkpoint that a crash cut short). From here on the state hash of rows and the
    /// applied index belong together.
    pub(crate) comparable_from: u64,
    /// Over the rows as they are.
    pub(crate) hash: StateHash,
}

/// The cells of a part, announced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Announced {
    /// In key order.
    cells: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    key: Bytes,
    /// 0 for no cell.
    before: u128,
    after: u128,
}

impl Announced {
    /// What writing `part`, in key order, changes in the tree.
    ///
    /// # Errors
    /// `Corrupt` when a cell that is to be overwritten is damaged; `Engine`.
    pub(crate) fn of(tree: &dyn Tree, part: &[(Bytes, Bytes)]) -> Result<Self, Error> {
        let change = |(key, after): &(Bytes, Bytes)| {
            let before = tree.get(key)?.map_or(Ok(0), |before| cell::verify(key, &before))?;
            Ok(Change { key: key.clone(), before, after: cell::digest(after) })
        };
        Ok(Self { cells: part.iter().map(change).collect::<Result<_, Error>>()? })
    }

    /// The hash of the rows once the part is written, given the one before.
    pub(crate) fn applied_to(&self, mut hash: StateHash) -> StateHash {
        self.cells.iter().for_each(|change| change.apply_to(&mut hash));
        hash
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn of_key(&self, key: &[u8]) -> Option<&Change> {
        self.cells.binary_search_by(|change| change.key[..].cmp(key)).ok().map(|place| &self.cells[place])
    }
}

impl Change {
    fn apply_to(&self, hash: &mut StateHash) {
        if self.before == 0 { hash.add(self.after) } else { hash.replace(self.before, self.after) }
    }
}

/// Adds up the rows of a tree and proves that they are those of its marker.
#[derive(Debug)]
pub(crate) struct Proof<'a> {
    announced: &'a Announced,
    found: StateHash,
    expected: StateHash,
}

impl<'a> Proof<'a> {
    pub(crate) fn new(marker: &Marker, announced: &'a Announced) -> Self {
        Self { announced, found: StateHash::default(), expected: marker.hash }
    }

    /// Takes a row. Each once.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn take(&mut self, key: &[u8], cell: &[u8]) -> Result<(), Error> {
        let digest = cell::verify(key, cell)?;
        self.found.add(digest);
        match self.announced.of_key(key) {
            Some(change) if digest == change.after && digest != change.before => change.apply_to(&mut self.expected),
            _ => {}
        }
        Ok(())
    }

    /// The hash of the rows.
    ///
    /// # Errors
    /// `Corrupt` when rows are missing, or others than the marker speaks of.
    pub(crate) fn hash(self) -> Result<StateHash, Error> {
        if self.found == self.expected {
            return Ok(self.found);
        }
        Err(Error::corrupt("rows do not add up to the marker", &[]))
    }
}

impl Marker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_as(WHOLE, &Announced::default())
    }

    /// A marker that says that the rows are being loaded: they are worth nothing.
    pub(crate) fn loading() -> Vec<u8> {
        Self::default().encode_as(LOADING, &Announced::default())
    }

    /// This marker, while a part is being written.
    pub(crate) fn announcing(&self, part: &Announced) -> Vec<u8> {
        self.encode_as(WRITING, part)
    }

    fn encode_as(&self, kind: u8, announced: &Announced) -> Vec<u8> {
        let part_len = announced.cells.iter().map(|change| 4 + change.key.len() + 32).sum::<usize>();
        let mut out = Vec::with_capacity(ROWS_LEN + part_len + SUM_LEN);
        out.put_u8(FORMAT);
        out.put_u8(kind);
        out.put_u64_le(self.index);
        out.put_u64_le(self.comparable_from);
        out.put_u64_le(self.hash.cells());
        out.put_u128_le(self.hash.value());
        for change in &announced.cells {
            out.put_u32_le(u32::try_from(change.key.len()).expect("a key is far below 4 GiB"));
            out.put_slice(&change.key);
            out.put_u128_le(change.before);
            out.put_u128_le(change.after);
        }
        out.put_u64_le(xxh3_64(&out));
        out
    }

    /// Decodes a stored marker and what it announces; `None` when it says that the rows were being loaded.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn decode(stored: &Bytes) -> Result<Option<(Self, Announced)>, Error> {
        let corrupt = || Error::corrupt("marker fails its checksum", &[]);
        let body = stored.len().checked_sub(SUM_LEN).filter(|body| *body >= ROWS_LEN).ok_or_else(corrupt)?;
        if stored[body..] != xxh3_64(&stored[..body]).to_le_bytes() {
            return Err(corrupt());
        }
        let mut rest = stored.slice(..body);
        let (format, kind) = (rest.get_u8(), rest.get_u8());
        if format != FORMAT || kind > WRITING {
            return Err(Error::corrupt("marker is of an unknown format", &[]));
        }
        let (index, comparable_from, cells) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let hash = StateHash::from_parts(rest.get_u128_le(), cells);
        let mut announced = Announced::default();
        while rest.has_remaining() {
            let key_len = rest.try_get_u32_le().map_err(|_| corrupt())? as usize;
            if rest.remaining() < key_len.saturating_add(32) {
                return Err(corrupt());
            }
            let key = rest.split_to(key_len);
            announced.cells.push(Change { key, before: rest.get_u128_le(), after: rest.get_u128_le() });
        }
        Ok((kind != LOADING).then_some((Self { index, comparable_from, hash }, announced)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced() -> Announced {
        let change = |key: &'static str, before, after| Change { key: Bytes::from(key), before, after };
        Announced { cells: vec![change("a", 0, 5), change("bb", 6, 7)] }
    }

    #[test]
    fn survives_encoding_and_finds_damage() {
        let marker = Marker { index: 7, comparable_from: 9, hash: StateHash::from_parts(1 << 100, 3) };
        let stored = Bytes::from(marker.encode());
        assert_eq!(Marker::decode(&stored).expect("own bytes"), Some((marker, Announced::default())));
        assert_eq!(Marker::decode(&Marker::loading().into()).expect("own bytes"), None);
        let announcing = Bytes::from(marker.announcing(&announced()));
        assert_eq!(Marker::decode(&announcing).expect("own bytes"), Some((marker, announced())));
        for stored in [stored, announcing] {
            for byte in 0..stored.len() {
                let mut damaged = stored.to_vec();
                damaged[byte] ^= 4;
                assert!(Marker::decode(&damaged.into()).is_err());
                assert!(Marker::decode(&stored.slice(..byte)).is_err());
            }
        }
    }

    #[test]
    fn a_part_changes_the_hash_by_what_it_announces() {
        let (mut before, mut after) = (StateHash::default(), StateHash::default());
        for digest in [6, 100] {
            before.add(digest);
        }
        for digest in [5, 7, 100] {
            after.add(digest);
        }
        assert_eq!(announced().applied_to(before), after);
    }
}
