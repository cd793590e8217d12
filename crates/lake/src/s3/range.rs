//! `Range`, and the conditions of a read.

use std::ops::Range;

use chrono::{DateTime, Utc};

use super::{Request, S3Error};

/// The bytes that a `Range` header asks for of `size`; `None` for all, also where the header is not understood, as
/// HTTP has it.
pub(super) fn asked(header: Option<&str>, size: u64) -> Result<Option<Range<u64>>, S3Error> {
    let Some(text) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Ok(None) };
    let Some((from, to)) = text.split_once('-') else { return Ok(None) };
    let range = match (from.trim(), to.trim()) {
        ("", last) => match last.parse::<u64>() {
            Ok(count) => size.saturating_sub(count)..size,
            Err(_) => return Ok(None),
        },
        (first, "") => match first.parse::<u64>() {
            Ok(first) => first..size,
            Err(_) => return Ok(None),
        },
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
            _ => return Ok(None),
        },
    };
    if range.start >= range.end {
        return Err(S3Error::new(416, "InvalidRange", "The requested range is not satisfiable"));
    }
    Ok(Some(range))
}

/// Whether a read goes on: `Ok(false)` when the caller has the object already. The headers of the conditions begin with
/// `prefix`.
pub(super) fn holds(request: &Request, prefix: &str, etag: &str, modified: DateTime<Utc>) -> Result<bool, S3Error> {
    let header = |name: &str| request.header(&format!("{prefix}{name}"));
    let names = |list: &str| {
        list.split(',').any(|one| matches!(one.trim().trim_matches('"'), "*") || one.trim().trim_matches('"') == etag)
    };
    let since = |name| {
        let time = DateTime::parse_from_rfc2822(header(name)?).ok()?;
        Some(time.timestamp())
    };
    let changed = modified.timestamp();
    match header("if-match") {
        Some(list) if !names(list) => return Err(S3Error::precondition()),
        None if since("if-unmodified-since").is_some_and(|time| changed > time) => return Err(S3Error::precondition()),
        _ => {}
    }
    Ok(match header("if-none-match") {
        Some(list) => !names(list),
        None => since("if-modified-since").is_none_or(|time| changed > time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_http_has_them() {
        let of = |header| asked(Some(header), 10);
        assert_eq!(of("bytes=0-3"), Ok(Some(0..4)));
        assert_eq!(of("bytes=4-"), Ok(Some(4..10)));
        assert_eq!(of("bytes=-3"), Ok(Some(7..10)));
        assert_eq!(of("bytes=-30"), Ok(Some(0..10)));
        assert_eq!(of("bytes=5-100"), Ok(Some(5..10)));
        assert_eq!(of("bytes=0-18446744073709551615"), Ok(Some(0..10)));
        assert!(of("bytes=10-").is_err() && of("bytes=-0").is_err());
        for ignored in ["lines=1-2", "bytes=x-y", "bytes=3-1", "bytes=1"] {
            assert_eq!(of(ignored), Ok(None), "{ignored}");
        }
        assert!(asked(Some("bytes=0-0"), 0).is_err());
        assert_eq!(asked(None, 10), Ok(None));
    }
}
