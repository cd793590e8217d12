//! The tags of feature groups.

use std::sync::Arc;

use granary_proto::internal::UpdateTags;
use granary_types::feature_group::TAG_COUNT_MAX;
use granary_types::{Error, FeatureGroup};

use super::updates::change_entries;
use crate::CatalogState;

/// The longest key and value of a tag, in characters (contract 2).
const KEY_LEN_MAX: usize = 128;
const VALUE_LEN_MAX: usize = 256;

impl CatalogState {
    /// Sets and removes tags. To remove one that is not there changes nothing.
    pub(super) fn update_tags(&mut self, command: &UpdateTags) -> Result<Arc<FeatureGroup>, Error> {
        let request = command.request.as_ref().ok_or_else(|| Error::invalid("tags belong to a feature group"))?;
        let mut group = FeatureGroup::clone(self.live_group(&request.feature_group)?);
        let fits = |(key, value): (&String, &String)| {
            (1..=KEY_LEN_MAX).contains(&key.chars().count()) && value.chars().count() <= VALUE_LEN_MAX
        };
        if !request.set.iter().all(fits) {
            return Err(Error::invalid(format!(
                "a tag's key has 1 to {KEY_LEN_MAX} characters, its value at most {VALUE_LEN_MAX}"
            )));
        }
        change_entries("tag", &mut group.tags, &request.set, &request.remove, TAG_COUNT_MAX)?;
        self.change_group(group)
    }
}
