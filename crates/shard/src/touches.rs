//! When the records of each bucket of keys were last written to: what an update is checked against.
//!
//! An update is merged into its record by the leader before it is proposed, and holds only if nothing wrote to the
//! record in between. Whether that is so must not be read from the row, which may be ahead on replay. So apply notes the
//! stamp of each write here, whatever becomes of it: part of the control state, and therefore exactly the same on
//! every replica and on every replay (`docs/adr/0011-update-record.md`).
//!
//! Records share buckets. A neighbour's write can only make an update be merged again, never let a wrong one pass.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use granary_types::WriteStamp;
use xxhash_rust::xxh3::xxh3_64;

/// Part of the format of the state, like the window of recent writes: 128 KiB of stamps. At 10,000 writes a second and
/// 10 ms between merge and apply, a hundred buckets change meanwhile: less than one update in a hundred meets one.
const BUCKETS: usize = 1 << 14;
const WIRE_LEN: usize = 2 + 8;

/// The last stamp of each bucket; 0 for none. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touches {
    /// Empty until the first one.
    stamps: Arc<Vec<u64>>,
}

impl Touches {
    /// The stamp of the last write to a record of the key's bucket.
    pub(crate) fn last(&self, key: &[u8]) -> WriteStamp {
        WriteStamp(self.stamps.get(bucket_of(key)).copied().unwrap_or_default())
    }

    /// Notes a write. Stamps rise.
    pub(crate) fn note(&mut self, key: &[u8], stamp: WriteStamp) {
        self.set(bucket_of(key), stamp.0);
    }

    fn set(&mut self, bucket: usize, stamp: u64) {
        // Copies once after each image.
        let stamps = Arc::make_mut(&mut self.stamps);
        if stamps.is_empty() {
            stamps.resize(BUCKETS, 0);
        }
        stamps[bucket] = stamp;
    }

    pub(crate) fn to_wire(&self) -> Bytes {
        let mut out = Vec::new();
        for (bucket, stamp) in (0_u16..).zip(self.stamps.iter()).filter(|(_, stamp)| **stamp > 0) {
            out.put_u16(bucket);
            out.put_u64(*stamp);
        }
        out.into()
    }

    /// `None` when the bytes are not whole, or a bucket is out of range or order.
    pub(crate) fn from_wire(mut bytes: Bytes) -> Option<Self> {
        if !bytes.len().is_multiple_of(WIRE_LEN) {
            return None;
        }
        let mut touches = Self::default();
        let mut last = None;
        while bytes.has_remaining() {
            let (bucket, stamp) = (usize::from(bytes.get_u16()), bytes.get_u64());
            if bucket >= BUCKETS || last >= Some(bucket) {
                return None;
            }
            touches.set(bucket, stamp);
            last = Some(bucket);
        }
        Some(touches)
    }
}

fn bucket_of(key: &[u8]) -> usize {
    // The upper bits, as many as number the buckets: they fit any usize.
    (xxh3_64(key) >> (64 - BUCKETS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stamp_is_kept_and_survives_the_wire() {
        let mut touches = Touches::default();
        assert_eq!(touches.last(b"a"), WriteStamp(0));
        touches.note(b"a", WriteStamp(5));
        let image = touches.clone();
        touches.note(b"a", WriteStamp(9));
        touches.note(b"b", WriteStamp(7));
        assert_eq!((touches.last(b"a"), touches.last(b"b")), (WriteStamp(9), WriteStamp(7)));
        assert_eq!((image.last(b"a"), image.last(b"b")), (WriteStamp(5), WriteStamp(0)));
        let wire = touches.to_wire();
        assert_eq!(wire.len(), 2 * WIRE_LEN);
        let read = Touches::from_wire(wire.clone()).expect("own bytes");
        assert_eq!(read.to_wire(), wire);
        assert!(Touches::from_wire(wire.slice(1..)).is_none());
        assert!(Touches::from_wire([&wire[..], &wire[..]].concat().into()).is_none());
        assert!(Touches::from_wire(vec![0xff; WIRE_LEN].into()).is_none());
    }
}
