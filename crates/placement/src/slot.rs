//! The fixed hash: record identifier -> slot.

use granary_types::Slot;
use xxhash_rust::xxh3::xxh3_64;

/// How many slots there are, for ever: stored keys and tables hold slot numbers.
pub const SLOT_COUNT: u16 = 4_096;

/// The slot of a record identifier: `xxh3_64(bytes) % SLOT_COUNT`, for ever.
///
/// The feature group is not hashed, so that all groups keyed by the same identifier live on one shard.
#[inline]
pub fn slot_of(record_identifier: &[u8]) -> Slot {
    let slot = xxh3_64(record_identifier) % u64::from(SLOT_COUNT);
    Slot(u16::try_from(slot).expect("the remainder is below 4,096"))
}

/// Every slot, ascending.
pub fn slots() -> impl ExactSizeIterator<Item = Slot> + DoubleEndedIterator {
    (0..SLOT_COUNT).map(Slot)
}
