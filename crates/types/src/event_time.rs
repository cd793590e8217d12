//! Event times: instants with nanosecond precision over the years 0000 to 9999 (design: data model).

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

use crate::{Error, FeatureType};

const NANOS_PER_SECOND: i128 = 1_000_000_000;
/// 0000-01-01T00:00:00Z.
const MIN_SECONDS: i64 = -62_167_219_200;
/// 9999-12-31T23:59:59Z.
const MAX_SECONDS: i64 = 253_402_300_799;

/// The caller's time of a record: an instant, compared as an instant and never as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime {
    seconds: i64,
    nanos: u32,
}

impl EventTime {
    /// The first instant that can be said.
    pub const MIN: Self = Self { seconds: MIN_SECONDS, nanos: 0 };
    /// The last one.
    pub const MAX: Self = Self { seconds: MAX_SECONDS, nanos: 999_999_999 };

    /// From whole seconds since 1970-01-01T00:00:00Z and nanoseconds after them (`0..1_000_000_000`).
    ///
    /// # Errors
    /// `Invalid` outside of the years 0000 to 9999 or for nanoseconds out of range.
    pub fn from_parts(seconds: i64, nanos: u32) -> Result<Self, Error> {
        if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) || nanos >= 1_000_000_000 {
            return Err(Error::invalid(format!(
                "event time is outside of the years 0000 to 9999: seconds={seconds} nanos={nanos}"
            )));
        }
        Ok(Self { seconds, nanos })
    }

    /// Parses the text of an event time feature of type `kind`.
    ///
    /// `String` takes ISO-8601 in UTC, `yyyy-MM-ddTHH:mm:ss[.f]Z` with one to nine fraction digits (contract 3.3);
    /// `Fractional` takes Unix seconds as a decimal number, read exactly and not through a float.
    ///
    /// # Errors
    /// `Invalid`, saying what was expected.
    pub fn parse(kind: FeatureType, text: &str) -> Result<Self, Error> {
        match kind {
            FeatureType::String => Self::parse_iso(text),
            FeatureType::Fractional => Self::parse_seconds(text),
            FeatureType::Integral => Err(Error::invalid("an event time feature is of type String or Fractional")),
        }
    }

    /// Parses `yyyy-MM-ddTHH:mm:ss[.f]Z`.
    ///
    /// # Errors
    /// `Invalid` for anything else: date only, a missing `Z`, an offset, a space for the `T`, a leap second.
    pub fn parse_iso(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!(
                "event time {text:?} is not an ISO-8601 instant in UTC such as 2024-01-31T08:30:00Z or 2024-01-31T08:30:00.123Z"
            ))
        };
        let bytes = text.as_bytes();
        if !text.is_ascii() || bytes.len() < 20 || bytes[bytes.len() - 1] != b'Z' {
            return Err(wrong());
        }
        let shape = b"dddd-dd-ddTdd:dd:dd";
        let fits = shape.iter().zip(bytes).all(|(&want, &got)| match want {
            b'd' => got.is_ascii_digit(),
            _ => want == got,
        });
        if !fits {
            return Err(wrong());
        }
        let number = |from: usize, to: usize| text[from..to].parse::<u32>().map_err(|_| wrong());
        let date =
            NaiveDate::from_ymd_opt(number(0, 4)?.cast_signed(), number(5, 7)?, number(8, 10)?).ok_or_else(wrong)?;
        let time = NaiveTime::from_hms_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?).ok_or_else(wrong)?;
        let nanos = match &bytes[19..bytes.len() - 1] {
            [] => 0,
            [b'.', digits @ ..] => fraction_nanos(digits).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        Self::from_parts(date.and_time(time).and_utc().timestamp(), nanos)
    }

    /// Parses Unix seconds in decimal, such as `1700000000` or `1700000000.123456789` or `1.7e9`.
    ///
    /// # Errors
    /// `Invalid` when it is not a number, finer than a nanosecond, or out of range.
    pub fn parse_seconds(text: &str) -> Result<Self, Error> {
        let wrong =
            || Error::invalid(format!("event time {text:?} is not a number of Unix seconds such as 1700000000.25"));
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let significant = digits.trim_start_matches('0');
        let mut nanos: i128 = if significant.is_empty() { 0 } else { significant.parse().map_err(|_| wrong())? };
        // The number is `nanos` times ten to the `shift`, in nanoseconds.
        let shift = 9_i32.saturating_add(exponent).saturating_sub(i32::try_from(fraction.len()).map_err(|_| wrong())?);
        for _ in 0..shift.clamp(0, 64) {
            nanos = nanos.checked_mul(10).ok_or_else(wrong)?;
        }
        for _ in 0..(-shift).clamp(0, 128) {
            // Digits below a nanosecond are cut, as a float's noise would be.
            nanos /= 10;
        }
        Self::from_nanos(if negative { -nanos } else { nanos }).map_err(|_| wrong())
    }

    /// The text of this instant in an event time feature of type `kind`, which [`Self::parse`] reads back: Unix seconds
    /// for Fractional, else ISO-8601.
    pub fn text(self, kind: FeatureType) -> String {
        if kind != FeatureType::Fractional {
            return self.to_string();
        }
        let (sign, nanos) = (if self.nanos() < 0 { "-" } else { "" }, self.nanos().unsigned_abs());
        let second = NANOS_PER_SECOND.unsigned_abs();
        let (whole, rest) = (nanos / second, nanos % second);
        if rest == 0 {
            return format!("{sign}{whole}");
        }
        format!("{sign}{whole}.{}", format!("{rest:09}").trim_end_matches('0'))
    }

    /// From nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// `Invalid` outside of the years 0000 to 9999.
    pub fn from_nanos(nanos: i128) -> Result<Self, Error> {
        let seconds = i64::try_from(nanos.div_euclid(NANOS_PER_SECOND))
            .map_err(|_| Error::invalid("event time is outside of the years 0000 to 9999"))?;
        let rest = u32::try_from(nanos.rem_euclid(NANOS_PER_SECOND)).expect("a remainder below 10^9 fits u32");
        Self::from_parts(seconds, rest)
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after [`Self::seconds`].
    pub fn subsec_nanos(self) -> u32 {
        self.nanos
    }

    /// Nanoseconds since the Unix epoch; needs 96 bits at the ends of the range.
    pub fn nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS_PER_SECOND + i128::from(self.nanos)
    }

    /// Microseconds since the Unix epoch, rounded down.
    pub fn micros(self) -> i64 {
        self.seconds * 1_000_000 + i64::from(self.nanos / 1_000)
    }

    /// The civil date and time in UTC, for partition directories and texts.
    pub fn to_utc(self) -> NaiveDateTime {
        DateTime::from_timestamp(self.seconds, self.nanos).expect("years 0000 to 9999 fit chrono").naive_utc()
    }
}

