//! `Tag`, and the feature group that a tagged ARN is of.

use std::collections::{BTreeMap, BTreeSet};

use granary_types::feature_group::TAG_COUNT_MAX;
use granary_types::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::constraints::{RESOURCE_ARN, TAG_TEXT, Violations};
use super::fault::{Fault, Plane};
use super::names;

/// `Tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    pub(super) key: Option<String>,
    pub(super) value: Option<String>,
}

/// A group's tags as they are told, by rising key.
pub(super) fn listed(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// The constraints of a list of tags.
pub(super) fn check(tags: &[Tag], violations: &mut Violations) {
    violations.count("tags", tags.len(), 0, TAG_COUNT_MAX);
    for (index, tag) in tags.iter().enumerate() {
        for (member, text, least, most) in [("key", &tag.key, 1, 128), ("value", &tag.value, 0, 256)] {
            let field = format!("tags.{}.member.{member}", index + 1);
            if let Some(text) = violations.required(&field, text) {
                violations.length(&field, text, least, most);
                violations.pattern(&field, text, TAG_TEXT);
            }
        }
    }
}

/// The rules of tags: a key once, and none of those that AWS keeps for itself.
pub(super) fn check_keys(tags: &[Tag]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for key in tags.iter().filter_map(|tag| tag.key.as_deref()) {
        if key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:")) {
            return Err(format!("tag key {key:?} begins with \"aws:\", which is reserved"));
        }
        if !seen.insert(key) {
            return Err(format!("tag key {key:?} is given twice"));
        }
    }
    Ok(())
}

/// The constraints of the ARN of something tagged.
pub(super) fn check_arn<'a>(arn: &'a Option<String>, violations: &mut Violations) -> Option<&'a String> {
    let arn = violations.required("resourceArn", arn)?;
    violations.length("resourceArn", arn, 0, 256);
    violations.pattern("resourceArn", arn, RESOURCE_ARN);
    Some(arn)
}

/// The name of the feature group whose ARN this is. Nothing else is tagged here.
pub(super) fn group_in(arn: &str) -> Result<String, Fault> {
    let name = names::name_of(arn).filter(|_| arn.starts_with("arn:"));
    name.map(str::to_owned).ok_or_else(|| {
        Fault::invalid(Plane::Control, format!("Granary keeps tags of feature groups, and {arn:?} is the ARN of none"))
    })
}

/// A failure of the three operations on tags, for which AWS models no `ResourceNotFound`.
pub(super) fn refused(error: Error) -> Fault {
    match error.kind {
        ErrorKind::NotFound => Fault::constraints(Plane::Control, error.message),
        _ => Fault::of(Plane::Control, error),
    }
}
