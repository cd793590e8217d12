//! Human units: `64MiB` and `2s` become numbers, and numbers become the shortest such text again.

use std::fmt;
use std::time::Duration;

/// A count of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteCount(pub(crate) u64);

/// Factor of each unit; the binary ones first and largest first, as they are what is shown.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteCount {
    /// Mebibytes.
    pub(crate) const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Parses a whole number with a unit, such as `64MiB` or `1 GB`; a bare number counts bytes.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a number of bytes such as 4096, 64MiB or 1GB");
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = text[digits..].trim_start();
        let factor = match unit {
            "" => 1,
            unit => BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is more bytes than 64 bits hold"))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = &BYTE_UNITS[..4];
        match binary.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Parses a time such as `300ms`, `2s`, `1h 30m`; a bare number is refused, as it does not say what it counts.
///
/// # Errors
/// A sentence that says what was expected.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|_| format!("{text:?} is not a time such as 300ms, 2s or 5m"))
}

/// A time as [`parse_duration`] reads it.
pub(crate) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_shown() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("1GB", 1_000_000_000), ("7B", 7)]
        {
            assert_eq!(ByteCount::parse(text), Ok(ByteCount(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "64Mb1", "64 parsec", "99999999TiB", "18446744073709551616"] {
            assert!(ByteCount::parse(text).is_err(), "{text:?} was accepted");
        }
        for bytes in [0, 1, 1000, 1024, 1 << 20, (1 << 30) + 1, 3 << 40] {
            let shown = ByteCount(bytes).to_string();
            assert_eq!(ByteCount::parse(&shown), Ok(ByteCount(bytes)), "{shown}");
        }
        assert_eq!(ByteCount::mib(64).to_string(), "64MiB");
    }

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in [("300ms", 300), ("2s", 2_000), ("1m 30s", 90_000), (" 5m ", 300_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "2", "soon", "-1s"] {
            assert!(parse_duration(text).is_err(), "{text:?} was accepted");
        }
        let duration = Duration::from_millis(1_500);
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
}