impl fmt::Display for EventTime {
    /// ISO-8601 in UTC with as few fraction digits of 0, 3, 6, 9 as hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = self.to_utc();
        write!(f, "{}", utc.format("%Y-%m-%dT%H:%M:%S"))?;
        match utc.nanosecond() {
            0 => {}
            n if n % 1_000_000 == 0 => write!(f, ".{:03}", n / 1_000_000)?,
            n if n % 1_000 == 0 => write!(f, ".{:06}", n / 1_000)?,
            n => write!(f, ".{n:09}")?,
        }
        f.write_str("Z")
    }
}

fn fraction_nanos(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(value * 10_u32.pow(9 - u32::try_from(digits.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_each_type_is_read_back() {
        for (nanos, iso, seconds) in [
            (0, "1970-01-01T00:00:00Z", "0"),
            (1_700_000_000_250_000_000, "2023-11-14T22:13:20.250Z", "1700000000.25"),
            (-1_500_000_001, "1969-12-31T23:59:58.499999999Z", "-1.500000001"),
        ] {
            let time = EventTime::from_nanos(nanos).expect("in range");
            assert_eq!(time.text(FeatureType::String), iso);
            assert_eq!(time.text(FeatureType::Fractional), seconds);
            for kind in [FeatureType::String, FeatureType::Fractional] {
                assert_eq!(EventTime::parse(kind, &time.text(kind)), Ok(time));
            }
        }
    }

    #[test]
    fn compares_instants_not_text() {
        let early = EventTime::parse_iso("2024-01-01T00:00:00.099999999Z").expect("nine digits");
        let late = EventTime::parse_iso("2024-01-01T00:00:00.1Z").expect("one digit");
        assert!(early < late);
        assert_eq!(late.to_string(), "2024-01-01T00:00:00.100Z");
    }

    #[test]
    fn spans_the_years_0000_to_9999() {
        assert_eq!(EventTime::parse_iso("0000-01-01T00:00:00Z").expect("first"), EventTime::MIN);
        assert_eq!(EventTime::parse_iso("9999-12-31T23:59:59.999999999Z").expect("last"), EventTime::MAX);
        assert!(EventTime::MAX.nanos() > i128::from(i64::MAX));
    }

    #[test]
    fn refuses_what_the_contract_refuses() {
        for text in [
            "2024-01-31",
            "2024-01-31T08:30:00",
            "2024-01-31 08:30:00Z",
            "2024-01-31T08:30:00+00:00",
            "1700000000",
            "2024-02-30T00:00:00Z",
            "2024-01-31T24:00:00Z",
            "2024-01-31T08:30:00.Z",
            "2024-01-31T08:30:00.1234567890Z",
            "",
        ] {
            assert!(EventTime::parse_iso(text).is_err(), "{text:?} was accepted");
        }
        for text in ["", ".", "1e", "abc", "1_0", "1e40", "-1e12", "NaN", "inf", "0x10"] {
            assert!(EventTime::parse_seconds(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn reads_decimal_seconds_exactly() {
        let time = EventTime::parse_seconds("1700000000.123456789").expect("a number");
        assert_eq!((time.seconds(), time.subsec_nanos()), (1_700_000_000, 123_456_789));
        assert_eq!(EventTime::parse_seconds("1.7e9").expect("scientific").seconds(), 1_700_000_000);
        let before = EventTime::parse_seconds("-0.5").expect("negative");
        assert_eq!((before.seconds(), before.subsec_nanos()), (-1, 500_000_000));
    }
}
