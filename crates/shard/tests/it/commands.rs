//! Commands, random and by hand, and what is asked of a store.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use granary_proto::internal::write_outcome::Status;
use granary_proto::internal::{
    OpenSlots, RecordKey, RowResult, SealSegment, ShardCommand, ShardReply, StreamId, TrimChangeLog, Write, WriteBatch,
    WriteKind, WriteOutcome, row_result, shard_command::Command,
};
use granary_shard::{Settings, ShardStore, TreeTrust, Window, spawn_thread};
use granary_types::{
    EventTime, FeatureOrdinal, FeatureValue, Record, RecordIdentifier, SchemaVersion, Ttl, TtlUnit, Value,
};
use proptest::prelude::*;
use prost::Message;

use crate::tree::TestTree;

pub(crate) const SLOT: u32 = 3;
pub(crate) const EPOCH: u64 = 7;
pub(crate) const RECORDS: u8 = 5;
/// Room for some 60 events before writes are refused.
pub(crate) const BUDGET: u64 = 6_000;
pub(crate) const SETTINGS: Settings = Settings {
    memory_table_bytes: 1 << 20,
    checkpoint_bytes: 1 << 19,
    // Checkpoints only when asked for.
    checkpoint_age_ms: 3_600_000,
    checkpoint_step_cells: 4,
    snapshot_overlay_bytes: 1 << 20,
    row_cache_bytes: 64 * 2_000,
    change_log_budget_bytes: BUDGET,
};
/// Small enough that random histories forget ids by count and by age.
const WINDOW: Window = Window { count_max: 12, kept_min: 4, age_nanos: 1_000_000 };

pub(crate) fn encode(command: Command) -> Bytes {
    ShardCommand { command: Some(command) }.encode_to_vec().into()
}

pub(crate) fn open_slots() -> Bytes {
    let stream = StreamId { cluster: vec![1; 16].into(), shard: 1, incarnation: 1 };
    encode(Command::OpenSlots(OpenSlots { slots: vec![SLOT, 4000], epoch: EPOCH, stream: Some(stream) }))
}

pub(crate) fn batch(stamp: u64, writes: Vec<Write>) -> Bytes {
    batch_within(BUDGET, stamp, writes)
}

/// A batch with a leader's budget for the change log.
pub(crate) fn batch_within(change_log_budget: u64, stamp: u64, writes: Vec<Write>) -> Bytes {
    encode(Command::Write(WriteBatch { stamp, writes, change_log_budget }))
}

pub(crate) fn seal(stamp: u64) -> Bytes {
    encode(Command::Seal(SealSegment { stamp }))
}

pub(crate) fn trim(sequence: u64) -> Bytes {
    encode(Command::Trim(TrimChangeLog { sequence }))
}

/// A put to both stores.
pub(crate) fn put(id: u128, record: &str, event_seconds: i64) -> Write {
    Write {
        id: Bytes::copy_from_slice(&id.to_be_bytes()),
        slot: SLOT,
        epoch: EPOCH,
        feature_group: 1,
        record: Bytes::copy_from_slice(record.as_bytes()),
        event_seconds,
        online: true,
        offline: true,
        row: Bytes::from(format!("row of write {id}")),
        ..Write::default()
    }
}

pub(crate) fn values(texts: &[(u16, &str)]) -> Vec<(FeatureOrdinal, FeatureValue)> {
    let value = |text: &str| FeatureValue { value: Value::String(text.to_owned()), original: None };
    texts.iter().map(|(ordinal, text)| (FeatureOrdinal(*ordinal), value(text))).collect()
}

/// A put of the record `r` with a real row.
pub(crate) fn put_row(id: u128, seconds: i64, texts: &[(u16, &str)], ttl: Option<u32>) -> Write {
    let record = Record {
        identifier: RecordIdentifier::new("r").expect("short"),
        event_time: EventTime::MIN,
        values: values(texts),
        ttl: ttl.map(|seconds| Ttl::new(TtlUnit::Seconds, seconds).expect("positive")),
    };
    Write { row: granary_row::encode(&record, SchemaVersion(1)), ..put(id, "r", seconds) }
}

pub(crate) fn delete(id: u128, record: &str, event_seconds: i64, kind: WriteKind) -> Write {
    Write { kind: kind.into(), ..put(id, record, event_seconds) }
}

pub(crate) fn record_name(record: u8) -> String {
    format!("record {record}")
}

/// A write; ids collide now and then.
fn any_write() -> impl Strategy<Value = Write> {
    // Updates and expiries as a leader made them, of a record as it was long ago or just now.
    let kind = prop_oneof![4 => Just(WriteKind::Put), 1 => Just(WriteKind::SoftDelete), 2 => Just(WriteKind::HardDelete),
        4 => Just(WriteKind::Update), 2 => Just(WriteKind::Expiry)];
    let based_on = prop_oneof![2 => 1_u64..3_000_000, 1 => Just(u64::MAX)];
    let targets = prop_oneof![6 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true)),
        1 => Just((false, false))];
    let epoch = prop_oneof![15 => Just(EPOCH), 1 => Just(EPOCH + 1)];
    (0_u128..120, 0..RECORDS, 0_i64..8, kind, targets, epoch, based_on).prop_map(
        |(id, record, seconds, kind, targets, epoch, based_on)| {
            let (online, offline) = targets;
            let is_conditional = matches!(kind, WriteKind::Update | WriteKind::Expiry);
            let write = delete(id, &record_name(record), seconds, kind);
            let based_on = if is_conditional { based_on } else { 0 };
            Write { epoch, online: online || is_conditional, offline, based_on, ..write }
        },
    )
}

