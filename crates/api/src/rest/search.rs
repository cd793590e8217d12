//! Search over feature groups and features. What properties there are and what an expression means is the catalog's;
//! here are the shapes, and the rules that are SageMaker's alone.

use std::collections::HashSet;

use bytes::Bytes;
use granary_proto::v1;
use granary_router::Hit;
use granary_types::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::{Call, Rest, body_of, describe_feature_group, feature_metadata};

/// Undocumented on AWS.
const PAGE_LEN: i64 = 10;
const PAGE_LEN_MAX: i64 = 100;
const FEATURE_GROUP: &str = "FeatureGroup";
const FEATURE_METADATA: &str = "FeatureMetadata";
const RESOURCES: [&str; 18] = [
    "TrainingJob",
    "Experiment",
    "ExperimentTrial",
    "ExperimentTrialComponent",
    "Endpoint",
    "Model",
    "ModelPackage",
    "ModelPackageGroup",
    "Pipeline",
    "PipelineExecution",
    FEATURE_GROUP,
    FEATURE_METADATA,
    "Image",
    "ImageVersion",
    "Project",
    "HyperParameterTuningJob",
    "ModelCard",
    "PipelineVersion",
];
const OPERATORS: [(&str, v1::SearchOperator); 10] = [
    ("Equals", v1::SearchOperator::Equals),
    ("NotEquals", v1::SearchOperator::NotEquals),
    ("GreaterThan", v1::SearchOperator::GreaterThan),
    ("GreaterThanOrEqualTo", v1::SearchOperator::GreaterThanOrEqualTo),
    ("LessThan", v1::SearchOperator::LessThan),
    ("LessThanOrEqualTo", v1::SearchOperator::LessThanOrEqualTo),
    ("Contains", v1::SearchOperator::Contains),
    ("Exists", v1::SearchOperator::Exists),
    ("NotExists", v1::SearchOperator::NotExists),
    ("In", v1::SearchOperator::In),
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    resource: Option<String>,
    search_expression: Option<Expression>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    next_token: Option<String>,
    max_results: Option<i64>,
    cross_account_filter_option: Option<String>,
}

/// `SearchExpression`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Expression {
    filters: Option<Vec<Filter>>,
    nested_filters: Option<Vec<NestedFilters>>,
    sub_expressions: Option<Vec<Self>>,
    operator: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    name: Option<String>,
    operator: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NestedFilters {
    nested_property_name: Option<String>,
    filters: Option<Vec<Filter>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response<'a> {
    results: Vec<Record<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
    total_hits: TotalHits,
}

/// `SearchRecord`.
#[derive(Debug, Serialize)]
enum Record<'a> {
    FeatureGroup(Box<describe_feature_group::Described<'a>>),
    FeatureMetadata(feature_metadata::Described<'a>),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TotalHits {
    value: usize,
    relation: &'static str,
}

impl Rest {
    pub(super) async fn search(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        request.check()?;
        let crosses_accounts = request.cross_account_filter_option.as_deref() == Some("CrossAccount");
        let found = self.router.search(request.into_wire()?).await;
        let found = found.map_err(|error| Fault::of(Plane::Control, error))?;
        if crosses_accounts {
            // One deployment is one account, and nothing is shared with it.
            let total_hits = TotalHits { value: 0, relation: "EqualTo" };
            return body_of(&Response { results: Vec::new(), next_token: None, total_hits });
        }
        let results = found.hits.iter().map(|hit| self.record(hit)).collect::<Result<_, _>>()?;
        let total_hits = TotalHits { value: found.total, relation: "EqualTo" };
        body_of(&Response { results, next_token: found.next_page_token, total_hits })
    }

    fn record<'a>(&self, hit: &'a Hit) -> Result<Record<'a>, Fault> {
        let Some(ordinal) = hit.feature else {
            return Ok(Record::FeatureGroup(Box::new(describe_feature_group::found(&self.settings, &hit.group))));
        };
        let feature = hit.group.schema.by_ordinal(ordinal);
        let feature = feature.ok_or_else(|| Error::new(ErrorKind::Internal, "a search found a feature that is none"));
        let feature = feature.map_err(|error| Fault::of(Plane::Control, error))?;
        Ok(Record::FeatureMetadata(feature_metadata::described(&self.settings, &hit.group, feature)))
    }
}

impl Request {
    /// The constraints of the model.
    fn check(&self) -> Result<(), Fault> {
        let mut violations = Violations::default();
        if let Some(resource) = violations.required("resource", &self.resource) {
            violations.one_of("resource", resource, &RESOURCES);
        }
        if let Some(expression) = &self.search_expression {
            expression.check("searchExpression", &mut violations);
        }
        if let Some(name) = &self.sort_by {
            violations.length("sortBy", name, 1, 255);
        }
        for (field, given, members) in [
            ("sortOrder", &self.sort_order, ["Ascending", "Descending"]),
            ("crossAccountFilterOption", &self.cross_account_filter_option, ["SameAccount", "CrossAccount"]),
        ] {
            if let Some(given) = given {
                violations.one_of(field, given, &members);
            }
        }
        if let Some(token) = &self.next_token {
            violations.length("nextToken", token, 0, 8_192);
        }
        if let Some(count) = self.max_results {
            violations.range("maxResults", count, 1, PAGE_LEN_MAX);
        }
        violations.finish(Plane::Control)
    }

