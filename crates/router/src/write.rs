//! Writes: checked against the group, encoded once, given one id, and taken to their shard until an answer comes.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use granary_placement::slot_of;
use granary_proto::convert::write_to_wire;
use granary_proto::internal;
use granary_proto::internal::write_outcome::Status;
use granary_types::record::{RECORD_LEN_MAX, RawValue};
use granary_types::{
    Epoch, Error, ErrorKind, EventTime, FeatureGroup, FeatureValue, Record, RecordIdentifier, ShardId, Slot, Targets,
    Ttl, Write, WriteId, WriteKind,
};

use crate::deadline::{Backoff, Deadline};
use crate::lane::Applied;
use crate::replicas::RoundFailed;
use crate::{Queue, Router, Session};

/// A put as it arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct PutCommand {
    /// The group's name.
    pub group: String,
    /// Feature names and what to put there, in any order.
    pub values: Vec<(String, RawValue)>,
    /// `None` takes every store the group has.
    pub targets: Option<Targets>,
    /// `None` takes the group's default.
    pub ttl: Option<Ttl>,
    /// `None` has one minted. The same on every retry of one call.
    pub write_id: Option<WriteId>,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

/// A delete as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteCommand {
    /// The group's name.
    pub group: String,
    /// The text of the record identifier feature.
    pub identifier: String,
    /// The text of the event time feature.
    pub event_time: String,
    /// Forget the record instead of hiding it.
    pub hard: bool,
    /// `None` takes every store the group has.
    pub targets: Option<Targets>,
    /// `None` has one minted.
    pub write_id: Option<WriteId>,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The shard that applied it.
    pub shard: ShardId,
    /// The index of its Raft entry, or of the entry that recognised it as a retry.
    pub raft_index: u64,
    /// Whether it became the online value. False for an older event time, and for a retry of a write that was
    /// applied before, of which the router does not know.
    pub became_online: bool,
}

impl Written {
    /// The session in which a read sees this write.
    pub fn session(&self) -> Session {
        Session::of(self.shard, self.raft_index)
    }
}

