//! Search over feature groups and features by what is said about them.
//!
//! The names of properties are those of SageMaker's Search (contract 2.8), for every API: one thing, one name. An
//! expression is compiled once, which finds everything that is wrong with it, and then asked of each candidate.
//! A search reads one catalog and costs a pass over its groups, or over all their features, times the filters.

mod expression;
mod page;
mod property;

use std::cmp::Ordering;
use std::sync::Arc;

use granary_proto::v1::{SearchRequest, SearchResource};
use granary_types::{Error, Feature, FeatureGroup, FeatureOrdinal};

use crate::CatalogView;
use expression::Condition;
use page::Place;
use property::{Property, Value};

/// Results on one page at most, and where a request names no number.
const PAGE_LEN_MAX: usize = 100;
const SORT_BY: &str = "LastModifiedTime";

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Feature groups.
    FeatureGroup,
    /// Features of any group.
    Feature,
}

/// A feature group, or a feature of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The group.
    pub group: Arc<FeatureGroup>,
    /// The feature, where features are searched for.
    pub feature: Option<FeatureOrdinal>,
}

/// One page of what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order asked for.
    pub hits: Vec<Hit>,
    /// How many there are on all pages.
    pub total: usize,
    /// What to ask for the next page with; none on the last one.
    pub next_page_token: Option<String>,
}

/// What a condition is asked of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    group: &'a FeatureGroup,
    /// Set where features are searched for.
    feature: Option<&'a Feature>,
    /// What an ARN has before the group's name.
    arn_prefix: &'a str,
}

/// Searches the groups that are not deleted. Groups have the ARN `<arn_prefix><name>`.
///
/// # Errors
/// `Invalid`, naming what is wrong: an unknown property, an operator or a value that it does not take, an expression
/// that is too deep or too large, a page token that was not given out for such a search.
pub fn search(view: &CatalogView, arn_prefix: &str, request: &SearchRequest) -> Result<Found, Error> {
    let resource = match request.resource() {
        SearchResource::FeatureGroup => Resource::FeatureGroup,
        SearchResource::Feature => Resource::Feature,
        SearchResource::Unspecified => return Err(Error::invalid("a search is for feature groups or for features")),
    };
    let limit = match request.limit as usize {
        0 => PAGE_LEN_MAX,
        limit @ 1..=PAGE_LEN_MAX => limit,
        limit => return Err(Error::invalid(format!("limit is 0 to {PAGE_LEN_MAX}, got {limit}"))),
    };
    let condition = request.expression.as_ref().map(|wanted| expression::compile(resource, wanted)).transpose()?;
    let order = Order::new(resource, request)?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(Place::from_token(resource, &order.name, token)?),
    };

    let mut matches = matches(view, arn_prefix, resource, condition.as_ref(), &order);
    let total = matches.len();
    matches.retain(|(place, _)| after.as_ref().is_none_or(|after| order.compare(place, after) == Ordering::Greater));
    matches.sort_by(|(one, _), (other, _)| order.compare(one, other));
    let more = matches.len() > limit;
    matches.truncate(limit);
    let next_page_token = matches.last().filter(|_| more).map(|(place, _)| place.to_token(&order.name));
    Ok(Found { hits: matches.into_iter().map(|(_, hit)| hit).collect(), total, next_page_token })
}

/// Everything that meets the condition, each with its place in the order.
fn matches(
    view: &CatalogView,
    arn_prefix: &str,
    resource: Resource,
    condition: Option<&Condition>,
    order: &Order,
) -> Vec<(Place, Hit)> {
    let meets = |candidate: Candidate<'_>| condition.is_none_or(|condition| condition.holds(candidate));
    let mut matches = Vec::new();
    for group in view.groups() {
        let features: &[Feature] = match resource {
            Resource::FeatureGroup => &[],
            Resource::Feature => group.schema.features(),
        };
        let whole = (resource == Resource::FeatureGroup).then_some(None);
        for feature in whole.into_iter().chain(features.iter().map(Some)) {
            let candidate = Candidate { group, feature, arn_prefix };
            if meets(candidate) {
                let hit = Hit { group: Arc::clone(group), feature: feature.map(|feature| feature.ordinal) };
                matches.push((order.place(candidate), hit));
            }
        }
    }
    matches
}

/// In which order results come.
struct Order {
    /// Tells orders apart: a place in one is none in another.
    name: String,
    property: Property,
    ascending: bool,
}

impl Order {
    fn new(resource: Resource, request: &SearchRequest) -> Result<Self, Error> {
        let name = if request.sort_by.is_empty() { SORT_BY } else { &request.sort_by };
        let property = Property::named(resource, name)?;
        if property.is_many() {
            return Err(Error::invalid(format!("results cannot be sorted by {name:?}, which has many values")));
        }
        let direction = if request.ascending { '+' } else { '-' };
        Ok(Self { name: format!("{direction}{name}"), property, ascending: request.ascending })
    }

    fn place(&self, candidate: Candidate<'_>) -> Place {
        Place {
            key: self.property.values(candidate).pop().map(Value::into_owned),
            group: candidate.group.name.clone(),
            feature: candidate.feature.map(|feature| feature.ordinal),
        }
    }

    /// By the property, where nothing comes before everything; names decide between equals.
    fn compare(&self, one: &Place, other: &Place) -> Ordering {
        let rising = one.key.cmp(&other.key);
        let directed = if self.ascending { rising } else { rising.reverse() };
        directed.then_with(|| (&one.group, one.feature).cmp(&(&other.group, other.feature)))
    }
}
