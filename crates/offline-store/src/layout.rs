//! Where things are: a group's table in the warehouse, a row's directory in the table, a file's name (contract 4.1).
//!
//! Directories and names are public: SageMaker users read the prefix directly and filter by directory.

use chrono::{Datelike, Timelike};
use granary_types::{EventTime, FeatureGroup, Granularity};
use url::Url;

use crate::Error;

/// The directory of an event time under the table: `year=2024/month=01/day=31/hour=08`, or without the hour.
pub fn directory(granularity: Granularity, event_time: EventTime) -> String {
    let utc = event_time.to_utc();
    let day = format!("year={:04}/month={:02}/day={:02}", utc.year(), utc.month(), utc.day());
    match granularity {
        Granularity::Hour => format!("{day}/hour={:02}", utc.hour()),
        Granularity::Day => day,
    }
}

/// The name of a file whose latest event time is `latest`: `20240131T083000Z_0123456789abcdef.parquet`. `fresh` must be
/// fresh random bits, so that no two files ever share a name, not even those of two compactors at work on the same
/// rows.
pub fn file_name(latest: EventTime, fresh: u128) -> String {
    format!("{}_{}.parquet", latest.to_utc().format("%Y%m%dT%H%M%SZ"), alphanumeric(fresh))
}

/// The last part of a path.
pub(crate) fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether a file is called as Granary calls those that it writes: `20240131T083000Z_0123456789abcdef.parquet`.
pub fn is_file_name(name: &str) -> bool {
    let Some((time, random)) = name.strip_suffix(".parquet").and_then(|stem| stem.split_once('_')) else {
        return false;
    };
    let shape = b"ddddddddTddddddZ";
    let fits = |(want, got): (&u8, u8)| if *want == b'd' { got.is_ascii_digit() } else { *want == got };
    time.len() == shape.len()
        && shape.iter().zip(time.bytes()).all(fits)
        && random.len() == 16
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The directory of the file that is called `name` and has these `fresh` bits, in a group whose rows are divided into
/// `directory`: in an Iceberg table below 8 random letters and digits, so that a bucket spreads its load.
pub(crate) fn file_path(group: &FeatureGroup, directory: &str, name: &str, fresh: u128) -> String {
    match group.is_iceberg() {
        // The name uses the lower bits.
        true => format!("{}/{directory}/{name}", &alphanumeric(fresh >> 80)[..8]),
        false => format!("{directory}/{name}"),
    }
}

/// 16 letters and digits out of 128 bits: 95 bits of them are kept.
pub(crate) fn alphanumeric(mut bits: u128) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(16);
    for _ in 0..16 {
        let digit = usize::try_from(bits % 62).expect("below 62");
        text.push(char::from(DIGITS[digit]));
        bits /= 62;
    }
    text
}

/// The URL of a group's table in the warehouse at `root`.
pub(crate) fn table_url(root: &Url, group: &FeatureGroup) -> Result<Url, Error> {
    let offline = group.offline.as_ref().ok_or_else(|| Error::NoOfflineStore { group: group.name.clone() })?;
    let wrong = |reason: &str| Error::Location { location: offline.resolved_uri.clone(), reason: reason.to_owned() };
    let (scheme, rest) = offline.resolved_uri.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
    let (bucket, key) = rest.split_once('/').ok_or_else(|| wrong("has no key"))?;
    let key: Vec<&str> = key.split('/').filter(|segment| !segment.is_empty()).collect();
    if bucket.is_empty() || key.is_empty() {
        return Err(wrong("needs a bucket and a key"));
    }
    // Past this line no segment can climb out of the warehouse.
    if key.iter().chain([&bucket]).any(|segment| !is_plain(segment)) {
        return Err(wrong("has a part that is . or .., a backslash or a control character"));
    }
    let mut url = bucket_url(root, scheme, bucket).ok_or_else(|| wrong("cannot be put below the warehouse"))?;
    let mut segments = url.path_segments_mut().map_err(|()| wrong("cannot be put below the warehouse"))?;
    segments.pop_if_empty().extend(key).push("");
    drop(segments);
    Ok(url)
}

/// Where the bucket `scheme://bucket` is, of a plain name.
///
/// It is exactly that where the warehouse is that bucket, and `<root>/bucket` everywhere else: a warehouse on a local
/// disk looks like a tree of buckets.
pub(crate) fn bucket_url(root: &Url, scheme: &str, bucket: &str) -> Option<Url> {
    let mut url = root.clone();
    if root.scheme() == scheme && root.host_str() == Some(bucket) {
        url.set_path("/");
    } else {
        url.path_segments_mut().ok()?.pop_if_empty().push(bucket);
    }
    Some(url)
}

fn is_plain(segment: &str) -> bool {
    !matches!(segment, "." | "..") && segment.chars().all(|c| !c.is_control() && c != '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> EventTime {
        EventTime::parse_iso(text).expect("an instant")
    }

    #[test]
    fn directories_are_hive_paths_of_the_event_time_in_utc() {
        let time = at("2024-01-31T08:30:00Z");
        assert_eq!(directory(Granularity::Hour, time), "year=2024/month=01/day=31/hour=08");
        assert_eq!(directory(Granularity::Day, time), "year=2024/month=01/day=31");
        assert_eq!(directory(Granularity::Hour, EventTime::MIN), "year=0000/month=01/day=01/hour=00");
    }

    #[test]
    fn names_follow_the_contract() {
        let name = file_name(at("2024-01-31T08:30:59.9Z"), u128::MAX);
        let (time, rest) = name.split_once('_').expect("two parts");
        assert_eq!(time, "20240131T083059Z");
        let random = rest.strip_suffix(".parquet").expect("parquet");
        assert_eq!(random.len(), 16);
        assert!(random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(is_file_name(&name));
        for other in ["part-00000-aa.c000.snappy.parquet", "20240131T083059Z_short.parquet", "x.parquet", &name[1..]] {
            assert!(!is_file_name(other), "{other}");
        }
        assert_ne!(file_name(at("2024-01-31T08:30:59.9Z"), 1), file_name(at("2024-01-31T08:30:59.9Z"), 2));
    }
}
