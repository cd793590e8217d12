//! What a request says of its own signature, in the header `Authorization` or, for S3, in the query.

use chrono::NaiveDateTime;
use http::header::AUTHORIZATION;

use super::Refusal;
use crate::aws::Call;

/// The only algorithm there is.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last part of every scope.
pub(super) const TERMINATOR: &str = "aws4_request";
/// Bytes of `YYYYMMDD`, and of `YYYYMMDDTHHMMSSZ`.
const DATE_LEN: usize = 8;
const TIME_LEN: usize = 16;
/// The longest time a signed URL may be good for: a week, in seconds.
const EXPIRES_MAX: i64 = 7 * 24 * 3_600;

/// The parts of a signature, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub(super) access_key_id: &'a str,
    /// `YYYYMMDD`.
    pub(super) date: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    /// Names in lower case, as they were signed.
    pub(super) signed_headers: Vec<&'a str>,
    /// 64 hexadecimal digits, if it is one.
    pub(super) signature: &'a str,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time_text: &'a str,
    /// The same in seconds since the Unix epoch.
    pub(super) signed_at: i64,
    /// A signed URL's time to live in seconds.
    pub(super) expires_after: Option<i64>,
    /// Whether the signature is in the query.
    pub(super) in_query: bool,
}

impl<'a> Claim<'a> {
    /// Reads a request's claim.
    pub(super) fn of(call: &'a Call) -> Result<Self, Refusal> {
        if let Some(header) = call.headers.get(AUTHORIZATION) {
            let text = header.to_str().map_err(|_| Refusal::Incomplete("Authorization is not ASCII"))?;
            let time = call.headers.get("x-amz-date").and_then(|value| value.to_str().ok());
            return Self::in_header(text, time.ok_or(Refusal::Incomplete("X-Amz-Date is missing"))?);
        }
        match call.uri.query() {
            Some(query) if query.contains("X-Amz-Signature=") => Self::in_query(query),
            _ => Err(Refusal::NotSigned),
        }
    }

    fn in_header(text: &'a str, time: &'a str) -> Result<Self, Refusal> {
        let rest = text.strip_prefix(ALGORITHM).ok_or(Refusal::Incomplete("Authorization is not AWS4-HMAC-SHA256"))?;
        let parts: Vec<_> = rest.split(',').filter_map(|part| part.trim().split_once('=')).collect();
        let part = |name: &str| parts.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
        let credential = part("Credential").ok_or(Refusal::Incomplete("Authorization lacks Credential"))?;
        let headers = part("SignedHeaders").ok_or(Refusal::Incomplete("Authorization lacks SignedHeaders"))?;
        let signature = part("Signature").ok_or(Refusal::Incomplete("Authorization lacks Signature"))?;
        let claim = Self::from_parts(credential, headers.split(';').collect(), signature, time)?;
        Ok(Self { expires_after: None, in_query: false, ..claim })
    }

    /// Of a signed URL. Slashes of the scope and semicolons between headers come percent-encoded or not.
    fn in_query(query: &'a str) -> Result<Self, Refusal> {
        let part = |name: &'static str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        if part("X-Amz-Algorithm") != Some(ALGORITHM) {
            return Err(Refusal::Incomplete("X-Amz-Algorithm is not AWS4-HMAC-SHA256"));
        }
        let credential = part("X-Amz-Credential").ok_or(Refusal::Incomplete("X-Amz-Credential is missing"))?;
        let headers = part("X-Amz-SignedHeaders").ok_or(Refusal::Incomplete("X-Amz-SignedHeaders is missing"))?;
        let signature = part("X-Amz-Signature").ok_or(Refusal::Incomplete("X-Amz-Signature is missing"))?;
        let time = part("X-Amz-Date").ok_or(Refusal::Incomplete("X-Amz-Date is missing"))?;
        let expires = part("X-Amz-Expires").and_then(|text| text.parse().ok());
        let expires = expires.filter(|seconds| (1..=EXPIRES_MAX).contains(seconds));
        let expires = expires.ok_or(Refusal::Incomplete("X-Amz-Expires is not 1 to 604800 seconds"))?;
        let names = headers.split("%3B").flat_map(|part| part.split("%3b")).flat_map(|part| part.split(';')).collect();
        let claim = Self::from_parts(credential, names, signature, time)?;
        Ok(Self { expires_after: Some(expires), in_query: true, ..claim })
    }

    fn from_parts(
        credential: &'a str,
        signed_headers: Vec<&'a str>,
        signature: &'a str,
        time_text: &'a str,
    ) -> Result<Self, Refusal> {
        let wrong = Refusal::Incomplete("Credential is not <key>/<date>/<region>/<service>/aws4_request");
        let slash = if credential.contains("%2F") { "%2F" } else { "/" };
        let parts: Vec<_> = credential.split(slash).collect();
        let &[access_key_id, date, region, service, TERMINATOR] = parts.as_slice() else {
            return Err(wrong);
        };
        if date.len() != DATE_LEN || !date.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong);
        }
        // The parser alone takes years of other lengths and digits that are not ASCII's.
        if time_text.len() != TIME_LEN || !time_text.is_ascii() {
            return Err(Refusal::Incomplete("X-Amz-Date is not YYYYMMDDTHHMMSSZ"));
        }
        let time = NaiveDateTime::parse_from_str(time_text, "%Y%m%dT%H%M%SZ");
        let time = time.map_err(|_| Refusal::Incomplete("X-Amz-Date is not YYYYMMDDTHHMMSSZ"))?;
        if !signed_headers.contains(&"host") {
            return Err(Refusal::Incomplete("'Host' must be a signed header"));
        }
        let signed_at = time.and_utc().timestamp();
        let (expires_after, in_query) = (None, false);
        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            signed_headers,
            signature,
            time_text,
            signed_at,
            expires_after,
            in_query,
        })
    }

    /// `<date>/<region>/<service>/aws4_request`.
    pub(super) fn scope(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}
