//! Times to live on the command line: `30s`, `10m`, `12h`, `7d`, `2w`, kept in the unit they were given in.

use std::str::FromStr;

use granary_proto::{convert, v1};
use granary_types::{Ttl, TtlUnit};

/// A time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TtlArg(Ttl);

impl TtlArg {
    /// As a message.
    pub(crate) fn to_wire(self) -> v1::Ttl {
        convert::ttl_to_wire(self.0)
    }
}

impl FromStr for TtlArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time to live such as 30s, 10m, 12h, 7d or 2w");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let value = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match &text[digits..] {
            "s" => TtlUnit::Seconds,
            "m" => TtlUnit::Minutes,
            "h" => TtlUnit::Hours,
            "d" => TtlUnit::Days,
            "w" => TtlUnit::Weeks,
            _ => return Err(wrong()),
        };
        Ttl::new(unit, value).map(Self).map_err(|error| error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_kept() {
        let ttl: TtlArg = "7d".parse().expect("seven days");
        assert_eq!(ttl.0, Ttl { unit: TtlUnit::Days, value: 7 });
        for text in ["", "7", "d", "0s", "1.5h", "7 d", "7days", "99999999999s"] {
            assert!(text.parse::<TtlArg>().is_err(), "{text:?} was accepted");
        }
    }
}
