//! Scans by chunks, so that a scan of any length holds a lock only for a moment and a bounded part in memory.

use std::fmt;

use bytes::Bytes;

use crate::Error;

/// The most pairs of a scan's first chunk: who looks for a few does not pay for many.
const FIRST_CHUNK_PAIRS_MAX: usize = 16;
/// Each chunk may have so many times the pairs of the one before.
const CHUNK_GROWTH: usize = 4;
/// The most pairs of any chunk.
const CHUNK_PAIRS_MAX: usize = 256;
/// A chunk ends with the pair that reaches this many bytes.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The pairs taken so far for one chunk.
#[derive(Debug)]
pub struct Chunk {
    pairs: Vec<(Bytes, Bytes)>,
    bytes: usize,
    pairs_max: usize,
    /// What the scan's keys begin with.
    prefix: Bytes,
    /// A key beyond the scan's end was met.
    ended: bool,
}

impl Chunk {
    fn new(prefix: Bytes, pairs_max: usize) -> Self {
        Self { pairs: Vec::new(), bytes: 0, pairs_max, prefix, ended: false }
    }

    /// Takes a pair, unless it lies beyond the scan's end, and says whether another is wanted.
    pub fn push(&mut self, key: Bytes, value: Bytes) -> bool {
        if !key.starts_with(&self.prefix) {
            self.ended = true;
            return false;
        }
        self.bytes += key.len() + value.len();
        self.pairs.push((key, value));
        self.has_room()
    }

    fn has_room(&self) -> bool {
        self.pairs.len() < self.pairs_max && self.bytes < CHUNK_BYTES_MAX
    }
}

/// An engine's [`crate::Tree::scan_within`] over a function that fills one chunk with the pairs at or after a key, in key
/// order, until [`Chunk::push`] wants no more.
///
/// After an error it ends.
pub struct ChunkedScan<F> {
    fill: F,
    from: Option<Vec<u8>>,
    prefix: Bytes,
    /// The most pairs of the next chunk.
    pairs_max: usize,
    chunk: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl<F: FnMut(&[u8], &mut Chunk) -> Result<(), Error>> ChunkedScan<F> {
    /// A scan of the keys at or after `from` that begin with its first `prefix_len` bytes.
    pub fn new(from: &[u8], prefix_len: usize, fill: F) -> Self {
        let prefix = Bytes::copy_from_slice(&from[..prefix_len]);
        let pairs_max = FIRST_CHUNK_PAIRS_MAX;
        Self { fill, from: Some(from.to_vec()), prefix, pairs_max, chunk: Vec::new().into_iter() }
    }
}

impl<F: FnMut(&[u8], &mut Chunk) -> Result<(), Error>> Iterator for ChunkedScan<F> {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.chunk.next() {
            return Some(Ok(pair));
        }
        let from = self.from.take()?;
        let mut chunk = Chunk::new(self.prefix.clone(), self.pairs_max);
        self.pairs_max = CHUNK_PAIRS_MAX.min(self.pairs_max * CHUNK_GROWTH);
        if let Err(error) = (self.fill)(&from, &mut chunk) {
            return Some(Err(error));
        }
        // A chunk that ended or has room left was the last one; else go on right after its last key.
        if let (false, Some((last, _))) = (chunk.ended || chunk.has_room(), chunk.pairs.last()) {
            self.from = Some([last, &[0][..]].concat());
        }
        self.chunk = chunk.pairs.into_iter();
        self.chunk.next().map(Ok)
    }
}

impl<F> fmt::Debug for ChunkedScan<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkedScan").field("from", &self.from).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Keys of three bytes, as many as are asked for and no other is looked at.
    fn looked_at(from: [u8; 3], prefix_len: usize, take: usize) -> (usize, usize) {
        let looked = Cell::new(0);
        let scan = ChunkedScan::new(&from, prefix_len, |from: &[u8], chunk: &mut Chunk| {
            let first = from.iter().chain(&[0; 3]).take(3).fold(0, |number, byte| number << 8 | u32::from(*byte));
            // The key right after one of three bytes is the next one of three bytes.
            for number in first + u32::from(from.len() > 3).. {
                looked.set(looked.get() + 1);
                if !chunk.push(Bytes::copy_from_slice(&number.to_be_bytes()[1..]), Bytes::new()) {
                    break;
                }
            }
            Ok(())
        });
        let pairs = scan.take(take).inspect(|pair| assert!(pair.is_ok(), "nothing fails")).count();
        (pairs, looked.get())
    }

    #[test]
    fn a_scan_looks_no_further_than_it_is_asked() {
        assert_eq!(looked_at([1, 2, 250], 2, usize::MAX), (6, 7), "to the end of the prefix");
        assert_eq!(looked_at([1, 2, 240], 2, usize::MAX), (16, 17), "where the first chunk ends, too");
        assert_eq!(looked_at([1, 2, 0], 2, usize::MAX), (256, 257));
        assert_eq!(looked_at([1, 2, 0], 0, 10), (10, FIRST_CHUNK_PAIRS_MAX), "a few");
        assert_eq!(looked_at([1, 2, 0], 0, 1_000), (1_000, 16 + 64 + 4 * 256));
    }
}
