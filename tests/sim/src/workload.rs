//! The clients: each calls its router, one call after the other, and records what it asked and what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use granary_history::Client;
use granary_history::model::{Ack, Call, Change, Key, Level, Outcome, ReadCall, Seen, WriteCall};
use granary_platform::Platform;
use granary_proto::v1;
use granary_router::{
    BatchGetCommand, BatchKeys, Consistency, DeleteCommand, GetCommand, ListCommand, OnlineRecord, PutCommand, Router,
    Session, UpdateCommand,
};
use granary_types::record::RawValue;
use granary_types::{Error, ErrorKind, Ttl, TtlUnit, WriteId};
use parking_lot::Mutex;

use crate::rng::Rng;

/// Feature groups of the same records, so that one shard's change log feeds several tables.
pub(crate) const GROUPS: [&str; 2] = ["flights", "riders"];
/// Few, so that clients meet.
const KEYS: u64 = 6;
/// Hard deletes are kept to one record: they are checked by weaker rules.
const RESET_KEY: &str = "reset";
const EVENT_TIME_BASE: i64 = 1_700_000_000;
const STALENESS_MS: u32 = 2_000;
/// Seconds that a fleeting record lives. Event times are years in the past, and no clock steps so far.
const LIVES: u32 = 60;

/// What the clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) running: AtomicUsize,
    event_time: AtomicI64,
    values: AtomicUsize,
    /// Records with a time to live that was over, by group, and how many there have been.
    fleeting: Mutex<Vec<(String, String)>>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        let (stop, running) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (event_time, values) = (AtomicI64::new(EVENT_TIME_BASE), AtomicUsize::new(0));
        Arc::new(Self { stop, running, event_time, values, fleeting: Mutex::default() })
    }

    /// Every record that was put with a time to live: group and key.
    pub(crate) fn fleeting(&self) -> Vec<(String, String)> {
        self.fleeting.lock().clone()
    }
}

/// Every key of the workload.
pub(crate) fn keys() -> Vec<String> {
    (0..KEYS).map(|number| format!("k{number}")).chain([RESET_KEY.to_owned()]).collect()
}

/// Creates the feature groups; tries until they are there.
pub(crate) async fn create_groups(router: Router, platform: Platform, done: Arc<AtomicBool>) {
    for name in GROUPS {
        let feature = |name: &str, kind: v1::FeatureType| v1::Feature {
            name: name.to_owned(),
            r#type: kind.into(),
            ..Default::default()
        };
        let request = v1::CreateFeatureGroupRequest {
            name: name.to_owned(),
            features: vec![
                feature("id", v1::FeatureType::String),
                feature("at", v1::FeatureType::Fractional),
                feature("value", v1::FeatureType::String),
                feature("kept", v1::FeatureType::String),
            ],
            record_identifier_feature: "id".to_owned(),
            event_time_feature: "at".to_owned(),
            online: Some(v1::OnlineConfig::default()),
            offline: Some(v1::OfflineConfig::default()),
            ..Default::default()
        };
        while let Err(error) = router.create_feature_group(request.clone()).await {
            if error.kind == ErrorKind::InUse {
                break;
            }
            platform.sleep(Duration::from_millis(200)).await;
        }
    }
    done.store(true, Ordering::SeqCst);
}

/// One client's life, until the run is told to stop.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) router: Router,
    pub(crate) platform: Platform,
    pub(crate) client: Client,
    pub(crate) session: Session,
    pub(crate) rng: Rng,
    pub(crate) only_reads: bool,
}

