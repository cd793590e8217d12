//! The canonical form of a request: what the caller hashed and signed.

use std::borrow::Cow;

use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Refusal;
use super::claim::Claim;
use crate::aws::{Call, Service};

/// All but what RFC 3986 calls unreserved.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Headers of this kind change what a request does, as `x-amz-copy-source` does: where they are there, they must be
/// signed, beside signed URLs too.
const MUST_BE_SIGNED: &str = "x-amz-";

/// The canonical request (task 1 of the signing process).
pub(super) fn request(claim: &Claim<'_>, service: Service, call: &Call, payload_hash: &str) -> Result<String, Refusal> {
    let names = call.headers.keys().map(http::HeaderName::as_str).filter(|name| name.starts_with(MUST_BE_SIGNED));
    if let Some(name) = names.into_iter().find(|name| !claim.signed_headers.contains(name)) {
        return Err(Refusal::Unsigned(name.to_owned()));
    }
    let method = call.method.as_str();
    let path = path(service, call.uri.path());
    let query = query(call.uri.query().unwrap_or_default());
    let headers = headers(claim, call)?;
    let names = claim.signed_headers.join(";");
    Ok(format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{payload_hash}"))
}

/// S3 signs the path as it is sent; all others encode it once more.
fn path(service: Service, raw: &str) -> Cow<'_, str> {
    if service == Service::S3 { Cow::Borrowed(raw) } else { utf8_percent_encode(raw, PATH).into() }
}

/// Names and values encoded alike, sorted, without the signature itself.
fn query(raw: &str) -> String {
    let encode = |text: &str| {
        let bytes: Vec<u8> = percent_decode_str(text).collect();
        percent_encoding::percent_encode(&bytes, QUERY).to_string()
    };
    let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut pairs: Vec<_> = pairs
        .filter(|(name, _)| *name != "X-Amz-Signature")
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// A line for each signed header: several values with commas between, runs of spaces as one.
fn headers(claim: &Claim<'_>, call: &Call) -> Result<String, Refusal> {
    let mut lines = String::new();
    for name in &claim.signed_headers {
        let value = match *name {
            "host" => host(call).ok_or(Refusal::Incomplete("the request has no Host"))?.to_owned(),
            name => joined(&call.headers, name).ok_or(Refusal::Incomplete("a signed header is not in the request"))?,
        };
        lines.push_str(name);
        lines.push(':');
        lines.push_str(&value);
        lines.push('\n');
    }
    Ok(lines)
}

/// In HTTP/2 the host is the URI's.
fn host(call: &Call) -> Option<&str> {
    let in_header = call.headers.get("host").and_then(|host| host.to_str().ok());
    in_header.or_else(|| call.uri.authority().map(http::uri::Authority::as_str))
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    // A header's value may hold bytes that are no text; they are signed as they are.
    let clean = |value: &http::HeaderValue| {
        String::from_utf8_lossy(value.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let values: Vec<_> = headers.get_all(name).iter().map(clean).collect();
    (!values.is_empty()).then(|| values.join(","))
}
