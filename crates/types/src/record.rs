//! Records: what a put carries, checked against the schema of its group.

use std::fmt;

use bytes::Bytes;

use crate::{Error, EventTime, FeatureGroup, FeatureOrdinal, FeatureValue, Ttl};

/// The longest record identifier, in bytes (contract 3.1).
pub const RECORD_IDENTIFIER_LEN_MAX: usize = 2_048;
/// The longest record, in bytes of its values' texts (contract 3.1: 350 KB).
pub const RECORD_LEN_MAX: usize = 350 * 1_024;

/// The bytes that identify a record in its group: the text of its record identifier feature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordIdentifier(Bytes);

impl RecordIdentifier {
    /// From the text of the record identifier feature.
    ///
    /// # Errors
    /// `Invalid` when it is empty or too long.
    pub fn new(text: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = text.into();
        if bytes.is_empty() || bytes.len() > RECORD_IDENTIFIER_LEN_MAX {
            return Err(Error::invalid(format!(
                "a record identifier has 1 to {RECORD_IDENTIFIER_LEN_MAX} bytes, got {}",
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl fmt::Debug for RecordIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordIdentifier({:?})", String::from_utf8_lossy(&self.0))
    }
}

/// A record that fits the schema of its group: past this type an ill-formed one cannot exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Who.
    pub identifier: RecordIdentifier,
    /// When.
    pub event_time: EventTime,
    /// Values by rising ordinal; an absent feature is null. Holds the identifier and the event time too.
    pub values: Vec<(FeatureOrdinal, FeatureValue)>,
    /// The record's own time to live.
    pub ttl: Option<Ttl>,
}

/// A value in a put before it is checked.
#[derive(Debug, Clone, PartialEq)]
pub enum RawValue {
    /// A scalar's text.
    Text(String),
    /// A collection's elements.
    List(Vec<String>),
}

impl Record {
    /// Checks names and values against the group's schema and takes out identifier and event time.
    ///
    /// # Errors
    /// `Invalid`, naming the feature: unknown, given twice, of the wrong type, missing, or the record too long.
    pub fn parse(
        group: &FeatureGroup,
        values: impl IntoIterator<Item = (String, RawValue)>,
        ttl: Option<Ttl>,
    ) -> Result<Self, Error> {
        let parsed = parse_values(group, values)?;
        let text_of = |ordinal: FeatureOrdinal, name: &str| {
            let found = parsed.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal);
            found.ok().and_then(|index| parsed[index].1.text()).ok_or_else(|| {
                Error::invalid(format!("the record lacks feature {name:?}, which every record must have"))
            })
        };
        let identifier = text_of(group.record_identifier, &group.record_identifier_feature().name)?;
        let event_time_feature = group.event_time_feature();
        let event_time = text_of(group.event_time, &event_time_feature.name)?;
        Ok(Self {
            identifier: RecordIdentifier::new(identifier)?,
            event_time: EventTime::parse(event_time_feature.kind, &event_time)?,
            values: parsed,
            ttl,
        })
    }
}

/// New values for some features of a record, checked against the schema of its group. The rest stays as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordUpdate {
    /// Which record.
    pub identifier: RecordIdentifier,
    /// The caller's time; the record keeps its own without one.
    pub event_time: Option<EventTime>,
    /// By rising ordinal. The event time feature among them where `event_time` is set, the identifier never.
    pub values: Vec<(FeatureOrdinal, FeatureValue)>,
    /// Replaces the record's time to live.
    pub ttl: Option<Ttl>,
}

impl RecordUpdate {
    /// Checks identifier, names and values against the group's schema and takes out the event time.
    ///
    /// # Errors
    /// `Invalid`, naming the feature: unknown, given twice, of the wrong type; no values; another identifier among the
    /// values; a time to live without an event time to count it from; values too long for a record.
    pub fn parse(
        group: &FeatureGroup,
        identifier: &str,
        values: impl IntoIterator<Item = (String, RawValue)>,
        ttl: Option<Ttl>,
    ) -> Result<Self, Error> {
        FeatureValue::parse(group.record_identifier_feature(), identifier)?;
        let mut parsed = parse_values(group, values)?;
        let at = |ordinal: FeatureOrdinal, values: &[(FeatureOrdinal, FeatureValue)]| {
            values.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal).ok()
        };
        if let Some(place) = at(group.record_identifier, &parsed) {
            if parsed[place].1.text().as_deref() != Some(identifier) {
                let name = &group.record_identifier_feature().name;
                return Err(Error::invalid(format!("an update cannot change the record identifier feature {name:?}")));
            }
            parsed.remove(place);
        }
        if parsed.is_empty() {
            return Err(Error::invalid("an update needs a feature to change"));
        }
        let event_time_feature = group.event_time_feature();
        let event_time = match at(group.event_time, &parsed).and_then(|place| parsed[place].1.text()) {
            Some(text) => Some(EventTime::parse(event_time_feature.kind, &text)?),
            None => None,
        };
        if ttl.is_some() && event_time.is_none() {
            return Err(Error::invalid(format!(
                "a time to live needs the event time it counts from: feature {:?} is missing",
                event_time_feature.name
            )));
        }
        Ok(Self { identifier: RecordIdentifier::new(identifier.to_owned())?, event_time, values: parsed, ttl })
    }
}

/// The values by rising ordinal, each known, of its type and given once.
fn parse_values(
    group: &FeatureGroup,
    values: impl IntoIterator<Item = (String, RawValue)>,
) -> Result<Vec<(FeatureOrdinal, FeatureValue)>, Error> {
    let mut parsed: Vec<(FeatureOrdinal, FeatureValue)> = Vec::with_capacity(group.schema.features().len());
    let mut length = 0;
    for (name, raw) in values {
        let feature = group
            .schema
            .by_name(&name)
            .ok_or_else(|| Error::invalid(format!("feature group {:?} has no feature {name:?}", group.name)))?;
        let value = match raw {
            RawValue::Text(text) => {
                length += text.len();
                FeatureValue::parse(feature, &text)?
            }
            RawValue::List(texts) => {
                length += texts.iter().map(String::len).sum::<usize>();
                FeatureValue::parse_collection(feature, texts)?
            }
        };
        parsed.push((feature.ordinal, value));
    }
    if length > RECORD_LEN_MAX {
        return Err(Error::invalid(format!("a record has at most {RECORD_LEN_MAX} bytes, got {length}")));
    }
    parsed.sort_by_key(|(ordinal, _)| *ordinal);
    if let Some(pair) = parsed.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let name = group.schema.by_ordinal(pair[0].0).map_or("", |feature| feature.name.as_str());
        return Err(Error::invalid(format!("feature {name:?} is given twice")));
    }
    Ok(parsed)
}