impl Worker {
    pub(crate) async fn run(mut self) {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.one_call().await;
            let think = Duration::from_millis(self.rng.between(5, 250));
            self.platform.sleep(think).await;
        }
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
    }

    async fn one_call(&mut self) {
        match self.rng.below(100) {
            0..=69 if self.only_reads => self.get().await,
            _ if self.only_reads => self.batch_get().await,
            0..=33 => self.put().await,
            34..=37 => self.fleeting().await,
            38..=49 => self.update().await,
            50..=57 => self.delete(false).await,
            58..=61 => self.delete(true).await,
            62..=84 => self.get().await,
            85..=88 => self.list().await,
            _ => self.batch_get().await,
        }
    }

    fn group(&mut self) -> String {
        (*self.rng.pick(&GROUPS)).to_owned()
    }

    fn key(&mut self) -> String {
        if self.rng.per_mille(60) { RESET_KEY.to_owned() } else { format!("k{}", self.rng.below(KEYS)) }
    }

    /// Mostly newer than all before, sometimes the same as another's, sometimes older.
    fn event_time(&mut self) -> i64 {
        let newest = self.shared.event_time.fetch_add(1, Ordering::SeqCst);
        match self.rng.below(10) {
            0 => newest - i64::try_from(self.rng.below(40)).expect("small"),
            1 => self.shared.event_time.load(Ordering::SeqCst) - 2,
            _ => newest,
        }
    }

    fn write_id(&mut self) -> WriteId {
        WriteId(u128::from(self.rng.next()) << 64 | u128::from(self.rng.next()))
    }

    async fn put(&mut self) {
        let (group, key, event_time) = (self.group(), self.key(), self.event_time());
        self.put_record(group, key, event_time, None).await;
    }

    async fn put_record(&mut self, group: String, key: String, event_time: i64, ttl: Option<Ttl>) {
        let id = self.write_id();
        let value = format!("v{}", self.shared.values.fetch_add(1, Ordering::SeqCst));
        let text = |name: &str, text: String| (name.to_owned(), RawValue::Text(text));
        let command = PutCommand {
            group: group.clone(),
            values: vec![
                text("id", key.clone()),
                text("at", event_time.to_string()),
                text("value", value.clone()),
                text("kept", value.clone()),
            ],
            targets: None,
            ttl,
            write_id: Some(id),
            timeout: Some(Duration::from_secs(4)),
        };
        let change = match ttl {
            Some(_) => Change::Fleeting { value, lives: LIVES.into() },
            None => Change::Put { value },
        };
        let call = WriteCall { key: Key::new(group, key), change, event_time, write_id: hex(id) };
        let router = self.router.clone();
        self.write(call, || router.put(command.clone())).await;
    }

    /// Puts a new record that had expired before, and sometimes puts it again soon after, with the same event time and no
    /// end: the store may remove the first one, never the second.
    async fn fleeting(&mut self) {
        let (group, event_time) = (self.group(), self.event_time());
        let key = {
            let mut fleeting = self.shared.fleeting.lock();
            let key = format!("f{}", fleeting.len());
            fleeting.push((group.clone(), key.clone()));
            key
        };
        let ttl = Ttl::new(TtlUnit::Seconds, LIVES).expect("positive");
        self.put_record(group.clone(), key.clone(), event_time, Some(ttl)).await;
        if self.rng.per_mille(500) {
            let pause = Duration::from_millis(self.rng.between(0, 2_000));
            self.platform.sleep(pause).await;
            self.put_record(group, key, event_time, None).await;
        }
    }

    /// Replaces the value and the event time, and leaves what the last put put beside them.
    async fn update(&mut self) {
        let (group, key, event_time, id) = (self.group(), self.key(), self.event_time(), self.write_id());
        let value = format!("v{}", self.shared.values.fetch_add(1, Ordering::SeqCst));
        let text = |name: &str, text: String| (name.to_owned(), RawValue::Text(text));
        let command = UpdateCommand {
            group: group.clone(),
            identifier: key.clone(),
            values: vec![text("at", event_time.to_string()), text("value", value.clone())],
            targets: None,
            ttl: None,
            write_id: Some(id),
            timeout: Some(Duration::from_secs(4)),
        };
        let change = Change::Update { value };
        let call = WriteCall { key: Key::new(group, key), change, event_time, write_id: hex(id) };
        let router = self.router.clone();
        self.write(call, || router.update_record(command.clone())).await;
    }

    /// Lists a group in pages of two: to a checker, linearizable reads of all keys by one client, one after the other.
    async fn list(&mut self) {
        let group = self.group();
        let keys = keys();
        let call = ReadCall { group: group.clone(), keys: keys.clone(), batch: true, level: Level::Linearizable };
        self.client.begin(Call::Read(call));
        let outcome = match list_all(&self.router, &group).await {
            Ok(records) => {
                Outcome::Read(keys.iter().map(|key| records.get(key).map_or(Seen::Absent, seen_of)).collect())
            }
            Err(error) => Outcome::Failed { error: error.message },
        };
        self.client.end(outcome, None);
    }

    async fn delete(&mut self, hard: bool) {
        let (group, event_time, id) = (self.group(), self.event_time(), self.write_id());
        let key = if hard { RESET_KEY.to_owned() } else { self.key() };
        let command = DeleteCommand {
            group: group.clone(),
            identifier: key.clone(),
            event_time: event_time.to_string(),
            hard,
            targets: None,
            write_id: Some(id),
            timeout: Some(Duration::from_secs(4)),
        };
        let change = if hard { Change::HardDelete } else { Change::SoftDelete };
        let call = WriteCall { key: Key::new(group, key), change, event_time, write_id: hex(id) };
        let router = self.router.clone();
        self.write(call, || router.delete_record(command.clone())).await;
    }

    /// Writes and, after an unknown outcome, sometimes writes again under the same id.
    async fn write<F>(&mut self, call: WriteCall, attempt: impl Fn() -> F)
    where
        F: Future<Output = Result<granary_router::Written, Error>>,
    {
        for _ in 0..2 {
            self.client.begin(Call::Write(call.clone()));
            let outcome = attempt().await;
            let is_unknown = match outcome {
                Ok(written) => {
                    self.session.merge(&written.session());
                    let ack = Ack {
                        shard: Some(written.shard.0),
                        log_index: Some(written.raft_index),
                        stamp: None,
                        became_online: Some(written.became_online),
                    };
                    self.client.end(Outcome::Written(ack), None);
                    false
                }
                Err(error) => {
                    let outcome = outcome_of(&error);
                    let is_unknown = matches!(outcome, Outcome::Unknown { .. });
                    self.client.end(outcome, None);
                    is_unknown
                }
            };
            if !is_unknown || self.rng.per_mille(500) {
                return;
            }
        }
    }

    fn level(&mut self) -> (Level, Consistency) {
        match self.rng.below(10) {
            0..=4 => (Level::Linearizable, Consistency::Linearizable),
            5..=6 => (Level::Session, Consistency::Session(self.session.clone())),
            7..=8 => (
                Level::BoundedStaleness { max_staleness_ms: STALENESS_MS.into() },
                Consistency::BoundedStaleness(STALENESS_MS),
            ),
            _ => (Level::Eventual, Consistency::Eventual),
        }
    }

    async fn get(&mut self) {
        let (group, key, (level, consistency)) = (self.group(), self.key(), self.level());
        read_one(&self.router, &mut self.client, group, key, level, consistency).await;
    }

    async fn batch_get(&mut self) {
        let (group, (level, consistency)) = (self.group(), self.level());
        let keys = keys();
        let call = ReadCall { group: group.clone(), keys: keys.clone(), batch: true, level };
        self.client.begin(Call::Read(call));
        let identifiers = keys.clone();
        let command = BatchGetCommand {
            keys: vec![BatchKeys { group, identifiers, features: Vec::new() }],
            consistency,
            timeout: Some(Duration::from_secs(4)),
        };
        let outcome = match self.router.batch_get(command).await {
            Ok(answer) => {
                let mut seen = vec![Seen::Absent; keys.len()];
                for found in &answer.records {
                    seen[found.identifier] = seen_of(&found.record);
                }
                for failed in &answer.failures {
                    seen[failed.identifier] = Seen::Error;
                }
                Outcome::Read(seen)
            }
            Err(error) => Outcome::Failed { error: error.message },
        };
        self.client.end(outcome, None);
    }
}

