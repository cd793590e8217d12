//! Updates: some values of a record that exists, checked here, merged into it by the shard's leader
//! (`docs/adr/0011-update-record.md`).

use std::time::Duration;

use granary_proto::convert::write_to_wire;
use granary_types::record::{RawValue, RecordUpdate};
use granary_types::{Error, EventTime, Targets, Ttl, WriteId, WriteKind, WriteStamp};

use crate::deadline::Deadline;
use crate::write::{Draft, targets_of};
use crate::{Router, Written};

/// An update as it arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateCommand {
    /// The group's name.
    pub group: String,
    /// The text of the record identifier feature.
    pub identifier: String,
    /// Feature names and what to put there, in any order. The event time feature among them gives the record another
    /// event time, otherwise it keeps its own.
    pub values: Vec<(String, RawValue)>,
    /// `None` takes every store the group has. The online store must be among them: the record is there.
    pub targets: Option<Targets>,
    /// `None` leaves the record's.
    pub ttl: Option<Ttl>,
    /// `None` has one minted. The same on every retry of one call.
    pub write_id: Option<WriteId>,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

impl Router {
    /// Replaces some values of a record that exists. The history keeps the whole record as it is then.
    ///
    /// # Errors
    /// `NotFound` for an unknown group, and for a record that was never put, is deleted or has expired; `Conflict` for an
    /// event time older than the record's; `Invalid` for values that do not fit the group, an update that leaves the
    /// online store out, or a record that would be too long; `Overloaded` and `Unavailable` when nothing was changed;
    /// `Unknown` when the update may have been applied.
    pub async fn update_record(&self, command: UpdateCommand) -> Result<Written, Error> {
        let began = self.shared.platform.instant();
        let result = self.update_unmeasured(command).await;
        self.shared.metrics.ended("update_record", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn update_unmeasured(&self, command: UpdateCommand) -> Result<Written, Error> {
        let _admitted = self.shared.admit()?;
        let deadline = Deadline::begin(&self.shared.platform, &self.shared.settings, command.timeout);
        let group = self.group(&command.group)?;
        let targets = targets_of(&group, command.targets)?;
        if !targets.online {
            return Err(Error::invalid("an update goes to the online store, where the record is"));
        }
        let update = RecordUpdate::parse(&group, &command.identifier, command.values, command.ttl)?;
        let row = granary_row::encode_update(&update, group.schema.version);
        let keeps_event_time = update.event_time.is_none();
        let kind = WriteKind::Update { based_on: WriteStamp(0) };
        let event_time = update.event_time.unwrap_or(EventTime::MIN);
        let draft = Draft { kind, identifier: update.identifier, event_time, row };
        let write = self.complete(&group, draft, targets, command.write_id);
        let mut message = write_to_wire(&write);
        message.keeps_event_time = keeps_event_time;
        self.submit_message(write.slot, message, deadline).await
    }
}
