//! Session tokens: what a client gives back to read its own writes on any replica.
//!
//! Opaque to clients. The bytes, all integers big endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format version, 1 |
//! | n × (4 + 8) | shard, index of its Raft log that must be applied; shards ascending |
//! | 4 | checksum: the low half of the XXH3-64 of what stands before it |

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use granary_types::{Error, ShardId};
use xxhash_rust::xxh3::xxh3_64;

const FORMAT_VERSION: u8 = 1;
const ENTRY_LEN: usize = 12;
const CHECKSUM_LEN: usize = 4;
/// Shards in one token; a cluster has no more slots than that.
const ENTRY_COUNT_MAX: usize = 4_096;

/// For each shard written to, the index a replica must have applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    indexes: BTreeMap<ShardId, u64>,
}

impl Session {
    /// The session of one write.
    pub fn of(shard: ShardId, index: u64) -> Self {
        Self { indexes: BTreeMap::from([(shard, index)]) }
    }

    /// Takes in another session: the later index of each shard counts.
    pub fn merge(&mut self, other: &Self) {
        for (shard, index) in &other.indexes {
            let mine = self.indexes.entry(*shard).or_default();
            *mine = (*mine).max(*index);
        }
    }

    /// The index a replica of `shard` must have applied; 0 when nothing was written there.
    pub fn index_of(&self, shard: ShardId) -> u64 {
        self.indexes.get(&shard).copied().unwrap_or(0)
    }

    /// The token.
    pub fn to_token(&self) -> Bytes {
        let mut token = BytesMut::with_capacity(1 + self.indexes.len() * ENTRY_LEN + CHECKSUM_LEN);
        token.put_u8(FORMAT_VERSION);
        for (shard, index) in &self.indexes {
            token.put_u32(shard.0);
            token.put_u64(*index);
        }
        token.put_u32(checksum(&token));
        token.freeze()
    }

    /// The session a token stands for.
    ///
    /// # Errors
    /// `Invalid` for bytes that are no token of this version.
    pub fn from_token(token: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::invalid("a session is given as a write returned it");
        let (body, sum) = token.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(wrong)?;
        let (version, entries) = body.split_first().ok_or_else(wrong)?;
        let fits = *version == FORMAT_VERSION
            && u32::from_be_bytes(*sum) == checksum(body)
            && entries.len() % ENTRY_LEN == 0
            && entries.len() / ENTRY_LEN <= ENTRY_COUNT_MAX;
        if !fits {
            return Err(wrong());
        }
        let indexes = entries.chunks_exact(ENTRY_LEN).map(|entry| {
            let (shard, index) = entry.split_first_chunk::<4>().expect("an entry has 12 bytes");
            let index = u64::from_be_bytes(index.try_into().expect("8 bytes follow the shard"));
            (ShardId(u32::from_be_bytes(*shard)), index)
        });
        Ok(Self { indexes: indexes.collect() })
    }

    /// The sessions of several tokens, merged.
    ///
    /// # Errors
    /// `Invalid` when one is no token.
    pub fn from_tokens<T: AsRef<[u8]>>(tokens: &[T]) -> Result<Self, Error> {
        let mut merged = Self::default();
        for token in tokens {
            merged.merge(&Self::from_token(token.as_ref())?);
        }
        Ok(merged)
    }
}

/// The checksum of a token.
pub(crate) fn checksum(body: &[u8]) -> u32 {
    u32::try_from(xxh3_64(body) & u64::from(u32::MAX)).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_merge_to_the_later_index() {
        let mut session = Session::of(ShardId(2), 7);
        session.merge(&Session::of(ShardId(1), 3));
        let tokens = [session.to_token(), Session::of(ShardId(2), 5).to_token(), Session::of(ShardId(1), 9).to_token()];
        let merged = Session::from_tokens(&tokens).expect("all are tokens");
        assert_eq!((merged.index_of(ShardId(1)), merged.index_of(ShardId(2))), (9, 7));
        assert_eq!(merged.index_of(ShardId(3)), 0);
    }

    #[test]
    fn anything_else_is_refused() {
        let token = Session::of(ShardId(1), 300).to_token();
        assert!(Session::from_token(&token).is_ok());
        for cut in 0..token.len() {
            assert!(Session::from_token(&token[..cut]).is_err(), "cut at {cut}");
        }
        for place in 0..token.len() {
            let mut changed = token.to_vec();
            changed[place] ^= 1;
            assert!(Session::from_token(&changed).is_err(), "bit flipped at {place}");
        }
    }
}