fn any_command() -> impl Strategy<Value = Bytes> {
    // The leaders' clocks disagree: stamps go back at times.
    let stamp = 0_u64..3_000_000;
    // And so do their settings.
    let budget = prop_oneof![6 => Just(BUDGET), 2 => Just(BUDGET / 3), 1 => Just(0)];
    prop_oneof![
        10 => (budget, stamp.clone(), proptest::collection::vec(any_write(), 1..5))
            .prop_map(|(budget, stamp, writes)| batch_within(budget, stamp, writes)),
        2 => stamp.prop_map(seal),
        1 => (0_u64..60).prop_map(trim),
    ]
}

/// Entries by rising but not dense index; the first one opens the slots.
pub(crate) fn any_entries() -> impl Strategy<Value = Vec<(u64, Bytes)>> {
    proptest::collection::vec(any_command(), 4..60).prop_map(|commands| {
        let all = std::iter::once(open_slots()).chain(commands);
        (1_u64..).step_by(2).zip(all).collect()
    })
}

pub(crate) fn open(tree: &Arc<TestTree>, trust: TreeTrust) -> Arc<ShardStore> {
    open_as(tree, trust, SETTINGS)
}

pub(crate) fn open_as(tree: &Arc<TestTree>, trust: TreeTrust, settings: Settings) -> Arc<ShardStore> {
    ShardStore::open_with_window(Arc::clone(tree) as _, trust, settings, &spawn_thread, WINDOW).expect("opens")
}

pub(crate) fn fresh() -> (Arc<TestTree>, Arc<ShardStore>) {
    let tree = Arc::new(TestTree::default());
    let store = open(&tree, TreeTrust::Untrusted);
    (tree, store)
}

pub(crate) fn apply(store: &ShardStore, index: u64, command: &Bytes) -> Vec<WriteOutcome> {
    let reply = store.apply(index, command).expect("is applied");
    ShardReply::decode(reply).expect("a reply").outcomes
}

pub(crate) fn statuses(outcomes: &[WriteOutcome]) -> Vec<Status> {
    outcomes.iter().map(WriteOutcome::status).collect()
}

pub(crate) fn key(record: &str) -> RecordKey {
    RecordKey { slot: SLOT, epoch: EPOCH, feature_group: 1, record: Bytes::copy_from_slice(record.as_bytes()) }
}

pub(crate) fn read(store: &ShardStore, record: &str) -> RowResult {
    store.read(&key(record), &[])
}

/// The store's snapshot, without the index from which it is comparable: the whole state, byte for byte.
pub(crate) fn image(store: &ShardStore) -> Vec<u8> {
    let mut body = snapshot(store);
    body.drain(8..16);
    body
}

pub(crate) fn snapshot(store: &ShardStore) -> Vec<u8> {
    let mut body = Vec::new();
    store.pin_snapshot().expect("is pinned").write_to(&mut body).expect("is written");
    body
}

/// ON-1 by brute force: everything accepted, folded at each question.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    accepted: HashMap<Bytes, Vec<(u64, Write)>>,
}

impl Oracle {
    pub(crate) fn take(&mut self, command: &Bytes, outcomes: &[WriteOutcome]) {
        let Some(Command::Write(batch)) = ShardCommand::decode(command.clone()).expect("own bytes").command else {
            return;
        };
        for (write, outcome) in batch.writes.into_iter().zip(outcomes) {
            let accepted = matches!(outcome.status(), Status::Applied | Status::Superseded);
            if accepted && write.online {
                self.accepted.entry(write.record.clone()).or_default().push((outcome.stamp, write));
            }
        }
    }

    /// The row and stamp that a read must return.
    fn expected(&self, record: &[u8]) -> Option<(u64, Write)> {
        let history = self.accepted.get(record)?;
        let is_reset = |write: &Write| matches!(write.kind(), WriteKind::HardDelete | WriteKind::Expiry);
        let reset = history.iter().filter(|(_, write)| is_reset(write)).map(|(stamp, _)| *stamp).max().unwrap_or(0);
        let counts = history.iter().filter(|(stamp, write)| *stamp > reset && !is_reset(write));
        let newest = counts.max_by_key(|(stamp, write)| (write.event_seconds, write.event_nanos, *stamp))?;
        matches!(newest.1.kind(), WriteKind::Put | WriteKind::Update).then(|| newest.clone())
    }

    pub(crate) fn check(&self, store: &ShardStore) {
        for record in (0..RECORDS).map(record_name) {
            let found = read(store, &record);
            match self.expected(record.as_bytes()) {
                Some((stamp, write)) => {
                    assert_eq!(found.status(), row_result::Status::Found, "{record}");
                    assert_eq!((found.stamp, found.event_seconds, found.row), (stamp, write.event_seconds, write.row));
                }
                None => assert_eq!(found.status(), row_result::Status::NotFound, "{record}"),
            }
        }
    }
}
