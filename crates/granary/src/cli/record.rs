//! Records as JSON and as text, for `get` and `batch-get`.

use granary_proto::convert::kind_of_code;
use granary_proto::v1::{BatchError, FeatureValue, Value, value};
use granary_types::Error;
use serde_json::{Map, Value as Json, json};

/// A value's text; the elements of a collection as a JSON array.
pub(super) fn text(value: Option<&Value>) -> String {
    match value.and_then(|value| value.kind.as_ref()) {
        None => String::new(),
        Some(value::Kind::Text(text)) => text.clone(),
        Some(value::Kind::Integral(number)) => number.to_string(),
        Some(value::Kind::Fractional(number)) => number.to_string(),
        Some(value::Kind::List(list)) => json!(list.texts).to_string(),
    }
}

/// A record as one JSON object: values as the texts that were put, collections as arrays of texts.
pub(super) fn to_json(record: &[FeatureValue]) -> Json {
    let fields = record.iter().map(|feature| {
        let value = match feature.value.as_ref().and_then(|value| value.kind.as_ref()) {
            Some(value::Kind::List(list)) => json!(list.texts),
            _ => Json::String(text(feature.value.as_ref())),
        };
        (feature.name.clone(), value)
    });
    Json::Object(fields.collect::<Map<_, _>>())
}

/// A record as lines of name and value.
pub(super) fn to_text(record: &[FeatureValue]) -> String {
    let width = record.iter().map(|feature| feature.name.chars().count()).max().unwrap_or(0);
    let lines = record.iter().map(|feature| format!("{:<width$}  {}\n", feature.name, text(feature.value.as_ref())));
    lines.collect()
}

/// The error of one key of a batch.
pub(super) fn error_of(error: &BatchError) -> Error {
    let message = format!("{}/{}: {}", error.feature_group, error.record_identifier, error.message);
    Error::new(kind_of_code(&error.code), message)
}

/// A feature value of text.
#[cfg(test)]
fn feature(name: &str, text: &str) -> FeatureValue {
    let value = Value { kind: Some(value::Kind::Text(text.to_owned())) };
    FeatureValue { name: name.to_owned(), value: Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_they_were_put() {
        let record = [feature("id", "007"), feature("rate", "15.20")];
        assert_eq!(to_json(&record), json!({"id": "007", "rate": "15.20"}));
        assert_eq!(to_text(&record), "id    007\nrate  15.20\n");
    }
}
