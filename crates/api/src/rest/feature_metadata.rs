//! DescribeFeatureMetadata and UpdateFeatureMetadata: what is said about one feature.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use granary_proto::v1;
use granary_types::feature_group::{PARAMETER_COUNT_MAX, PARAMETER_LEN_MAX};
use granary_types::{Error, ErrorKind, Feature, FeatureGroup};
use serde::{Deserialize, Serialize};

use super::constraints::{PARAMETER_TEXT, Violations};
use super::fault::{Fault, Plane};
use super::shapes::epoch_seconds;
use super::{Call, Rest, body_of, definitions, names};
use crate::Settings;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeRequest {
    feature_group_name: Option<String>,
    feature_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateRequest {
    feature_group_name: Option<String>,
    feature_name: Option<String>,
    description: Option<String>,
    parameter_additions: Option<Vec<Parameter>>,
    parameter_removals: Option<Vec<String>>,
}

/// `FeatureParameter`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    key: Option<String>,
    value: Option<String>,
}

/// A feature as it is described, here and in the results of a search.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described<'a> {
    feature_group_arn: String,
    feature_group_name: &'a str,
    feature_name: &'a str,
    feature_type: &'static str,
    creation_time: f64,
    last_modified_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Parameter>,
}

pub(super) fn described<'a>(settings: &Settings, group: &'a FeatureGroup, feature: &'a Feature) -> Described<'a> {
    let parameter = |(key, value): (&String, &String)| Parameter { key: Some(key.clone()), value: Some(value.clone()) };
    Described {
        feature_group_arn: names::arn_of(settings, &group.name),
        feature_group_name: &group.name,
        feature_name: &feature.name,
        feature_type: definitions::type_name(feature),
        creation_time: epoch_seconds(feature.created_at_ms),
        last_modified_time: epoch_seconds(feature.updated_at_ms),
        description: feature.description.as_deref(),
        parameters: feature.parameters.iter().map(parameter).collect(),
    }
}

impl Rest {
    pub(super) fn describe_feature_metadata(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: DescribeRequest = call.shape()?;
        let group = names::required(&request.feature_group_name)?;
        let mut violations = Violations::default();
        let feature = check_feature(&request.feature_name, &mut violations);
        violations.finish(Plane::Control)?;
        let group = self.router.describe(&group).map_err(|error| Fault::of(Plane::Control, error))?;
        let found = group.schema.by_name(&feature).ok_or_else(|| {
            let message = format!("Resource Not Found: FeatureGroup {} has no feature with name {feature}", group.name);
            Fault::of(Plane::Control, Error::new(ErrorKind::NotFound, message))
        })?;
        body_of(&described(&self.settings, &group, found))
    }

    pub(super) async fn update_feature_metadata(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: UpdateRequest = call.shape()?;
        let wire = request.into_wire()?;
        self.router.update_feature_metadata(wire).await.map_err(|error| Fault::of(Plane::Control, error))?;
        Ok(Bytes::new())
    }
}

fn check_feature(name: &Option<String>, violations: &mut Violations) -> String {
    let name = violations.required("featureName", name);
    if let Some(name) = name {
        violations.name("featureName", name);
    }
    name.cloned().unwrap_or_default()
}

impl UpdateRequest {
    /// As the router takes it, once every constraint holds.
    fn into_wire(self) -> Result<v1::UpdateFeatureMetadataRequest, Fault> {
        let feature_group = names::required(&self.feature_group_name)?;
        let mut violations = Violations::default();
        let feature = check_feature(&self.feature_name, &mut violations);
        if let Some(text) = &self.description {
            violations.length("description", text, 0, PARAMETER_LEN_MAX);
        }
        let additions = self.parameter_additions.unwrap_or_default();
        let removals = self.parameter_removals.unwrap_or_default();
        check_additions(&additions, &mut violations);
        violations.count("parameterRemovals", removals.len(), 0, PARAMETER_COUNT_MAX);
        for (index, key) in removals.iter().enumerate() {
            check_text(&format!("parameterRemovals.{}.member", index + 1), key, &mut violations);
        }
        violations.finish(Plane::Control)?;
        let mut set_parameters = HashMap::new();
        for Parameter { key, value } in additions {
            let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
            if set_parameters.contains_key(&key) {
                return Err(Fault::invalid(Plane::Control, format!("parameter {key:?} is given twice")));
            }
            set_parameters.insert(key, value);
        }
        let distinct: HashSet<&String> = removals.iter().collect();
        if distinct.len() < removals.len() {
            return Err(Fault::invalid(Plane::Control, "a parameter to remove is given twice"));
        }
        Ok(v1::UpdateFeatureMetadataRequest {
            feature_group,
            feature,
            description: self.description,
            set_parameters,
            remove_parameters: removals,
        })
    }
}

fn check_additions(additions: &[Parameter], violations: &mut Violations) {
    violations.count("parameterAdditions", additions.len(), 0, PARAMETER_COUNT_MAX);
    for (index, Parameter { key, value }) in additions.iter().enumerate() {
        for (member, text) in [("key", key), ("value", value)] {
            let field = format!("parameterAdditions.{}.member.{member}", index + 1);
            if let Some(text) = violations.required(&field, text) {
                check_text(&field, text, violations);
            }
        }
    }
}

/// A key or a value.
fn check_text(field: &str, text: &str, violations: &mut Violations) {
    violations.length(field, text, 1, PARAMETER_LEN_MAX);
    violations.pattern(field, text, PARAMETER_TEXT);
}
