//! Messages of the public protobuf as commands of the router, and back.

use std::time::Duration;

use granary_proto::convert::{feature_group_to_wire, kind_code, ttl_from_wire, u128_from_wire};
use granary_proto::v1;
use granary_proto::v1::value::Kind;
use granary_router::{
    BatchAnswer, BatchGetCommand, BatchKeys, Consistency, DeleteCommand, Found, Hit, ListAnswer, ListCommand,
    ListPlace, OnlineRecord, PutCommand, Session, UpdateCommand, Written,
};
use granary_types::record::RawValue;
use granary_types::{Error, ErrorKind, Targets, WriteId};

/// Records on one page of a listing.
const PAGE_RECORDS_MAX: usize = 1_000;

pub(super) fn put(request: v1::PutRecordRequest, timeout: Option<Duration>) -> Result<PutCommand, Error> {
    let targets = targets(&request.target_stores)?;
    Ok(PutCommand {
        group: request.feature_group,
        values: values(request.record)?,
        targets,
        ttl: request.ttl.as_ref().map(ttl_from_wire).transpose()?,
        write_id: write_id(&request.write_id)?,
        timeout,
    })
}

pub(super) fn update(request: v1::UpdateRecordRequest, timeout: Option<Duration>) -> Result<UpdateCommand, Error> {
    Ok(UpdateCommand {
        group: request.feature_group,
        identifier: request.record_identifier,
        values: values(request.features)?,
        targets: targets(&request.target_stores)?,
        ttl: request.ttl.as_ref().map(ttl_from_wire).transpose()?,
        write_id: write_id(&request.write_id)?,
        timeout,
    })
}

pub(super) fn list(request: v1::ListRecordsRequest, timeout: Option<Duration>) -> Result<ListCommand, Error> {
    let limit = match request.limit as usize {
        0 => PAGE_RECORDS_MAX,
        limit @ 1..=PAGE_RECORDS_MAX => limit,
        limit => return Err(Error::invalid(format!("limit is 0 to {PAGE_RECORDS_MAX}, got {limit}"))),
    };
    Ok(ListCommand {
        group: request.feature_group,
        after: place(&request.page_token)?,
        limit,
        soft_deleted: request.include_soft_deleted,
        features: None,
        timeout,
    })
}

pub(super) fn listed(answer: ListAnswer) -> v1::ListRecordsResponse {
    v1::ListRecordsResponse {
        record_identifiers: answer.records.into_iter().map(|record| record.identifier).collect(),
        next_page_token: token(answer.next.as_ref()),
    }
}

/// The first page of a scan; the others differ in their place.
pub(super) fn scan(request: v1::ScanRecordsRequest) -> Result<ListCommand, Error> {
    Ok(ListCommand {
        group: request.feature_group,
        after: place(&request.page_token)?,
        limit: PAGE_RECORDS_MAX,
        soft_deleted: false,
        features: Some(request.feature_names),
        timeout: None,
    })
}

pub(super) fn scanned(answer: ListAnswer) -> v1::ScanRecordsResponse {
    let scanned = answer.records.into_iter().filter_map(|listed| {
        let found = listed.record?;
        let expires_at = expires_at(&found);
        Some(v1::ScannedRecord { record_identifier: listed.identifier, record: record(found), expires_at })
    });
    v1::ScanRecordsResponse { records: scanned.collect(), next_page_token: token(answer.next.as_ref()) }
}

fn place(token: &[u8]) -> Result<Option<ListPlace>, Error> {
    if token.is_empty() { Ok(None) } else { ListPlace::from_token(token).map(Some) }
}

fn token(place: Option<&ListPlace>) -> bytes::Bytes {
    place.map(ListPlace::to_token).unwrap_or_default()
}

fn values(features: Vec<v1::FeatureValue>) -> Result<Vec<(String, RawValue)>, Error> {
    let values = features.into_iter().map(|feature| {
        let kind = feature.value.and_then(|value| value.kind);
        let kind = kind.ok_or_else(|| Error::invalid(format!("feature {:?} has no value", feature.name)))?;
        Ok((feature.name, raw(kind)))
    });
    values.collect()
}

pub(super) fn delete(request: v1::DeleteRecordRequest, timeout: Option<Duration>) -> Result<DeleteCommand, Error> {
    let targets = targets(&request.target_stores)?;
    let hard = match v1::DeletionMode::try_from(request.mode) {
        Ok(v1::DeletionMode::Hard) => true,
        Ok(v1::DeletionMode::Soft | v1::DeletionMode::Unspecified) => false,
        Err(_) => return Err(Error::invalid(format!("unknown deletion mode {}", request.mode))),
    };
    Ok(DeleteCommand {
        group: request.feature_group,
        identifier: request.record_identifier,
        event_time: request.event_time,
        hard,
        targets,
        write_id: write_id(&request.write_id)?,
        timeout,
    })
}

