//! Listing a feature group's records: every shard asked at once, their answers merged in order of slot and record.
//!
//! That order is the same whichever shard has a slot, so a place in it stays good while leaders change, routers come and
//! go and slots move. Nothing is kept between two calls.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::join_all;
use granary_catalog::CatalogView;
use granary_placement::SLOT_COUNT;
use granary_proto::internal::shard_list_response::Result as Answer;
use granary_proto::internal::{OwnedSlots, Projection, RecordPlace, ShardListRequest, ShardListed};
use granary_types::{Epoch, Error, ErrorKind, FeatureGroup, FeatureGroupId, ShardId, Slot};

use crate::deadline::{Backoff, Deadline};
use crate::failure::Failure;
use crate::lane::not_leader_failure;
use crate::read::checked_entry;
use crate::replicas::{Who, ask_round};
use crate::session::checksum;
use crate::write::WRONG_SHARD;
use crate::{OnlineRecord, Router};

/// How often one call asks all shards. Each time they look at some 10,000 records each; a call that found nothing to
/// return by then returns its place.
const ROUNDS_MAX: usize = 16;
/// Bytes of rows on a page, well within what a message may have; one larger row goes alone.
const PAGE_BYTES_MAX: usize = 1 << 20;
const FORMAT_VERSION: u8 = 1;
const PLACE_LEN_MIN: usize = 1 + 4 + 2 + 4;

/// A page of a listing, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListCommand {
    /// The group's name.
    pub group: String,
    /// Where the page before ended.
    pub after: Option<ListPlace>,
    /// Records in the answer at most; at least 1.
    pub limit: usize,
    /// Soft-deleted records too. Expired and hard-deleted ones never.
    pub soft_deleted: bool,
    /// With the records themselves: these features, or all for none. `None` lists identifiers only.
    pub features: Option<Vec<String>>,
    /// How long the caller waits, where that is shorter than the router's deadline.
    pub timeout: Option<Duration>,
}

/// A place in a listing of one feature group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListPlace {
    /// A place in another group's listing is refused.
    pub group: FeatureGroupId,
    /// By slot, then by record.
    pub slot: Slot,
    /// Empty comes before all records of the slot.
    pub record: Bytes,
}

impl ListPlace {
    /// As clients keep it: opaque to them, with a checksum. The bytes: format version (1), group (u32), slot (u16), record,
    /// then the low half of the XXH3-64 of all that (u32), big endian.
    pub fn to_token(&self) -> Bytes {
        let mut token = BytesMut::with_capacity(PLACE_LEN_MIN + self.record.len());
        token.put_u8(FORMAT_VERSION);
        token.put_u32(self.group.0);
        token.put_u16(self.slot.0);
        token.put_slice(&self.record);
        token.put_u32(checksum(&token));
        token.freeze()
    }

    /// The place a token stands for.
    ///
    /// # Errors
    /// `Invalid` for bytes that are no token of this version.
    pub fn from_token(token: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::invalid("a token of a listing is given as it was returned");
        let (mut body, sum) = token.split_last_chunk::<4>().ok_or_else(wrong)?;
        if token.len() < PLACE_LEN_MIN || u32::from_be_bytes(*sum) != checksum(body) || body.get_u8() != FORMAT_VERSION
        {
            return Err(wrong());
        }
        let (group, slot) = (FeatureGroupId(body.get_u32()), Slot(body.get_u16()));
        Ok(Self { group, slot, record: Bytes::copy_from_slice(body) })
    }

    fn of(group: FeatureGroupId, place: RecordPlace) -> Result<Self, Error> {
        let slot = u16::try_from(place.slot).map_err(|_| Error::new(ErrorKind::Internal, "a slot is out of range"))?;
        Ok(Self { group, slot: Slot(slot), record: place.record })
    }

    fn to_wire(&self) -> RecordPlace {
        RecordPlace { slot: self.slot.0.into(), record: self.record.clone() }
    }
}

/// A record in a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRecord {
    /// The text of its record identifier feature.
    pub identifier: String,
    /// The record, where it was asked for; `None` for a soft-deleted one.
    pub record: Option<OnlineRecord>,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ListAnswer {
    /// In the listing's order. May be fewer than asked for though more follow: about 1 MiB of rows are a page too.
    pub records: Vec<ListedRecord>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<ListPlace>,
}

