//! The tree's marker: what its rows are, written after them.
//!
//! Numbers little endian: format version (u8, 1), kind (u8: 0 whole, 1 loading), applied index (u64), comparable from
//! (u64), cells (u64), state hash (u128), xxh3-64 of all before it (u64).

use bytes::{Buf, BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::state_hash::StateHash;

const FORMAT: u8 = 1;
const LEN: usize = 1 + 1 + 8 + 8 + 8 + 16 + 8;

/// What is known of the rows of a tree, or of a memory table and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marker {
    /// The rows hold every entry up to this one.
    pub(crate) index: u64,
    /// And, in places, entries up to this one (`u64::MAX`: not known). From here on the state hash of rows and the
    /// applied index belong together.
    pub(crate) comparable_from: u64,
    /// Over the rows as they are.
    pub(crate) hash: StateHash,
}

impl Marker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_kind(0)
    }

    /// A marker that says that the rows are being loaded: they are worth nothing.
    pub(crate) fn loading() -> Vec<u8> {
        Self::default().encode_kind(1)
    }

    fn encode_kind(&self, kind: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.put_u8(FORMAT);
        out.put_u8(kind);
        out.put_u64_le(self.index);
        out.put_u64_le(self.comparable_from);
        out.put_u64_le(self.hash.cells());
        out.put_u128_le(self.hash.value());
        out.put_u64_le(xxh3_64(&out));
        out
    }

    /// Decodes a stored marker; `None` when it says that the rows were being loaded.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn decode(stored: &Bytes) -> Result<Option<Self>, Error> {
        let corrupt = || Error::corrupt("marker fails its checksum", &[]);
        let body = stored.len().checked_sub(8).filter(|_| stored.len() == LEN).ok_or_else(corrupt)?;
        if stored[body..] != xxh3_64(&stored[..body]).to_le_bytes() {
            return Err(corrupt());
        }
        let mut rest = stored.as_ref();
        let (format, kind) = (rest.get_u8(), rest.get_u8());
        if format != FORMAT || kind > 1 {
            return Err(Error::corrupt("marker is of an unknown format", &[]));
        }
        let (index, comparable_from, cells) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let hash = StateHash::from_parts(rest.get_u128_le(), cells);
        Ok((kind == 0).then_some(Self { index, comparable_from, hash }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_encoding_and_finds_damage() {
        let marker = Marker { index: 7, comparable_from: 9, hash: StateHash::from_parts(1 << 100, 3) };
        let stored = Bytes::from(marker.encode());
        assert_eq!(Marker::decode(&stored).expect("own bytes"), Some(marker));
        assert_eq!(Marker::decode(&Marker::loading().into()).expect("own bytes"), None);
        for byte in 0..stored.len() {
            let mut damaged = stored.to_vec();
            damaged[byte] ^= 4;
            assert!(Marker::decode(&damaged.into()).is_err());
        }
        assert!(Marker::decode(&Bytes::new()).is_err());
    }
}
