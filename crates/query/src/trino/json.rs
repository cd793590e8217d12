//! `json_extract_scalar`: one value of a JSON text.

use serde_json::Value;

/// The value at a path such as `$.a.b[0]["c"]`, as text; `None` where there is none, where it is null, a list or an
/// object, and where the text is no JSON.
///
/// # Errors
/// A path that is not understood.
pub(super) fn scalar(document: &str, path: &str) -> Result<Option<String>, String> {
    let steps = steps(path).ok_or_else(|| format!("INVALID_FUNCTION_ARGUMENT: Invalid JSON path: '{path}'"))?;
    let Ok(value) = serde_json::from_str::<Value>(document) else { return Ok(None) };
    let found = steps.iter().try_fold(&value, |value, step| match step {
        Step::Member(name) => value.get(name),
        Step::Element(index) => value.get(index),
    });
    Ok(match found {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Bool(value)) => Some(value.to_string()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    })
}

enum Step {
    Member(String),
    Element(usize),
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (end > 0).then_some(())?;
            steps.push(Step::Member(after[..end].to_owned()));
            rest = &after[end..];
        } else {
            let (inside, after) = rest.strip_prefix('[')?.split_once(']')?;
            let name = ['"', '\''].iter().find_map(|quote| inside.strip_prefix(*quote)?.strip_suffix(*quote));
            steps.push(match name {
                Some(name) => Step::Member(name.to_owned()),
                None => Step::Element(inside.parse().ok()?),
            });
            rest = after;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_scalars_only() {
        let document = r#"{"a":{"b":[1,{"c d":"x"}]},"t":true,"n":null}"#;
        let of = |path| scalar(document, path).expect("a path");
        assert_eq!(of("$.a.b[0]").as_deref(), Some("1"));
        assert_eq!(of(r#"$.a.b[1]["c d"]"#).as_deref(), Some("x"));
        assert_eq!(of("$.t").as_deref(), Some("true"));
        for none in ["$", "$.a", "$.n", "$.z", "$.a.b[9]"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert!(scalar(document, "a.b").is_err() && scalar(document, "$.").is_err());
        assert_eq!(scalar("no json", "$.a"), Ok(None));
    }
}
