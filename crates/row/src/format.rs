//! The archived form of a row (format version 1; `docs/formats/row.md`).
//!
//! One struct, [`Row`], borrows its texts, so that neither encoding a record nor projecting a row copies a string
//! twice. Its archive is the same as if it owned `String`s.

use rkyv::rancor::{Fallible, Source};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::{Archive, Place, Serialize, SerializeUnsized};

/// A value of [`Row::kinds`]: how the feature at that ordinal is held.
pub(crate) mod kind {
    /// The record has no value for the feature.
    pub(crate) const ABSENT: u8 = 0;
    /// In `strings`.
    pub(crate) const STRING: u8 = 1;
    /// In `integers`.
    pub(crate) const INTEGRAL: u8 = 2;
    /// In `fractions`.
    pub(crate) const FRACTIONAL: u8 = 3;
    /// In `collections`.
    pub(crate) const COLLECTION: u8 = 4;
    /// One more than the greatest.
    pub(crate) const COUNT: usize = 5;
}

/// A record's values packed by type. The place of a value in its typed vector is the count of earlier ordinals of
/// the same kind.
#[derive(Debug, Default, Archive, Serialize)]
pub(crate) struct Row<'a> {
    /// The schema version the record was checked against.
    pub(crate) schema_version: u32,
    /// The record's own time to live.
    pub(crate) ttl_seconds: Option<u64>,
    /// A [`kind`] for each ordinal up to the highest present.
    pub(crate) kinds: Vec<u8>,
    /// Finite doubles.
    pub(crate) fractions: Vec<f64>,
    /// Integers.
    pub(crate) integers: Vec<i64>,
    /// Texts.
    pub(crate) strings: Vec<Text<'a>>,
    /// Elements of collections in the texts that were put.
    pub(crate) collections: Vec<Vec<Text<'a>>>,
    /// By rising ordinal, the text that was put where it is not the canonical one. Numbers only.
    pub(crate) originals: Vec<(u16, Text<'a>)>,
}

/// A borrowed text that is archived as a `String` is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl Archive for Text<'_> {
    type Archived = ArchivedString;
    type Resolver = StringResolver;

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedString::resolve_from_str(self.0, resolver, out);
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for Text<'_>
where
    S::Error: Source,
    str: SerializeUnsized<S>,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedString::serialize_from_str(self.0, serializer)
    }
}
