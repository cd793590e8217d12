//! The control state: everything replicated but the rows. Held in memory, part of every snapshot.

use std::sync::Arc;

use granary_proto::internal as wire;
use granary_types::WriteStamp;
use granary_types::mutants::{Mutant, is_planted};

use crate::Error;
use crate::change_log::ChangeLog;
use crate::dedup::{self, RecentWrites};
use crate::marker::Marker;
use crate::sample::Sample;
use crate::slots::Slots;
use crate::state_hash::StateHash;
use crate::touches::Touches;

/// What apply works on.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The last entry applied.
    pub(crate) applied_index: u64,
    pub(crate) slots: Arc<Slots>,
    /// The last stamp given; the next one is later.
    pub(crate) last_stamp: WriteStamp,
    pub(crate) change_log: ChangeLog,
    pub(crate) recent: RecentWrites,
    pub(crate) touches: Touches,
    /// What the rows are: ahead of `applied_index` on replay.
    pub(crate) rows: Marker,
}

impl Control {
    /// What a checkpoint of the rows as they are now would be marked with.
    pub(crate) fn marker(&self) -> Marker {
        Marker { index: self.rows.index.max(self.applied_index), ..self.rows }
    }

    /// The entry to which the rows may be ahead, in places at least.
    pub(crate) fn rows_ahead_to(&self) -> u64 {
        self.rows.index.max(self.rows.comparable_from)
    }

    /// Whether the rows and their state hash are those of the applied index.
    pub(crate) fn is_comparable(&self) -> bool {
        self.applied_index >= self.rows_ahead_to()
    }

    /// The state as it is now in a few numbers, under an index to which nothing was applied since; `None` while it is
    /// not comparable.
    pub(crate) fn sample_at(&self, index: u64) -> Option<Sample> {
        self.is_comparable().then(|| Sample {
            index,
            state_hash: self.rows.hash.value(),
            change_log_digest: self.change_log.digest(),
            next_sequence: self.change_log.last_sequence() + 1,
            last_stamp: self.last_stamp.0,
            recent_writes: self.recent.len() as u64,
        })
    }

    /// The state as it is now, sharing what is large. It is one state only when it is comparable.
    pub(crate) fn image(&mut self) -> ControlImage {
        ControlImage {
            applied_index: self.applied_index,
            slots: Arc::clone(&self.slots),
            last_stamp: self.last_stamp,
            change_log: self.change_log.image(),
            recent: self.recent.image(),
            touches: self.touches.clone(),
            rows: self.rows,
        }
    }

    /// From a snapshot. `rows` says what its rows are: with their hash as written into the snapshot.
    ///
    /// # Errors
    /// `Snapshot` or `Segment`.
    pub(crate) fn from_wire(mut state: wire::ShardControlState, comparable_from: u64) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Snapshot(format!("control state has wrong {what}"));
        let hash: [u8; 16] = state.state_hash.as_ref().try_into().map_err(|_| wrong("state hash"))?;
        let hash = StateHash::from_parts(u128::from_be_bytes(hash), state.cell_count);
        Ok(Self {
            applied_index: state.applied_index,
            slots: Arc::new(Slots::from_wire(&state.slots).ok_or_else(|| wrong("slots"))?),
            last_stamp: WriteStamp(state.last_stamp),
            change_log: ChangeLog::from_wire(&mut state)?,
            recent: if is_planted(Mutant::LosesRecentWrites) {
                RecentWrites::default()
            } else {
                RecentWrites::from_wire(state.recent_writes).ok_or_else(|| wrong("recent writes"))?
            },
            touches: Touches::from_wire(state.touches).ok_or_else(|| wrong("touches"))?,
            rows: Marker { index: state.applied_index, comparable_from, hash },
        })
    }
}

/// The control state at one moment.
#[derive(Debug, Clone)]
pub(crate) struct ControlImage {
    pub(crate) applied_index: u64,
    slots: Arc<Slots>,
    last_stamp: WriteStamp,
    change_log: ChangeLog,
    recent: dedup::Image,
    touches: Touches,
    pub(crate) rows: Marker,
}

impl ControlImage {
    /// How many [`Self::parts`] there are.
    pub(crate) fn parts_count(&self) -> usize {
        self.change_log.segments().count() + 4
    }

    /// The state as messages that merge into one: none of them is much larger than a segment.
    pub(crate) fn parts(&self) -> impl Iterator<Item = wire::ShardControlState> {
        let mut scalars = wire::ShardControlState {
            applied_index: self.applied_index,
            slots: self.slots.to_wire(),
            last_stamp: self.last_stamp.0,
            state_hash: self.rows.hash.value().to_be_bytes().to_vec().into(),
            cell_count: self.rows.hash.cells(),
            ..Default::default()
        };
        self.change_log.scalars_to_wire(&mut scalars);
        let segments = self
            .change_log
            .segments()
            .map(|segment| wire::ShardControlState { segments: vec![segment.clone()], ..Default::default() });
        let open = std::iter::once_with(|| wire::ShardControlState {
            open_events: self.change_log.open_events(),
            ..Default::default()
        });
        let recent = std::iter::once_with(|| wire::ShardControlState {
            recent_writes: self.recent.to_wire(),
            ..Default::default()
        });
        let touches =
            std::iter::once_with(|| wire::ShardControlState { touches: self.touches.to_wire(), ..Default::default() });
        std::iter::once(scalars).chain(segments).chain(open).chain(recent).chain(touches)
    }
}
