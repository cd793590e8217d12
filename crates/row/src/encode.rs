//! Making rows: from a record, for a delete, and from a larger row.

use bytes::Bytes;
use granary_types::record::RecordUpdate;
use granary_types::{FeatureGroup, FeatureOrdinal, FeatureValue, Record, RecordIdentifier, SchemaVersion};
use rkyv::rancor;

use crate::format::{Row, Text, kind};
use crate::{Error, FORMAT_VERSION, RowView, ValueRef};

/// Encodes the record of a put, checked against its group's schema at `schema_version`.
///
/// The values come by rising ordinal, as [`Record::parse`] leaves them.
pub fn encode(record: &Record, schema_version: SchemaVersion) -> Bytes {
    let values = record.values.iter().map(|(ordinal, value)| (*ordinal, ValueRef::from(value)));
    pack(schema_version, record.ttl.map(|ttl| ttl.seconds()), values)
}

/// Encodes the row of a delete, which holds only the record identifier and event time features. Where one feature
/// is both, it holds the identifier.
///
/// # Errors
/// `Invalid` when one of the texts is not of its feature's type.
pub fn encode_delete(
    group: &FeatureGroup,
    id: &RecordIdentifier,
    event_time_text: &str,
) -> Result<Bytes, granary_types::Error> {
    let identifier = FeatureValue::parse(group.record_identifier_feature(), &id.text())?;
    let event_time = FeatureValue::parse(group.event_time_feature(), event_time_text)?;
    let mut values = vec![(group.record_identifier, identifier)];
    if group.event_time != group.record_identifier {
        values.push((group.event_time, event_time));
    }
    values.sort_by_key(|(ordinal, _)| *ordinal);
    let values = values.iter().map(|(ordinal, value)| (*ordinal, ValueRef::from(value)));
    Ok(pack(group.schema.version, None, values))
}

/// Encodes the new values of an update, checked against its group's schema at `schema_version`. With them, the time to
/// live that replaces the record's.
pub fn encode_update(update: &RecordUpdate, schema_version: SchemaVersion) -> Bytes {
    let values = update.values.iter().map(|(ordinal, value)| (*ordinal, ValueRef::from(value)));
    pack(schema_version, update.ttl.map(|ttl| ttl.seconds()), values)
}

/// The row `base` with the values and the time to live that `update` has in their place, and the newer schema version
/// of the two.
///
/// # Errors
/// When one of them is no row.
pub fn merge(base: &[u8], update: &[u8]) -> Result<Bytes, Error> {
    let (base, update) = (RowView::open(base)?, RowView::open(update)?);
    let mut values: Vec<_> = base.values().collect();
    for (ordinal, value) in update.values() {
        match values.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal) {
            Ok(place) => values[place] = (ordinal, value),
            Err(place) => values.insert(place, (ordinal, value)),
        }
    }
    let version = base.schema_version().max(update.schema_version());
    Ok(pack(version, update.ttl_seconds().or(base.ttl_seconds()), values.into_iter()))
}

/// A row with only the features at `ordinals`, in any order; those the row lacks are left out.
///
/// # Errors
/// When `bytes` are no row.
pub fn project(bytes: &[u8], ordinals: &[FeatureOrdinal]) -> Result<Bytes, Error> {
    let view = RowView::open(bytes)?;
    let mut wanted = ordinals.to_vec();
    wanted.sort_unstable();
    let highest = wanted.last().copied();
    let values = view
        .values()
        .take_while(|(ordinal, _)| Some(*ordinal) <= highest)
        .filter(|(ordinal, _)| wanted.binary_search(ordinal).is_ok());
    Ok(pack(view.schema_version(), view.ttl_seconds(), values))
}

/// Decodes a whole row into owned values by rising ordinal.
///
/// # Errors
/// When `bytes` are no row.
pub fn decode(bytes: &[u8]) -> Result<Vec<(FeatureOrdinal, FeatureValue)>, Error> {
    Ok(RowView::open(bytes)?.values().map(|(ordinal, value)| (ordinal, value.to_value())).collect())
}

/// Packs values that come by rising ordinal.
fn pack<'a>(
    schema_version: SchemaVersion,
    ttl_seconds: Option<u64>,
    values: impl Iterator<Item = (FeatureOrdinal, ValueRef<'a>)>,
) -> Bytes {
    let mut row = Row { schema_version: schema_version.0, ttl_seconds, ..Row::default() };
    for (ordinal, value) in values {
        assert!(row.kinds.len() <= usize::from(ordinal.0), "values come by rising ordinal");
        row.kinds.resize(usize::from(ordinal.0), kind::ABSENT);
        let (kind, original) = match value {
            ValueRef::String(text) => {
                row.strings.push(Text(text));
                (kind::STRING, None)
            }
            ValueRef::Integral { value, original } => {
                row.integers.push(value);
                (kind::INTEGRAL, original)
            }
            ValueRef::Fractional { value, original } => {
                row.fractions.push(value);
                (kind::FRACTIONAL, original)
            }
            ValueRef::Collection(elements) => {
                row.collections.push(elements.map(Text).collect());
                (kind::COLLECTION, None)
            }
        };
        row.kinds.push(kind);
        row.originals.extend(original.map(|text| (ordinal.0, Text(text))));
    }
    // The archive's pointers are relative, so it may start after the version byte.
    let bytes = rkyv::api::high::to_bytes_in::<_, rancor::Error>(&row, vec![FORMAT_VERSION])
        .expect("a record is far smaller than the 2 GiB an archive can hold");
    bytes.into()
}
