//! What the tables must hold, as the shards know it: the last trimmed event of each feature group in each stream.
//!
//! An event is trimmed only after it was read back from a commit of its group's table (CL-3). So a table whose offset
//! of a stream lies below the group's mark there has lost history: it was deleted, cut, or an older copy was put back.
//! A group without a mark has nothing to lose yet: all of its events are still in the change logs.

use std::collections::BTreeMap;

use granary_proto::internal::ReadSegmentsResponse;
use granary_types::{FeatureGroupId, StreamId};

/// The marks that this process was told of. They only ever grow, so an old one is a true one.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    groups: BTreeMap<FeatureGroupId, BTreeMap<StreamId, u64>>,
    /// For each stream: the trim up to which every group's mark is known.
    known: BTreeMap<StreamId, u64>,
}

impl Marks {
    /// Of this stream, only marks after this one are new.
    pub(crate) fn known(&self, stream: StreamId) -> u64 {
        self.known.get(&stream).copied().unwrap_or(0)
    }

    /// Takes what a replica told that was asked for the marks after what is known.
    pub(crate) fn note(&mut self, stream: StreamId, response: &ReadSegmentsResponse) {
        for told in &response.trimmed_groups {
            let mark = self.groups.entry(FeatureGroupId(told.feature_group)).or_default().entry(stream).or_insert(0);
            *mark = told.sequence.max(*mark);
        }
        let known = self.known.entry(stream).or_insert(0);
        *known = response.trimmed_sequence.max(*known);
    }

    /// What a group's table must reach, by stream.
    pub(crate) fn of(&self, group: FeatureGroupId) -> BTreeMap<StreamId, u64> {
        self.groups.get(&group).cloned().unwrap_or_default()
    }

    /// The first group after `last` that has marks, or the first of all.
    pub(crate) fn next_group(&self, last: Option<FeatureGroupId>) -> Option<FeatureGroupId> {
        let after = self.groups.keys().find(|group| last.is_none_or(|last| **group > last));
        after.or_else(|| self.groups.keys().next()).copied()
    }
}
