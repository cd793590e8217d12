//! Properties that users set on a table by their Iceberg clients (`write.target-file-size-bytes`, `read.split.target-size`, …).
//!
//! A client writes a whole document beside the newest one and asks the catalog to name it instead. Here the document is only
//! read: what it changes of the properties goes into the Delta table's configuration, under `granary.iceberg.`, by a commit of
//! its own, and every document from then on says it, also one that is written anew. A document that changes anything else is
//! refused, since the Delta log alone says what the table is.
//!
//! Granary writes files as its own settings say, whatever the properties are; they are kept for the programs that read them.

use std::collections::{BTreeMap, HashMap};

use deltalake_core::kernel::{Action, MetadataExt};
use deltalake_core::protocol::DeltaOperation;
use deltalake_core::{DeltaTableError, ObjectStoreError};

use super::document_location;
use super::metadata::Metadata;
use super::place::{Place, document_number};
use crate::{Error, OfflineTable};

/// In the Delta table's configuration users' properties begin so.
const KEPT_UNDER: &str = "granary.iceberg.";
/// The most properties that users may set on one table.
const PROPERTIES_MAX: usize = 100;
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 4_096;

/// A property with its new value, or `None` where it is removed.
type Changes = BTreeMap<String, Option<String>>;

impl OfflineTable {
    /// The properties that users set, as the version of the table says that this handle has read.
    ///
    /// # Errors
    /// [`Error::Table`] when the handle has read none.
    pub fn iceberg_properties(&self) -> Result<BTreeMap<String, String>, Error> {
        let kept = self.delta.snapshot()?.metadata().configuration().iter();
        Ok(kept.filter_map(|(key, value)| Some((key.strip_prefix(KEPT_UNDER)?.to_owned(), value.clone()))).collect())
    }

    /// Takes over the properties of `proposed`, a metadata document that an Iceberg client made from the published one at
    /// `previous` (as [`Warehouse::iceberg_metadata_location`](crate::Warehouse::iceberg_metadata_location) said it), and
    /// publishes a document that says them. What was committed to the table since `previous` is no hindrance. Doing it a
    /// second time changes nothing.
    ///
    /// # Errors
    /// [`Error::IcebergProposal`] when it changes anything but properties, or too many of them; [`Error::IcebergOutdated`] when
    /// one of them was changed by somebody else since, or `previous` is not there any more. Nothing is changed by these. After
    /// any other error it may be changed or not.
    pub async fn adopt_iceberg_properties(&mut self, previous: &str, proposed: &[u8]) -> Result<(), Error> {
        let base = self.published_at(previous).await?;
        let proposed: Metadata = serde_json::from_slice(proposed)
            .map_err(|error| refused(format!("it is not a metadata document of format version 2: {error}")))?;
        if let Some(member) = base.differs_in(&proposed) {
            let reason = format!("only properties can be changed through Iceberg, and it changes {member:?} too");
            return Err(refused(reason));
        }
        let (was, wanted) = (base.users_properties(), proposed.users_properties());
        check(&wanted)?;
        let changes = changes(&was, &wanted);
        self.keep(&was, &changes).await?;
        self.publish_iceberg().await?;
        Ok(())
    }

    /// The document of Granary's that a client says it read.
    async fn published_at(&self, location: &str) -> Result<Metadata, Error> {
        let place = Place::new(&self.warehouse, self.url())?;
        let gone = || Error::IcebergOutdated { reason: format!("{location} is not there any more") };
        let is_here = |number: &u64| document_location(&self.warehouse, &self.group, &place, *number) == location;
        let number = document_number(location).filter(is_here).ok_or_else(|| {
            refused(format!("it builds on {location:?}, which is not one of this table's metadata documents"))
        })?;
        let bytes = match place.read_document(number).await {
            Err(Error::ObjectStore(ObjectStoreError::NotFound { .. })) => return Err(gone()),
            read => read?,
        };
        let document = serde_json::from_slice::<Metadata>(&bytes).ok();
        document.filter(|document| document.shown().is_some()).ok_or_else(gone)
    }

    /// Commits changes of what stood at `was`; tried again when another commit came first.
    async fn keep(&mut self, was: &BTreeMap<String, String>, changes: &Changes) -> Result<(), Error> {
        let attempts = self.warehouse.settings().commit_attempts_max;
        self.refresh().await?;
        for _ in 0..attempts {
            let kept = self.iceberg_properties()?;
            if changes.iter().all(|(key, value)| kept.get(key) == value.as_ref()) {
                return Ok(());
            }
            if let Some(key) = changes.keys().find(|key| kept.get(*key) != was.get(*key)) {
                return Err(Error::IcebergOutdated { reason: format!("somebody else changed property {key:?}") });
            }
            let others = kept.keys().filter(|key| !changes.contains_key(*key)).count();
            check_count(others + changes.values().flatten().count())?;
            let mut metadata = self.delta.snapshot()?.metadata().clone();
            for (key, value) in changes {
                let key = format!("{KEPT_UNDER}{key}");
                let changed = match value {
                    Some(value) => metadata.add_config_key(key, value.clone()),
                    None => metadata.remove_config_key(&key),
                };
                metadata = changed.map_err(DeltaTableError::from)?;
            }
            let set = changes.iter().filter_map(|(key, value)| Some((format!("{KEPT_UNDER}{key}"), value.clone()?)));
            let operation = DeltaOperation::SetTableProperties { properties: set.collect::<HashMap<_, _>>() };
            self.try_commit(vec![Action::Metadata(metadata)], operation).await?;
        }
        Err(Error::Busy { attempts })
    }
}

fn changes(was: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Changes {
    let removed = was.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), None));
    let set = wanted.iter().filter(|(key, value)| was.get(*key) != Some(value));
    removed.chain(set.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
}

fn check(wanted: &BTreeMap<String, String>) -> Result<(), Error> {
    check_count(wanted.len())?;
    let fits = |key: &str, value: &str| (1..=KEY_BYTES_MAX).contains(&key.len()) && value.len() <= VALUE_BYTES_MAX;
    match wanted.iter().find(|(key, value)| !fits(key, value)) {
        None => Ok(()),
        Some((key, _)) => {
            let shown: String = key.chars().take(40).collect();
            Err(refused(format!(
                "property {shown:?} has a key of 0 or more than {KEY_BYTES_MAX} bytes, or a value of more than {VALUE_BYTES_MAX}"
            )))
        }
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if count <= PROPERTIES_MAX {
        return Ok(());
    }
    Err(refused(format!("a table has at most {PROPERTIES_MAX} properties, and there would be {count}")))
}

fn refused(reason: String) -> Error {
    Error::IcebergProposal { reason }
}