pub(super) fn batch_get(
    request: v1::BatchGetRecordRequest,
    timeout: Option<Duration>,
) -> Result<BatchGetCommand, Error> {
    let consistency = consistency(request.consistency.as_ref())?;
    let keys = request.keys.into_iter().map(|keys| BatchKeys {
        group: keys.feature_group,
        identifiers: keys.record_identifiers,
        features: keys.feature_names,
    });
    Ok(BatchGetCommand { keys: keys.collect(), consistency, timeout })
}

pub(super) fn found(found: Found) -> v1::SearchResponse {
    let hit = |hit: Hit| v1::SearchHit {
        feature_group: Some(feature_group_to_wire(&hit.group)),
        feature: hit.feature.map(|ordinal| u32::from(ordinal.0)),
    };
    v1::SearchResponse {
        hits: found.hits.into_iter().map(hit).collect(),
        total: found.total as u64,
        next_page_token: found.next_page_token.unwrap_or_default(),
    }
}

/// What a read asks to be promised; linearizable where it does not say.
pub(super) fn consistency(asked: Option<&v1::Consistency>) -> Result<Consistency, Error> {
    let Some(asked) = asked else { return Ok(Consistency::Linearizable) };
    match v1::ConsistencyLevel::try_from(asked.level) {
        Ok(v1::ConsistencyLevel::Unspecified | v1::ConsistencyLevel::Linearizable) => Ok(Consistency::Linearizable),
        Ok(v1::ConsistencyLevel::Session) => Session::from_tokens(&asked.sessions).map(Consistency::Session),
        Ok(v1::ConsistencyLevel::BoundedStaleness) if asked.max_staleness_ms == 0 => {
            Err(Error::invalid("bounded staleness needs max_staleness_ms"))
        }
        Ok(v1::ConsistencyLevel::BoundedStaleness) => Ok(Consistency::BoundedStaleness(asked.max_staleness_ms)),
        Ok(v1::ConsistencyLevel::Eventual) => Ok(Consistency::Eventual),
        Err(_) => Err(Error::invalid(format!("unknown consistency level {}", asked.level))),
    }
}

pub(super) fn written(written: &Written) -> v1::WriteResponse {
    v1::WriteResponse {
        session: written.session().to_token(),
        shard: written.shard.0,
        raft_index: written.raft_index,
        became_online: written.became_online,
    }
}

pub(super) fn write_error(entry: u32, error: &Error) -> v1::BatchWriteError {
    v1::BatchWriteError { entry, code: kind_code(error.kind).to_owned(), message: error.message.clone() }
}

/// The values of a record in order of definition, each as the text that was put.
pub(super) fn record(record: OnlineRecord) -> Vec<v1::FeatureValue> {
    let OnlineRecord { group, values, .. } = record;
    let named = values.into_iter().filter_map(|(ordinal, value)| {
        let name = group.schema.by_ordinal(ordinal)?.name.clone();
        let kind = match value {
            RawValue::Text(text) => Kind::Text(text),
            RawValue::List(texts) => Kind::List(v1::TextList { texts }),
        };
        Some(v1::FeatureValue { name, value: Some(v1::Value { kind: Some(kind) }) })
    });
    named.collect()
}

pub(super) fn expires_at(record: &OnlineRecord) -> String {
    record.expires_at.map(|time| time.to_string()).unwrap_or_default()
}

/// Whether a read that failed so may succeed when it is asked for again.
pub(super) fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown)
}

/// Failures that pass go to `unprocessed`. When nothing at all could be read, the call fails as a whole.
pub(super) fn batch_answer(
    command: &BatchGetCommand,
    answer: BatchAnswer,
) -> Result<v1::BatchGetRecordResponse, Error> {
    let asked = command.keys.iter().map(|keys| keys.identifiers.len()).sum::<usize>();
    let (again, failed): (Vec<_>, Vec<_>) =
        answer.failures.into_iter().partition(|failure| is_passing(failure.error.kind));
    if again.len() == asked
        && let Some(first) = again.first()
    {
        return Err(first.error.clone());
    }
    let sent = |entry: usize, identifier: usize| {
        let keys = &command.keys[entry];
        (keys.group.clone(), keys.identifiers[identifier].clone())
    };
    let records = answer.records.into_iter().map(|found| {
        let (feature_group, record_identifier) = sent(found.entry, found.identifier);
        let expires_at = expires_at(&found.record);
        v1::BatchRecord { feature_group, record_identifier, record: record(found.record), expires_at }
    });
    let errors = failed.into_iter().map(|failure| {
        let (feature_group, record_identifier) = sent(failure.entry, failure.identifier);
        let code = kind_code(failure.error.kind).to_owned();
        v1::BatchError { feature_group, record_identifier, code, message: failure.error.message }
    });
    let mut unprocessed: Vec<(usize, v1::RecordKeys)> = Vec::new();
    for failure in again {
        let (feature_group, text) = sent(failure.entry, failure.identifier);
        match unprocessed.last_mut() {
            Some((entry, keys)) if *entry == failure.entry => keys.record_identifiers.push(text),
            _ => {
                let feature_names = command.keys[failure.entry].features.clone();
                let keys = v1::RecordKeys { feature_group, record_identifiers: vec![text], feature_names };
                unprocessed.push((failure.entry, keys));
            }
        }
    }
    Ok(v1::BatchGetRecordResponse {
        records: records.collect(),
        errors: errors.collect(),
        unprocessed: unprocessed.into_iter().map(|(_, keys)| keys).collect(),
    })
}

