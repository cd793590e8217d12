//! From segments to rows by feature group.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_catalog::CatalogView;
use granary_offline_store::OfflineRow;
use granary_proto::convert::write_from_wire;
use granary_proto::internal::{ChangeEvent, Segment};
use granary_row::RowView;
use granary_types::{FeatureGroup, FeatureGroupId, StreamId, Write, WriteStamp};

use crate::Error;

/// The events of one stream that can be written now.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) stream: StreamId,
    /// Every event up to this one is in `tables`, needs no table, or was committed before.
    pub(crate) until: u64,
    pub(crate) tables: BTreeMap<FeatureGroupId, TableRows>,
    /// The first event that the catalog does not know what to do with yet; it and all after it wait.
    pub(crate) waiting: Option<Waiting>,
}

/// The rows of one feature group.
#[derive(Debug)]
pub(crate) struct TableRows {
    pub(crate) group: Arc<FeatureGroup>,
    pub(crate) rows: Vec<OfflineRow>,
}

/// An event of a feature group, or of a schema of it, that is newer than this process's catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) sequence: u64,
    pub(crate) group: FeatureGroupId,
}

/// Decodes the events after `done` in segments that follow each other. CPU work: off the async threads.
///
/// # Errors
/// [`Error::CorruptSegment`].
pub(crate) fn decode(stream: StreamId, segments: &[Segment], done: u64, catalog: &CatalogView) -> Result<Ready, Error> {
    let corrupt = |reason: String| Error::CorruptSegment { stream, reason };
    let mut ready = Ready { stream, until: done, tables: BTreeMap::new(), waiting: None };
    for segment in segments {
        let events = granary_shard::decode_segment(segment).map_err(|error| corrupt(error.to_string()))?;
        for event in events.into_iter().filter(|event| event.sequence > done) {
            let sequence = event.sequence;
            if !ready.take(event, catalog).map_err(|reason| corrupt(format!("event {sequence}: {reason}")))? {
                return Ok(ready);
            }
            ready.until = sequence;
        }
    }
    Ok(ready)
}

impl Ready {
    /// Puts an event to its table's rows; `false` when it has to wait.
    fn take(&mut self, event: ChangeEvent, catalog: &CatalogView) -> Result<bool, String> {
        let write = event.write.ok_or("it holds no write")?;
        let write = write_from_wire(write).map_err(|error| error.message)?;
        let Some(group) = catalog.group_by_id(write.group) else {
            self.waiting = Some(Waiting { sequence: event.sequence, group: write.group });
            return Ok(false);
        };
        if !write.targets.offline || group.offline.is_none() {
            return Ok(true);
        }
        let schema = RowView::open(&write.row).map_err(|error| error.to_string())?.schema_version();
        if schema > group.schema.version {
            self.waiting = Some(Waiting { sequence: event.sequence, group: write.group });
            return Ok(false);
        }
        let row = row(self.stream, event.sequence, event.stamp, write);
        let table = self.tables.entry(group.id);
        table.or_insert_with(|| TableRows { group: group.clone(), rows: Vec::new() }).rows.push(row);
        Ok(true)
    }
}

fn row(stream: StreamId, sequence: u64, stamp: u64, write: Write) -> OfflineRow {
    OfflineRow {
        stream,
        sequence,
        stamp: WriteStamp(stamp),
        invoked_at_us: write.invoked_at_us,
        event_time: write.event_time,
        operation: write.kind.into(),
        write_id: write.id,
        row: write.row,
    }
}
