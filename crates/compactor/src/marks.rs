//! What the tables must hold, as the shards know it: the last trimmed event of each feature group in each stream.
//!
//! An event is trimmed only after it was read back from a commit of its group's table (CL-3). So a table whose offset
//! of a stream lies below the group's mark there has lost history: it was deleted, cut, or an older copy was put back.
//! A group without a mark has nothing to lose yet: all of its events are still in the change logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_proto::internal::ReadSegmentsResponse;
use granary_types::{FeatureGroupId, StreamId};
use parking_lot::Mutex;

/// The marks that this process was told of. They only ever grow, so an old one is a true one. A clone is the same.
#[derive(Debug, Default, Clone)]
pub(crate) struct Marks(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    groups: BTreeMap<FeatureGroupId, BTreeMap<StreamId, u64>>,
    /// For each stream: the trim up to which every group's mark is known.
    known: BTreeMap<StreamId, u64>,
}

impl Marks {
    /// Of this stream, only marks after this one are new.
    pub(crate) fn known(&self, stream: StreamId) -> u64 {
        self.0.lock().known.get(&stream).copied().unwrap_or(0)
    }

    /// Takes what a replica told that was asked for the marks after what is known.
    pub(crate) fn note(&self, stream: StreamId, response: &ReadSegmentsResponse) {
        let Told { groups, known } = &mut *self.0.lock();
        for told in &response.trimmed_groups {
            let mark = groups.entry(FeatureGroupId(told.feature_group)).or_default().entry(stream).or_insert(0);
            *mark = told.sequence.max(*mark);
        }
        let known = known.entry(stream).or_insert(0);
        *known = response.trimmed_sequence.max(*known);
    }

    /// What a group's table must reach, by stream.
    pub(crate) fn of(&self, group: FeatureGroupId) -> BTreeMap<StreamId, u64> {
        self.0.lock().groups.get(&group).cloned().unwrap_or_default()
    }

    /// Whether it is certain that a group has no marks: each of the streams told what it knows, and none told of it.
    pub(crate) fn has_none(&self, group: FeatureGroupId, mut streams: impl Iterator<Item = StreamId>) -> bool {
        let told = self.0.lock();
        !told.groups.contains_key(&group) && streams.all(|stream| told.known.contains_key(&stream))
    }

    /// The first group after `last` that has marks, or the first of all.
    pub(crate) fn next_group(&self, last: Option<FeatureGroupId>) -> Option<FeatureGroupId> {
        let told = self.0.lock();
        let after = told.groups.keys().find(|group| last.is_none_or(|last| **group > last));
        after.or_else(|| told.groups.keys().next()).copied()
    }
}

#[cfg(test)]
mod tests {
    use granary_proto::internal::TrimmedGroup;
    use granary_types::{ClusterId, ShardId};

    use super::*;

    #[test]
    fn that_a_group_has_no_marks_is_certain_when_every_stream_told() {
        let stream = |shard| StreamId { cluster: ClusterId(1), shard: ShardId(shard), incarnation: 1 };
        let (streams, marks) = ([stream(1), stream(2)], Marks::default());
        let has_none = |group| marks.has_none(FeatureGroupId(group), streams.into_iter());
        assert!(!has_none(1));
        marks.note(stream(1), &ReadSegmentsResponse::default());
        assert!(!has_none(1), "the other stream may hold its mark");
        let trimmed_groups = vec![TrimmedGroup { feature_group: 2, sequence: 7 }];
        marks.note(stream(2), &ReadSegmentsResponse { trimmed_groups, ..Default::default() });
        assert!(has_none(1) && !has_none(2));
    }
}
