//! The door to whatever speaks AWS's protocols: every request has an id, is read whole, and must be signed where keys
//! are configured.

use std::fmt;

use axum::body::Body;
use granary_platform::Platform;
use http::header::HeaderValue;
use http::{HeaderMap, HeaderName, Request, Response};
use tracing::Instrument;

use super::signature::{self, AccessKeys};
use super::{Call, Service};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const REQUEST_ID_LEN_MAX: usize = 128;

/// Lets requests in or not.
#[derive(Debug, Clone)]
pub struct Gate {
    platform: Platform,
    access_keys: Option<AccessKeys>,
    body_bytes_max: usize,
}

/// A request that was not let in.
pub struct Refused {
    /// What its caller is told.
    pub response: Box<Response<Body>>,
    /// The error's code, where it was the signature's.
    pub code: Option<&'static str>,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("status", &self.response.status()).field("code", &self.code).finish()
    }
}

impl Gate {
    /// A gate that takes bodies up to the settings' bound, signed with one of their keys if they have any.
    pub fn new(platform: &Platform, settings: &crate::Settings) -> Self {
        let (access_keys, body_bytes_max) = (settings.access_keys.clone(), settings.body_bytes_max);
        Self { platform: platform.clone(), access_keys, body_bytes_max }
    }

    /// Answers a request under its id: the caller's where it sent a usable one, else a fresh one.
    pub async fn identified(
        &self,
        request: Request<Body>,
        answer: impl AsyncFnOnce(Request<Body>) -> Response<Body>,
    ) -> Response<Body> {
        let id = request_id(request.headers(), &self.platform);
        let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
        let mut response = answer(request).instrument(span).await;
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    /// Reads a request whole and verifies its signature.
    ///
    /// # Errors
    /// The answer to one that is too large, cannot be read, or is not signed as it must be.
    pub async fn admit(&self, request: Request<Body>) -> Result<(Service, Call), Refused> {
        let call = super::read(request, self.body_bytes_max).await;
        let call = call.map_err(|response| Refused { response, code: None })?;
        let service = Service::of(&call);
        if let Some(keys) = &self.access_keys {
            let now = i64::try_from(self.platform.now_millis() / 1_000).unwrap_or(i64::MAX);
            match signature::verify(keys, service, &call, now) {
                Ok(caller) => tracing::debug!(access_key_id = caller.access_key_id, "signed"),
                Err(refusal) => {
                    tracing::debug!(service = service.signing_name(), ?refusal, "signature refused");
                    let code = Some(refusal.code(service));
                    return Err(Refused { response: Box::new(refusal.into_response(service)), code });
                }
            }
        }
        Ok((service, call))
    }
}

fn request_id(headers: &HeaderMap, platform: &Platform) -> HeaderValue {
    let usable = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= REQUEST_ID_LEN_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(usable).cloned().unwrap_or_else(|| {
        let fresh = uuid::Builder::from_random_bytes(platform.fresh_id().to_be_bytes()).into_uuid();
        HeaderValue::from_str(&fresh.to_string()).expect("a UUID is ASCII")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_request_id_is_kept() {
        let platform = Platform::system();
        let mut headers = HeaderMap::new();
        assert_eq!(request_id(&headers, &platform).len(), 36);
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(request_id(&headers, &platform), "abc-1");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b"));
        assert_ne!(request_id(&headers, &platform), "a b");
    }
}
