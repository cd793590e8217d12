//! Where a page ended, as a token: what the last result was sorted by, and which it was. Pages stay right when other
//! groups come and go between them.

use granary_types::feature_group::check_name;
use granary_types::{Error, FeatureOrdinal};

use super::Resource;
use super::property::Value;

/// The place of a result in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: Option<Value<'static>>,
    pub(super) group: String,
    pub(super) feature: Option<FeatureOrdinal>,
}

impl Place {
    /// `<order>/<group>/<ordinal, or - for a group>/<key: -, n and a number, t and a text>`: opaque to callers.
    pub(super) fn to_token(&self, order: &str) -> String {
        let feature = self.feature.map_or_else(|| "-".to_owned(), |ordinal| ordinal.to_string());
        let key = match &self.key {
            None => "-".to_owned(),
            Some(Value::Number(number)) => format!("n{number}"),
            Some(Value::Text(text)) => format!("t{text}"),
        };
        format!("{order}/{}/{feature}/{key}", self.group)
    }

    /// # Errors
    /// `Invalid` for what is no token of a search for `resource` in this order.
    pub(super) fn from_token(resource: Resource, order: &str, token: &str) -> Result<Self, Error> {
        let place = token.strip_prefix(order).and_then(|token| token.strip_prefix('/')).and_then(Self::parse);
        let place = place.filter(|place| place.feature.is_some() == (resource == Resource::Feature));
        place.ok_or_else(|| Error::invalid("NextToken is not one that was returned for this search"))
    }

    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, '/');
        let (group, feature, key) = (parts.next()?, parts.next()?, parts.next()?);
        check_name("feature group", group).ok()?;
        let feature = match feature {
            "-" => None,
            ordinal => Some(FeatureOrdinal(ordinal.parse().ok()?)),
        };
        let key = match key.split_at_checked(1)? {
            ("-", "") => None,
            ("n", number) => Some(Value::Number(number.parse().ok()?)),
            ("t", text) => Some(Value::Text(text.to_owned().into())),
            _ => return None,
        };
        Some(Self { key, group: group.to_owned(), feature })
    }
}