impl Router {
    /// Lists records of a group, a page at a time. A record that exists from the first page's call to the last one's is
    /// listed exactly once; what comes or goes meanwhile may or may not be.
    ///
    /// # Errors
    /// `NotFound` for an unknown group; `Invalid` for an unknown feature, a group without online store, or a place of
    /// another group; `Overloaded`; `Unavailable` when a shard did not answer in time.
    pub async fn list_records(&self, command: ListCommand) -> Result<ListAnswer, Error> {
        let began = self.shared.platform.instant();
        let result = self.list_unmeasured(command).await;
        self.shared.metrics.ended("list_records", began.elapsed().as_secs_f64(), &result);
        result
    }

    async fn list_unmeasured(&self, command: ListCommand) -> Result<ListAnswer, Error> {
        let _admitted = self.shared.admit()?;
        let deadline = Deadline::begin(&self.shared.platform, &self.shared.settings, command.timeout);
        let entry = checked_entry(self.group(&command.group)?, command.features.as_deref().unwrap_or_default())?;
        let group = entry.group;
        if command.after.as_ref().is_some_and(|after| after.group != group.id) {
            return Err(Error::invalid("the listing was begun on another feature group"));
        }
        let rows = command.features.is_some().then(|| entry.projection.unwrap_or_default());
        let page = Page { group, soft_deleted: command.soft_deleted, rows, deadline };
        let mut answer = ListAnswer { records: Vec::new(), next: command.after };
        for _ in 0..ROUNDS_MAX {
            let room = command.limit.saturating_sub(answer.records.len());
            let (mut records, next) = page.ask(self, answer.next.as_ref(), room).await?;
            answer.records.append(&mut records);
            answer.next = next;
            let is_full = answer.records.len() >= command.limit || (page.rows.is_some() && !answer.records.is_empty());
            if answer.next.is_none() || is_full {
                break;
            }
        }
        Ok(answer)
    }
}

/// What all requests of a call have in common.
struct Page {
    group: Arc<FeatureGroup>,
    soft_deleted: bool,
    rows: Option<Projection>,
    deadline: Deadline,
}

impl Page {
    /// Asks every shard for its part of the next `room` records.
    async fn ask(
        &self,
        router: &Router,
        after: Option<&ListPlace>,
        room: usize,
    ) -> Result<(Vec<ListedRecord>, Option<ListPlace>), Error> {
        let parts = self.parts(router, after, room).await?;
        let now_nanos = router.shared.platform.now_nanos();
        let mut merged = merge(self.group.id, parts)?;
        merged.cut(room, PAGE_BYTES_MAX);
        let records = merged.found.into_iter().filter_map(|(place, row)| {
            let identifier = String::from_utf8_lossy(&place.record).into_owned();
            let Some(row) = row else { return Some(Ok(ListedRecord { identifier, record: None })) };
            match OnlineRecord::open(&self.group, &row, now_nanos) {
                Ok(Some(record)) => Some(Ok(ListedRecord { identifier, record: Some(record) })),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            }
        });
        Ok((records.collect::<Result<_, _>>()?, merged.end))
    }

