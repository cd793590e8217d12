//! Scans by chunks, so that a scan of any length holds a lock only for a moment and a bounded part in memory.

use std::fmt;

use bytes::Bytes;

use crate::Error;

/// The most pairs of a chunk.
const CHUNK_PAIRS_MAX: usize = 256;
/// A chunk ends with the pair that reaches this many bytes.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The pairs taken so far for one chunk.
#[derive(Debug, Default)]
pub struct Chunk {
    pairs: Vec<(Bytes, Bytes)>,
    bytes: usize,
}

impl Chunk {
    /// Takes a pair and says whether there is room for another.
    pub fn push(&mut self, key: Bytes, value: Bytes) -> bool {
        self.bytes += key.len() + value.len();
        self.pairs.push((key, value));
        self.has_room()
    }

    fn has_room(&self) -> bool {
        self.pairs.len() < CHUNK_PAIRS_MAX && self.bytes < CHUNK_BYTES_MAX
    }
}

/// An engine's [`crate::Tree::scan`] over a function that fills one chunk with the pairs at or after a key, in key
/// order, until [`Chunk::push`] says that it is full.
///
/// After an error it ends.
pub struct ChunkedScan<F> {
    fill: F,
    from: Option<Vec<u8>>,
    chunk: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl<F: FnMut(&[u8], &mut Chunk) -> Result<(), Error>> ChunkedScan<F> {
    /// A scan of the keys at or after `from`.
    pub fn new(from: &[u8], fill: F) -> Self {
        Self { fill, from: Some(from.to_vec()), chunk: Vec::new().into_iter() }
    }
}

impl<F: FnMut(&[u8], &mut Chunk) -> Result<(), Error>> Iterator for ChunkedScan<F> {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.chunk.next() {
            return Some(Ok(pair));
        }
        let from = self.from.take()?;
        let mut chunk = Chunk::default();
        if let Err(error) = (self.fill)(&from, &mut chunk) {
            return Some(Err(error));
        }
        // A chunk with room left was the last one; else go on right after its last key.
        if let (false, Some((last, _))) = (chunk.has_room(), chunk.pairs.last()) {
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
