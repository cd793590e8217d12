//! Texts and patterns of instants: ISO 8601, MySQL's and Teradata's format codes.

use chrono::format::{Parsed, StrftimeItems, parse};
use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

/// Microseconds since the Unix epoch of an instant in UTC.
pub(super) fn micros(instant: NaiveDateTime) -> i64 {
    instant.and_utc().timestamp_micros()
}

/// The instant of microseconds since the Unix epoch, unless it is further off than calendars go.
pub(super) fn instant(micros: i64) -> Option<NaiveDateTime> {
    chrono::DateTime::from_timestamp_micros(micros).map(|instant| instant.naive_utc())
}

/// A date, and after `T` or a blank a time, with up to nine digits of a second, and a zone: `Z`, `UTC`, `+01:00`,
/// `+0100`, `+01`. Without a zone it is UTC.
pub(super) fn parse_iso(text: &str) -> Option<NaiveDateTime> {
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let date = parse_date(date)?;
    let Some(rest) = rest else { return Some(date.and_time(NaiveTime::MIN)) };
    let zone_at = rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let offset = parse_zone(zone.trim_start())?;
    date.and_time(parse_time(time)?).checked_sub_signed(TimeDelta::seconds(offset))
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    let (year, rest) = text.split_once('-')?;
    let (month, day) = rest.split_once('-')?;
    (year.len() >= 4 && month.len() == 2 && day.len() == 2).then_some(())?;
    NaiveDate::from_ymd_opt(year.parse().ok()?, digits(month)?, digits(day)?)
}

fn parse_time(text: &str) -> Option<NaiveTime> {
    let mut parts = text.splitn(3, ':');
    let (hour, minute) = (parts.next()?, parts.next()?);
    (hour.len() == 2 && minute.len() == 2).then_some(())?;
    let (second, nanos) = match parts.next() {
        None => (0, 0),
        Some(text) => {
            let (second, fraction) = text.split_once('.').unwrap_or((text, ""));
            (second.len() == 2 && fraction.len() <= 9).then_some(())?;
            (digits(second)?, if fraction.is_empty() { 0 } else { digits(&format!("{fraction:0<9}"))? })
        }
    };
    NaiveTime::from_hms_nano_opt(digits(hour)?, digits(minute)?, second, nanos)
}

/// Seconds east of Greenwich.
fn parse_zone(text: &str) -> Option<i64> {
    if text.is_empty() || ["z", "utc", "gmt"].iter().any(|utc| text.eq_ignore_ascii_case(utc)) {
        return Some(0);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let bare = rest.replacen(':', "", 1);
    let (hours, minutes) = match bare.len() {
        2 => (bare.as_str(), "0"),
        4 if bare.is_ascii() => bare.split_at(2),
        _ => return None,
    };
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3_600 + minutes * 60))
}

fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// chrono's pattern for one in MySQL's codes (`%Y-%m-%d %H:%i:%s`), as `date_format` and `date_parse` take them.
pub(super) fn of_mysql(pattern: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out.push_str(match chars.next()? {
            'Y' => "%Y",
            'y' => "%y",
            'm' => "%m",
            'c' => "%-m",
            'd' => "%d",
            'e' => "%-d",
            'H' => "%H",
            'k' => "%-H",
            'h' | 'I' => "%I",
            'l' => "%-I",
            'i' => "%M",
            's' | 'S' => "%S",
            'f' => "%6f",
            'p' => "%p",
            'T' => "%H:%M:%S",
            'r' => "%I:%M:%S %p",
            'M' => "%B",
            'b' => "%b",
            'W' => "%A",
            'a' => "%a",
            'j' => "%j",
            'v' => "%V",
            'x' => "%G",
            '%' => "%%",
            _ => return None,
        });
    }
    Some(out)
}

