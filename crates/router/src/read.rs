//! Reads: keys grouped by shard, one request to each shard touched, projection done there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use granary_placement::slot_of;
use granary_proto::internal::row_result::Status;
use granary_proto::internal::shard_read_response::Result as Answer;
use granary_proto::internal::{Projection, ReadLevel, RecordKey, RowResult, ShardReadRequest, ShardRows};
use granary_types::{Epoch, Error, ErrorKind, FeatureGroup, RecordIdentifier, ShardId, Slot};

use crate::deadline::{Backoff, Deadline};
use crate::failure::Failure;
use crate::lane::not_leader_failure;
use crate::replicas::{RoundFailed, Who, ask_round};
use crate::write::WRONG_SHARD;
use crate::{OnlineRecord, Router, Session};

/// What a read is promised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The newest of all writes acknowledged before the read began (LIN-1). One round trip to the leader, which
    /// confirms its leadership with a majority once for many reads.
    #[default]
    Linearizable,
    /// At least the writes of these sessions, from any replica.
    Session(Session),
    /// At least what was acknowledged so many milliseconds before the read began, from any replica.
    BoundedStaleness(u32),
    /// What a replica has.
    Eventual,
}

/// A read of one record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetCommand {
    /// The group's name.
    pub group: String,
    /// The text of the record identifier feature.
    pub identifier: String,
    /// Empty asks for all features.
    pub features: Vec<String>,
    /// What the read is promised.
    pub consistency: Consistency,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

/// Records of one group in a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchKeys {
    /// The group's name.
    pub group: String,
    /// The texts of the record identifier feature.
    pub identifiers: Vec<String>,
    /// Empty asks for all features.
    pub features: Vec<String>,
}

/// A read of many records of many groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchGetCommand {
    /// What to read.
    pub keys: Vec<BatchKeys>,
    /// What the reads are promised; each key on its own.
    pub consistency: Consistency,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRecord {
    /// Index of its entry in [`BatchGetCommand::keys`].
    pub entry: usize,
    /// Index of its identifier in that entry.
    pub identifier: usize,
    /// The record.
    pub record: OnlineRecord,
}

/// A key that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFailure {
    /// Index of its entry in [`BatchGetCommand::keys`].
    pub entry: usize,
    /// Index of its identifier in that entry.
    pub identifier: usize,
    /// Why.
    pub error: Error,
}

/// What a batch found. A key in neither list has no record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BatchAnswer {
    /// In order of the keys.
    pub records: Vec<BatchRecord>,
    /// In order of the keys.
    pub failures: Vec<BatchFailure>,
}

