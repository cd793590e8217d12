//! ListFeatureGroups: filters, order and pages. Undocumented on AWS and chosen here: pages of ten, by rising
//! creation time.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use granary_types::FeatureGroup;
use serde::{Deserialize, Serialize};

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::shapes::{epoch_seconds, offline_status};
use super::{Call, Rest, body_of, names};

const PAGE_LEN: i64 = 10;
const PAGE_LEN_MAX: i64 = 100;
const GROUP_STATUSES: [&str; 5] = ["Creating", "Created", "CreateFailed", "Deleting", "DeleteFailed"];
const OFFLINE_STATUSES: [&str; 3] = ["Active", "Blocked", "Disabled"];
const SORT_KEYS: [&str; 4] = ["Name", "FeatureGroupStatus", "OfflineStoreStatus", "CreationTime"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    name_contains: Option<String>,
    feature_group_status_equals: Option<String>,
    offline_store_status_equals: Option<String>,
    creation_time_after: Option<f64>,
    creation_time_before: Option<f64>,
    sort_order: Option<String>,
    sort_by: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    feature_group_summaries: Vec<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    feature_group_name: String,
    feature_group_arn: String,
    creation_time: f64,
    feature_group_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline_store_status: Option<Status>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    status: &'static str,
}

/// Where a page ended: what its last group was sorted by. Pages stay right when groups come and go between them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    created_at_ms: u64,
    has_offline: bool,
    name: String,
}

impl Place {
    fn of(group: &FeatureGroup) -> Self {
        Self { created_at_ms: group.created_at_ms, has_offline: group.offline.is_some(), name: group.name.clone() }
    }

    /// `<creation, ms>.<offline store: 0 or 1>.<name>`: opaque to callers.
    fn to_token(&self) -> String {
        format!("{}.{}.{}", self.created_at_ms, u8::from(self.has_offline), self.name)
    }

    fn from_token(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, '.');
        let created_at_ms = parts.next()?.parse().ok()?;
        let has_offline = match parts.next()? {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        Some(Self { created_at_ms, has_offline, name: parts.next()?.to_owned() })
    }

    /// In the order asked for; names decide between equals.
    fn compare(&self, other: &Self, sort_by: &str) -> Ordering {
        let first = match sort_by {
            "Name" | "FeatureGroupStatus" => Ordering::Equal,
            "OfflineStoreStatus" => self.has_offline.cmp(&other.has_offline),
            _ => self.created_at_ms.cmp(&other.created_at_ms),
        };
        first.then_with(|| self.name.cmp(&other.name))
    }
}

impl Rest {
    pub(super) fn list_feature_groups(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        let after = request.check()?;
        let groups = self.router.list().map_err(|error| Fault::of(Plane::Control, error))?;
        let (page, next) = request.page(groups, after.as_ref());
        let summary = |group: Arc<FeatureGroup>| Summary {
            feature_group_name: group.name.clone(),
            feature_group_arn: names::arn_of(&self.settings, &group.name),
            creation_time: epoch_seconds(group.created_at_ms),
            feature_group_status: "Created",
            offline_store_status: offline_status(&group).map(|status| Status { status }),
        };
        body_of(&Response {
            feature_group_summaries: page.into_iter().map(summary).collect(),
            next_token: next.map(|place| place.to_token()),
        })
    }
}

impl Request {
    /// Checks the constraints and reads the token.
    fn check(&self) -> Result<Option<Place>, Fault> {
        let mut violations = Violations::default();
        if let Some(part) = &self.name_contains {
            violations.length("nameContains", part, 1, 64);
        }
        for (field, given, members) in [
            ("featureGroupStatusEquals", &self.feature_group_status_equals, &GROUP_STATUSES[..]),
            ("offlineStoreStatusEquals", &self.offline_store_status_equals, &OFFLINE_STATUSES[..]),
            ("sortOrder", &self.sort_order, &["Ascending", "Descending"][..]),
            ("sortBy", &self.sort_by, &SORT_KEYS[..]),
        ] {
            if let Some(given) = given {
                violations.one_of(field, given, members);
            }
        }
        if let Some(count) = self.max_results {
            violations.range("maxResults", count, 1, PAGE_LEN_MAX);
        }
        if let Some(token) = &self.next_token {
            violations.length("nextToken", token, 0, 8_192);
        }
        violations.finish(Plane::Control)?;
        let Some(token) = self.next_token.as_deref().filter(|token| !token.is_empty()) else { return Ok(None) };
        let place = Place::from_token(token);
        place.map(Some).ok_or_else(|| Fault::invalid(Plane::Control, "NextToken is not one that was returned"))
    }