/// chrono's pattern for one in Teradata's codes (`yyyy-mm-dd hh24:mi:ss`), as `to_timestamp` and `to_char` take them.
/// `mm` is the month and `mi` the minute, in any case.
pub(super) fn of_teradata(pattern: &str) -> Option<String> {
    const CODES: [(&str, &str); 8] = [
        ("yyyy", "%Y"),
        ("hh24", "%H"),
        ("yy", "%y"),
        ("mm", "%m"),
        ("dd", "%d"),
        ("hh", "%I"),
        ("mi", "%M"),
        ("ss", "%S"),
    ];
    let folded = pattern.to_ascii_lowercase();
    let mut rest = folded.as_str();
    let mut out = String::new();
    while let Some(first) = rest.chars().next() {
        if let Some((code, chrono)) = CODES.iter().find(|(code, _)| rest.starts_with(code)) {
            out.push_str(chrono);
            rest = &rest[code.len()..];
        } else if "-/,.;: t".contains(first) {
            out.push(if first == 't' { 'T' } else { first });
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out)
}

/// An instant of a text in chrono's pattern. What the pattern does not tell is as in 1970-01-01 00:00:00.
pub(super) fn parse_with(text: &str, pattern: &str) -> Option<NaiveDateTime> {
    let mut parsed = Parsed::new();
    parse(&mut parsed, text, StrftimeItems::new(pattern)).ok()?;
    let date_known = parsed.ordinal().is_some() || parsed.isoyear().is_some();
    if !date_known {
        // What stands there already stays: setting it to another value is refused.
        let _ = if parsed.year_mod_100().is_none() { parsed.set_year(1970).is_ok() } else { false };
        let _ = parsed.set_month(1).is_ok();
        let _ = parsed.set_day(1).is_ok();
    }
    if parsed.hour_mod_12().is_none() {
        let _ = parsed.set_hour(0).is_ok();
    } else if parsed.hour_div_12().is_none() {
        // Without AM or PM, 12 is midnight.
        let _ = parsed.set_ampm(false).is_ok();
    }
    let _ = parsed.set_minute(0).is_ok();
    let _ = parsed.set_second(0).is_ok();
    Some(parsed.to_naive_date().ok()?.and_time(parsed.to_naive_time().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").expect("an instant")
    }

    #[test]
    fn iso_texts_of_every_width_and_zone() {
        for (text, expected) in [
            ("2023-01-02", "2023-01-02 00:00:00"),
            ("2023-01-02T03:04", "2023-01-02 03:04:00"),
            ("2023-01-02T03:04:05Z", "2023-01-02 03:04:05"),
            ("2023-01-02T03:04:05.678Z", "2023-01-02 03:04:05.678"),
            ("2023-01-02T03:04:05.123456789Z", "2023-01-02 03:04:05.123456789"),
            ("2023-01-02 03:04:05 UTC", "2023-01-02 03:04:05"),
            ("2023-01-02T03:04:05+01:30", "2023-01-02 01:34:05"),
            ("2023-01-01T23:00:00-0200", "2023-01-02 01:00:00"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31 23:59:59.999"),
        ] {
            assert_eq!(parse_iso(text), Some(at(expected)), "{text}");
        }
        for wrong in ["", "2023", "2023-1-2", "2023-13-01", "2023-01-02T25:00", "2023-01-02T03:04:05 CEST", "x-y-z"] {
            assert_eq!(parse_iso(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn teradata_tells_minutes_from_months() {
        let pattern = of_teradata("yyyy-mm-dd hh24:mi:ss").expect("a pattern");
        assert_eq!(parse_with("2023-05-06 17:08:09", &pattern), Some(at("2023-05-06 17:08:09")));
        assert_eq!(of_teradata("YYYY/MM/DD").as_deref(), Some("%Y/%m/%d"));
        assert_eq!(of_teradata("quarter"), None);
    }

    #[test]
    fn mysql_patterns_read_what_they_write() {
        let pattern = of_mysql("%Y-%m-%d %H:%i:%s.%f").expect("a pattern");
        let text = at("2023-05-06 17:08:09.25").format(&pattern).to_string();
        assert_eq!(text, "2023-05-06 17:08:09.250000");
        let date = of_mysql("%d/%m/%Y").expect("a pattern");
        assert_eq!(parse_with("06/05/2023", &date), Some(at("2023-05-06 00:00:00")));
        let twelve = of_mysql("%Y-%m-%d %h:%i %p").expect("a pattern");
        assert_eq!(parse_with("2023-05-06 12:30 AM", &twelve), Some(at("2023-05-06 00:30:00")));
        assert_eq!(of_mysql("%Q"), None);
    }
}
