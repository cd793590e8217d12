//! Rows turned into columns: one typed list for each feature, one value for each entity, whatever the rows lack.
//!
//! Each row is opened once and its values go straight into the lists; nothing is allocated for a value, only the lists grow.

use granary_row::{Elements, RowView, ValueRef};
use granary_types::{Error, ErrorKind, Feature, FeatureOrdinal, FeatureType, Schema};

/// The values of one feature, one for each entity.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The feature.
    pub feature: FeatureOrdinal,
    /// Which entities have a value.
    pub present: Present,
    /// The values; 0 or empty where there is none.
    pub values: Values,
}

/// A list of values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Of a Fractional feature.
    Doubles(Vec<f64>),
    /// Of an Integral feature.
    Integers(Vec<i64>),
    /// Of a String feature.
    Texts(Texts),
    /// Of a List, Set or Vector: how many elements each entity has, and the elements of all, one after the other.
    Lists(Vec<u32>, Box<Values>),
}

/// Texts, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// All of them.
    pub data: String,
    /// Bytes of each.
    pub lengths: Vec<u32>,
}

/// Which of a number of entities have a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// A bit for each, the least significant of a byte first.
    bits: Vec<u8>,
    len: usize,
    absent: usize,
}

impl Present {
    /// Whether all have one.
    pub fn is_complete(&self) -> bool {
        self.absent == 0
    }

    /// A bit for each entity, the least significant of a byte first; empty where all have a value.
    pub fn into_bits(self) -> Vec<u8> {
        if self.is_complete() { Vec::new() } else { self.bits }
    }

    fn push(&mut self, present: bool) {
        let (byte, bit) = (self.len / 8, self.len % 8);
        if bit == 0 {
            self.bits.push(0);
        }
        self.bits[byte] |= u8::from(present) << bit;
        self.len += 1;
        self.absent += usize::from(!present);
    }

    /// Forgets the last one.
    fn pop(&mut self) {
        self.len -= 1;
        let (byte, bit) = (self.len / 8, self.len % 8);
        self.absent -= usize::from(self.bits[byte] & (1 << bit) == 0);
        self.bits[byte] &= !(1 << bit);
        self.bits.truncate(self.len.div_ceil(8));
    }
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.data.push_str(text);
        self.lengths.push(length(text.len()));
    }

    fn pop(&mut self) {
        let last = self.lengths.pop().unwrap_or(0) as usize;
        self.data.truncate(self.data.len() - last);
    }
}

impl Values {
    /// Of none yet, with room for `count`.
    fn of(feature: &Feature, count: usize) -> Self {
        let scalars = |count| match feature.kind {
            FeatureType::Fractional => Self::Doubles(Vec::with_capacity(count)),
            FeatureType::Integral => Self::Integers(Vec::with_capacity(count)),
            FeatureType::String => Self::Texts(Texts { data: String::new(), lengths: Vec::with_capacity(count) }),
        };
        match feature.collection {
            Some(_) => Self::Lists(Vec::with_capacity(count), Box::new(scalars(0))),
            None => scalars(count),
        }
    }

    /// Adds what stands for no value.
    fn push_none(&mut self) {
        match self {
            Self::Doubles(numbers) => numbers.push(0.0),
            Self::Integers(numbers) => numbers.push(0),
            Self::Texts(texts) => texts.push(""),
            Self::Lists(counts, _) => counts.push(0),
        }
    }

    /// Adds a value; `false`, and nothing is added, when it is of another type.
    fn push(&mut self, value: &ValueRef<'_>) -> bool {
        match (self, value) {
            (Self::Doubles(numbers), ValueRef::Fractional { value, .. }) => numbers.push(*value),
            (Self::Integers(numbers), ValueRef::Integral { value, .. }) => numbers.push(*value),
            (Self::Texts(texts), ValueRef::String(text)) => texts.push(text),
            (Self::Lists(counts, all), ValueRef::Collection(elements)) => {
                let Some(added) = all.push_elements(elements.clone()) else { return false };
                counts.push(length(added));
            }
            _ => return false,
        }
        true
    }

    /// Adds the elements of a collection, which are kept as texts; `None`, and nothing is added, when one is of another type.
    fn push_elements(&mut self, elements: Elements<'_>) -> Option<usize> {
        let mut added = 0;
        for text in elements {
            let is_of_type = match self {
                Self::Doubles(numbers) => text.parse().map(|number| numbers.push(number)).is_ok(),
                Self::Integers(numbers) => text.parse().map(|number| numbers.push(number)).is_ok(),
                Self::Texts(texts) => {
                    texts.push(text);
                    true
                }
                Self::Lists(..) => false,
            };
            if !is_of_type {
                (0..added).for_each(|_| self.pop());
                return None;
            }
            added += 1;
        }
        Some(added)
    }

