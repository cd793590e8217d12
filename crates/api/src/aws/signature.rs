//! AWS Signature Version 4: whether a request was signed with a key that is known here.
//!
//! What AWS documents as "Signature Version 4 signing process", from the verifier's side. The path is taken as it
//! came: services other than S3 sign the percent-encoded path encoded once more, S3 signs it as it is (contract
//! 1.1). The hash of the body is computed here and never believed, except where S3 lets a caller leave it unsigned.
//!
//! Not verified: the session token of temporary credentials (keys here are long-lived; the token is only signed), and
//! the signatures of single chunks (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD`), which are refused.

mod canonical;
mod claim;
mod refusal;

use std::collections::BTreeMap;
use std::fmt;

use ring::digest::{SHA256, digest};
use ring::hmac;

use super::{Call, Service};
use claim::Claim;
pub use refusal::Refusal;

/// How far a caller's clock may be from ours, in seconds. S3 gives 15 minutes, the other services five.
const SKEW_SECONDS: i64 = 5 * 60;
const SKEW_SECONDS_S3: i64 = 15 * 60;

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const UNSIGNED_CHUNKS: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// The keys that requests may be signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKeys(BTreeMap<String, String>);

impl AccessKeys {
    /// The most keys that are held.
    pub const COUNT_MAX: usize = 10_000;

    /// From text: a key on each line, its id and its secret with white space between; empty lines and lines that
    /// begin with `#` are left out.
    ///
    /// # Errors
    /// A sentence that names the line, and never shows what is on it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = BTreeMap::new();
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(id), Some(secret), None) = (words.next(), words.next(), words.next()) else {
                return Err(format!("line {number} of the access keys is not an id and a secret"));
            };
            if !(3..=128).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(format!("line {number}: an access key id is 3 to 128 letters, digits and underscores"));
            }
            if keys.insert(id.to_owned(), secret.to_owned()).is_some() {
                return Err(format!("line {number}: this access key id stands there twice"));
            }
        }
        match keys.len() {
            0 => Err("there are no access keys".to_owned()),
            count if count > Self::COUNT_MAX => Err(format!("{count} access keys, at most {}", Self::COUNT_MAX)),
            _ => Ok(Self(keys)),
        }
    }
}

impl fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Who signed a request. What this caller may do is not decided yet: everybody with a key may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The access key's id.
    pub access_key_id: String,
}

/// Verifies the signature of a call for `service`, at `now` in seconds since the Unix epoch.
///
/// # Errors
/// What AWS answers too: not signed, ill-formed, unknown key, wrong signature, a clock too far off, expired.
pub fn verify(keys: &AccessKeys, service: Service, call: &Call, now: i64) -> Result<Caller, Refusal> {
    let claim = Claim::of(call)?;
    check_scope(&claim, service)?;
    check_time(&claim, service, now)?;
    let secret = keys.0.get(claim.access_key_id).ok_or(Refusal::UnknownKey)?;
    let payload = payload_hash(&claim, service, call)?;
    let request = canonical::request(&claim, service, call, &payload)?;
    let text = format!("{}\n{}\n{}\n{}", claim::ALGORITHM, claim.time_text, claim.scope(), sha256(request.as_bytes()));
    let signature = unhex(claim.signature).ok_or(Refusal::Incomplete("Signature is not 64 hexadecimal digits"))?;
    // In constant time.
    hmac::verify(&signing_key(secret, &claim), text.as_bytes(), &signature).map_err(|_| Refusal::WrongSignature)?;
    Ok(Caller { access_key_id: claim.access_key_id.to_owned() })
}

fn check_scope(claim: &Claim<'_>, service: Service) -> Result<(), Refusal> {
    if claim.service != service.signing_name() {
        let (asked, signed) = (service.signing_name(), claim.service);
        return Err(Refusal::Scope(format!(
            "Credential should be scoped to correct service: '{asked}', not '{signed}'"
        )));
    }
    if !claim.time_text.starts_with(claim.date) {
        let day = claim.time_text.split('T').next().unwrap_or_default();
        return Err(Refusal::Scope(format!("Date in Credential scope does not match {day}, the day it was signed")));
    }
    Ok(())
}

fn check_time(claim: &Claim<'_>, service: Service, now: i64) -> Result<(), Refusal> {
    let skew = if service == Service::S3 { SKEW_SECONDS_S3 } else { SKEW_SECONDS };
    let age = now - claim.signed_at;
    let lasts = claim.expires_after.unwrap_or(skew);
    if age > lasts {
        return Err(if claim.expires_after.is_some() { Refusal::Expired } else { Refusal::Late { seconds: age } });
    }
    if age < -skew {
        return Err(Refusal::Early { seconds: -age });
    }
    Ok(())
}

/// The body's hash as it stands in what was signed.
fn payload_hash(claim: &Claim<'_>, service: Service, call: &Call) -> Result<String, Refusal> {
    let told = call.headers.get("x-amz-content-sha256").map(|value| value.to_str().unwrap_or_default());
    if service == Service::S3 {
        match told {
            Some(UNSIGNED | UNSIGNED_CHUNKS) => return Ok(told.unwrap_or_default().to_owned()),
            None if claim.in_query => return Ok(UNSIGNED.to_owned()),
            Some(chunked) if chunked.starts_with("STREAMING-") => {
                return Err(Refusal::Unsupported(
                    "signatures of single chunks (STREAMING-AWS4-...) are not verified here",
                ));
            }
            _ => {}
        }
    }
    let hash = sha256(&call.body);
    match told {
        Some(told) if !told.eq_ignore_ascii_case(&hash) => Err(Refusal::WrongBody),
        _ => Ok(hash),
    }
}

fn signing_key(secret: &str, claim: &Claim<'_>) -> hmac::Key {
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    let first = key(format!("AWS4{secret}").as_bytes());
    [claim.date, claim.region, claim.service, claim::TERMINATOR]
        .into_iter()
        .fold(first, |secret, part| key(hmac::sign(&secret, part.as_bytes()).as_ref()))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all text");
        text
    })
}

/// 32 bytes from 64 digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(pair).ok().filter(|digits| !digits.starts_with('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