    fn takes(&self, group: &FeatureGroup) -> bool {
        let created = epoch_seconds(group.created_at_ms);
        let is =
            |asked: &Option<String>, status: Option<&str>| asked.as_deref().is_none_or(|asked| Some(asked) == status);
        self.name_contains.as_ref().is_none_or(|part| group.name.contains(part.as_str()))
            && is(&self.feature_group_status_equals, Some("Created"))
            && is(&self.offline_store_status_equals, offline_status(group))
            && self.creation_time_after.is_none_or(|after| created > after)
            && self.creation_time_before.is_none_or(|before| created < before)
    }

    /// The groups of the page that begins after `after`, and where it ends if more follow.
    fn page(
        &self,
        mut groups: Vec<Arc<FeatureGroup>>,
        after: Option<&Place>,
    ) -> (Vec<Arc<FeatureGroup>>, Option<Place>) {
        let sort_by = self.sort_by.as_deref().unwrap_or("CreationTime");
        let descending = self.sort_order.as_deref() == Some("Descending");
        let compare = |a: &Place, b: &Place| {
            let rising = a.compare(b, sort_by);
            if descending { rising.reverse() } else { rising }
        };
        groups.retain(|group| {
            self.takes(group) && after.is_none_or(|after| compare(&Place::of(group), after) == Ordering::Greater)
        });
        groups.sort_by(|a, b| compare(&Place::of(a), &Place::of(b)));
        let length = usize::try_from(self.max_results.unwrap_or(PAGE_LEN)).expect("checked to be 1 to 100");
        let more = groups.len() > length;
        groups.truncate(length);
        let end = groups.last().filter(|_| more).map(|group| Place::of(group));
        (groups, end)
    }
}

#[cfg(test)]
mod tests {
    use granary_proto::convert::feature_group_from_wire;
    use granary_proto::v1;
    use serde_json::{Value, json};

    use super::*;

    fn group(name: &str, created_at_ms: u64, offline: bool) -> Arc<FeatureGroup> {
        let feature =
            v1::Feature { name: "at".into(), r#type: v1::FeatureType::String.into(), ..v1::Feature::default() };
        let group = feature_group_from_wire(&v1::FeatureGroup {
            name: name.into(),
            features: vec![feature],
            record_identifier_feature: "at".into(),
            event_time_feature: "at".into(),
            online: Some(v1::OnlineConfig::default()),
            offline: offline.then(v1::OfflineConfig::default),
            created_at_ms,
            ..v1::FeatureGroup::default()
        });
        Arc::new(group.expect("valid"))
    }

    fn groups() -> Vec<Arc<FeatureGroup>> {
        vec![group("a", 3_000, true), group("b", 1_000, false), group("c-x", 2_000, true), group("d", 2_000, false)]
    }

    /// All names in pages of `max_results`, following the tokens.
    fn names(mut body: Value) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let request: Request = serde_json::from_value(body.clone()).expect("the shape");
            let after = request.check().expect("valid");
            let (page, end) = request.page(groups(), after.as_ref());
            names.extend(page.iter().map(|group| group.name.clone()));
            let Some(end) = end else { return names };
            body["NextToken"] = end.to_token().into();
        }
    }

    #[test]
    fn pages_join_to_the_whole_in_every_order() {
        let cases = [
            (json!({}), vec!["b", "c-x", "d", "a"]),
            (json!({"SortOrder": "Descending"}), vec!["a", "d", "c-x", "b"]),
            (json!({"SortBy": "Name"}), vec!["a", "b", "c-x", "d"]),
            (json!({"SortBy": "OfflineStoreStatus"}), vec!["b", "d", "a", "c-x"]),
            (json!({"NameContains": "-"}), vec!["c-x"]),
            (json!({"OfflineStoreStatusEquals": "Active", "SortBy": "Name"}), vec!["a", "c-x"]),
            (json!({"FeatureGroupStatusEquals": "Creating"}), vec![]),
            (json!({"CreationTimeAfter": 1.0, "CreationTimeBefore": 3.0}), vec!["c-x", "d"]),
        ];
        for (body, expected) in cases {
            assert_eq!(names(body.clone()), expected, "{body}");
            let mut paged = body.clone();
            paged["MaxResults"] = 1.into();
            assert_eq!(names(paged), expected, "{body} in pages");
        }
    }

    #[test]
    fn faults_are_validation_exceptions() {
        for body in [
            json!({"MaxResults": 0}),
            json!({"MaxResults": 101}),
            json!({"SortBy": "Age"}),
            json!({"SortOrder": "Up"}),
            json!({"NameContains": ""}),
            json!({"FeatureGroupStatusEquals": "Gone"}),
            json!({"NextToken": "made up"}),
        ] {
            let request: Request = serde_json::from_value(body.clone()).expect("the shape");
            assert_eq!(request.check().expect_err(&body.to_string()).code, "ValidationException");
        }
    }
}
