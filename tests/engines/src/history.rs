//! The Raft log of the tests.

use bytes::Bytes;
use granary_proto::internal::shard_command::Command;
use granary_proto::internal::{
    OpenSlots, SealSegment, ShardCommand, StreamId, TrimChangeLog, Write, WriteBatch, WriteKind,
};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const RECORDS: u32 = 600;
const WRITES: u32 = 6;
const SLOT: u32 = 3;
const EPOCH: u64 = 1;

/// The entry at an index, from 1 on: always the same.
pub fn entry(index: u64) -> Bytes {
    let command = match index {
        1 => {
            let stream = StreamId { cluster: vec![1; 16].into(), shard: 1, incarnation: 1 };
            Command::OpenSlots(OpenSlots { slots: vec![SLOT], epoch: EPOCH, stream: Some(stream) })
        }
        _ if index.is_multiple_of(50) => Command::Seal(SealSegment { stamp: index }),
        // All but the last few: each hundred entries make five events.
        _ if index % 100 == 99 => Command::Trim(TrimChangeLog { sequence: (index / 100).saturating_sub(2) * 5 }),
        _ => Command::Write(batch(index)),
    };
    ShardCommand { command: Some(command) }.encode_to_vec().into()
}

fn batch(index: u64) -> WriteBatch {
    let mut chance = StdRng::seed_from_u64(index);
    let writes = (0..WRITES).map(|number| write(index, number, &mut chance)).collect();
    WriteBatch { stamp: index * 1_000_000, writes, change_log_budget: 0 }
}

fn write(index: u64, number: u32, chance: &mut StdRng) -> Write {
    let kind = match chance.random_range(0..60) {
        0 => WriteKind::HardDelete,
        1..3 => WriteKind::SoftDelete,
        _ => WriteKind::Put,
    };
    let record = chance.random_range(0..RECORDS);
    // Some come late and change nothing.
    let event_seconds = i64::try_from(index).expect("small") - chance.random_range(0..20);
    let len = chance.random_range(100..500);
    Write {
        id: Bytes::from([index.to_be_bytes(), u64::from(number).to_be_bytes()].concat()),
        slot: SLOT,
        epoch: EPOCH,
        feature_group: 1,
        record: Bytes::from(format!("record {record:05}")),
        event_seconds,
        online: true,
        offline: index.is_multiple_of(20) && number == 0,
        kind: kind.into(),
        row: Bytes::from(format!("{index}:{number};").into_bytes().repeat(len / 8)),
        ..Write::default()
    }
}
