//! The change log: an outbox of accepted writes inside the replicated state, byte-identical on every replica.
//!
//! Sequence numbers are dense and never restart under one stream id (CL-2). Events go into the open segment; a `Seal`
//! entry closes it into an immutable [`Segment`], which compactors read; a `Trim` entry drops segments that are in a
//! committed table version. The offset in it comes from such a commit (CL-3): the caller sees to that, here it is
//! only checked against what is sealed.
//!
//! What a trim drops stays known by feature group: the last trimmed event of each. By it a compactor tells a table that
//! lost history from one that never had any.
//!
//! A frame in a segment: length (u32 LE), CRC-32 (u32 LE), `ChangeEvent` in protobuf.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use granary_proto::internal::{ChangeEvent, ReadSegmentsResponse, Segment, TrimmedGroup, Write};
use granary_proto::{convert, internal as wire};
use granary_types::invariants::{Invariant, check};
use granary_types::mutants::{Mutant, is_planted};
use granary_types::{StreamId, WriteStamp};
use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

use crate::Error;

const FRAME_HEADER_LEN: usize = 8;

/// How full the change log is, and what is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below half of the budget.
    Normal,
    /// From 50 %: somebody should look at the compactor.
    Alert,
    /// From 75 %: writers are slowed down.
    Slow,
    /// From 95 %: offline-enabled writes are refused.
    Refuse,
}

impl Pressure {
    /// The pressure of `bytes` in a budget of `budget` bytes; a budget of 0 is no bound.
    pub fn of(bytes: u64, budget: u64) -> Self {
        let percent = u128::from(bytes) * 100;
        let reaches = |threshold: u128| percent >= u128::from(budget) * threshold;
        match () {
            () if budget == 0 => Self::Normal,
            () if reaches(95) => Self::Refuse,
            () if reaches(75) => Self::Slow,
            () if reaches(50) => Self::Alert,
            () => Self::Normal,
        }
    }
}

/// The change log of one replica at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeLogStatus {
    /// Its identity, once the shard owns slots.
    pub stream: Option<StreamId>,
    /// Events up to this one are dropped; 0 for none.
    pub trimmed_sequence: u64,
    /// Events up to this one are in sealed segments.
    pub sealed_sequence: u64,
    /// The last event of all; 0 for none.
    pub last_sequence: u64,
    /// How many sealed segments there are.
    pub segments: usize,
    /// Bytes of all framed events, sealed and open.
    pub bytes: u64,
    /// The budget for them by this replica's setting; 0 for no bound.
    pub budget_bytes: u64,
    /// The one in proportion to the other.
    pub pressure: Pressure,
    /// Over all segments ever sealed, equal on replicas at the same applied index (RG-2); `None` in what descends from
    /// a snapshot without it.
    pub digest: Option<u128>,
}

/// The open segment at a glance: by it the leader decides when to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSegment {
    /// How many events it holds.
    pub events: u64,
    /// Their framed bytes.
    pub bytes: u64,
    /// The stamp of the first of them.
    pub oldest_stamp: Option<WriteStamp>,
}

/// The last event of each feature group whose events go offline.
type LastEvents = BTreeMap<u32, u64>;

fn note_last(last: &mut LastEvents, write: Option<&Write>, sequence: u64) {
    if let Some(write) = write.filter(|write| write.offline) {
        last.insert(write.feature_group, sequence);
    }
}

fn last_events(events: &[ChangeEvent]) -> LastEvents {
    let mut last = LastEvents::new();
    events.iter().for_each(|event| note_last(&mut last, event.write.as_ref(), event.sequence));
    last
}

#[derive(Debug, Clone, Default)]
struct Open {
    /// Parts that images share.
    chunks: Vec<Bytes>,
    tail: Vec<u8>,
    bytes: u64,
    events: u64,
    oldest_stamp: Option<WriteStamp>,
    last_events: LastEvents,
}

impl Open {
    /// All frames in one piece.
    fn concat(mut self) -> Bytes {
        if self.chunks.is_empty() {
            return self.tail.into();
        }
        self.chunks.push(self.tail.into());
        self.chunks.concat().into()
    }
}

/// The change log of one stream.
#[derive(Debug, Clone)]
pub(crate) struct ChangeLog {
    stream: Option<StreamId>,
    segments: VecDeque<Segment>,
    /// Of each of `segments`, shared with images.
    last_events: VecDeque<Arc<LastEvents>>,
    sealed_bytes: u64,
    open: Open,
    /// The number that the next event gets.
    next_sequence: u64,
    trimmed_sequence: u64,
    trimmed_groups: LastEvents,
    /// Over all segments ever sealed: the same on every replica. `None` in what descends from a snapshot without it.
    digest: Option<u128>,
}