    /// The parts of all shards by one view of the slots, so that each slot is in exactly one of them.
    async fn parts(&self, router: &Router, after: Option<&ListPlace>, room: usize) -> Result<Vec<ShardListed>, Error> {
        let mut backoff = Backoff::new();
        loop {
            let requests = self.requests(&router.shared.view(), after, room, router.shared.platform.now_nanos())?;
            let asked = requests.into_iter().map(|request| self.ask_shard(router, request));
            let parts: Result<Vec<_>, _> = join_all(asked).await.into_iter().collect();
            let moved = match parts {
                Ok(parts) => return Ok(parts),
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Moved(slot, epoch)) => (slot, epoch),
            };
            let (platform, settings) = (&router.shared.platform, &router.shared.settings);
            let Some(pause) = backoff.next(platform, settings, self.deadline) else {
                let message = "a shard does not own a slot that is listed";
                return Err(Error::new(ErrorKind::Unavailable, message));
            };
            router.shared.metrics.retries.with_label_values(&["list", WRONG_SHARD]).inc();
            router.shared.pause(pause, Some(moved)).await;
        }
    }

    /// One request for each shard that has slots from the place on.
    fn requests(
        &self,
        view: &CatalogView,
        after: Option<&ListPlace>,
        room: usize,
        now_nanos: u64,
    ) -> Result<Vec<ShardListRequest>, Error> {
        let from = after.map_or(0, |after| after.slot.0);
        let mut shards: BTreeMap<ShardId, BTreeMap<Epoch, Vec<u32>>> = BTreeMap::new();
        for slot in (from..SLOT_COUNT).map(Slot) {
            let Some((shard, epoch)) = view.shard_of(slot) else {
                return Err(Error::new(ErrorKind::Unavailable, "the catalog has no shards yet"));
            };
            shards.entry(shard).or_default().entry(epoch).or_default().push(slot.0.into());
        }
        let owned = |(epoch, slots): (Epoch, Vec<u32>)| OwnedSlots { epoch: epoch.0, slots };
        let requests = shards.into_iter().map(|(shard, by_epoch)| ShardListRequest {
            shard: shard.0,
            slots: by_epoch.into_iter().map(owned).collect(),
            feature_group: self.group.id.0,
            after: after.map(ListPlace::to_wire),
            records_max: u32::try_from(room).unwrap_or(u32::MAX),
            soft_deleted: self.soft_deleted,
            now_nanos,
            rows: self.rows.clone(),
        });
        Ok(requests.collect())
    }

    /// Rounds over the shard's replicas until its leader answers.
    async fn ask_shard(&self, router: &Router, request: ShardListRequest) -> Result<ShardListed, Missed> {
        let (shard, mut backoff) = (ShardId(request.shard), Backoff::new());
        loop {
            let asked = ask_round(&router.shared, shard, Who::Leader, self.deadline, |mut client| {
                let request = request.clone();
                async move {
                    match client.list(request).await?.into_inner().result {
                        Some(Answer::NotLeader(not_leader)) => Err(not_leader_failure(not_leader.leader_node)),
                        Some(Answer::WrongSlot(wrong)) => Ok(Err(wrong.slot)),
                        Some(Answer::Listed(listed)) => Ok(Ok(listed)),
                        None => Err(Failure::Lost(Error::new(ErrorKind::Internal, "the node's answer is empty"))),
                    }
                }
            })
            .await;
            let failure = match asked.map(|answered| answered.answer) {
                Ok(Ok(listed)) => return Ok(listed),
                Ok(Err(slot)) => return Err(Missed::moved(&request, slot)),
                Err(failed) => failed.failure,
            };
            let (platform, settings) = (&router.shared.platform, &router.shared.settings);
            let (reason, is_final) = (failure.reason(), failure.is_final());
            let pause = backoff.next(platform, settings, self.deadline).filter(|_| !is_final);
            let Some(pause) = pause else {
                let mut error = failure.into_error();
                if error.kind == ErrorKind::Unknown {
                    // A listing changes nothing, so that an answer lost on its way leaves nothing unknown.
                    error.kind = ErrorKind::Unavailable;
                }
                return Err(Missed::Failed(error));
            };
            router.shared.metrics.retries.with_label_values(&["list", reason]).inc();
            router.shared.pause(pause, None).await;
        }
    }
}

/// Why a shard's part is not there.
enum Missed {
    /// The shard does not own the slot at this epoch: all parts must be asked for again.
    Moved(Slot, Epoch),
    Failed(Error),
}

impl Missed {
    fn moved(request: &ShardListRequest, slot: u32) -> Self {
        let asked = request.slots.iter().find(|owned| owned.slots.contains(&slot));
        match (asked, u16::try_from(slot)) {
            (Some(owned), Ok(slot)) => Self::Moved(Slot(slot), Epoch(owned.epoch)),
            _ => Self::Failed(Error::new(ErrorKind::Internal, "the node refused a slot that was not asked for")),
        }
    }
}

/// What several shards listed, as one.
#[derive(Debug, Default, PartialEq)]
struct Merged {
    /// In order of place.
    found: Vec<(ListPlace, Option<granary_proto::internal::RowResult>)>,
    /// Up to where all of them looked; `None` for the end.
    end: Option<ListPlace>,
}

impl Merged {
    /// Keeps the first ones: at most `count`, and at most `bytes` of rows but for one that is larger.
    fn cut(&mut self, count: usize, bytes: usize) {
        let mut left = bytes;
        let fits = self.found.iter().take(count).enumerate().take_while(|(place, (_, row))| {
            let length = row.as_ref().map_or(0, |row| row.row.len());
            let fits = length <= left || *place == 0;
            left = left.saturating_sub(length);
            fits
        });
        let fits = fits.count();
        if fits < self.found.len() {
            self.found.truncate(fits);
            self.end = self.found.last().map(|(place, _)| place.clone());
        }
    }
}

