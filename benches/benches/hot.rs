//! The hot pieces alone: encode a row, project it, apply a batch.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use granary_proto::convert::write_to_wire;
use granary_proto::internal::{self, shard_command::Command};
use granary_shard::{Settings, ShardStore, TreeTrust};
use granary_store::Engine;
use granary_store::memory::MemoryEngine;
use granary_types::{
    Epoch, EventTime, FeatureGroupId, FeatureOrdinal, FeatureValue, Record, RecordIdentifier, SchemaVersion, Slot,
    Targets, Value, Write, WriteId, WriteKind,
};
use prost::Message;

/// 20 fractional, 20 integral and 10 text features.
fn record(key: u64) -> Record {
    let value = |ordinal: u16| match ordinal {
        0..20 => Value::Fractional(f64::from(ordinal) * 0.37 + key as f64),
        20..40 => Value::Integral(i64::from(ordinal) + key.cast_signed()),
        _ => Value::String(format!("text-{ordinal}")),
    };
    let values = (0..50).map(|n| (FeatureOrdinal(n), FeatureValue { value: value(n), original: None })).collect();
    Record {
        identifier: RecordIdentifier::new(format!("entity-{key:08}")).expect("short"),
        event_time: EventTime::from_parts(1_000_000_000, 0).expect("in range"),
        values,
        ttl: None,
    }
}

fn rows(criterion: &mut Criterion) {
    let record = record(7);
    let row = granary_row::encode(&record, SchemaVersion(1));
    let five: Vec<FeatureOrdinal> = [1, 11, 21, 31, 41].map(FeatureOrdinal).to_vec();
    let mut group = criterion.benchmark_group("row of 50 features");
    group.bench_function("encode", |b| b.iter(|| granary_row::encode(black_box(&record), SchemaVersion(1))));
    group.bench_function("project 5", |b| b.iter(|| granary_row::project(black_box(&row), &five)));
    group.finish();
}

fn batch(first: u64, count: u64) -> Bytes {
    let writes = (first..first + count).map(|key| {
        let record = record(key % 10_000);
        write_to_wire(&Write {
            id: WriteId(u128::from(key) + 1),
            slot: Slot(1),
            epoch: Epoch(1),
            group: FeatureGroupId(1),
            row: granary_row::encode(&record, SchemaVersion(1)),
            record: record.identifier,
            event_time: record.event_time,
            kind: WriteKind::Put,
            targets: Targets { online: true, offline: false },
            invoked_at_us: 0,
        })
    });
    let command = Command::Write(internal::WriteBatch { stamp: first, writes: writes.collect(), change_log_budget: 0 });
    internal::ShardCommand { command: Some(command) }.encode_to_vec().into()
}

fn apply(criterion: &mut Criterion) {
    let tree = MemoryEngine::new().tree("bench").expect("memory engine");
    let store = ShardStore::open(tree, TreeTrust::Untrusted, Settings::default()).expect("opens");
    let open = internal::OpenSlots { slots: vec![1], epoch: 1, stream: None };
    let open = internal::ShardCommand { command: Some(Command::OpenSlots(open)) };
    store.apply(1, &open.encode_to_vec().into()).expect("applies");
    let store = Arc::clone(&store);
    let (mut index, mut first) = (1, 0);
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(256));
    group.bench_function("batch of 256 puts", |b| {
        b.iter_batched(
            || {
                first += 256;
                index += 1;
                (index, batch(first, 256))
            },
            |(index, command)| store.apply(index, &command),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(hot, rows, apply);
criterion_main!(hot);
