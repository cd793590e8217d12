//! Commits of Iceberg's clients, which end in an UpdateTable that names a metadata document they wrote. Properties are taken
//! from it; a feature group's table is not changed through Iceberg otherwise.

use granary_offline_store::{Error, is_proposal};
use granary_types::{ErrorKind, FeatureGroup};
use object_store::ObjectStoreExt;
use serde_json::{Map, Value, json};

use super::operations::check_version;
use super::{Glue, groups, store_failed};
use crate::json::{Fault, Reply};
use crate::place::Uri;

/// The largest document that is read, in bytes. One of 2,500 columns and 500 snapshots has some 2 MiB.
const DOCUMENT_BYTES_MAX: u64 = 32 << 20;

fn refused(reason: impl Into<String>) -> Fault {
    Fault::new("InvalidInputException", reason)
}

impl Glue {
    /// Takes over the properties of the document that `input` names.
    pub(super) async fn update_group(
        &self,
        group: &FeatureGroup,
        version: Option<&str>,
        input: &Map<String, Value>,
    ) -> Reply {
        let parameter = |name: &str| input.get("Parameters").and_then(|all| all.get(name)).and_then(Value::as_str);
        let named = parameter("metadata_location").zip(parameter("previous_metadata_location"));
        let Some((proposed, previous)) = named.filter(|_| group.is_iceberg()) else {
            let message = "a feature group's table follows its feature group, and is not changed here";
            return Err(refused(message));
        };
        check_version(version, groups::version(group))?;
        let document = self.proposal(proposed).await?;
        let table = self.places.warehouse().existing_table(group).await.map_err(|error| fault(&error))?;
        let mut table = table.ok_or_else(|| refused("the table has no metadata yet"))?;
        table.adopt_iceberg_properties(previous, &document).await.map_err(|error| fault(&error))?;
        tracing::info!(group = group.name, proposed, "iceberg properties were set");
        Ok(json!({}))
    }

    /// The document at an `s3://` URI.
    async fn proposal(&self, uri: &str) -> Result<Vec<u8>, Fault> {
        let wrong = |reason: &dyn std::fmt::Display| refused(format!("metadata_location {uri:?}: {reason}"));
        if !uri.rsplit('/').next().is_some_and(is_proposal) {
            return Err(wrong(&"not called <number>-<uuid>.metadata.json"));
        }
        let place = Uri::parse(uri).and_then(|uri| self.places.object(&uri.bucket, &uri.key));
        let place = place.map_err(|error| wrong(&error))?;
        let found = match self.documents.store().get(&place).await {
            Err(object_store::Error::NotFound { .. }) => return Err(wrong(&"is not there")),
            found => found.map_err(|error| store_failed(&error))?,
        };
        if found.meta.size > DOCUMENT_BYTES_MAX {
            return Err(wrong(&format!("has {} bytes, more than {DOCUMENT_BYTES_MAX}", found.meta.size)));
        }
        Ok(found.bytes().await.map_err(|error| store_failed(&error))?.into())
    }
}

fn fault(error: &Error) -> Fault {
    match error.kind() {
        ErrorKind::Invalid => refused(error.to_string()),
        ErrorKind::Conflict => Fault::new("ConcurrentModificationException", error.to_string()),
        _ => Fault::internal("InternalServiceException", error),
    }
}
