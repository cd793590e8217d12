//! Errors on SageMaker's wire: which name and status a kind has on which plane.

use axum::body::Body;
use axum::response::IntoResponse;
use granary_types::{Error, ErrorKind};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use serde_json::json;

use super::Call;
use crate::aws::Service;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Where an error is answered: the same kind has other names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Feature groups.
    Control,
    /// Reads of records, and the writes for which AWS models `ResourceNotFound`: updates and batches.
    RuntimeRead,
    /// Puts and deletes of records, for which it does not.
    RuntimeWrite,
}

impl Plane {
    /// Every plane, for tests that walk the table.
    pub const ALL: [Self; 3] = [Self::Control, Self::RuntimeRead, Self::RuntimeWrite];

    /// What a faulty request is called here.
    pub(crate) fn validation(self) -> &'static str {
        match self {
            Self::Control => "ValidationException",
            Self::RuntimeRead | Self::RuntimeWrite => "ValidationError",
        }
    }
}

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// The table of kinds (contract 1.3).
    pub(crate) fn of(plane: Plane, error: Error) -> Self {
        let (status, code) = match (error.kind, plane) {
            (ErrorKind::NotFound, Plane::RuntimeRead) => (StatusCode::NOT_FOUND, "ResourceNotFound"),
            // The API reference gives 400 for it on the control plane.
            (ErrorKind::NotFound, Plane::Control) => (StatusCode::BAD_REQUEST, "ResourceNotFound"),
            (ErrorKind::InUse | ErrorKind::Conflict, Plane::Control) => (StatusCode::BAD_REQUEST, "ResourceInUse"),
            (ErrorKind::InUse | ErrorKind::Conflict, _) => (StatusCode::CONFLICT, "ConflictException"),
            (ErrorKind::LimitExceeded, Plane::Control) => (StatusCode::BAD_REQUEST, "ResourceLimitExceeded"),
            (ErrorKind::NotFound, Plane::RuntimeWrite) | (ErrorKind::Invalid | ErrorKind::LimitExceeded, _) => {
                (StatusCode::BAD_REQUEST, plane.validation())
            }
            (ErrorKind::Forbidden, _) => (StatusCode::FORBIDDEN, "AccessForbidden"),
            (ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown, _) => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            (ErrorKind::Corrupt | ErrorKind::Internal, _) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalFailure"),
        };
        let message = match error.kind {
            ErrorKind::Invalid => format!("Validation Error: {}", error.message),
            _ => error.message,
        };
        Self::new(status, code, message)
    }

    /// A rule of one operation that a request breaks.
    pub(crate) fn invalid(plane: Plane, message: impl Into<String>) -> Self {
        Self::of(plane, Error::invalid(message))
    }

    /// A message in the form in which AWS lists broken constraints.
    pub(crate) fn constraints(plane: Plane, message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, plane.validation(), message)
    }

    /// A body that is no JSON, or has a member of a wrong type.
    pub(crate) fn serialization(error: &serde_json::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SerializationException", format!("cannot read the request body: {error}"))
    }

    pub(crate) fn body_too_large(most: usize) -> Self {
        let message = format!("the request body could not be read or has more than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException", message)
    }

    pub(crate) fn unknown_operation(call: &Call) -> Self {
        let asked = call.target().map_or_else(|| format!("{} {}", call.method, call.uri.path()), ToOwned::to_owned);
        let message = format!("Granary does not serve the operation {asked}");
        Self::new(StatusCode::BAD_REQUEST, "UnknownOperationException", message)
    }

    /// A service that this process does not serve, and another does.
    pub(crate) fn served_elsewhere(service: Service, call: &Call) -> Self {
        let asked = call.target().map_or_else(|| format!("{} {}", call.method, call.uri.path()), ToOwned::to_owned);
        let message = format!(
            "this process serves no {service:?} calls such as {asked}; a query service does, at its query.listen: point \
             AWS_ENDPOINT_URL_{} there",
            service.environment_name()
        );
        Self::new(StatusCode::BAD_REQUEST, "UnknownOperationException", message)
    }

    pub(crate) fn internal(error: &serde_json::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalFailure", format!("cannot write the answer: {error}"))
    }
}

impl IntoResponse for Fault {
    /// Code in header and body, message under both spellings: each SDK looks in another place.
    fn into_response(self) -> Response<Body> {
        let body = json!({ "__type": self.code, "Message": self.message, "message": self.message });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.code));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the contract, spelled out for every kind on every plane.
    fn expected(kind: ErrorKind, plane: Plane) -> (u16, &'static str) {
        let invalid = if plane == Plane::Control { "ValidationException" } else { "ValidationError" };
        match kind {
            ErrorKind::Invalid => (400, invalid),
            ErrorKind::NotFound => match plane {
                Plane::Control => (400, "ResourceNotFound"),
                Plane::RuntimeRead => (404, "ResourceNotFound"),
                Plane::RuntimeWrite => (400, "ValidationError"),
            },
            ErrorKind::InUse | ErrorKind::Conflict if plane == Plane::Control => (400, "ResourceInUse"),
            ErrorKind::InUse | ErrorKind::Conflict => (409, "ConflictException"),
            ErrorKind::LimitExceeded if plane == Plane::Control => (400, "ResourceLimitExceeded"),
            ErrorKind::LimitExceeded => (400, "ValidationError"),
            ErrorKind::Forbidden => (403, "AccessForbidden"),
            ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown => (503, "ServiceUnavailable"),
            ErrorKind::Corrupt | ErrorKind::Internal => (500, "InternalFailure"),
        }
    }

    #[tokio::test]
    async fn every_kind_has_its_name_on_every_plane() {
        for plane in Plane::ALL {
            for kind in ErrorKind::ALL {
                let response = Fault::of(plane, Error::new(kind, "why")).into_response();
                let (status, code) = expected(kind, plane);
                assert_eq!(response.status().as_u16(), status, "{kind:?} {plane:?}");
                assert_eq!(response.headers()[ERROR_TYPE], code, "{kind:?} {plane:?}");
                let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("a body");
                let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(body["__type"], code);
                assert!(body["Message"].as_str().is_some_and(|message| message.ends_with("why")));
                assert_eq!(body["Message"], body["message"]);
            }
        }
    }
}