impl Router {
    /// Reads one record; `None` when it does not exist, is deleted or has expired.
    ///
    /// # Errors
    /// `NotFound` for an unknown group; `Invalid` for an unknown feature or a group without online store;
    /// `Overloaded`; `Unavailable` when no replica answered in time.
    pub async fn get(&self, command: GetCommand) -> Result<Option<OnlineRecord>, Error> {
        let began = self.shared.platform.instant();
        let result = self.get_unmeasured(command).await;
        self.shared.metrics.ended("get_record", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn get_unmeasured(&self, command: GetCommand) -> Result<Option<OnlineRecord>, Error> {
        let GetCommand { group, identifier, features, consistency, timeout } = command;
        let keys = vec![BatchKeys { group, identifiers: vec![identifier], features }];
        let mut answer = self.read(BatchGetCommand { keys, consistency, timeout }).await?;
        if let Some(failure) = answer.failures.pop() {
            return Err(failure.error);
        }
        Ok(answer.records.pop().map(|found| found.record))
    }

    /// Reads many records. Each key succeeds or fails on its own; keys of one batch are not one snapshot.
    ///
    /// # Errors
    /// `Invalid` for no keys or too many; `Overloaded`.
    pub async fn batch_get(&self, command: BatchGetCommand) -> Result<BatchAnswer, Error> {
        let began = self.shared.platform.instant();
        let result = self.read(command).await;
        self.shared.metrics.ended("batch_get_record", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn read(&self, command: BatchGetCommand) -> Result<BatchAnswer, Error> {
        let _admitted = self.shared.admit()?;
        self.check_keys(command.keys.iter().map(|entry| entry.identifiers.len()).sum())?;
        let mut reading = Reading::of_batch(self, &command);
        reading.run(self, command.timeout).await;
        Ok(reading.into_batch(self.shared.platform.now_nanos()))
    }

    /// Refuses a read of no keys or of too many.
    pub(crate) fn check_keys(&self, count: usize) -> Result<(), Error> {
        let max = self.shared.settings.read_keys_max;
        if count == 0 || count > max {
            return Err(Error::invalid(format!("a read takes 1 to {max} keys, got {count}")));
        }
        Ok(())
    }
}

/// What to read of one entry of a batch.
pub(crate) struct Entry {
    pub(crate) group: Arc<FeatureGroup>,
    /// `None` for all features.
    pub(crate) projection: Option<Projection>,
}

/// A record that is asked for: its identifier as it is stored, and its slot.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    record: Bytes,
    slot: Slot,
}

impl Asked {
    /// # Errors
    /// `Invalid` for a text that is no record identifier.
    pub(crate) fn of(text: &str) -> Result<Self, Error> {
        let record = RecordIdentifier::new(Bytes::copy_from_slice(text.as_bytes()))?.as_bytes().clone();
        Ok(Self { slot: slot_of(&record), record })
    }
}

/// What became of a key: the row, `FOUND` or not, or why there is no answer.
pub(crate) type Outcome = Result<RowResult, Error>;

/// One key of a batch.
struct Key {
    entry: usize,
    identifier: usize,
    record: Bytes,
    slot: Slot,
    /// Set when an answer came.
    found: Option<RowResult>,
    /// Why the last round brought none.
    error: Option<Error>,
}

/// Why keys go another round.
struct Missed {
    reason: &'static str,
    /// A slot that the shard asked does not own at this epoch.
    stale: Option<(Slot, Epoch)>,
}

/// A batch under way.
pub(crate) struct Reading {
    level: Level,
    entries: HashMap<usize, Entry>,
    keys: Vec<Key>,
    /// Indexes of the keys without an answer.
    pending: Vec<usize>,
    /// Keys in one request; fewer once an answer was too large.
    request_keys_max: usize,
}

struct Level {
    consistency: Consistency,
    who: Who,
}

impl Level {
    fn request(&self, shard: ShardId) -> ShardReadRequest {
        let (level, index, staleness) = match &self.consistency {
            Consistency::Linearizable => (ReadLevel::Linearizable, 0, 0),
            Consistency::Session(session) => (ReadLevel::Session, session.index_of(shard), 0),
            Consistency::BoundedStaleness(ms) => (ReadLevel::BoundedStaleness, 0, *ms),
            Consistency::Eventual => (ReadLevel::Eventual, 0, 0),
        };
        ShardReadRequest {
            shard: shard.0,
            level: level.into(),
            min_applied_index: index,
            max_staleness_ms: staleness,
            ..ShardReadRequest::default()
        }
    }
}

impl Reading {
    /// Of nothing yet.
    pub(crate) fn new(router: &Router, consistency: Consistency) -> Self {
        let who = if consistency == Consistency::Linearizable { Who::Leader } else { Who::Any };
        Self {
            level: Level { consistency, who },
            entries: HashMap::new(),
            keys: Vec::new(),
            pending: Vec::new(),
            request_keys_max: router.shared.settings.read_request_keys_max.max(1),
        }
    }

    /// Checks each entry; the keys of a faulty one carry its error and are not asked for.
    fn of_batch(router: &Router, command: &BatchGetCommand) -> Self {
        let mut reading = Self::new(router, command.consistency.clone());
        for (entry, keys) in command.keys.iter().enumerate() {
            let fault = match router.group(&keys.group).and_then(|group| checked_entry(group, &keys.features)) {
                Ok(checked) => {
                    reading.add_entry(entry, checked);
                    None
                }
                Err(error) => Some(error),
            };
            for (place, text) in keys.identifiers.iter().enumerate() {
                let asked = fault.clone().map_or_else(|| Asked::of(text), Err);
                reading.add(entry, place, asked);
            }
        }
        reading
    }

    pub(crate) fn add_entry(&mut self, number: usize, entry: Entry) {
        self.entries.insert(number, entry);
    }

    /// Adds a key of an entry that was added, or says why it cannot be asked for.
    pub(crate) fn add(&mut self, entry: usize, identifier: usize, asked: Result<Asked, Error>) {
        let (asked, error) = match asked {
            Ok(asked) => {
                self.pending.push(self.keys.len());
                (asked, None)
            }
            Err(error) => (Asked { record: Bytes::new(), slot: slot_of(&[]) }, Some(error)),
        };
        let Asked { record, slot } = asked;
        self.keys.push(Key { entry, identifier, record, slot, found: None, error });
    }

    /// Asks the shards, round after round, until every key has an answer or the time is up.
    pub(crate) async fn run(&mut self, router: &Router, timeout: Option<Duration>) {
        let shared = &router.shared;
        let deadline = Deadline::begin(&shared.platform, &shared.settings, timeout);
        let mut backoff = Backoff::new();
        while !self.pending.is_empty() {
            let Some(missed) = self.one_round(router, deadline).await else { continue };
            let Some(pause) = backoff.next(&shared.platform, &shared.settings, deadline) else { break };
            shared.metrics.retries.with_label_values(&["read", missed.reason]).inc();
            shared.pause(pause, missed.stale).await;
        }
    }

    /// Asks every shard touched once. `None` when nothing is left or the next round may begin at once.
    async fn one_round(&mut self, router: &Router, deadline: Deadline) -> Option<Missed> {
        let pending = std::mem::take(&mut self.pending);
        let mut missed = None;
        let requests = self.requests(router, pending, &mut missed);
        let fan_out = router.shared.settings.read_fan_out_max.max(1);
        let answers: Vec<_> = stream::iter(requests)
            .map(|asked| ask(router, self.level.who, asked, deadline))
            .buffer_unordered(fan_out)
            .collect()
            .await;
        for (asked, answer) in answers {
            match answer {
                Ok(rows) => self.take_rows(&asked, rows, &mut missed),
                Err(failed) => self.take_failure(&asked, failed, &mut missed),
            }
        }
        missed
    }

    /// One request for each shard touched, or several where a shard has many of the keys.
    fn requests(&mut self, router: &Router, pending: Vec<usize>, missed: &mut Option<Missed>) -> Vec<Request> {
        let view = router.shared.view();
        let mut by_shard: BTreeMap<ShardId, Vec<(usize, Epoch)>> = BTreeMap::new();
        for index in pending {
            if let Some((shard, epoch)) = view.shard_of(self.keys[index].slot) {
                by_shard.entry(shard).or_default().push((index, epoch));
            } else {
                self.keys[index].error = Some(Error::new(ErrorKind::Unavailable, "the catalog has no shards yet"));
                self.pending.push(index);
                *missed = Some(Missed { reason: "no_route", stale: None });
            }
        }
        let chunks = by_shard
            .iter()
            .flat_map(|(shard, keys)| keys.chunks(self.request_keys_max).map(|chunk| self.request(*shard, chunk)));
        chunks.collect()
    }

    fn request(&self, shard: ShardId, chunk: &[(usize, Epoch)]) -> Request {
        let mut request = self.level.request(shard);
        let mut places: HashMap<usize, u32> = HashMap::new();
        for (index, epoch) in chunk {
            let key = &self.keys[*index];
            let entry = &self.entries[&key.entry];
            let place = *places.entry(key.entry).or_insert_with(|| {
                request.projections.push(entry.projection.clone().unwrap_or_default());
                u32::try_from(request.projections.len() - 1).expect("no more projections than keys")
            });
            request.key_projection.push(place);
            request.keys.push(RecordKey {
                slot: u32::from(key.slot.0),
                epoch: epoch.0,
                feature_group: entry.group.id.0,
                record: key.record.clone(),
            });
        }
        if request.projections.iter().all(|projection| projection.ordinals.is_empty()) {
            request.projections.clear();
            request.key_projection.clear();
        }
        Request { shard, keys: chunk.to_vec(), request }
    }

    fn take_rows(&mut self, asked: &Request, rows: ShardRows, missed: &mut Option<Missed>) {
        for ((index, epoch), row) in asked.keys.iter().zip(rows.rows) {
            let key = &mut self.keys[*index];
            match row.status() {
                Status::Found | Status::NotFound => {
                    key.error = None;
                    key.found = Some(row);
                }
                Status::WrongShard => {
                    let message = "the shard does not own the record's slot";
                    key.error = Some(Error::new(ErrorKind::Unavailable, message));
                    self.pending.push(*index);
                    *missed = Some(Missed { reason: WRONG_SHARD, stale: Some((key.slot, *epoch)) });
                }
                Status::Corrupt => {
                    key.error = Some(Error::new(ErrorKind::Corrupt, "the stored record fails its checksum"));
                }
            }
        }
    }

    fn take_failure(&mut self, asked: &Request, failed: RoundFailed, missed: &mut Option<Missed>) {
        let too_large = failed.failure == Failure::TooLarge && asked.keys.len() > 1;
        let reason = failed.failure.reason();
        let is_final = failed.failure.is_final() && !too_large;
        let mut error = failed.failure.into_error();
        if error.kind == ErrorKind::Unknown {
            // A read changes nothing, so that an answer lost on its way leaves nothing unknown.
            error.kind = ErrorKind::Unavailable;
        }
        for (index, _) in &asked.keys {
            self.keys[*index].error = Some(error.clone());
            if !is_final {
                self.pending.push(*index);
            }
        }
        if too_large {
            self.request_keys_max = (asked.keys.len() / 4).max(1);
        } else if !is_final {
            *missed = Some(Missed { reason, stale: None });
        }
    }

    /// What became of each key, in the order in which they were added, with its entry and its place there.
    pub(crate) fn outcomes(self) -> impl Iterator<Item = (usize, usize, Outcome)> {
        self.keys.into_iter().map(|key| {
            let outcome = match key.error {
                Some(error) => Err(error),
                None => Ok(key
                    .found
                    .unwrap_or_else(|| RowResult { status: Status::NotFound.into(), ..RowResult::default() })),
            };
            (key.entry, key.identifier, outcome)
        })
    }

    /// Opens the rows that were found and drops those that have expired.
    fn into_batch(mut self, now_nanos: u64) -> BatchAnswer {
        let entries = std::mem::take(&mut self.entries);
        let mut answer = BatchAnswer::default();
        for (entry, identifier, outcome) in self.outcomes() {
            let opened = outcome.and_then(|row| match row.status() {
                Status::Found => OnlineRecord::open(&entries[&entry].group, &row, now_nanos),
                _ => Ok(None),
            });
            match opened {
                Ok(Some(record)) => answer.records.push(BatchRecord { entry, identifier, record }),
                Ok(None) => {}
                Err(error) => answer.failures.push(BatchFailure { entry, identifier, error }),
            }
        }
        answer
    }
}

/// A request to one shard and the keys it is for.
struct Request {
    shard: ShardId,
    keys: Vec<(usize, Epoch)>,
    request: ShardReadRequest,
}

async fn ask(
    router: &Router,
    who: Who,
    asked: Request,
    deadline: Deadline,
) -> (Request, Result<ShardRows, RoundFailed>) {
    router.shared.metrics.read_keys.observe(asked.keys.len() as f64);
    let expected = asked.keys.len();
    let answer = ask_round(&router.shared, asked.shard, who, deadline, |mut client| {
        let request = asked.request.clone();
        async move {
            match client.read(request).await?.into_inner().result {
                Some(Answer::Rows(rows)) if rows.rows.len() == expected => Ok(rows),
                Some(Answer::NotLeader(not_leader)) => Err(not_leader_failure(not_leader.leader_node)),
                Some(Answer::Rows(_)) | None => {
                    let message = "the node's answer does not fit the keys";
                    Err(Failure::Lost(Error::new(ErrorKind::Internal, message)))
                }
            }
        }
    })
    .await;
    (asked, answer.map(|answered| answered.answer))
}

/// The group must have an online store and all the features; their ordinals ascend in the projection.
pub(crate) fn checked_entry(group: Arc<FeatureGroup>, features: &[String]) -> Result<Entry, Error> {
    if group.online.is_none() {
        return Err(Error::invalid(format!("feature group {:?} has no online store to read from", group.name)));
    }
    if features.is_empty() {
        return Ok(Entry { group, projection: None });
    }
    let mut ordinals = Vec::with_capacity(features.len());
    for name in features {
        let feature = group
            .schema
            .by_name(name)
            .ok_or_else(|| Error::invalid(format!("feature group {:?} has no feature {name:?}", group.name)))?;
        ordinals.push(u32::from(feature.ordinal.0));
    }
    ordinals.sort_unstable();
    ordinals.dedup();
    Ok(Entry { group, projection: Some(Projection { ordinals }) })
}
