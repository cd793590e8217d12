//! Reading a row in place.

use std::slice;

use granary_types::{FeatureOrdinal, FeatureValue, SchemaVersion, Value};
use rkyv::rancor;
use rkyv::string::ArchivedString;

use crate::format::{ArchivedRow, kind};
use crate::{Error, FORMAT_VERSION};

/// A row opened in place: checked whole once, then read value by value without decoding the rest.
#[derive(Clone, Copy)]
pub struct RowView<'a> {
    row: &'a ArchivedRow<'static>,
}

impl<'a> RowView<'a> {
    /// Checks `bytes` and opens them. Costs one pass over them, no allocation.
    ///
    /// # Errors
    /// When the bytes are no row of a known format.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let (version, body) = bytes.split_first().ok_or_else(|| Error::Corrupt("it is empty".into()))?;
        if *version != FORMAT_VERSION {
            return Err(Error::UnknownFormat(*version));
        }
        let row = rkyv::access::<ArchivedRow<'static>, rancor::Error>(body)
            .map_err(|error| Error::Corrupt(error.to_string()))?;
        check(row).map_err(|what| Error::Corrupt(what.into()))?;
        Ok(Self { row })
    }

    /// The schema version the record was checked against.
    pub fn schema_version(&self) -> SchemaVersion {
        SchemaVersion(self.row.schema_version.to_native())
    }

    /// The record's own time to live, in seconds.
    pub fn ttl_seconds(&self) -> Option<u64> {
        self.row.ttl_seconds.as_ref().map(|seconds| seconds.to_native())
    }

    /// The value of one feature; `None` when the record has none. Costs a count over the ordinals before it.
    pub fn value(&self, ordinal: FeatureOrdinal) -> Option<ValueRef<'a>> {
        let place = usize::from(ordinal.0);
        let kind = *self.row.kinds.get(place)?;
        let index = self.row.kinds[..place].iter().filter(|other| **other == kind).count();
        self.at(ordinal, kind, index)
    }

    /// The features that have a value, by rising ordinal.
    pub fn present(&self) -> impl Iterator<Item = FeatureOrdinal> + use<'a> {
        self.values().map(|(ordinal, _)| ordinal)
    }

    /// Every value by rising ordinal, in one pass: for many features cheaper than [`Self::value`] for each.
    pub fn values(&self) -> Values<'a> {
        Values { view: *self, next: 0, counts: [0; kind::COUNT] }
    }

    /// Bytes of the values' texts, elements of collections among them: what the limit for a record counts.
    pub fn text_len(&self) -> usize {
        self.values().map(|(_, value)| value.text_len()).sum()
    }

    /// The value at `ordinal`, which is of `kind` and the `index`th such.
    fn at(&self, ordinal: FeatureOrdinal, kind: u8, index: usize) -> Option<ValueRef<'a>> {
        let row = self.row;
        match kind {
            kind::STRING => row.strings.get(index).map(|text| ValueRef::String(text.as_str())),
            kind::INTEGRAL => row
                .integers
                .get(index)
                .map(|number| ValueRef::Integral { value: number.to_native(), original: self.original(ordinal) }),
            kind::FRACTIONAL => row
                .fractions
                .get(index)
                .map(|number| ValueRef::Fractional { value: number.to_native(), original: self.original(ordinal) }),
            kind::COLLECTION => row
                .collections
                .get(index)
                .map(|texts| ValueRef::Collection(Elements(Texts::Archived(texts.as_slice().iter())))),
            _ => None,
        }
    }

    fn original(&self, ordinal: FeatureOrdinal) -> Option<&'a str> {
        let originals = self.row.originals.as_slice();
        let found = originals.binary_search_by_key(&ordinal.0, |original| original.0.to_native()).ok()?;
        Some(originals[found].1.as_str())
    }
}

impl std::fmt::Debug for RowView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowView")
            .field("schema_version", &self.schema_version())
            .field("ttl_seconds", &self.ttl_seconds())
            .field("values", &self.values().collect::<Vec<_>>())
            .finish()
    }
}

