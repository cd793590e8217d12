//! AddTags, ListTags and DeleteTags, of feature groups by their ARNs.

use std::collections::HashMap;

use bytes::Bytes;
use granary_proto::v1;
use granary_types::feature_group::TAG_COUNT_MAX;
use serde::{Deserialize, Serialize};

use super::constraints::{TAG_TEXT, Violations};
use super::fault::{Fault, Plane};
use super::tags::{self, Tag};
use super::{Call, Rest, body_of};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddRequest {
    resource_arn: Option<String>,
    tags: Option<Vec<Tag>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListRequest {
    resource_arn: Option<String>,
    next_token: Option<String>,
    max_results: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteRequest {
    resource_arn: Option<String>,
    tag_keys: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    tags: Vec<Tag>,
}

impl Rest {
    pub(super) async fn add_tags(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: AddRequest = call.shape()?;
        let mut violations = Violations::default();
        tags::check_arn(&request.resource_arn, &mut violations);
        let given = violations.required("tags", &request.tags).cloned().unwrap_or_default();
        tags::check(&given, &mut violations);
        violations.finish(Plane::Control)?;
        tags::check_keys(&given).map_err(|message| Fault::invalid(Plane::Control, message))?;
        let feature_group = tags::group_in(&request.resource_arn.unwrap_or_default())?;
        let set: HashMap<String, String> =
            given.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect();
        let group = if set.is_empty() {
            self.router.describe(&feature_group).map_err(tags::refused)?
        } else {
            let request = v1::UpdateTagsRequest { feature_group, set, remove: Vec::new() };
            self.router.update_tags(request).await.map_err(tags::refused)?
        };
        body_of(&Listed { tags: tags::listed(&group.tags) })
    }

    pub(super) fn list_tags(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: ListRequest = call.shape()?;
        let mut violations = Violations::default();
        tags::check_arn(&request.resource_arn, &mut violations);
        if let Some(count) = request.max_results {
            violations.range("maxResults", count, 50, i64::from(i32::MAX));
        }
        violations.finish(Plane::Control)?;
        if request.next_token.is_some_and(|token| !token.is_empty()) {
            // The smallest page holds all tags that a group may have, so that none is given out.
            return Err(Fault::invalid(Plane::Control, "NextToken is not one that was returned"));
        }
        let name = tags::group_in(&request.resource_arn.unwrap_or_default())?;
        let group = self.router.describe(&name).map_err(tags::refused)?;
        body_of(&Listed { tags: tags::listed(&group.tags) })
    }

    pub(super) async fn delete_tags(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: DeleteRequest = call.shape()?;
        let mut violations = Violations::default();
        tags::check_arn(&request.resource_arn, &mut violations);
        let keys = violations.required("tagKeys", &request.tag_keys).cloned();
        if let Some(keys) = &keys {
            violations.count("tagKeys", keys.len(), 1, TAG_COUNT_MAX);
            for (index, key) in keys.iter().enumerate() {
                let field = format!("tagKeys.{}.member", index + 1);
                violations.length(&field, key, 1, 128);
                violations.pattern(&field, key, TAG_TEXT);
            }
        }
        violations.finish(Plane::Control)?;
        let feature_group = tags::group_in(&request.resource_arn.unwrap_or_default())?;
        let remove = keys.unwrap_or_default();
        let request = v1::UpdateTagsRequest { feature_group, set: HashMap::new(), remove };
        self.router.update_tags(request).await.map_err(tags::refused)?;
        Ok(Bytes::from_static(b"{}"))
    }
}