impl Router {
    /// Replaces a whole record.
    ///
    /// # Errors
    /// `NotFound` for an unknown group; `Invalid` for a record that does not fit it; `Overloaded` and `Unavailable`
    /// when nothing was changed; `Unknown` when the write may have been applied.
    pub async fn put(&self, command: PutCommand) -> Result<Written, Error> {
        let began = self.shared.platform.instant();
        let result = self.put_unmeasured(command).await;
        self.shared.metrics.ended("put_record", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn put_unmeasured(&self, command: PutCommand) -> Result<Written, Error> {
        let _admitted = self.shared.admit()?;
        let deadline = Deadline::begin(&self.shared.platform, &self.shared.settings, command.timeout);
        let group = self.group(&command.group)?;
        let targets = targets_of(&group, command.targets)?;
        if command.ttl.is_some() && group.online.is_none() {
            return Err(Error::invalid(format!(
                "feature group {:?} has no online store and takes no time to live",
                group.name
            )));
        }
        // The row carries the time to live that holds for it, so that a later default does not change it.
        let ttl = command.ttl.or(group.online.as_ref().and_then(|online| online.ttl));
        let record = Record::parse(&group, command.values, ttl)?;
        let row = granary_row::encode(&record, group.schema.version);
        let draft = Draft { kind: WriteKind::Put, identifier: record.identifier, event_time: record.event_time, row };
        self.submit(self.complete(&group, draft, targets, command.write_id), deadline).await
    }

    /// Hides a record, or forgets it.
    ///
    /// # Errors
    /// As [`Router::put`]; `Invalid` also for a hard delete that is older than the record.
    pub async fn delete_record(&self, command: DeleteCommand) -> Result<Written, Error> {
        let began = self.shared.platform.instant();
        let result = self.delete_unmeasured(command).await;
        self.shared.metrics.ended("delete_record", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn delete_unmeasured(&self, command: DeleteCommand) -> Result<Written, Error> {
        let _admitted = self.shared.admit()?;
        let deadline = Deadline::begin(&self.shared.platform, &self.shared.settings, command.timeout);
        let group = self.group(&command.group)?;
        let targets = targets_of(&group, command.targets)?;
        FeatureValue::parse(group.record_identifier_feature(), &command.identifier)?;
        let event_time = EventTime::parse(group.event_time_feature().kind, &command.event_time)?;
        let identifier = RecordIdentifier::new(command.identifier)?;
        let row = granary_row::encode_delete(&group, &identifier, &command.event_time)?;
        let kind = if command.hard { WriteKind::HardDelete } else { WriteKind::SoftDelete };
        let draft = Draft { kind, identifier, event_time, row };
        self.submit(self.complete(&group, draft, targets, command.write_id), deadline).await
    }

    /// Writes entries on their own: some may fail while others are acknowledged. Results come in order; entries for
    /// one record have no order among each other.
    ///
    /// # Errors
    /// `Invalid` when there are none or too many entries.
    pub async fn batch_write(&self, commands: Vec<PutCommand>) -> Result<Vec<Result<Written, Error>>, Error> {
        let most = self.shared.settings.batch_entries_max;
        if commands.is_empty() || commands.len() > most {
            return Err(Error::invalid(format!("a batch has 1 to {most} entries, got {}", commands.len())));
        }
        Ok(join_all(commands.into_iter().map(|command| self.put(command))).await)
    }

    pub(crate) fn complete(&self, group: &FeatureGroup, draft: Draft, targets: Targets, id: Option<WriteId>) -> Write {
        Write {
            id: id.unwrap_or_else(|| WriteId(self.shared.platform.fresh_id())),
            slot: slot_of(draft.identifier.as_bytes()),
            // Set anew for each round, from the catalog as it is then.
            epoch: Epoch(0),
            group: group.id,
            record: draft.identifier,
            event_time: draft.event_time,
            kind: draft.kind,
            targets,
            invoked_at_us: self.shared.platform.now_micros(),
            row: draft.row,
        }
    }

    /// Rounds until the write is applied, refused for good, or out of time. The write id stays the same.
    pub(crate) async fn submit(&self, write: Write, deadline: Deadline) -> Result<Written, Error> {
        self.submit_message(write.slot, write_to_wire(&write), deadline).await
    }

    /// [`Self::submit`] of a write that is a message already.
    pub(crate) async fn submit_message(
        &self,
        slot: Slot,
        mut message: internal::Write,
        deadline: Deadline,
    ) -> Result<Written, Error> {
        let mut backoff = Backoff::new();
        let mut may_have_run = false;
        loop {
            let missed = match self.one_round(slot, &mut message, deadline).await {
                Ok(written) => return Ok(written),
                Err(missed) => missed,
            };
            may_have_run |= missed.may_have_run;
            if missed.is_final {
                return Err(settle(missed.error, may_have_run));
            }
            let (platform, settings) = (&self.shared.platform, &self.shared.settings);
            let Some(pause) = backoff.next(platform, settings, deadline) else {
                return Err(settle(missed.error, may_have_run));
            };
            self.shared.metrics.retries.with_label_values(&["write", missed.reason]).inc();
            let stale = (missed.reason == WRONG_SHARD).then_some((slot, Epoch(message.epoch)));
            self.shared.pause(pause, stale).await;
        }
    }

    async fn one_round(
        &self,
        slot: Slot,
        message: &mut internal::Write,
        deadline: Deadline,
    ) -> Result<Written, Missed> {
        let Some((shard, epoch)) = self.shared.view().shard_of(slot) else {
            let error = Error::new(ErrorKind::Unavailable, "the catalog has no shards yet");
            return Err(Missed::for_now("no_route", error));
        };
        message.epoch = epoch.0;
        let mut queue = Queue::Plain;
        if message.kind() == internal::WriteKind::Update {
            message.now_nanos = self.shared.platform.now_nanos();
            queue = Queue::Updates;
        }
        let queued = self.lane(shard, queue).enqueue(message.clone(), deadline);
        let answer = queued.map_err(|error| Missed::for_good("queue_full", error))?;
        match tokio::time::timeout_at(deadline.0, answer).await {
            Ok(Ok(Ok(applied))) => {
                verdict(shard, applied).map_err(|missed| Missed { may_have_run: applied.may_have_run_before, ..missed })
            }
            Ok(Ok(Err(failed))) => Err(failed.into()),
            Ok(Err(_)) | Err(_) => {
                let error = Error::new(ErrorKind::Unknown, "the deadline passed before the shard answered");
                Err(Missed { may_have_run: true, ..Missed::for_good("deadline", error) })
            }
        }
    }
}

/// What puts, deletes and updates differ in.
pub(crate) struct Draft {
    pub(crate) kind: WriteKind,
    pub(crate) identifier: RecordIdentifier,
    pub(crate) event_time: EventTime,
    pub(crate) row: Bytes,
}

/// Why a round went wrong in which the shard did not own the slot at the epoch that was sent.
pub(crate) const WRONG_SHARD: &str = "wrong_shard";

/// A round without an acknowledgement.
struct Missed {
    error: Error,
    reason: &'static str,
    may_have_run: bool,
    is_final: bool,
}

impl Missed {
    fn for_now(reason: &'static str, error: Error) -> Self {
        Self { error, reason, may_have_run: false, is_final: false }
    }

    fn for_good(reason: &'static str, error: Error) -> Self {
        Self { is_final: true, ..Self::for_now(reason, error) }
    }
}

impl From<RoundFailed> for Missed {
    fn from(failed: RoundFailed) -> Self {
        Self {
            reason: failed.failure.reason(),
            is_final: failed.failure.is_final(),
            may_have_run: failed.may_have_run,
            error: failed.failure.into_error(),
        }
    }
}

/// What apply's outcome means to the writer.
fn verdict(shard: ShardId, applied: Applied) -> Result<Written, Missed> {
    let became_online = match applied.outcome.status() {
        Status::Applied => true,
        Status::Superseded | Status::Duplicate => false,
        Status::WrongShard => {
            let error = Error::new(ErrorKind::Unavailable, "the shard does not own the record's slot");
            return Err(Missed::for_now(WRONG_SHARD, error));
        }
        Status::ChangeLogFull => {
            let message = "the change log is full: the offline store does not keep up";
            return Err(Missed::for_good("change_log_full", Error::new(ErrorKind::Overloaded, message)));
        }
        Status::StaleHardDelete => {
            let message = "a hard delete needs an event time that is not older than the record's";
            return Err(Missed::for_good("stale_hard_delete", Error::invalid(message)));
        }
        Status::NoRecord => {
            let message = "the record does not exist, is deleted or has expired";
            return Err(Missed::for_good("no_record", Error::new(ErrorKind::NotFound, message)));
        }
        Status::OlderEventTime => {
            let message = "the event time is older than the record's";
            return Err(Missed::for_good("older_event_time", Error::new(ErrorKind::Conflict, message)));
        }
        Status::Raced => {
            let error = Error::new(ErrorKind::Unavailable, "too many writes to the record at the same time");
            return Err(Missed::for_now("raced", error));
        }
        Status::RecordTooLong => {
            let message = format!("with the update the record would have more than {RECORD_LEN_MAX} bytes");
            return Err(Missed::for_good("record_too_long", Error::invalid(message)));
        }
        Status::RowUnreadable => {
            let message = "the record's stored row cannot be updated: it or the update cannot be read";
            return Err(Missed::for_good("row_unreadable", Error::new(ErrorKind::Internal, message)));
        }
    };
    Ok(Written { shard, raft_index: applied.index, became_online })
}

/// The error of a write that ends. Once an attempt was lost, a later refusal does not say that nothing was changed.
fn settle(error: Error, may_have_run: bool) -> Error {
    let says_nothing_changed = !matches!(error.kind, ErrorKind::Unknown | ErrorKind::Corrupt | ErrorKind::Internal);
    if may_have_run && says_nothing_changed {
        return Error::new(ErrorKind::Unknown, format!("the write may have been applied: {}", error.message));
    }
    error
}

/// The stores a write goes to: all that the group has, or those asked for.
pub(crate) fn targets_of(group: &FeatureGroup, asked: Option<Targets>) -> Result<Targets, Error> {
    let has = Targets { online: group.online.is_some(), offline: group.offline.is_some() };
    let Some(asked) = asked else { return Ok(has) };
    for (wanted, enabled, store) in
        [(asked.online, has.online, "OnlineStore"), (asked.offline, has.offline, "OfflineStore")]
    {
        if wanted && !enabled {
            return Err(Error::invalid(format!(
                "target store {store} is not enabled for feature group {:?}",
                group.name
            )));
        }
    }
    if !asked.online && !asked.offline {
        return Err(Error::invalid("a write needs a target store"));
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(status: Status) -> Applied {
        let outcome = internal::WriteOutcome { status: status.into(), epoch: 3, stamp: 9 };
        Applied { index: 5, outcome, may_have_run_before: false }
    }

    #[test]
    fn outcomes_of_apply_are_told_apart() {
        let shard = ShardId(1);
        let written = |status| verdict(shard, applied(status)).map(|written| written.became_online);
        assert_eq!(written(Status::Applied).ok(), Some(true));
        assert_eq!(written(Status::Superseded).ok(), Some(false));
        assert_eq!(written(Status::Duplicate).ok(), Some(false));
        let full = verdict(shard, applied(Status::ChangeLogFull)).expect_err("refused");
        assert_eq!((full.error.kind, full.is_final), (ErrorKind::Overloaded, true));
        let stale = verdict(shard, applied(Status::StaleHardDelete)).expect_err("refused");
        assert_eq!((stale.error.kind, stale.is_final), (ErrorKind::Invalid, true));
        let refused = [
            (Status::NoRecord, ErrorKind::NotFound),
            (Status::OlderEventTime, ErrorKind::Conflict),
            (Status::RecordTooLong, ErrorKind::Invalid),
            (Status::RowUnreadable, ErrorKind::Internal),
        ];
        for (status, kind) in refused {
            let missed = verdict(shard, applied(status)).expect_err("refused");
            assert_eq!((missed.error.kind, missed.is_final), (kind, true));
        }
        let raced = verdict(shard, applied(Status::Raced)).expect_err("refused");
        assert_eq!((raced.error.kind, raced.is_final), (ErrorKind::Unavailable, false));
        let moved = verdict(shard, applied(Status::WrongShard)).expect_err("refused");
        assert_eq!((moved.is_final, moved.reason), (false, WRONG_SHARD));
    }

    #[test]
    fn a_refusal_after_a_loss_is_unknown() {
        let refusal = Error::new(ErrorKind::Overloaded, "full");
        assert_eq!(settle(refusal.clone(), false), refusal);
        assert_eq!(settle(refusal, true).kind, ErrorKind::Unknown);
    }
}