    /// Forgets the last one.
    fn pop(&mut self) {
        match self {
            Self::Doubles(numbers) => drop(numbers.pop()),
            Self::Integers(numbers) => drop(numbers.pop()),
            Self::Texts(texts) => texts.pop(),
            Self::Lists(counts, elements) => {
                let last = counts.pop().unwrap_or(0);
                (0..last).for_each(|_| elements.pop());
            }
        }
    }
}

/// The columns of one selection while rows come in, in the order of the entities.
#[derive(Debug)]
pub(crate) struct Columns {
    columns: Vec<Column>,
    /// The column of each feature, by its ordinal; [`NO_COLUMN`] for one that was not asked for.
    place_of: Vec<u16>,
    /// How many entities came to their end.
    entities: usize,
}

const NO_COLUMN: u16 = u16::MAX;

impl Columns {
    /// Of the features at `ordinals`, in that order, for `count` entities.
    pub(crate) fn new(schema: &Schema, ordinals: &[FeatureOrdinal], count: usize) -> Self {
        let mut place_of = vec![NO_COLUMN; schema.features().len()];
        let features = ordinals.iter().filter_map(|ordinal| schema.by_ordinal(*ordinal));
        let columns: Vec<Column> = features
            .map(|feature| Column {
                feature: feature.ordinal,
                present: Present::default(),
                values: Values::of(feature, count),
            })
            .collect();
        for (place, column) in (0..NO_COLUMN).zip(&columns) {
            place_of[usize::from(column.feature.0)] = place;
        }
        Self { columns, place_of, entities: 0 }
    }

