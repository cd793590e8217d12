//! Feature values: typed, with the text that was put wherever the canonical text differs from it.

use crate::{Error, Feature, FeatureType};

/// A typed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// UTF-8 text, possibly empty.
    String(String),
    /// A 64-bit signed integer.
    Integral(i64),
    /// A finite IEEE double.
    Fractional(f64),
    /// The elements of a List, Set or Vector in the texts that were put, each checked against the element type.
    Collection(Vec<String>),
}

/// A value as it was put: a read returns [`FeatureValue::text`], byte for byte what was written.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureValue {
    /// The typed value.
    pub value: Value,
    /// What was put, only where it is not the canonical text (`007`, `15.20`).
    pub original: Option<String>,
}

impl FeatureValue {
    /// Parses a scalar of the feature's type from the text that was put.
    ///
    /// # Errors
    /// `Invalid`, naming the feature and what its type takes.
    pub fn parse(feature: &Feature, text: &str) -> Result<Self, Error> {
        if feature.collection.is_some() {
            return Err(Error::invalid(format!(
                "feature {:?} is a collection and takes a list of values",
                feature.name
            )));
        }
        let value = parse_scalar(feature, text)?;
        let original = (canonical_text(&value).as_deref() != Some(text)).then(|| text.to_owned());
        let original = if matches!(value, Value::String(_)) { None } else { original };
        Ok(Self { value, original })
    }

    /// Checks and takes the elements of a collection.
    ///
    /// # Errors
    /// `Invalid` when the feature is no collection, an element is not of its type, a Set repeats itself, or a
    /// Vector has not its dimension.
    pub fn parse_collection(feature: &Feature, texts: Vec<String>) -> Result<Self, Error> {
        let Some(collection) = feature.collection else {
            return Err(Error::invalid(format!("feature {:?} takes one value, not a list", feature.name)));
        };
        for text in &texts {
            parse_scalar(feature, text)?;
        }
        collection.check(&feature.name, &texts)?;
        Ok(Self { value: Value::Collection(texts), original: None })
    }

    /// The text that was put, for scalars; `None` for collections.
    pub fn text(&self) -> Option<String> {
        self.original.clone().or_else(|| canonical_text(&self.value))
    }
}

/// The canonical text of a scalar: shortest decimal that reads back as the same value.
pub fn canonical_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integral(number) => Some(number.to_string()),
        Value::Fractional(number) => Some(number.to_string()),
        Value::Collection(_) => None,
    }
}

fn parse_scalar(feature: &Feature, text: &str) -> Result<Value, Error> {
    let wrong = |wanted: &str| Error::invalid(format!("feature {:?} takes {wanted}, got {text:?}", feature.name));
    match feature.kind {
        FeatureType::String => Ok(Value::String(text.to_owned())),
        FeatureType::Integral => text.parse().map(Value::Integral).map_err(|_| wrong("an integer of 64 bits")),
        FeatureType::Fractional => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Fractional(number)),
            _ => Err(wrong("a finite decimal number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FeatureOrdinal;

    fn feature(kind: FeatureType) -> Feature {
        Feature::new(FeatureOrdinal(0), "f", kind)
    }

    #[test]
    fn keeps_the_text_only_where_it_differs() {
        let cases = [
            (FeatureType::Integral, "25", false),
            (FeatureType::Integral, "007", true),
            (FeatureType::Integral, "+5", true),
            (FeatureType::Fractional, "15.2", false),
            (FeatureType::Fractional, "15.20", true),
            (FeatureType::Fractional, "25", false),
            (FeatureType::Fractional, "1e3", true),
            (FeatureType::String, "007", false),
            (FeatureType::String, "", false),
        ];
        for (kind, text, keeps) in cases {
            let value = FeatureValue::parse(&feature(kind), text).expect(text);
            assert_eq!(value.text().as_deref(), Some(text));
            assert_eq!(value.original.is_some(), keeps, "{kind:?} {text}");
        }
    }

    #[test]
    fn refuses_wrong_types() {
        for text in ["", "1.0", "abc", "9223372036854775808", " 1"] {
            assert!(FeatureValue::parse(&feature(FeatureType::Integral), text).is_err(), "{text:?}");
        }
        for text in ["", "NaN", "inf", "1,5", "-infinity"] {
            assert!(FeatureValue::parse(&feature(FeatureType::Fractional), text).is_err(), "{text:?}");
        }
    }
}
