//! Percent-encoding of paths and parameters.

use percent_encoding::percent_decode_str;

/// A path's text; `None` when it is not UTF-8.
pub(crate) fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The decoded pairs of a query or a form. What is not UTF-8 is left out.
pub(crate) fn form(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let plus = |text: &str| decoded(&text.replace('+', " "));
    text.split('&').filter(|pair| !pair.is_empty()).filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((plus(name)?, plus(value)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let pairs: Vec<_> = form("prefix=a%2Bb+c&uploads&x=%FF&list-type=2").collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs, [pair("prefix", "a+b c"), pair("uploads", ""), pair("list-type", "2")]);
    }
}
