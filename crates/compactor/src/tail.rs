//! One stream as far as it is read: where it stands, and the segments held for the next flush.

use std::collections::VecDeque;
use std::time::Duration;

use granary_proto::convert::stream_from_wire;
use granary_proto::internal::{ReadSegmentsResponse, Segment};
use granary_types::invariants::{Invariant, check};
use granary_types::{NodeId, ShardId, StreamId};
use tokio::time::Instant;

use crate::Error;

/// After so many answers in a row with nothing new another replica is asked: one that is cut off has nothing new for
/// ever.
const EMPTY_ANSWERS_MAX: u32 = 3;

/// The end of one shard's change log as this process sees it. All of it may be forgotten at any time.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) shard: ShardId,
    pub(crate) stream: StreamId,
    /// Events up to this one are known to be in committed table versions: a replica has trimmed them, or the offsets
    /// were read back by this process. `None` before a replica has answered.
    done: Option<u64>,
    segments: VecDeque<Segment>,
    held_bytes: usize,
    held_since: Option<Instant>,
    /// What the leader was told.
    pub(crate) acknowledged: u64,
    pub(crate) leader: Option<NodeId>,
    /// No leader could be told, which is logged.
    pub(crate) unheard: bool,
    /// Which replica is asked first, as a place in the shard's list: the one that answered last, until it is wrong or
    /// had nothing new for [`EMPTY_ANSWERS_MAX`] times.
    pub(crate) turn: usize,
    empty_answers: u32,
    /// How often in a row no replica answered.
    silent: u32,
    /// No replica answered: they are asked again at this time. What is held may be flushed before.
    ask_after: Option<Instant>,
    /// The newest event that a replica told of.
    last_sequence: u64,
    failures: u32,
    paused_until: Option<Instant>,
    /// The catalog version with which the next event could not be placed.
    waits_beyond: Option<u64>,
}

impl Tail {
    pub(crate) fn new(shard: ShardId, stream: StreamId) -> Self {
        Self {
            shard,
            stream,
            done: None,
            segments: VecDeque::new(),
            held_bytes: 0,
            held_since: None,
            acknowledged: 0,
            leader: None,
            unheard: false,
            turn: 0,
            empty_answers: 0,
            silent: 0,
            ask_after: None,
            last_sequence: 0,
            failures: 0,
            paused_until: None,
            waits_beyond: None,
        }
    }

    /// Events up to this one are committed and read back.
    pub(crate) fn done(&self) -> u64 {
        self.done.unwrap_or(0)
    }

    /// Where to read on.
    pub(crate) fn cursor(&self) -> u64 {
        self.segments.back().map_or(self.done(), |segment| segment.last_sequence)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Since when the oldest held event is held.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        self.held_since
    }

    /// Events not committed yet, as far as known.
    pub(crate) fn lag(&self) -> u64 {
        self.last_sequence.saturating_sub(self.done())
    }

    /// Whether it may work now.
    pub(crate) fn is_awake(&self, now: Instant) -> bool {
        self.paused_until.is_none_or(|until| now >= until)
    }

