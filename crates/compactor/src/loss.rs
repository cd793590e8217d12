//! Giving up history that a table has lost, so that it is written to again: an operator's decision, never the
//! compactor's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::CatalogView;
use granary_offline_store::{OffsetMove, Outcome, Warehouse};
use granary_platform::Platform;
use granary_proto::internal::ReadSegmentsRequest;
use granary_types::{FeatureGroup, StreamId};

use crate::Error;
use crate::health::Rests;
use crate::marks::Marks;
use crate::nodes::Nodes;

/// Events that a table does not hold though it did once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Their stream.
    pub stream: StreamId,
    /// The table holds the group's events up to this one; 0 for none.
    pub after: u64,
    /// The last event that it held before: those between are of this group or of others.
    pub until: u64,
}

/// What a group's table lacks of what it held before.
///
/// # Errors
/// [`Error::ReadChangeLog`] when a shard does not tell what it knows, [`Error::Table`] when the table cannot be read: one
/// that is damaged has to be moved away first.
pub async fn lost_history(
    platform: &Platform,
    catalog: &CatalogView,
    warehouse: &Warehouse,
    group: &Arc<FeatureGroup>,
    call_timeout: Duration,
) -> Result<Vec<Lost>, Error> {
    let marks = marks(platform, catalog, call_timeout).await?.of(group.id);
    let streams: Vec<StreamId> = marks.keys().copied().collect();
    let failed = |source| Error::Table { group: group.id, source };
    let offsets = match warehouse.existing_table(group).await.map_err(failed)? {
        Some(mut table) => table.offsets(&streams).await.map_err(failed)?,
        None => HashMap::new(),
    };
    let lost = marks.into_iter().map(|(stream, until)| Lost {
        stream,
        after: offsets.get(&stream).copied().unwrap_or(0),
        until,
    });
    Ok(lost.filter(|lost| lost.after < lost.until).collect())
}

/// Moves the table's offsets past what [`lost_history`] found, in one commit that says so. Makes the table if it is gone.
///
/// # Errors
/// [`Error::Table`], [`Error::Moved`] when the table is not what it was when it was looked at.
pub async fn give_up(warehouse: &Warehouse, group: &Arc<FeatureGroup>, lost: &[Lost]) -> Result<(), Error> {
    let failed = |source| Error::Table { group: group.id, source };
    let mut table = warehouse.table(group).await.map_err(failed)?;
    let moves = lost.iter().map(|lost| OffsetMove { stream: lost.stream, expected: lost.after, new: lost.until });
    match table.give_up(&moves.collect::<Vec<_>>()).await.map_err(failed)? {
        Outcome::Committed(_) | Outcome::AlreadyDone => Ok(()),
        Outcome::Moved => Err(Error::Moved { group: group.id }),
    }
}

/// What every shard knows, from one replica of each. One that lags knows less: the compactor then goes on refusing,
/// and history is given up again.
async fn marks(platform: &Platform, catalog: &CatalogView, call_timeout: Duration) -> Result<Marks, Error> {
    let mut nodes = Nodes::new(platform.clone(), call_timeout, Rests { min: call_timeout, max: call_timeout });
    nodes.follow(catalog);
    let marks = Marks::default();
    for shard in catalog.shards() {
        let stream = shard.stream;
        // After the last number there can be: without events.
        let after_sequence = i64::MAX.cast_unsigned();
        let request = ReadSegmentsRequest { shard: shard.id.0, after_sequence, ..Default::default() };
        let answer = nodes.read_segments(catalog, shard, 0, request).await;
        let (_, response) = answer.map_err(|source| Error::ReadChangeLog { stream, source })?;
        marks.note(stream, &response);
    }
    Ok(marks)
}