/// Every record of a group.
async fn list_all(router: &Router, group: &str) -> Result<BTreeMap<String, OnlineRecord>, Error> {
    let timeout = Some(Duration::from_secs(4));
    let mut command = ListCommand {
        group: group.to_owned(),
        limit: 2,
        features: Some(Vec::new()),
        timeout,
        ..ListCommand::default()
    };
    let mut records = BTreeMap::new();
    loop {
        let answer = router.list_records(command.clone()).await?;
        for listed in answer.records {
            let Some(record) = listed.record else { continue };
            let twice = records.insert(listed.identifier.clone(), record).is_some();
            assert!(!twice, "{group}/{} is listed twice", listed.identifier);
        }
        match answer.next {
            Some(next) => command.after = Some(next),
            None => return Ok(records),
        }
    }
}

/// Reads one record and records it.
pub(crate) async fn read_one(
    router: &Router,
    client: &mut Client,
    group: String,
    key: String,
    level: Level,
    consistency: Consistency,
) -> bool {
    let call = ReadCall { group: group.clone(), keys: vec![key.clone()], batch: false, level };
    client.begin(Call::Read(call));
    let timeout = Some(Duration::from_secs(4));
    let command = GetCommand { group, identifier: key, features: Vec::new(), consistency, timeout };
    let (outcome, told) = match router.get(command).await {
        Ok(Some(record)) => (Outcome::Read(vec![seen_of(&record)]), true),
        Ok(None) => (Outcome::Read(vec![Seen::Absent]), true),
        Err(error) => (Outcome::Failed { error: error.message }, false),
    };
    client.end(outcome, None);
    told
}

fn seen_of(record: &OnlineRecord) -> Seen {
    let value = record.named().find(|(name, _)| *name == "value").map(|(_, value)| value.clone());
    match value {
        Some(RawValue::Text(value)) => Seen::Value { value, event_time: Some(record.event_time.seconds()) },
        _ => Seen::Error,
    }
}

/// Only what certainly changed nothing has failed.
fn outcome_of(error: &Error) -> Outcome {
    let text = format!("{:?}: {}", error.kind, error.message);
    match error.kind {
        ErrorKind::Invalid
        | ErrorKind::NotFound
        | ErrorKind::InUse
        | ErrorKind::Conflict
        | ErrorKind::Forbidden
        | ErrorKind::LimitExceeded
        | ErrorKind::Overloaded
        | ErrorKind::Unavailable => Outcome::Failed { error: text },
        _ => Outcome::Unknown { error: text },
    }
}

/// As the offline table has it.
pub(crate) fn hex(id: WriteId) -> String {
    format!("{:032x}", id.0)
}
