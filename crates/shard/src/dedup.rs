//! The ids of recently accepted writes: a retry is recognised and does nothing.
//!
//! Part of the replicated state: what is remembered depends on the entries alone. An id is forgotten when newer
//! writes push it out, by count or by the distance of their stamps, never by a clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use granary_types::{WriteId, WriteStamp};

use crate::Rules;

/// Ids by age, in chunks that an image shares: pinning a snapshot of a million ids copies some hundred pointers.
const CHUNK_LEN: usize = 4_096;
const WIRE_LEN: usize = 16 + 8;

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

    /// Remembers an accepted write, the latest by stamp, and forgets what the rules say.
    pub(crate) fn insert(&mut self, id: WriteId, stamp: WriteStamp, rules: &Rules) {
        self.stamps.insert(id, stamp);
        self.oldest_first.push(id, stamp);
        let age_nanos = rules.recent_writes_age_ms.saturating_mul(1_000_000);
        while let Some((id, oldest)) = self.oldest_first.front() {
            if self.stamps.len() <= rules.recent_writes_count && stamp.0 - oldest.0 <= age_nanos {
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

    const RULES: Rules = Rules { change_log_bytes: 0, recent_writes_count: 5_000, recent_writes_age_ms: 1 };

    #[test]
    fn forgets_by_count_and_by_age() {
        let mut recent = RecentWrites::default();
        for stamp in 1..=12_000_u64 {
            recent.insert(WriteId(u128::from(stamp)), WriteStamp(stamp), &RULES);
        }
        assert_eq!(recent.len(), 5_000);
        assert_eq!(recent.stamp_of(WriteId(7_000)), None);
        assert_eq!(recent.stamp_of(WriteId(7_001)), Some(WriteStamp(7_001)));
        recent.insert(WriteId(99), WriteStamp(1_010_000), &RULES);
        assert_eq!(recent.stamp_of(WriteId(9_999)), None);
        assert_eq!(recent.stamp_of(WriteId(10_000)), Some(WriteStamp(10_000)));
    }

    #[test]
    fn an_image_stays_as_it_was_and_survives_the_wire() {
        let mut recent = RecentWrites::default();
        for stamp in 1..=9_000_u64 {
            recent.insert(WriteId(u128::from(stamp)), WriteStamp(stamp), &RULES);
        }
        let image = recent.image();
        let before = image.to_wire();
        recent.insert(WriteId(1), WriteStamp(9_001), &RULES);
        assert_eq!(image.to_wire(), before);
        let restored = RecentWrites::from_wire(before.clone()).expect("own bytes");
        assert_eq!(restored.image().to_wire(), before);
        assert_eq!(restored.len(), 5_000);
        assert!(RecentWrites::from_wire(before.slice(1..)).is_none());
    }
}
