//! Clients that write and read for as long as they are told to, and note what they were told.
//!
//! Every value is put once. Event times are numbers that mostly rise; some puts are late, some share an event time, deletes
//! have event times of their own. Some writes are given up after a few milliseconds, and a write of unknown outcome is
//! sometimes tried again with its write id. Some records see
//! hard deletes; each of those is written by one client only, so that the checkers can tell its generations apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use granary_history::model::{Ack, Call, Change, Key, Level, Outcome, ReadCall, Seen, WriteCall};
use granary_history::{Client as Recording, Recorder};
use granary_proto::convert::kind_of_status;
use granary_proto::v1::feature_store_client::FeatureStoreClient;
use granary_proto::v1::{self, ConsistencyLevel, value::Kind};
use granary_types::ErrorKind;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The feature group.
pub const GROUP: &str = "chaos";
/// Records that many clients write.
pub const KEYS: u64 = 24;
/// 2024-01-01T00:00:00Z: one second of event time goes by with each write.
const EVENT_TIME_BASE: i64 = 1_704_067_200;
/// Longer than the router's own deadline, so that its word is heard.
const CALL_PATIENCE: Duration = Duration::from_secs(20);
/// What an impatient client waits: often less than a write takes, so that its outcome is unknown though nothing is broken.
const IMPATIENCE_MS: std::ops::Range<u64> = 1..60;
/// How many writes in a hundred are impatient.
const IMPATIENT_PERCENT: u32 = 4;
/// What reads at bounded staleness ask for.
const MAX_STALENESS_MS: u64 = 1_000;

/// The features of [`GROUP`]: the first names the record, the last is the event time.
pub const FEATURES: [(&str, v1::FeatureType); 4] = [
    ("id", v1::FeatureType::String),
    ("value", v1::FeatureType::String),
    // Put with the value, and left alone by updates.
    ("kept", v1::FeatureType::String),
    ("at", v1::FeatureType::Fractional),
];

/// Creates a feature group with both stores. The first feature names the record, the last is the event time.
///
/// # Errors
/// What the router says.
pub async fn create_group<const N: usize>(
    channel: Channel,
    name: &str,
    features: [(&str, v1::FeatureType); N],
) -> Result<(), Status> {
    let ((identifier, _), (event_time, _)) = (features[0], features[N - 1]);
    let feature = |(name, kind): (&str, v1::FeatureType)| v1::Feature {
        name: name.to_owned(),
        r#type: kind.into(),
        ..Default::default()
    };
    let request = v1::CreateFeatureGroupRequest {
        name: name.to_owned(),
        record_identifier_feature: identifier.to_owned(),
        event_time_feature: event_time.to_owned(),
        features: features.into_iter().map(feature).collect(),
        online: Some(v1::OnlineConfig::default()),
        offline: Some(v1::OfflineConfig::default()),
        ..Default::default()
    };
    FeatureStoreClient::new(channel).create_feature_group(request).await.map(|_| ())
}

/// What all clients share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    ticks: AtomicU64,
    served: Mutex<BTreeMap<u32, Served>>,
}

/// What one shard has acknowledged.
#[derive(Debug, Clone, Copy)]
struct Served {
    writes: u64,
    last: Instant,
    /// The longest time without any.
    silence: Duration,
}

impl Shared {
    fn acknowledged(&self, shard: u32) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut served = self.served.lock();
        let served = served.entry(shard).or_insert(Served { writes: 0, last: now, silence: Duration::ZERO });
        served.writes += 1;
        served.silence = served.silence.max(now - served.last);
        served.last = now;
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts so many clients, each with at most one call under way and at most one call every `pace`.
    pub fn start(channel: &Channel, recorder: &Recorder, seed: u64, clients: u64, pace: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let start = |number: u64| {
            let client = Client {
                number,
                chance: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number)),
                store: FeatureStoreClient::new(channel.clone()),
                recording: recorder.client(Some(number)),
                shared: Arc::clone(&shared),
                sessions: BTreeMap::new(),
                again: None,
            };
            tokio::spawn(client.work(pace))
        };
        let clients = (0..clients).map(start).collect();
        Self { shared, clients }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// How many writes each shard has acknowledged so far.
    pub fn acknowledged_by_shard(&self) -> BTreeMap<u32, u64> {
        self.shared.served.lock().iter().map(|(shard, served)| (*shard, served.writes)).collect()
    }

    /// The longest time since the last call in which a shard acknowledged nothing, over all shards.
    pub fn take_longest_silence(&self) -> Duration {
        let (now, mut longest) = (Instant::now(), Duration::ZERO);
        for served in self.shared.served.lock().values_mut() {
            longest = longest.max(served.silence).max(now - served.last);
            (served.silence, served.last) = (Duration::ZERO, now);
        }
        longest
    }

    /// Tells the clients to stop and waits for their last answers.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await?;
        }
        Ok(())
    }
}