    /// As the router takes it; every constraint holds.
    fn into_wire(self) -> Result<v1::SearchRequest, Fault> {
        let resource = match self.resource.as_deref() {
            Some(FEATURE_GROUP) => v1::SearchResource::FeatureGroup,
            Some(FEATURE_METADATA) => v1::SearchResource::Feature,
            other => {
                let message = format!("Granary has nothing to search of resource {}", other.unwrap_or_default());
                return Err(Fault::invalid(Plane::Control, message));
            }
        };
        if let Some(expression) = &self.search_expression {
            expression.check_contains(&mut HashSet::new())?;
        }
        Ok(v1::SearchRequest {
            resource: resource.into(),
            expression: self.search_expression.map(Expression::into_wire),
            sort_by: self.sort_by.unwrap_or_default(),
            ascending: self.sort_order.as_deref() == Some("Ascending"),
            limit: u32::try_from(self.max_results.unwrap_or(PAGE_LEN)).expect("checked to be 1 to 100"),
            page_token: self.next_token.unwrap_or_default(),
        })
    }
}

impl Expression {
    fn check(&self, field: &str, violations: &mut Violations) {
        check_filters(&format!("{field}.filters"), self.filters.as_deref().unwrap_or_default(), 0, violations);
        let nested = self.nested_filters.as_deref().unwrap_or_default();
        violations.count(&format!("{field}.nestedFilters"), nested.len(), 0, 20);
        for (index, filters) in nested.iter().enumerate() {
            let field = format!("{field}.nestedFilters.{}.member", index + 1);
            let name = format!("{field}.nestedPropertyName");
            if let Some(given) = violations.required(&name, &filters.nested_property_name) {
                violations.length(&name, given, 1, 255);
            }
            let list = format!("{field}.filters");
            if let Some(given) = violations.required(&list, &filters.filters) {
                check_filters(&list, given, 1, violations);
            }
        }
        if let Some(expressions) = &self.sub_expressions {
            violations.count(&format!("{field}.subExpressions"), expressions.len(), 1, 20);
            for (index, expression) in expressions.iter().enumerate() {
                expression.check(&format!("{field}.subExpressions.{}.member", index + 1), violations);
            }
        }
        if let Some(operator) = &self.operator {
            violations.one_of(&format!("{field}.operator"), operator, &["And", "Or"]);
        }
    }

    /// AWS takes one Contains for each name, and says so in these words.
    fn check_contains<'a>(&'a self, seen: &mut HashSet<&'a str>) -> Result<(), Fault> {
        let nested = self.nested_filters.iter().flatten().filter_map(|nested| nested.filters.as_ref());
        let mut filters = self.filters.iter().chain(nested).flatten();
        let is_repeated = filters.any(|filter| {
            let name = filter.name.as_deref().unwrap_or_default();
            filter.operator.as_deref() == Some("Contains") && !seen.insert(name)
        });
        if is_repeated {
            return Err(Fault::constraints(Plane::Control, "'CONTAINS' operator usage limit of 1 exceeded.".into()));
        }
        self.sub_expressions.iter().flatten().try_for_each(|expression| expression.check_contains(seen))
    }

    fn into_wire(self) -> v1::SearchExpression {
        let nested = |nested: NestedFilters| v1::NestedSearchFilter {
            list: nested.nested_property_name.unwrap_or_default(),
            filters: nested.filters.unwrap_or_default().into_iter().map(Filter::into_wire).collect(),
        };
        v1::SearchExpression {
            filters: self.filters.unwrap_or_default().into_iter().map(Filter::into_wire).collect(),
            nested_filters: self.nested_filters.unwrap_or_default().into_iter().map(nested).collect(),
            expressions: self.sub_expressions.unwrap_or_default().into_iter().map(Self::into_wire).collect(),
            any: self.operator.as_deref() == Some("Or"),
        }
    }
}

fn check_filters(field: &str, filters: &[Filter], least: usize, violations: &mut Violations) {
    violations.count(field, filters.len(), least, 20);
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}.{}.member", index + 1);
        let name = format!("{field}.name");
        if let Some(given) = violations.required(&name, &filter.name) {
            violations.length(&name, given, 1, 255);
        }
        if let Some(operator) = &filter.operator {
            violations.one_of(&format!("{field}.operator"), operator, &OPERATORS.map(|(name, _)| name));
        }
        if let Some(value) = &filter.value {
            violations.length(&format!("{field}.value"), value, 1, 1_024);
        }
    }
}

impl Filter {
    fn into_wire(self) -> v1::SearchFilter {
        let asked = self.operator.as_deref().unwrap_or("Equals");
        let operator = OPERATORS.into_iter().find(|(name, _)| *name == asked).map(|(_, operator)| operator);
        v1::SearchFilter {
            name: self.name.unwrap_or_default(),
            operator: operator.unwrap_or_default().into(),
            value: self.value.unwrap_or_default(),
        }
    }
}