/// Nothing counts that lies behind the place up to which another shard looked: there may be more before it.
fn merge(group: FeatureGroupId, parts: Vec<ShardListed>) -> Result<Merged, Error> {
    let mut merged = Merged::default();
    for part in parts {
        if let Some(end) = part.end {
            let end = ListPlace::of(group, end)?;
            merged.end = Some(merged.end.map_or(end.clone(), |other| other.min(end)));
        }
        for listed in part.records {
            merged.found.push((ListPlace::of(group, listed.place.unwrap_or_default())?, listed.row));
        }
    }
    if let Some(end) = &merged.end {
        merged.found.retain(|(place, _)| place.cmp(end) != Ordering::Greater);
    }
    merged.found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use granary_proto::internal;

    use super::*;

    #[test]
    fn a_place_survives_its_token_and_nothing_else_is_one() {
        for record in ["", "a/1", "ü"] {
            let place =
                ListPlace { group: FeatureGroupId(9), slot: Slot(77), record: record.as_bytes().to_vec().into() };
            let token = place.to_token();
            assert_eq!(ListPlace::from_token(&token), Ok(place));
            for bit in 0..token.len() * 8 {
                let mut damaged = token.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(ListPlace::from_token(&damaged).is_err(), "bit {bit}");
            }
            assert!(ListPlace::from_token(&token[1..]).is_err());
        }
        assert!(ListPlace::from_token(b"").is_err());
    }

    fn place(slot: u32, record: &str) -> RecordPlace {
        RecordPlace { slot, record: Bytes::copy_from_slice(record.as_bytes()) }
    }

    fn part(records: &[(u32, &str)], end: Option<(u32, &str)>) -> ShardListed {
        let listed =
            |(slot, record): &(u32, &str)| internal::ListedRecord { place: Some(place(*slot, record)), row: None };
        ShardListed {
            records: records.iter().map(listed).collect(),
            end: end.map(|(slot, record)| place(slot, record)),
        }
    }

    #[test]
    fn a_page_ends_with_the_last_row_that_fits() {
        let cut = |lengths: &[usize], count, bytes| {
            let row = |length: usize| internal::RowResult { row: vec![0; length].into(), ..Default::default() };
            let place = |slot: usize| ListPlace {
                group: FeatureGroupId(1),
                slot: Slot(u16::try_from(slot).expect("small")),
                record: Bytes::new(),
            };
            let found = lengths.iter().enumerate().map(|(slot, length)| (place(slot), Some(row(*length)))).collect();
            let mut merged = Merged { found, end: None };
            merged.cut(count, bytes);
            (merged.found.len(), merged.end.map(|end| end.slot.0))
        };
        assert_eq!(cut(&[4, 4, 2], 9, 10), (3, None));
        assert_eq!(cut(&[4, 4, 3], 9, 10), (2, Some(1)));
        assert_eq!(cut(&[4, 4, 3, 1], 9, 10), (2, Some(1)), "none is passed over");
        assert_eq!(cut(&[11, 1], 9, 10), (1, Some(0)), "a larger one goes alone");
        assert_eq!(cut(&[1, 1, 1], 2, 10), (2, Some(1)));
        assert_eq!(cut(&[], 2, 10), (0, None));
    }

    type Told = (u16, String);

    fn merged(parts: Vec<ShardListed>) -> (Vec<Told>, Option<Told>) {
        let told = |place: &ListPlace| (place.slot.0, String::from_utf8_lossy(&place.record).into_owned());
        let merged = merge(FeatureGroupId(1), parts).expect("places");
        (merged.found.iter().map(|(place, _)| told(place)).collect(), merged.end.as_ref().map(told))
    }

    #[test]
    fn parts_are_merged_up_to_where_all_of_them_looked() {
        let all = merged(vec![part(&[(1, "b"), (5, "a")], None), part(&[(1, "a"), (3, "x")], None)]);
        let expected = [(1, "a"), (1, "b"), (3, "x"), (5, "a")].map(|(slot, record)| (slot, record.to_owned()));
        assert_eq!(all, (expected.to_vec(), None));
        // The second shard stopped in slot 3: what the first one has behind that must wait.
        let some = merged(vec![part(&[(1, "b"), (5, "a")], None), part(&[(1, "a"), (3, "x")], Some((3, "x")))]);
        assert_eq!(some, (expected[..3].to_vec(), Some((3, "x".to_owned()))));
        // It stopped before slot 4 and may have found nothing.
        let none = merged(vec![part(&[(5, "a")], None), part(&[], Some((4, "")))]);
        assert_eq!(none, (vec![], Some((4, String::new()))));
        assert!(merge(FeatureGroupId(1), vec![part(&[(1 << 16, "a")], None)]).is_err());
    }
}
