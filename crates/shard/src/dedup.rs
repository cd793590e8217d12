//! The ids of recently accepted writes: a retry is recognised and does nothing.
//!
//! Part of the replicated state: what is remembered depends on the entries alone. An id is forgotten when newer
//! writes push it out, by count or by the distance of their stamps, never by a clock. The stamps come from leaders'
//! clocks, though, and a new leader's may be far ahead. So age alone never empties the window: the newest ids stay
//! however old they seem.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use granary_types::{WriteId, WriteStamp};

/// Ids by age, in chunks that an image shares: pinning a snapshot of a million ids copies some hundred pointers.
const CHUNK_LEN: usize = 4_096;
const WIRE_LEN: usize = 16 + 8;

// How long ids are remembered is part of the state machine: replicas that disagree about it diverge (RG-2). To change
// any of these is to change the format of the state, for all replicas of a shard at the same entry.

/// How many ids are remembered at most.
const RECENT_MAX: usize = 1_000_000;
/// How many of the newest ids are remembered whatever their age.
const RECENT_KEPT_MIN: usize = 100_000;
/// How far an id's stamp may be behind the newest one, in nanoseconds, before it is forgotten.
const RECENT_AGE_NANOS: u64 = 10 * 60 * 1_000_000_000;

/// The bounds of the window. A value of its own only so that tests can fill a small one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many ids are remembered at most.
    pub count_max: usize,
    /// How many of the newest ids are remembered whatever their age.
    pub kept_min: usize,
    /// How far an id's stamp may be behind the newest one, in nanoseconds.
    pub age_nanos: u64,
}

impl Window {
    /// The one that shards have.
    pub const OF_FORMAT: Self = Self { count_max: RECENT_MAX, kept_min: RECENT_KEPT_MIN, age_nanos: RECENT_AGE_NANOS };

    /// Whether `len` ids are too many when the oldest of them is so much older than the newest.
    fn is_exceeded(self, len: usize, age_nanos: u64) -> bool {
        len > self.count_max || (len > self.kept_min && age_nanos > self.age_nanos)
    }
}

type Chunk = Arc<Vec<(WriteId, WriteStamp)>>;

/// Recently accepted writes.
#[derive(Debug, Default)]
pub(crate) struct RecentWrites {
    stamps: HashMap<WriteId, WriteStamp>,
    oldest_first: Image,
}

/// The window's contents at one moment, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    chunks: VecDeque<Chunk>,
    /// How many of the first chunk are forgotten.
    skipped: usize,
}

impl RecentWrites {
    /// The stamp the write got when it was accepted.
    pub(crate) fn stamp_of(&self, id: WriteId) -> Option<WriteStamp> {
        self.stamps.get(&id).copied()
    }

    /// Remembers an accepted write, the latest by stamp, and forgets what the window does not hold.
    pub(crate) fn insert(&mut self, id: WriteId, stamp: WriteStamp, window: Window) {
        self.stamps.insert(id, stamp);
        self.oldest_first.push(id, stamp);
        while let Some((id, oldest)) = self.oldest_first.front() {
            if !window.is_exceeded(self.stamps.len(), stamp.0.saturating_sub(oldest.0)) {
                break;
            }
            self.stamps.remove(&id);
            self.oldest_first.pop();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.stamps.len()
    }

    /// The contents, cheaply.
    pub(crate) fn image(&self) -> Image {
        self.oldest_first.clone()
    }

    /// `None` when the bytes are not whole, an id occurs twice or stamps do not rise.
    pub(crate) fn from_wire(mut bytes: Bytes) -> Option<Self> {
        if !bytes.len().is_multiple_of(WIRE_LEN) {
            return None;
        }
        let mut recent = Self::default();
        let mut last = None;
        while bytes.has_remaining() {
            let (id, stamp) = (WriteId(bytes.get_u128()), WriteStamp(bytes.get_u64()));
            if recent.stamps.insert(id, stamp).is_some() || last >= Some(stamp) {
                return None;
            }
            recent.oldest_first.push(id, stamp);
            last = Some(stamp);
        }
        Some(recent)
    }
}

impl Image {
    fn push(&mut self, id: WriteId, stamp: WriteStamp) {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK_LEN) {
            self.chunks.push_back(Arc::default());
        }
        let chunk = self.chunks.back_mut().expect("pushed above");
        // Copies the chunk once if an image shares it.
        Arc::make_mut(chunk).push((id, stamp));
    }

    fn front(&self) -> Option<(WriteId, WriteStamp)> {
        self.chunks.front()?.get(self.skipped).copied()
    }

    fn pop(&mut self) {
        self.skipped += 1;
        if self.chunks.front().is_some_and(|chunk| chunk.len() == self.skipped) {
            self.chunks.pop_front();
            self.skipped = 0;
        }
    }

    /// Ids and stamps, oldest first, big endian.
    pub(crate) fn to_wire(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.chunks.len() * CHUNK_LEN * WIRE_LEN);
        for (id, stamp) in self.chunks.iter().flat_map(|chunk| chunk.iter()).skip(self.skipped) {
            out.put_u128(id.0);
            out.put_u64(stamp.0);
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { count_max: 5_000, kept_min: 100, age_nanos: 1_000_000 };

    #[test]
    fn forgets_by_count_and_by_age() {
        let mut recent = RecentWrites::default();
        for stamp in 1..=12_000_u64 {
            recent.insert(WriteId(u128::from(stamp)), WriteStamp(stamp), WINDOW);
        }
        assert_eq!(recent.len(), 5_000);
        assert_eq!(recent.stamp_of(WriteId(7_000)), None);
        assert_eq!(recent.stamp_of(WriteId(7_001)), Some(WriteStamp(7_001)));
        recent.insert(WriteId(99), WriteStamp(1_010_000), WINDOW);
        assert_eq!(recent.stamp_of(WriteId(9_999)), None);
        assert_eq!(recent.stamp_of(WriteId(10_000)), Some(WriteStamp(10_000)));
    }

    #[test]
    fn a_jump_of_the_stamps_leaves_the_newest_ids() {
        let mut recent = RecentWrites::default();
        for stamp in 1..=1_000_u64 {
            recent.insert(WriteId(u128::from(stamp)), WriteStamp(stamp), WINDOW);
        }
        let jumped = WriteStamp(3_600_000_000_000);
        recent.insert(WriteId(5_000), jumped, WINDOW);
        assert_eq!(recent.len(), 100);
        assert_eq!(recent.stamp_of(WriteId(901)), None);
        assert_eq!(recent.stamp_of(WriteId(902)), Some(WriteStamp(902)));
        assert_eq!(recent.stamp_of(WriteId(5_000)), Some(jumped));
    }

    #[test]
    fn an_image_stays_as_it_was_and_survives_the_wire() {
        let mut recent = RecentWrites::default();
        for stamp in 1..=9_000_u64 {
            recent.insert(WriteId(u128::from(stamp)), WriteStamp(stamp), WINDOW);
        }
        let image = recent.image();
        let before = image.to_wire();
        recent.insert(WriteId(1), WriteStamp(9_001), WINDOW);
        assert_eq!(image.to_wire(), before);
        let restored = RecentWrites::from_wire(before.clone()).expect("own bytes");
        assert_eq!(restored.image().to_wire(), before);
        assert_eq!(restored.len(), 5_000);
        assert!(RecentWrites::from_wire(before.slice(1..)).is_none());
    }
}