/// A number given as such is put as its canonical text.
fn raw(kind: Kind) -> RawValue {
    match kind {
        Kind::Text(text) => RawValue::Text(text),
        Kind::Integral(number) => RawValue::Text(number.to_string()),
        Kind::Fractional(number) => RawValue::Text(number.to_string()),
        Kind::List(list) => RawValue::List(list.texts),
    }
}

/// From the raw numbers: prost's own iterator leaves out those it does not know, and none would mean all.
fn targets(stores: &[i32]) -> Result<Option<Targets>, Error> {
    let mut targets: Option<Targets> = None;
    for store in stores {
        let targets = targets.get_or_insert(Targets { online: false, offline: false });
        match v1::TargetStore::try_from(*store) {
            Ok(v1::TargetStore::Online) => targets.online = true,
            Ok(v1::TargetStore::Offline) => targets.offline = true,
            Ok(v1::TargetStore::Unspecified) | Err(_) => {
                return Err(Error::invalid(format!("a target store is online (1) or offline (2), got {store}")));
            }
        }
    }
    Ok(targets)
}

fn write_id(bytes: &[u8]) -> Result<Option<WriteId>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    u128_from_wire("write id", bytes).map(|id| Some(WriteId(id)))
}

#[cfg(test)]
mod tests {
    use granary_router::BatchFailure;

    use super::*;

    #[test]
    fn values_are_put_as_texts() {
        assert_eq!(raw(Kind::Integral(-5)), RawValue::Text("-5".into()));
        assert_eq!(raw(Kind::Fractional(15.5)), RawValue::Text("15.5".into()));
        let request = v1::PutRecordRequest {
            record: vec![v1::FeatureValue { name: "x".into(), value: None }],
            ..v1::PutRecordRequest::default()
        };
        assert_eq!(put(request, None).expect_err("no value").kind, ErrorKind::Invalid);
    }

    #[test]
    fn a_write_id_has_sixteen_bytes_or_none() {
        assert_eq!(write_id(&[]), Ok(None));
        assert_eq!(write_id(&7_u128.to_be_bytes()), Ok(Some(WriteId(7))));
        assert!(write_id(&[1, 2]).is_err());
    }

    #[test]
    fn bounded_staleness_needs_its_bound() {
        let mut asked = v1::Consistency { level: v1::ConsistencyLevel::BoundedStaleness.into(), ..Default::default() };
        assert!(consistency(Some(&asked)).is_err());
        asked.max_staleness_ms = 5;
        assert_eq!(consistency(Some(&asked)), Ok(Consistency::BoundedStaleness(5)));
        assert_eq!(consistency(None), Ok(Consistency::Linearizable));
    }

    #[test]
    fn what_passes_is_asked_for_again() {
        let keys = BatchKeys { group: "a".into(), identifiers: vec!["1".into(), "2".into()], features: vec![] };
        let command = BatchGetCommand { keys: vec![keys], ..BatchGetCommand::default() };
        let failure = |identifier, kind| BatchFailure { entry: 0, identifier, error: Error::new(kind, "why") };
        let failures = vec![failure(0, ErrorKind::Corrupt), failure(1, ErrorKind::Overloaded)];
        let answer = batch_answer(&command, BatchAnswer { records: vec![], failures }).expect("one was judged");
        assert_eq!(answer.errors[0].code, "corrupt");
        assert_eq!(answer.unprocessed[0].record_identifiers, ["2"]);
        let failures = vec![failure(0, ErrorKind::Unavailable), failure(1, ErrorKind::Overloaded)];
        let whole = batch_answer(&command, BatchAnswer { records: vec![], failures }).expect_err("nothing was read");
        assert_eq!(whole.kind, ErrorKind::Unavailable);
    }
}
