//! Query strings as AWS SDKs send them: keys may repeat, values are percent-encoded, `+` is a plus.

use percent_encoding::percent_decode_str;

use super::fault::{Fault, Plane};

/// The members of a query string.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(plane: Plane, query: Option<&str>) -> Result<Self, Fault> {
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(String::from).map_err(|_| Fault::invalid(plane, "the query string is not UTF-8"))
        };
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        });
        Ok(Self { pairs: pairs.collect::<Result<_, Fault>>()? })
    }

    /// The first value under `key`.
    pub(super) fn one(&self, key: &str) -> Option<String> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    /// All values under `key`.
    pub(super) fn all(&self, key: &str) -> Vec<String> {
        self.pairs.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_may_repeat() {
        let query = Query::parse(Plane::RuntimeRead, Some("Id=a%20b%2Fc%2Bd+e&FeatureName=x&FeatureName=y&Empty"));
        let query = query.expect("it is UTF-8");
        assert_eq!(query.one("Id").as_deref(), Some("a b/c+d+e"));
        assert_eq!(query.all("FeatureName"), ["x", "y"]);
        assert_eq!(query.one("Empty").as_deref(), Some(""));
        assert_eq!(query.one("Absent"), None);
        assert!(Query::parse(Plane::RuntimeRead, Some("a=%FF")).is_err());
    }
}