struct Client {
    number: u64,
    chance: StdRng,
    store: FeatureStoreClient<Channel>,
    recording: Recording,
    shared: Arc<Shared>,
    /// The newest session token of each shard.
    sessions: BTreeMap<u32, Vec<u8>>,
    /// A write whose outcome is unknown and that is to be tried again.
    again: Option<WriteCall>,
}

impl Client {
    async fn work(mut self, pace: Duration) {
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.shared.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            match self.again.take() {
                Some(call) => self.write(call).await,
                None if self.chance.random_bool(0.5) => {
                    let call = self.some_write();
                    self.write(call).await;
                }
                None => {
                    let call = self.some_read();
                    read(&mut self.store, &mut self.recording, call, &self.sessions).await;
                }
            }
        }
    }

    fn own_reset_key(&self) -> String {
        format!("reset-{}", self.number)
    }

    fn some_key(&mut self) -> String {
        format!("key-{}", self.chance.random_range(0..KEYS))
    }

    fn some_write(&mut self) -> WriteCall {
        let tick = i64::try_from(self.shared.ticks.fetch_add(1, Ordering::Relaxed)).unwrap_or(i64::MAX / 8);
        let on_reset_key = self.chance.random_bool(0.1);
        let key = if on_reset_key { self.own_reset_key() } else { self.some_key() };
        let change = match self.chance.random_range(0..10) {
            0 => Change::SoftDelete,
            1..=3 if on_reset_key => Change::HardDelete,
            9 => Change::Update { value: format!("{}-{tick}", self.number) },
            _ => Change::Put { value: format!("{}-{tick}", self.number) },
        };
        // Puts have even event times, many of them shared or late; a delete's is odd and its own.
        let event_time = match change {
            Change::Put { .. } | Change::Update { .. } => {
                tick / 4 * 8 - 8 * self.chance.random_range(0..4) * i64::from(tick % 3 == 0)
            }
            Change::SoftDelete | Change::HardDelete | Change::Fleeting { .. } => 2 * tick + 1,
        };
        let write_id = format!("{:032x}", self.chance.random::<u128>());
        WriteCall { key: Key::new(GROUP, key), change, event_time: EVENT_TIME_BASE + event_time, write_id }
    }

    fn some_read(&mut self) -> ReadCall {
        let level = match self.chance.random_range(0..6) {
            0..=2 => Level::Linearizable,
            3 => Level::Session,
            4 => Level::BoundedStaleness { max_staleness_ms: MAX_STALENESS_MS },
            _ => Level::Eventual,
        };
        let batch = self.chance.random_bool(0.2);
        let count = if batch { 4 } else { 1 };
        let mut keys: Vec<String> = (0..count).map(|_| self.some_key()).collect();
        if self.chance.random_bool(0.1) {
            keys[0] = format!("reset-{}", self.number);
        }
        keys.sort();
        keys.dedup();
        ReadCall { group: GROUP.to_owned(), keys, batch, level }
    }

    async fn write(&mut self, call: WriteCall) {
        self.recording.begin(Call::Write(call.clone()));
        let is_impatient = self.chance.random_ratio(IMPATIENT_PERCENT, 100);
        let impatience = Duration::from_millis(self.chance.random_range(IMPATIENCE_MS));
        let patience = if is_impatient { impatience } else { CALL_PATIENCE };
        let answer = tokio::time::timeout(patience, send(&mut self.store, &call)).await;
        let outcome = match answer {
            Ok(Ok(answer)) => {
                self.shared.acknowledged(answer.shard);
                self.sessions.insert(answer.shard, answer.session.to_vec());
                Outcome::Written(Ack {
                    shard: Some(answer.shard),
                    log_index: Some(answer.raft_index),
                    stamp: None,
                    became_online: Some(answer.became_online),
                })
            }
            Ok(Err(status)) => outcome_of(&status),
            Err(_) => Outcome::Unknown { error: "no answer in time".to_owned() },
        };
        if matches!(outcome, Outcome::Unknown { .. }) && self.chance.random_bool(0.5) {
            self.again = Some(call);
        }
        self.recording.end(outcome, None);
    }
}

async fn send(store: &mut FeatureStoreClient<Channel>, call: &WriteCall) -> Result<v1::WriteResponse, Status> {
    let text = |name: &str, text: String| v1::FeatureValue {
        name: name.to_owned(),
        value: Some(v1::Value { kind: Some(Kind::Text(text)) }),
    };
    let id = u128::from_str_radix(&call.write_id, 16).unwrap_or_default().to_be_bytes().to_vec();
    let (key, event_time) = (call.key.key.clone(), call.event_time.to_string());
    let mode = match &call.change {
        Change::Put { value } | Change::Fleeting { value, .. } => {
            let record = vec![
                text("id", key),
                text("value", value.clone()),
                text("kept", value.clone()),
                text("at", event_time),
            ];
            let lives = if let Change::Fleeting { lives, .. } = call.change { u32::try_from(lives).ok() } else { None };
            let request = v1::PutRecordRequest {
                feature_group: GROUP.to_owned(),
                record,
                ttl: lives.map(|value| v1::Ttl { unit: v1::TtlUnit::Seconds.into(), value }),
                write_id: id.into(),
                ..Default::default()
            };
            return Ok(store.put_record(request).await?.into_inner());
        }
        Change::Update { value } => {
            let request = v1::UpdateRecordRequest {
                feature_group: GROUP.to_owned(),
                record_identifier: key,
                features: vec![text("value", value.clone()), text("at", event_time)],
                write_id: id.into(),
                ..Default::default()
            };
            return Ok(store.update_record(request).await?.into_inner());
        }
        Change::SoftDelete => v1::DeletionMode::Soft,
        Change::HardDelete => v1::DeletionMode::Hard,
    };
    let request = v1::DeleteRecordRequest {
        feature_group: GROUP.to_owned(),
        record_identifier: key,
        event_time,
        mode: mode.into(),
        write_id: id.into(),
        ..Default::default()
    };
    Ok(store.delete_record(request).await?.into_inner())
}