    /// Whether a replica may be asked now.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        self.is_awake(now) && self.ask_after.is_none_or(|until| now >= until)
    }

    /// Whether it has events that could be written with this version of the catalog.
    pub(crate) fn has_work(&self, now: Instant, catalog: u64) -> bool {
        self.is_awake(now) && !self.segments.is_empty() && self.waits_beyond.is_none_or(|version| catalog > version)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waits_beyond.is_some()
    }

    /// A copy of what is held; the bytes are shared.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.segments.iter().cloned().collect()
    }

    /// Takes the answer of the replica at place `turn`. Returns how many bytes are new.
    ///
    /// # Errors
    /// [`Error::OtherStream`], and [`Error::Gap`] when an event is missing (CL-2).
    pub(crate) fn take(&mut self, turn: usize, response: ReadSegmentsResponse, now: Instant) -> Result<usize, Error> {
        (self.turn, self.silent, self.ask_after) = (turn, 0, None);
        let fresh = self.append(response, now)?;
        self.empty_answers = if fresh == 0 { self.empty_answers + 1 } else { 0 };
        if self.empty_answers >= EMPTY_ANSWERS_MAX {
            (self.turn, self.empty_answers) = (self.turn + 1, 0);
        }
        Ok(fresh)
    }

    /// Refuses what another stream's replica says.
    ///
    /// # Errors
    /// [`Error::OtherStream`].
    pub(crate) fn check_stream(&self, response: &ReadSegmentsResponse) -> Result<(), Error> {
        match stream_from_wire(response.stream.as_ref()) {
            Ok(stream) if stream == self.stream => Ok(()),
            Ok(stream) => Err(Error::OtherStream { stream: self.stream, answered: stream.to_string() }),
            Err(error) => Err(Error::OtherStream { stream: self.stream, answered: error.message }),
        }
    }

    fn append(&mut self, response: ReadSegmentsResponse, now: Instant) -> Result<usize, Error> {
        self.check_stream(&response)?;
        // What is trimmed is committed (CL-3), by this compactor or by another.
        self.advance(response.trimmed_sequence);
        self.acknowledged = self.acknowledged.max(response.trimmed_sequence);
        self.last_sequence = self.last_sequence.max(response.last_sequence);
        let mut fresh = 0;
        for segment in response.segments {
            let expected = self.cursor() + 1;
            if segment.last_sequence < expected {
                continue;
            }
            let got = segment.first_sequence;
            let detail = || format!("stream {} goes on at {got}, not at {expected}", self.stream);
            if !check(Invariant::DenseSequence, got <= expected, detail) {
                return Err(Error::Gap { stream: self.stream, expected, got });
            }
            fresh += segment.events.len();
            self.held_since.get_or_insert(now);
            self.segments.push_back(segment);
        }
        self.held_bytes += fresh;
        Ok(fresh)
    }

    /// Events up to `sequence` are committed: what is held of them is dropped.
    fn advance(&mut self, sequence: u64) {
        if sequence > self.done() {
            // The event that waits for the catalog may be among them.
            self.waits_beyond = None;
        }
        self.done = Some(self.done().max(sequence));
        while self.segments.front().is_some_and(|segment| segment.last_sequence <= self.done()) {
            let segment = self.segments.pop_front().expect("looked at above");
            self.held_bytes -= segment.events.len();
        }
        if self.segments.is_empty() {
            self.held_since = None;
        }
    }

    /// A flush went well, up to an event that waits for a catalog newer than `waits_beyond`, if there is one.
    pub(crate) fn succeeded(&mut self, until: u64, waits_beyond: Option<u64>) {
        self.advance(until);
        self.failures = 0;
        self.waits_beyond = waits_beyond;
    }

    /// No replica answered: they rest, and what is held stays.
    pub(crate) fn unanswered(&mut self, pause: Duration, now: Instant) {
        self.silent = self.silent.saturating_add(1);
        self.ask_after = Some(now + pause);
    }

    /// How often in a row no replica answered.
    pub(crate) fn silent(&self) -> u32 {
        self.silent
    }

    /// Forgets what it holds and where it stands, and pauses.
    pub(crate) fn failed(&mut self, pause: Duration, now: Instant) {
        let (turn, failures) = (self.turn + 1, self.failures + 1);
        let (acknowledged, last_sequence) = (self.acknowledged, self.last_sequence);
        *self = Self::new(self.shard, self.stream);
        (self.turn, self.failures, self.acknowledged, self.last_sequence) =
            (turn, failures, acknowledged, last_sequence);
        self.paused_until = Some(now + pause);
    }

    /// How many rounds failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use granary_proto::convert::stream_to_wire;
    use granary_types::ClusterId;

    use super::*;

    fn stream() -> StreamId {
        StreamId { cluster: ClusterId(1), shard: ShardId(2), incarnation: 1 }
    }

    fn answer(trimmed: u64, segments: &[(u64, u64)]) -> ReadSegmentsResponse {
        let segments = segments.iter().map(|(first, last)| Segment {
            first_sequence: *first,
            last_sequence: *last,
            events: vec![0; 10].into(),
            ..Segment::default()
        });
        ReadSegmentsResponse {
            stream: Some(stream_to_wire(stream())),
            segments: segments.collect(),
            trimmed_sequence: trimmed,
            sealed_sequence: 0,
            last_sequence: 100,
            trimmed_groups: Vec::new(),
        }
    }

    #[tokio::test]
    async fn follows_replicas_that_are_ahead_and_behind() {
        let now = Instant::now();
        let mut tail = Tail::new(ShardId(2), stream());
        assert_eq!(tail.take(0, answer(10, &[(11, 20), (21, 30)]), now).expect("dense"), 20);
        assert_eq!((tail.done(), tail.cursor(), tail.lag()), (10, 30, 90));
        // A replica behind: nothing new, and nothing twice.
        assert_eq!(tail.take(0, answer(0, &[(1, 10), (11, 20)]), now).expect("old"), 0);
        // A replica that was trimmed by another compactor's acknowledgement, beyond what is held.
        assert_eq!(tail.take(0, answer(40, &[(41, 50)]), now).expect("trimmed is committed"), 10);
        assert_eq!((tail.done(), tail.cursor(), tail.held_bytes()), (40, 50, 10));
        tail.succeeded(45, Some(7));
        assert_eq!((tail.done(), tail.held_bytes()), (45, 10), "a segment half done is kept");
        assert!(!tail.has_work(now, 7));
        assert!(tail.has_work(now, 8));
        tail.failed(Duration::from_secs(1), now);
        assert_eq!((tail.done(), tail.held_bytes(), tail.failures()), (0, 0, 1));
        assert!(!tail.is_awake(now) && tail.is_awake(now + Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn silence_forgets_nothing() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut tail = Tail::new(ShardId(2), stream());
        tail.take(0, answer(10, &[(11, 20)]), now).expect("dense");
        tail.unanswered(second, now);
        assert_eq!((tail.done(), tail.cursor(), tail.held_since(), tail.silent()), (10, 20, Some(now), 1));
        assert!(!tail.may_ask(now) && tail.may_ask(now + second));
        assert!(tail.is_awake(now) && tail.has_work(now, 7), "it may be flushed meanwhile");
        tail.unanswered(second, now);
        assert_eq!(tail.silent(), 2);
        tail.take(1, answer(10, &[]), now).expect("nothing new");
        assert_eq!((tail.silent(), tail.turn, tail.held_bytes()), (0, 1, 10));
        assert!(tail.may_ask(now));
    }

    #[tokio::test]
    async fn stays_with_a_replica_until_it_had_nothing_new_for_a_while() {
        let now = Instant::now();
        let mut tail = Tail::new(ShardId(2), stream());
        let mut turn_after = |turn, segments: &[(u64, u64)]| {
            tail.take(turn, answer(0, segments), now).expect("dense");
            tail.turn
        };
        assert_eq!([turn_after(1, &[]), turn_after(1, &[]), turn_after(1, &[(1, 5)])], [1, 1, 1]);
        assert_eq!([turn_after(1, &[]), turn_after(1, &[]), turn_after(1, &[])], [1, 1, 2]);
        assert_eq!([turn_after(2, &[]), turn_after(2, &[(6, 9)])], [2, 2]);
    }

    #[tokio::test]
    #[cfg_attr(debug_assertions, should_panic(expected = "CL-2"))]
    async fn a_gap_is_refused() {
        let mut tail = Tail::new(ShardId(2), stream());
        let refused = tail.take(0, answer(10, &[(12, 20)]), Instant::now());
        assert!(matches!(refused, Err(Error::Gap { expected: 11, got: 12, .. })));
    }

    #[tokio::test]
    async fn another_stream_is_refused() {
        let mut tail = Tail::new(ShardId(2), StreamId { incarnation: 2, ..stream() });
        let refused = tail.take(0, answer(10, &[]), Instant::now());
        assert!(matches!(refused, Err(Error::OtherStream { .. })));
    }
}
