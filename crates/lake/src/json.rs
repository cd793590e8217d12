//! JSON 1.1, which Athena and Glue speak: `POST /`, the operation in `X-Amz-Target`.

use axum::body::Body;
use granary_api::aws::Call;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Members of the error's shape beside its message.
    pub(crate) more: Vec<(&'static str, &'static str)>,
}

impl Fault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into(), more: Vec::new() }
    }

    /// What the store or this program fails with, as the service calls it.
    pub(crate) fn internal(code: &'static str, error: &dyn std::error::Error) -> Self {
        tracing::warn!(error = %error, "a lake service failed");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..Self::new(code, error.to_string()) }
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.more.push((name, value));
        self
    }

    pub(crate) fn unknown_operation(asked: &str) -> Self {
        Self::new("UnknownOperationException", format!("Granary does not serve the operation {asked}"))
    }
}

/// What an operation answers.
pub(crate) type Reply = Result<Value, Fault>;

/// The operation that a call names, without its service.
pub(crate) fn operation(call: &Call) -> &str {
    call.target().and_then(|target| target.split_once('.')).map_or("", |(_, operation)| operation)
}

/// The body as a shape; an empty body is an empty object.
pub(crate) fn shape<T: DeserializeOwned>(call: &Call) -> Result<T, Fault> {
    let body: &[u8] = if call.body.is_empty() { b"{}" } else { &call.body };
    serde_json::from_slice(body)
        .map_err(|error| Fault::new("SerializationException", format!("cannot read the request body: {error}")))
}

/// Code in header and body, message under both spellings, as each SDK looks in another place.
pub(crate) fn respond(reply: Reply) -> Response<Body> {
    let (status, body, code) = match reply {
        Ok(value) => (StatusCode::OK, without_nulls(value), None),
        Err(fault) => {
            let mut body = json!({ "__type": fault.code, "Message": fault.message, "message": fault.message });
            for (name, value) in fault.more {
                body[name] = value.into();
            }
            (fault.status, body, Some(fault.code))
        }
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    if let Some(code) = code {
        headers.insert(ERROR_TYPE, HeaderValue::from_static(code));
    }
    response
}

/// Members that are null are left out: not every SDK takes them for absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Epoch seconds with fraction, as timestamps are in JSON 1.1.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of this age are exact in a double")]
pub(crate) fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

/// A page of items that are sorted by name: those after `token`, at most `max`, and the token of the next page.
pub(crate) fn page<'a, T>(
    items: &'a [T],
    name: impl Fn(&T) -> &str,
    token: Option<&str>,
    max: usize,
) -> (&'a [T], Option<String>) {
    let from = token.map_or(0, |token| items.partition_point(|item| name(item) <= token));
    let rest = &items[from..];
    let page = &rest[..max.min(rest.len())];
    let next = page.last().filter(|_| page.len() < rest.len()).map(|last| name(last).to_owned());
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_where_they_ended() {
        let names = ["a", "b", "c"];
        let of = |token, max| {
            let (page, next) = page(&names, |name| name, token, max);
            (page.to_vec(), next)
        };
        assert_eq!(of(None, 2), (vec!["a", "b"], Some("b".to_owned())));
        assert_eq!(of(Some("b"), 2), (vec!["c"], None));
        assert_eq!(of(Some("bb"), 1), (vec!["c"], None));
        assert_eq!(of(Some("z"), 1), (vec![], None));
    }

    #[test]
    fn nulls_are_left_out_everywhere() {
        assert_eq!(without_nulls(json!({"a": null, "b": [{"c": null}]})), json!({"b": [{}]}));
    }
}