/// What an error says of a write: nothing was changed only where the router itself says so with a kind that means it.
fn outcome_of(status: &Status) -> Outcome {
    let error = format!("{:?}: {}", status.code(), status.message());
    let told_by_router = std::error::Error::source(status).is_none();
    let kinds =
        [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::Overloaded, ErrorKind::Unavailable];
    if told_by_router && kinds.contains(&kind_of_status(status)) && status.code() != Code::OutOfRange {
        Outcome::Failed { error }
    } else {
        Outcome::Unknown { error }
    }
}

/// Reads and notes what was seen. A read that fails has no effect, whatever became of it.
pub(crate) async fn read(
    store: &mut FeatureStoreClient<Channel>,
    recording: &mut Recording,
    call: ReadCall,
    sessions: &BTreeMap<u32, Vec<u8>>,
) -> bool {
    recording.begin(Call::Read(call.clone()));
    let seen = tokio::time::timeout(CALL_PATIENCE, ask(store, &call, sessions)).await;
    let outcome = match seen {
        Ok(Ok(seen)) => Outcome::Read(seen),
        Ok(Err(status)) => Outcome::Failed { error: format!("{:?}: {}", status.code(), status.message()) },
        Err(_) => Outcome::Failed { error: "no answer in time".to_owned() },
    };
    let is_answered = matches!(&outcome, Outcome::Read(seen) if !seen.contains(&Seen::Error));
    recording.end(outcome, None);
    is_answered
}

async fn ask(
    store: &mut FeatureStoreClient<Channel>,
    call: &ReadCall,
    sessions: &BTreeMap<u32, Vec<u8>>,
) -> Result<Vec<Seen>, Status> {
    let (level, max_staleness_ms) = match call.level {
        Level::Linearizable => (ConsistencyLevel::Linearizable, 0),
        Level::Session => (ConsistencyLevel::Session, 0),
        Level::BoundedStaleness { max_staleness_ms } => (ConsistencyLevel::BoundedStaleness, max_staleness_ms),
        Level::Eventual => (ConsistencyLevel::Eventual, 0),
    };
    let sessions = match call.level {
        Level::Session => sessions.values().map(|token| token.clone().into()).collect(),
        _ => Vec::new(),
    };
    let max_staleness_ms = u32::try_from(max_staleness_ms).unwrap_or(u32::MAX);
    let consistency = Some(v1::Consistency { level: level.into(), sessions, max_staleness_ms });
    if !call.batch {
        let request = v1::GetRecordRequest {
            feature_group: call.group.clone(),
            record_identifier: call.keys[0].clone(),
            feature_names: Vec::new(),
            consistency,
        };
        let answer = store.get_record(request).await?.into_inner();
        return Ok(vec![if answer.found { seen_in(&answer.record) } else { Seen::Absent }]);
    }
    let keys = v1::RecordKeys {
        feature_group: call.group.clone(),
        record_identifiers: call.keys.clone(),
        feature_names: Vec::new(),
    };
    let answer =
        store.batch_get_record(v1::BatchGetRecordRequest { keys: vec![keys], consistency }).await?.into_inner();
    let unanswered = |key: &String| {
        answer.errors.iter().any(|error| error.record_identifier == *key)
            || answer.unprocessed.iter().any(|keys| keys.record_identifiers.contains(key))
    };
    let seen = |key: &String| match answer.records.iter().find(|record| record.record_identifier == *key) {
        Some(record) => seen_in(&record.record),
        None if unanswered(key) => Seen::Error,
        None => Seen::Absent,
    };
    Ok(call.keys.iter().map(seen).collect())
}

fn seen_in(record: &[v1::FeatureValue]) -> Seen {
    let text = |name: &str| {
        let value = record.iter().find(|feature| feature.name == name)?.value.as_ref()?;
        match value.kind.as_ref()? {
            Kind::Text(text) => Some(text.clone()),
            other => Some(format!("{other:?}")),
        }
    };
    // A record without its value is recorded as what nobody put, which the checkers refuse.
    let value = text("value").unwrap_or_else(|| format!("a record without value: {record:?}"));
    Seen::Value { value, event_time: text("at").and_then(|at| at.parse().ok()) }
}
