//! Expressions: checked and compiled from their message, then asked of candidates.

use std::cmp::Ordering;

use granary_proto::v1::{NestedSearchFilter, SearchExpression, SearchFilter, SearchOperator};
use granary_types::{Error, EventTime};

use super::property::{DEFINITIONS, Kind, OfFeature, Property, Value, entries, entries_name, of_definition};
use super::{Candidate, Resource};

/// Members of each list in an expression (contract 2.8).
const MEMBERS_MAX: usize = 20;
/// Expressions within each other.
const DEPTH_MAX: usize = 5;
/// Filters and subexpressions in all of an expression: what bounds the work for one candidate.
const FILTERS_MAX: usize = 400;
/// The longest value, in characters (contract 2.8).
const VALUE_LEN_MAX: usize = 1_024;

/// Something a candidate meets or does not meet.
#[derive(Debug)]
pub(super) enum Condition {
    Property(Property, Test),
    /// One definition of the group passes all tests.
    Definition(Vec<(OfFeature, Test)>),
    /// One tag or parameter passes all tests.
    Entry(Vec<(EntryPart, Test)>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum EntryPart {
    Key,
    Value,
}

/// What a filter asks of the values of a property.
#[derive(Debug)]
pub(super) enum Test {
    Exists,
    NotExists,
    /// Any of them is one of these.
    In(Vec<Value<'static>>),
    /// None of them is this one.
    Not(Value<'static>),
    Contains(String),
    /// Any of them compares so.
    Compares(&'static [Ordering], Value<'static>),
}

/// Compiles an expression, checking all of it.
///
/// # Errors
/// `Invalid`, naming the property, the operator or the bound.
pub(super) fn compile(resource: Resource, wanted: &SearchExpression) -> Result<Condition, Error> {
    let mut compiler = Compiler { resource, filters_left: FILTERS_MAX };
    compiler.expression(wanted, 1)
}

struct Compiler {
    resource: Resource,
    filters_left: usize,
}

impl Compiler {
    fn expression(&mut self, wanted: &SearchExpression, depth: usize) -> Result<Condition, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::invalid(format!("a search expression is at most {DEPTH_MAX} deep")));
        }
        for (what, count) in [
            ("filters", wanted.filters.len()),
            ("nested filters", wanted.nested_filters.len()),
            ("subexpressions", wanted.expressions.len()),
        ] {
            if count > MEMBERS_MAX {
                return Err(Error::invalid(format!(
                    "a search expression has at most {MEMBERS_MAX} {what}, got {count}"
                )));
            }
        }
        let mut conditions = Vec::new();
        for filter in &wanted.filters {
            self.count_filter()?;
            let property = Property::named(self.resource, &filter.name)?;
            let test = test(filter, property.kind())?;
            conditions.push(Condition::Property(property, test));
        }
        for nested in &wanted.nested_filters {
            conditions.push(self.nested(nested)?);
        }
        for expression in &wanted.expressions {
            // One that asks nothing is work too.
            self.count_filter()?;
            conditions.push(self.expression(expression, depth + 1)?);
        }
        // An expression that asks nothing is met by everything.
        Ok(if wanted.any && !conditions.is_empty() { Condition::Any(conditions) } else { Condition::All(conditions) })
    }

    fn nested(&mut self, nested: &NestedSearchFilter) -> Result<Condition, Error> {
        let (list, count) = (nested.list.as_str(), nested.filters.len());
        if count == 0 || count > MEMBERS_MAX {
            return Err(Error::invalid(format!("a nested filter has 1 to {MEMBERS_MAX} filters, got {count}")));
        }
        let of_definitions = self.resource == Resource::FeatureGroup && list == DEFINITIONS;
        if !of_definitions && list != entries_name(self.resource) {
            return Err(Error::invalid(format!("{list:?} is no list that nested filters are for")));
        }
        let (mut definitions, mut parts) = (Vec::new(), Vec::new());
        for filter in &nested.filters {
            self.count_filter()?;
            let test = test(filter, Kind::Text)?;
            // With the name of the list before it, or without.
            let name = filter.name.strip_prefix(list).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&filter.name);
            let unknown = || Error::invalid(format!("unknown property {:?} of {list}", filter.name));
            match (of_definitions, name) {
                (true, name) => definitions.push((of_definition(name).ok_or_else(unknown)?, test)),
                (false, "Key") => parts.push((EntryPart::Key, test)),
                (false, "Value") => parts.push((EntryPart::Value, test)),
                (false, _) => return Err(unknown()),
            }
        }
        Ok(if of_definitions { Condition::Definition(definitions) } else { Condition::Entry(parts) })
    }

