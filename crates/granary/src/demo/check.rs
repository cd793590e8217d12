//! Comparisons whose outcome says what differed.

use std::fmt::Debug;

use granary_proto::v1::{FeatureValue, value};

use super::input::{Input, Row};

/// Whether what was got is what was expected.
pub(super) fn equal<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what}: got {got:?}, expected {expected:?}")) }
}

/// Whether two means agree, whose sums were added up in different orders.
pub(super) fn close(what: &str, got: Option<f64>, expected: Option<f64>) -> Result<(), String> {
    match (got, expected) {
        (None, None) => Ok(()),
        (Some(got), Some(expected)) if (got - expected).abs() <= 1e-9 * expected.abs().max(1.0) => Ok(()),
        (got, expected) => Err(format!("{what}: got {got:?}, expected {expected:?}")),
    }
}

/// Whether a record that was read has exactly the texts that were put, in order of definition.
pub(super) fn same_record(input: &Input, row: &Row, got: &[FeatureValue]) -> Result<(), String> {
    let expected: Vec<(&str, &str)> = row.present().map(|(place, text)| (input.features[place].0, text)).collect();
    let got: Vec<(&str, &str)> = got.iter().map(|feature| (feature.name.as_str(), text(feature))).collect();
    equal(input.id(row), got, expected)
}

fn text(feature: &FeatureValue) -> &str {
    match feature.value.as_ref().and_then(|value| value.kind.as_ref()) {
        Some(value::Kind::Text(text)) => text,
        _ => "(not a text)",
    }
}
