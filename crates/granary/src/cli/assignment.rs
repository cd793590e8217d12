//! `NAME=TEXT` and `NAME:=JSON` on the command line.

use std::str::FromStr;

use granary_proto::v1::{TextList, Value, value};

/// A name and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) name: String,
    pub(crate) given: Given,
}

/// How a value was given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Given {
    /// After `=`: taken as it stands.
    Text(String),
    /// After `:=` as an array: the elements' texts.
    List(Vec<String>),
}

impl Assignment {
    /// The value as a message.
    pub(crate) fn to_wire(&self) -> Value {
        let kind = match &self.given {
            Given::Text(text) => value::Kind::Text(text.clone()),
            Given::List(texts) => value::Kind::List(TextList { texts: texts.clone() }),
        };
        Value { kind: Some(kind) }
    }

    /// The text of a value that must not be a list.
    pub(crate) fn text(&self) -> Result<&str, String> {
        match &self.given {
            Given::Text(text) => Ok(text),
            Given::List(_) => Err(format!("{} takes a text, not a list", self.name)),
        }
    }
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(argument: &str) -> Result<Self, String> {
        let Some((name, text)) = argument.split_once('=') else {
            return Err("expected NAME=VALUE".to_owned());
        };
        let (name, given) = match name.strip_suffix(':') {
            Some(name) => (name, parse_json(text)?),
            None => (name, Given::Text(text.to_owned())),
        };
        if name.is_empty() {
            return Err("the name before the = is missing".to_owned());
        }
        Ok(Self { name: name.to_owned(), given })
    }
}

fn parse_json(text: &str) -> Result<Given, String> {
    use serde_json::Value as Json;
    let json: Json = serde_json::from_str(text).map_err(|error| format!("after := comes JSON: {error}"))?;
    let scalar = |value: &Json| match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => Ok(number.to_string()),
        other => Err(format!("after := come texts, numbers or an array of them, not {other}")),
    };
    match &json {
        Json::Array(items) => items.iter().map(scalar).collect::<Result<_, _>>().map(Given::List),
        value => scalar(value).map(Given::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_as_they_stand() {
        for (argument, name, text) in [
            ("user_id=42", "user_id", "42"),
            ("note=", "note", ""),
            ("formula=a=b", "formula", "a=b"),
            ("event_time=2026-01-01T00:00:00Z", "event_time", "2026-01-01T00:00:00Z"),
            ("x:=15.20", "x", "15.2"),
            ("x=007", "x", "007"),
        ] {
            let parsed: Assignment = argument.parse().expect(argument);
            assert_eq!(parsed, Assignment { name: name.to_owned(), given: Given::Text(text.to_owned()) });
        }
    }

    #[test]
    fn lists_are_json() {
        let parsed: Assignment = r#"tags:=["a", 1]"#.parse().expect("a list");
        assert_eq!(parsed.given, Given::List(vec!["a".to_owned(), "1".to_owned()]));
        assert!(parsed.text().is_err());
    }

    #[test]
    fn mistakes_are_refused() {
        for argument in ["", "name", "=value", ":=1", "x:=[", "x:={}", "x:=[null]", "x:=[[1]]", "x:=true"] {
            assert!(argument.parse::<Assignment>().is_err(), "{argument:?} was accepted");
        }
    }
}
