//! Session tokens and write ids as text.

use std::fmt::Write;

/// Lowercase hex digits.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// Bytes from an even number of hex digits.
///
/// # Errors
/// A sentence that says what was expected.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err("expected an even number of hex digits".to_owned());
    }
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16);
    let digits_only = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    (0..text.len())
        .step_by(2)
        .map(byte)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|_| digits_only)
        .ok_or_else(|| "expected hex digits".to_owned())
}

/// A write id: 32 hex digits, or a UUID with its hyphens.
///
/// # Errors
/// A sentence that says what was expected.
pub(crate) fn parse_write_id(text: &str) -> Result<[u8; 16], String> {
    let bytes = decode(&text.replace('-', ""))?;
    bytes.try_into().map_err(|_| "a write id has 32 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(decode(&encode(&[0, 1, 0xab, 255])), Ok(vec![0, 1, 0xab, 255]));
        for text in ["0", "zz", "+1", "éé"] {
            assert!(decode(text).is_err(), "{text:?} was accepted");
        }
        assert!(parse_write_id("00112233-4455-6677-8899-aabbccddeeff").is_ok());
        assert!(parse_write_id("00").is_err());
    }
}