impl Default for ChangeLog {
    fn default() -> Self {
        Self {
            stream: None,
            segments: VecDeque::new(),
            last_events: VecDeque::new(),
            sealed_bytes: 0,
            open: Open::default(),
            next_sequence: 1,
            trimmed_sequence: 0,
            trimmed_groups: LastEvents::new(),
            digest: Some(0),
        }
    }
}

impl ChangeLog {
    /// Names the stream, the first time only.
    pub(crate) fn name(&mut self, stream: StreamId) {
        self.stream.get_or_insert(stream);
    }

    /// Appends the event of an accepted write.
    pub(crate) fn append(&mut self, stamp: WriteStamp, write: Write) {
        let sequence = self.next_sequence;
        check(Invariant::DenseSequence, sequence == self.sealed_sequence() + self.open.events + 1, || {
            format!("event {sequence} after {} sealed and {} open ones", self.sealed_sequence(), self.open.events)
        });
        note_last(&mut self.open.last_events, Some(&write), sequence);
        let event = ChangeEvent { sequence, stamp: stamp.0, write: Some(write) };
        let (at, len) = (self.open.tail.len(), event.encoded_len());
        self.open.tail.reserve(FRAME_HEADER_LEN + len);
        self.open.tail.put_u32_le(u32::try_from(len).expect("a Raft entry is far below 4 GiB"));
        self.open.tail.put_u32_le(0);
        event.encode(&mut self.open.tail).expect("a vector grows");
        let checksum = crc32fast::hash(&self.open.tail[at + FRAME_HEADER_LEN..]);
        self.open.tail[at + 4..at + FRAME_HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
        self.open.bytes += (self.open.tail.len() - at) as u64;
        self.open.events += 1;
        self.open.oldest_stamp.get_or_insert(stamp);
        self.next_sequence += 1;
    }

    /// Whether there is something to seal.
    pub(crate) fn has_open_events(&self) -> bool {
        self.open.events > 0
    }

    /// Closes the open segment, which holds events, at `sealed_at`: no later event has an earlier stamp.
    pub(crate) fn seal(&mut self, sealed_at: WriteStamp) {
        let first_sequence = self.sealed_sequence() + 1;
        let mut open = std::mem::take(&mut self.open);
        self.last_events.push_back(Arc::new(std::mem::take(&mut open.last_events)));
        let events = open.concat();
        self.sealed_bytes += events.len() as u64;
        let segment = Segment {
            first_sequence,
            last_sequence: self.next_sequence - 1,
            sealed_at: sealed_at.0,
            checksum: crc32fast::hash(&events),
            events,
        };
        self.digest = self.digest.map(|before| digest_after(before, &segment));
        self.segments.push_back(segment);
    }

    /// The running digest over all segments ever sealed, trimmed ones too.
    pub(crate) fn digest(&self) -> Option<u128> {
        self.digest
    }

    /// Drops the segments that end at or before `sequence`. An offset that is not sealed yet cannot come from a commit
    /// of this stream: then nothing is dropped.
    pub(crate) fn trim(&mut self, sequence: u64) {
        if sequence > self.sealed_sequence() {
            let sealed = self.sealed_sequence();
            tracing::error!(sequence, sealed, "refused to trim the change log beyond what is sealed");
            return;
        }
        let reached = |segment: &Segment| {
            let too_far = is_planted(Mutant::TrimsTooFar) && segment.first_sequence <= sequence + 1;
            segment.last_sequence <= sequence || too_far
        };
        while self.segments.front().is_some_and(reached) {
            let segment = self.segments.pop_front().expect("looked at above");
            self.sealed_bytes -= segment.events.len() as u64;
            self.trimmed_sequence = segment.last_sequence;
            let last_events = self.last_events.pop_front().expect("one for each segment");
            self.trimmed_groups.extend(last_events.iter());
        }
    }

    /// Feature groups whose last trimmed event comes after `sequence`.
    pub(crate) fn groups_trimmed_after(&self, sequence: u64) -> Vec<TrimmedGroup> {
        let after = self.trimmed_groups.iter().filter(|(_, last)| **last > sequence);
        after.map(|(group, last)| TrimmedGroup { feature_group: *group, sequence: *last }).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.sealed_bytes + self.open.bytes
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    pub(crate) fn sealed_sequence(&self) -> u64 {
        self.segments.back().map_or(self.trimmed_sequence, |segment| segment.last_sequence)
    }

    pub(crate) fn status(&self, budget_bytes: u64) -> ChangeLogStatus {
        ChangeLogStatus {
            stream: self.stream,
            trimmed_sequence: self.trimmed_sequence,
            sealed_sequence: self.sealed_sequence(),
            last_sequence: self.last_sequence(),
            segments: self.segments.len(),
            bytes: self.bytes(),
            budget_bytes,
            pressure: Pressure::of(self.bytes(), budget_bytes),
            digest: self.digest,
        }
    }

    pub(crate) fn open_segment(&self) -> OpenSegment {
        OpenSegment { events: self.open.events, bytes: self.open.bytes, oldest_stamp: self.open.oldest_stamp }
    }

    /// Sealed segments with events after `sequence`, oldest first: as many as fit `max_bytes`, but at least one.
    pub(crate) fn segments_after(&self, sequence: u64, max_bytes: usize) -> ReadSegmentsResponse {
        let mut bytes = 0;
        let from = self.segments.partition_point(|segment| segment.last_sequence <= sequence);
        let segments = self.segments.range(from..).take_while(|segment| {
            let first = bytes == 0;
            bytes += segment.events.len();
            first || bytes <= max_bytes
        });
        ReadSegmentsResponse {
            segments: segments.cloned().collect(),
            stream: self.stream.map(convert::stream_to_wire),
            trimmed_sequence: self.trimmed_sequence,
            sealed_sequence: self.sealed_sequence(),
            last_sequence: self.last_sequence(),
            trimmed_groups: Vec::new(),
        }
    }

    /// The change log as it is, sharing its bytes.
    pub(crate) fn image(&mut self) -> Self {
        if !self.open.tail.is_empty() {
            let tail = std::mem::take(&mut self.open.tail);
            self.open.chunks.push(tail.into());
        }
        self.clone()
    }

    /// Adds its scalars to a snapshot's control state.
    pub(crate) fn scalars_to_wire(&self, state: &mut wire::ShardControlState) {
        state.stream = self.stream.map(convert::stream_to_wire);
        state.next_sequence = self.next_sequence;
        state.trimmed_sequence = self.trimmed_sequence;
        state.open_first_sequence = self.sealed_sequence() + 1;
        state.trimmed_groups = self.groups_trimmed_after(0);
        state.change_log_digest = self.digest.map_or_else(Bytes::new, |digest| digest.to_be_bytes().to_vec().into());
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// The framed events of the open segment.
    pub(crate) fn open_events(&self) -> Bytes {
        self.open.clone().concat()
    }

    /// From a snapshot's control state; every checksum and the density of the numbering are verified.
    ///
    /// # Errors
    /// `Segment` or `Snapshot`.
    pub(crate) fn from_wire(state: &mut wire::ShardControlState) -> Result<Self, Error> {
        let stream = match &state.stream {
            Some(stream) => {
                let stream = convert::stream_from_wire(Some(stream));
                Some(stream.map_err(|error| Error::Snapshot(error.to_string()))?)
            }
            None => None,
        };
        let mut last = state.trimmed_sequence;
        let mut sealed_events = VecDeque::with_capacity(state.segments.len());
        for segment in &state.segments {
            if segment.first_sequence != last + 1 {
                return Err(Error::Segment(format!("segment {} follows {last}", segment.first_sequence)));
            }
            sealed_events.push_back(Arc::new(last_events(&decode_segment(segment)?)));
            last = segment.last_sequence;
        }
        let open_events = decode_frames(&state.open_events, state.open_first_sequence)?;
        if state.open_first_sequence != last + 1 || state.next_sequence != last + 1 + open_events.len() as u64 {
            return Err(Error::Segment(format!("open segment does not follow {last}")));
        }
        let open = Open {
            bytes: state.open_events.len() as u64,
            events: open_events.len() as u64,
            oldest_stamp: open_events.first().map(|event| WriteStamp(event.stamp)),
            last_events: last_events(&open_events),
            chunks: Vec::from_iter((!open_events.is_empty()).then(|| std::mem::take(&mut state.open_events))),
            tail: Vec::new(),
        };
        let segments = VecDeque::from(std::mem::take(&mut state.segments));
        let sealed_bytes = segments.iter().map(|segment| segment.events.len() as u64).sum();
        let (next_sequence, trimmed_sequence) = (state.next_sequence, state.trimmed_sequence);
        let trimmed_groups = state.trimmed_groups.iter().map(|group| (group.feature_group, group.sequence)).collect();
        let digest = match state.change_log_digest.as_ref() {
            [] => None,
            digest => {
                let digest = digest.try_into().map_err(|_| Error::Snapshot("change-log digest is wrong".to_owned()))?;
                Some(u128::from_be_bytes(digest))
            }
        };
        Ok(Self {
            stream,
            segments,
            last_events: sealed_events,
            sealed_bytes,
            open,
            next_sequence,
            trimmed_sequence,
            trimmed_groups,
            digest,
        })
    }
}

/// The digest over all segments up to this one: every byte of it counts, and so does its place.
fn digest_after(before: u128, segment: &Segment) -> u128 {
    let Segment { first_sequence, last_sequence, sealed_at, events, checksum: _ } = segment;
    let mut hasher = Xxh3Default::new();
    hasher.update(&before.to_le_bytes());
    for number in [first_sequence, last_sequence, sealed_at] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(events);
    hasher.digest128()
}

/// Verifies and decodes a sealed segment. Events come in order and are dense; their bytes are shared with it.
///
/// # Errors
/// `Segment`: a wrong checksum, a frame cut short, or a gap in the numbering.
pub fn decode_segment(segment: &Segment) -> Result<Vec<ChangeEvent>, Error> {
    let first = segment.first_sequence;
    if crc32fast::hash(&segment.events) != segment.checksum {
        return Err(Error::Segment(format!("segment {first} fails its checksum")));
    }
    let events = decode_frames(&segment.events, first)?;
    if events.last().map(|event| event.sequence) != Some(segment.last_sequence) {
        return Err(Error::Segment(format!("segment {first} does not end at {}", segment.last_sequence)));
    }
    Ok(events)
}

fn decode_frames(frames: &Bytes, first_sequence: u64) -> Result<Vec<ChangeEvent>, Error> {
    let mut rest = frames.clone();
    let mut events = Vec::new();
    while rest.has_remaining() {
        let sequence = first_sequence + events.len() as u64;
        let wrong = |what: &str| Error::Segment(format!("event {sequence} {what}"));
        let len = rest.try_get_u32_le().map_err(|_| wrong("is cut short"))? as usize;
        let checksum = rest.try_get_u32_le().map_err(|_| wrong("is cut short"))?;
        if len > rest.len() {
            return Err(wrong("is cut short"));
        }
        let frame = rest.split_to(len);
        if crc32fast::hash(&frame) != checksum {
            return Err(wrong("fails its checksum"));
        }
        let event = ChangeEvent::decode(frame).map_err(|_| wrong("is not a change event"))?;
        if event.sequence != sequence {
            return Err(wrong("is missing"));
        }
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(events: u64) -> ChangeLog {
        let mut log = ChangeLog::default();
        for stamp in 1..=events {
            log.append(WriteStamp(stamp), Write { row: Bytes::from(vec![7; 100]), ..Write::default() });
        }
        log
    }

    #[test]
    fn seals_trims_and_reads() {
        let mut log = log_of(3);
        log.seal(WriteStamp(9));
        log.append(WriteStamp(10), Write::default());
        log.append(WriteStamp(11), Write::default());
        log.seal(WriteStamp(11));
        log.append(WriteStamp(12), Write::default());
        let read = log.segments_after(0, 1);
        assert_eq!(read.segments.len(), 1, "at least one");
        assert_eq!(log.segments_after(3, usize::MAX).segments.len(), 1);
        assert_eq!(log.segments_after(2, usize::MAX).segments.len(), 2);
        assert_eq!(log.segments_after(5, usize::MAX).segments.len(), 0);
        let events = decode_segment(&read.segments[0]).expect("whole");
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3]);

        log.trim(4);
        assert_eq!((log.trimmed_sequence, log.segments.len()), (3, 1));
        log.trim(1);
        log.trim(6);
        assert_eq!((log.trimmed_sequence, log.segments.len()), (3, 1), "neither back nor beyond what is sealed");
        log.trim(5);
        assert_eq!((log.trimmed_sequence, log.sealed_sequence(), log.last_sequence()), (5, 5, 6));
    }

    #[test]
    fn every_flipped_bit_of_a_segment_is_found() {
        let mut log = log_of(2);
        log.seal(WriteStamp(9));
        let segment = log.segments().next().expect("sealed").clone();
        for byte in 0..segment.events.len() {
            let mut damaged = segment.events.to_vec();
            damaged[byte] ^= 16;
            let mut damaged = Segment { events: damaged.into(), ..segment.clone() };
            assert!(decode_segment(&damaged).is_err());
            // Damaged before the segment's own checksum was taken.
            damaged.checksum = crc32fast::hash(&damaged.events);
            assert!(decode_segment(&damaged).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn an_image_does_not_change_and_sealing_after_it_gives_the_same_bytes() {
        let (mut pinned, mut plain) = (log_of(5), log_of(5));
        let image = pinned.image();
        let before = image.open_events();
        for log in [&mut pinned, &mut plain] {
            log.append(WriteStamp(6), Write::default());
            log.seal(WriteStamp(7));
        }
        assert_eq!(image.open_events(), before);
        assert_eq!(pinned.segments, plain.segments);
    }

    #[test]
    fn what_is_trimmed_stays_known_by_feature_group_also_through_a_snapshot() {
        let write = |group, offline| Write { feature_group: group, offline, ..Write::default() };
        let mut log = ChangeLog::default();
        let mut stamp = 0;
        for writes in [[(1, true), (2, true)], [(1, true), (3, false)], [(2, true), (2, true)]] {
            for (group, offline) in writes {
                stamp += 1;
                log.append(WriteStamp(stamp), write(group, offline));
            }
            log.seal(WriteStamp(stamp));
        }
        log.append(WriteStamp(7), write(4, true));
        let told = |log: &ChangeLog, after| {
            log.groups_trimmed_after(after).iter().map(|g| (g.feature_group, g.sequence)).collect::<Vec<_>>()
        };
        log.trim(1);
        assert_eq!(told(&log, 0), [], "a segment goes as a whole");
        log.trim(5);
        assert_eq!(told(&log, 0), [(1, 3), (2, 2)]);

        let mut state = wire::ShardControlState { open_events: log.open_events(), ..Default::default() };
        state.segments = log.segments().cloned().collect();
        log.scalars_to_wire(&mut state);
        let mut restored = ChangeLog::from_wire(&mut state).expect("whole");
        for log in [&mut log, &mut restored] {
            log.seal(WriteStamp(8));
            log.trim(7);
            assert_eq!(told(log, 0), [(1, 3), (2, 6), (4, 7)]);
            assert_eq!(told(log, 3), [(2, 6), (4, 7)]);
        }
    }

    #[test]
    fn the_digest_covers_every_byte_and_the_place_of_every_segment() {
        let sealed = |cuts: &[u64], at: u64| {
            let mut log = ChangeLog::default();
            for stamp in 1..=6 {
                log.append(WriteStamp(stamp), Write { row: Bytes::from(vec![7; 100]), ..Write::default() });
                if cuts.contains(&stamp) {
                    log.seal(WriteStamp(stamp + at));
                }
            }
            log
        };
        let mut log = sealed(&[3, 6], 0);
        assert_eq!(log.digest(), sealed(&[3, 6], 0).digest());
        for other in [sealed(&[2, 6], 0), sealed(&[6], 0), sealed(&[3, 6], 1), sealed(&[3], 0)] {
            assert_ne!(log.digest(), other.digest());
        }
        let before = log.digest();
        log.trim(3);
        assert_eq!(log.digest(), before, "what is trimmed still counts");
        let mut state = wire::ShardControlState { segments: log.segments().cloned().collect(), ..Default::default() };
        log.scalars_to_wire(&mut state);
        assert_eq!(ChangeLog::from_wire(&mut state.clone()).expect("own state").digest(), before);
        state.change_log_digest = Bytes::new();
        let mut unknown = ChangeLog::from_wire(&mut state).expect("own state");
        unknown.append(WriteStamp(9), Write::default());
        unknown.seal(WriteStamp(9));
        assert_eq!(unknown.digest(), None, "not known, and so not comparable");
    }

    #[test]
    fn pressure_rises_at_its_thresholds() {
        let at = [0, 499, 500, 749, 750, 949, 950, 2_000].map(|bytes| Pressure::of(bytes, 1_000));
        use Pressure::{Alert, Normal, Refuse, Slow};
        assert_eq!(at, [Normal, Normal, Alert, Alert, Slow, Slow, Refuse, Refuse]);
        assert_eq!(Pressure::of(u64::MAX, 0), Normal);
    }
}