    fn count_filter(&mut self) -> Result<(), Error> {
        let left = self.filters_left.checked_sub(1);
        self.filters_left = left.ok_or_else(|| {
            Error::invalid(format!("a search has at most {FILTERS_MAX} filters and subexpressions in all"))
        })?;
        Ok(())
    }
}

fn test(filter: &SearchFilter, kind: Kind) -> Result<Test, Error> {
    let SearchFilter { name, value, .. } = filter;
    let operator = SearchOperator::try_from(filter.operator)
        .map_err(|_| Error::invalid(format!("unknown operator {} of the filter by {name:?}", filter.operator)))?;
    match operator {
        SearchOperator::Exists => return Ok(Test::Exists),
        SearchOperator::NotExists => return Ok(Test::NotExists),
        _ => {}
    }
    if value.is_empty() || value.chars().count() > VALUE_LEN_MAX {
        return Err(Error::invalid(format!("the filter by {name:?} needs a value of 1 to {VALUE_LEN_MAX} characters")));
    }
    let takes = |is_so: bool, kinds: &str| match is_so {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("operator {} of the filter by {name:?} is for {kinds} only", name_of(operator))))
        }
    };
    let compares = |orderings| {
        takes(kind != Kind::Text, "numbers and times")?;
        Ok(Test::Compares(orderings, operand(name, value, kind)?))
    };
    match operator {
        SearchOperator::NotEquals => Ok(Test::Not(operand(name, value, kind)?)),
        SearchOperator::GreaterThan => compares(&[Ordering::Greater]),
        SearchOperator::GreaterThanOrEqualTo => compares(&[Ordering::Greater, Ordering::Equal]),
        SearchOperator::LessThan => compares(&[Ordering::Less]),
        SearchOperator::LessThanOrEqualTo => compares(&[Ordering::Less, Ordering::Equal]),
        SearchOperator::Contains => {
            takes(kind == Kind::Text, "texts")?;
            Ok(Test::Contains(value.clone()))
        }
        SearchOperator::In => {
            takes(kind == Kind::Text, "texts")?;
            Ok(Test::In(value.split(',').map(|one| Value::Text(one.trim().to_owned().into())).collect()))
        }
        SearchOperator::Equals | SearchOperator::Unspecified => Ok(Test::In(vec![operand(name, value, kind)?])),
        SearchOperator::Exists | SearchOperator::NotExists => unreachable!("they take no value"),
    }
}

fn name_of(operator: SearchOperator) -> &'static str {
    operator.as_str_name().trim_start_matches("SEARCH_OPERATOR_")
}

/// The value of a filter as the property holds it.
fn operand(name: &str, value: &str, kind: Kind) -> Result<Value<'static>, Error> {
    let wrong = |what: &str| Error::invalid(format!("the filter by {name:?} takes {what}, got {value:?}"));
    match kind {
        Kind::Text => Ok(Value::Text(value.to_owned().into())),
        Kind::Number => value.parse().map(Value::Number).map_err(|_| wrong("an integer")),
        Kind::Time => {
            let time = EventTime::parse_iso(&format!("{}Z", value.strip_suffix('Z').unwrap_or(value)));
            let nanos = time.map_err(|_| wrong("a time such as 2024-01-31T08:30:00"))?.nanos();
            Ok(Value::Number(i64::try_from(nanos.div_euclid(1_000_000)).expect("of the years 0 to 9999")))
        }
    }
}

impl Condition {
    pub(super) fn holds(&self, candidate: Candidate<'_>) -> bool {
        match self {
            Self::Property(property, test) => test.passes(&property.values(candidate)),
            Self::Definition(tests) => candidate
                .group
                .schema
                .features()
                .iter()
                .any(|feature| tests.iter().all(|(read, test)| test.passes(read(feature).as_slice()))),
            Self::Entry(tests) => entries(candidate).iter().any(|(key, value)| {
                tests.iter().all(|(part, test)| {
                    let text = match part {
                        EntryPart::Key => key,
                        EntryPart::Value => value,
                    };
                    test.passes(&[Value::Text(text.as_str().into())])
                })
            }),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(candidate)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(candidate)),
        }
    }
}

impl Test {
    fn passes(&self, values: &[Value<'_>]) -> bool {
        match self {
            Self::Exists => !values.is_empty(),
            Self::NotExists => values.is_empty(),
            Self::In(wanted) => values.iter().any(|value| wanted.contains(value)),
            Self::Not(unwanted) => values.iter().all(|value| value != unwanted),
            Self::Contains(part) => {
                values.iter().any(|value| matches!(value, Value::Text(text) if text.contains(part.as_str())))
            }
            Self::Compares(orderings, operand) => values.iter().any(|value| orderings.contains(&value.cmp(operand))),
        }
    }
}