    /// Adds the values of the next entity's row. [`Self::end_entity`] ends it.
    ///
    /// # Errors
    /// `Corrupt` when one is not of its feature's type. Nothing is added then.
    pub(crate) fn push(&mut self, row: &RowView<'_>) -> Result<(), Error> {
        let Some(ordinal) = self.push_values(row) else { return Ok(()) };
        for column in self.columns.iter_mut().filter(|column| column.present.len > self.entities) {
            column.present.pop();
            column.values.pop();
        }
        let message = format!("the stored value of feature {} is not of the feature's type", ordinal.0);
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// Goes on to the next entity. Columns to which nothing was added for this one get what stands for no value.
    pub(crate) fn end_entity(&mut self) {
        self.entities += 1;
        for column in self.columns.iter_mut().filter(|column| column.present.len < self.entities) {
            column.present.push(false);
            column.values.push_none();
        }
    }

    /// The first feature whose value is not of its type.
    fn push_values(&mut self, row: &RowView<'_>) -> Option<FeatureOrdinal> {
        for (ordinal, value) in row.values() {
            // A row may have features that this router's catalog does not know yet.
            let Some(place) = self.place_of.get(usize::from(ordinal.0)).filter(|place| **place != NO_COLUMN) else {
                continue;
            };
            let column = &mut self.columns[usize::from(*place)];
            if !column.values.push(&value) {
                return Some(ordinal);
            }
            column.present.push(true);
        }
        None
    }

    pub(crate) fn into_columns(self) -> Vec<Column> {
        self.columns
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a record is far smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use granary_types::{CollectionType, EventTime, FeatureValue, Record, RecordIdentifier, SchemaVersion, Value};
    use proptest::prelude::*;

    use super::*;

    /// Three scalars and a collection of each type.
    fn schema() -> Schema {
        let kinds = [FeatureType::String, FeatureType::Integral, FeatureType::Fractional];
        let features = (0..6_u16).map(|ordinal| {
            let kind = kinds[usize::from(ordinal % 3)];
            let collection = (ordinal >= 3).then_some(CollectionType::List);
            Feature { collection, ..Feature::new(FeatureOrdinal(ordinal), format!("f{ordinal}"), kind) }
        });
        Schema::new(SchemaVersion(1), features.collect()).expect("a schema")
    }

    /// A value of the feature at `ordinal`.
    fn value_of(ordinal: u16) -> BoxedStrategy<FeatureValue> {
        let scalar = match ordinal % 3 {
            0 => any::<String>().prop_map(Value::String).boxed(),
            1 => any::<i64>().prop_map(Value::Integral).boxed(),
            _ => any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Fractional).boxed(),
        };
        let plain = |value| FeatureValue { value, original: None };
        match ordinal {
            0..3 => scalar.prop_map(plain).boxed(),
            _ => proptest::collection::vec(scalar, 0..4)
                .prop_map(move |elements| {
                    let texts = elements.into_iter().map(|value| plain(value).text().expect("a scalar"));
                    plain(Value::Collection(texts.collect()))
                })
                .boxed(),
        }
    }

    /// A record with some values, one of which may be of another feature's type; and one of a feature that nobody knows yet.
    fn records() -> impl Strategy<Value = Option<Vec<(FeatureOrdinal, FeatureValue)>>> {
        let values: Vec<_> = (0..7_u16)
            .map(|ordinal| {
                let right = value_of(ordinal % 6);
                let wrong = value_of((ordinal + 1) % 6);
                let some = prop_oneof![30 => right, 1 => wrong];
                proptest::option::of(some.prop_map(move |value| (FeatureOrdinal(ordinal), value)))
            })
            .collect();
        proptest::option::weighted(0.9, values.prop_map(|values| values.into_iter().flatten().collect()))
    }

    fn is_of_type(feature: &Feature, value: &Value) -> bool {
        match (feature.collection, feature.kind, value) {
            (Some(_), kind, Value::Collection(texts)) => texts.iter().all(|text| match kind {
                FeatureType::String => true,
                FeatureType::Integral => text.parse::<i64>().is_ok(),
                FeatureType::Fractional => text.parse::<f64>().is_ok(),
            }),
            (None, FeatureType::String, Value::String(_))
            | (None, FeatureType::Integral, Value::Integral(_))
            | (None, FeatureType::Fractional, Value::Fractional(_)) => true,
            _ => false,
        }
    }

    /// The values of a list as texts, and what stands in it.
    fn texts(values: &Values) -> Vec<String> {
        match values {
            Values::Doubles(numbers) => numbers.iter().map(ToString::to_string).collect(),
            Values::Integers(numbers) => numbers.iter().map(ToString::to_string).collect(),
            Values::Texts(Texts { data, lengths }) => {
                let mut rest = data.as_str();
                let texts = lengths.iter().map(|len| {
                    let (text, after) = rest.split_at(*len as usize);
                    rest = after;
                    text.to_owned()
                });
                texts.collect()
            }
            Values::Lists(counts, elements) => {
                let mut elements = texts(elements).into_iter();
                let lists = counts
                    .iter()
                    .map(|count| format!("{:?}", elements.by_ref().take(*count as usize).collect::<Vec<_>>()));
                lists.collect()
            }
        }
    }

    fn text_of(feature: &Feature, value: &Value) -> String {
        match value {
            Value::Collection(elements) => {
                let texts = elements.iter().map(|text| match feature.kind {
                    FeatureType::String => text.clone(),
                    // Elements are values, too: `-0` is 0.
                    FeatureType::Integral => text.parse::<i64>().expect("a number").to_string(),
                    FeatureType::Fractional => text.parse::<f64>().expect("a number").to_string(),
                });
                format!("{:?}", texts.collect::<Vec<_>>())
            }
            Value::String(text) => text.clone(),
            Value::Integral(number) => number.to_string(),
            Value::Fractional(number) => number.to_string(),
        }
    }

    proptest! {
        #[test]
        fn columns_are_the_rows(rows in proptest::collection::vec(records(), 0..20), asked in prop::sample::subsequence((0..6_u16).collect::<Vec<_>>(), 0..6).prop_shuffle()) {
            let schema = schema();
            let asked: Vec<_> = asked.into_iter().map(FeatureOrdinal).collect();
            let mut columns = Columns::new(&schema, &asked, rows.len());
            let mut expected: Vec<Vec<Option<String>>> = vec![Vec::new(); asked.len()];
            for row in &rows {
                let values = row.clone().unwrap_or_default();
                let known = |ordinal: FeatureOrdinal| asked.contains(&ordinal).then(|| schema.by_ordinal(ordinal)).flatten();
                let sound = values.iter().all(|(ordinal, value)| known(*ordinal).is_none_or(|of| is_of_type(of, &value.value)));
                if row.is_some() {
                    let record = Record {
                        identifier: RecordIdentifier::new("id").expect("short"), event_time: EventTime::MIN, values: values.clone(), ttl: None,
                    };
                    let bytes = granary_row::encode(&record, SchemaVersion(1));
                    prop_assert_eq!(columns.push(&RowView::open(&bytes).expect("just encoded")).is_ok(), sound);
                }
                columns.end_entity();
                for (column, ordinal) in expected.iter_mut().zip(&asked) {
                    let value = values.iter().find(|(of, _)| of == ordinal).filter(|_| sound);
                    column.push(value.map(|(_, value)| text_of(schema.by_ordinal(*ordinal).expect("known"), &value.value)));
                }
            }
            for (column, expected) in columns.into_columns().into_iter().zip(expected) {
                let texts = texts(&column.values);
                prop_assert_eq!(texts.len(), rows.len());
                let bits = column.present.clone().into_bits();
                prop_assert_eq!(column.present.is_complete(), expected.iter().all(Option::is_some));
                for (entity, expected) in expected.iter().enumerate() {
                    let present = bits.is_empty() || bits[entity / 8] & (1 << (entity % 8)) != 0;
                    prop_assert_eq!(present, expected.is_some());
                    let none = || match column.values { Values::Doubles(_) | Values::Integers(_) => "0", Values::Texts(_) => "", Values::Lists(..) => "[]" }.to_owned();
                    prop_assert_eq!(&texts[entity], &expected.clone().unwrap_or_else(none));
                }
            }
        }
    }
}