/// What rkyv cannot know: that the parts of a row fit each other.
fn check(row: &ArchivedRow<'_>) -> Result<(), &'static str> {
    if row.kinds.len() > usize::from(u16::MAX) + 1 {
        return Err("it has more kinds than there are ordinals");
    }
    let mut counts = [0_usize; kind::COUNT];
    for kind in row.kinds.iter() {
        *counts.get_mut(usize::from(*kind)).ok_or("it has an unknown kind of value")? += 1;
    }
    let held = [
        counts[usize::from(kind::ABSENT)],
        row.strings.len(),
        row.integers.len(),
        row.fractions.len(),
        row.collections.len(),
    ];
    if held != counts {
        return Err("its kinds do not match its values");
    }
    if !row.fractions.iter().all(|number| number.to_native().is_finite()) {
        return Err("it has a number that is not finite");
    }
    let mut least = 0;
    for original in row.originals.iter() {
        let ordinal = usize::from(original.0.to_native());
        let number = matches!(row.kinds.get(ordinal), Some(&(kind::INTEGRAL | kind::FRACTIONAL)));
        if !number || ordinal < least {
            return Err("its original texts do not match its values");
        }
        least = ordinal + 1;
    }
    Ok(())
}

/// The values of a row by rising ordinal.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    view: RowView<'a>,
    next: usize,
    /// How many of each kind came before `next`.
    counts: [usize; kind::COUNT],
}

impl<'a> Iterator for Values<'a> {
    type Item = (FeatureOrdinal, ValueRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let kind = *self.view.row.kinds.get(self.next)?;
            let ordinal = FeatureOrdinal(u16::try_from(self.next).expect("checked on opening"));
            let index = self.counts[usize::from(kind)];
            self.counts[usize::from(kind)] += 1;
            self.next += 1;
            if let Some(value) = self.view.at(ordinal, kind, index) {
                return Some((ordinal, value));
            }
        }
    }
}

/// A value borrowed from a row.
#[derive(Debug, Clone)]
pub enum ValueRef<'a> {
    /// Text.
    String(&'a str),
    /// An integer.
    Integral {
        /// The value.
        value: i64,
        /// What was put, where it is not the canonical text.
        original: Option<&'a str>,
    },
    /// A finite double.
    Fractional {
        /// The value.
        value: f64,
        /// What was put, where it is not the canonical text.
        original: Option<&'a str>,
    },
    /// The elements of a List, Set or Vector in the texts that were put.
    Collection(Elements<'a>),
}

impl<'a> ValueRef<'a> {
    /// The text that was put, byte for byte. A collection has none, only its elements do: for it this is a text for
    /// people, `[a, b]`.
    pub fn text(&self) -> String {
        match self {
            Self::String(text) => (*text).to_owned(),
            Self::Integral { original: Some(text), .. } | Self::Fractional { original: Some(text), .. } => {
                (*text).to_owned()
            }
            Self::Integral { value, .. } => value.to_string(),
            Self::Fractional { value, .. } => value.to_string(),
            Self::Collection(elements) => format!("[{}]", elements.clone().collect::<Vec<_>>().join(", ")),
        }
    }

    /// Bytes of the text that was put, or of the elements' texts.
    pub fn text_len(&self) -> usize {
        match self {
            Self::String(text) => text.len(),
            Self::Collection(elements) => elements.clone().map(str::len).sum(),
            Self::Integral { original: Some(text), .. } | Self::Fractional { original: Some(text), .. } => text.len(),
            Self::Integral { .. } | Self::Fractional { .. } => self.text().len(),
        }
    }

    /// An owned copy.
    pub fn to_value(&self) -> FeatureValue {
        let (value, original) = match self {
            Self::String(text) => (Value::String((*text).to_owned()), None),
            Self::Integral { value, original } => (Value::Integral(*value), *original),
            Self::Fractional { value, original } => (Value::Fractional(*value), *original),
            Self::Collection(elements) => (Value::Collection(elements.clone().map(str::to_owned).collect()), None),
        };
        FeatureValue { value, original: original.map(str::to_owned) }
    }
}

impl<'a> From<&'a FeatureValue> for ValueRef<'a> {
    fn from(value: &'a FeatureValue) -> Self {
        let original = value.original.as_deref();
        match &value.value {
            Value::String(text) => Self::String(text),
            Value::Integral(number) => Self::Integral { value: *number, original },
            Value::Fractional(number) => Self::Fractional { value: *number, original },
            Value::Collection(texts) => Self::Collection(Elements(Texts::Owned(texts.iter()))),
        }
    }
}

/// The elements of a collection.
#[derive(Debug, Clone)]
pub struct Elements<'a>(Texts<'a>);

/// In a row, or in a record that is being encoded.
#[derive(Debug, Clone)]
enum Texts<'a> {
    Archived(slice::Iter<'a, ArchivedString>),
    Owned(slice::Iter<'a, String>),
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.0 {
            Texts::Archived(texts) => texts.next().map(|text| text.as_str()),
            Texts::Owned(texts) => texts.next().map(String::as_str),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Texts::Archived(texts) => texts.size_hint(),
            Texts::Owned(texts) => texts.size_hint(),
        }
    }
}

impl ExactSizeIterator for Elements<'_> {}
