//! Where a table's Iceberg metadata is: `metadata/` beside `data/`.
//!
//! ```text
//! metadata/v12.metadata.json                     the table, numbered by the Delta version it shows
//! metadata/version-hint.text                     12
//! metadata/snap-12-x7Kq0b2Zr9TtWm4A.avro         the manifests of snapshot 12
//! metadata/manifest-12-9TtWm4Ax7Kq0b2Zr.avro     a manifest first written for it
//! metadata/00001-5f0c….metadata.json             what another program proposes instead
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use url::{Position, Url};

use crate::layout::alphanumeric;
use crate::{Error, Warehouse};

const DIRECTORY: &str = "metadata";
const HINT: &str = "version-hint.text";
/// Manifest lists begin so.
pub(crate) const SNAPSHOT: &str = "snap";
/// What other programs proposed is kept so long, in milliseconds: a day.
const PROPOSALS_KEPT_MS: i64 = 24 * 60 * 60 * 1_000;
/// Manifests begin so.
pub(crate) const MANIFEST: &str = "manifest";

/// The directory of a table's metadata.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    warehouse: Warehouse,
    /// `file:///dir` or `s3://bucket`, to which a path of the store is appended.
    scheme_and_host: String,
    data: Path,
    metadata: Path,
}

/// What stands in the directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The numbers of the documents.
    pub(crate) numbers: BTreeSet<u64>,
    /// Manifests and lists, with the numbers they were written for.
    pub(crate) avro: Vec<(u64, Path)>,
    /// Documents that other programs proposed, and when, in milliseconds since 1970.
    proposals: Vec<(i64, Path)>,
}

/// What became of a document that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Made,
    /// There is one of this number: another's, or this very one, if the first answer was lost.
    Taken,
}

impl Place {
    /// Of the table at `table`.
    pub(crate) fn new(warehouse: &Warehouse, table: &Url) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Location { location: table.to_string(), reason };
        let data = Path::from_url_path(table.path()).map_err(|error| wrong(error.to_string()))?;
        let mut parts: Vec<_> = data.parts().collect();
        parts.pop().ok_or_else(|| wrong("has no directory above it".to_owned()))?;
        let metadata = Path::from_iter(parts).join(DIRECTORY);
        // With what stands before the host, which in Azure's URLs is the container.
        let scheme_and_host = table[..Position::BeforePath].to_owned();
        Ok(Self { warehouse: warehouse.clone(), scheme_and_host, data, metadata })
    }

    fn store(&self) -> &dyn ObjectStore {
        self.warehouse.store().as_ref()
    }

    fn uri(&self, path: &Path) -> String {
        format!("{}/{path}", self.scheme_and_host)
    }

    /// The path of what [`Self::uri`] named in this directory. Metadata that was copied here names what stands elsewhere.
    fn path(&self, uri: &str) -> Result<Path, Error> {
        let path = uri.strip_prefix(&self.scheme_and_host).and_then(|path| Path::parse(path.strip_prefix('/')?).ok());
        path.filter(|path| path.prefix_matches(&self.metadata))
            .ok_or_else(|| Error::IcebergLost { uri: uri.to_owned() })
    }

    /// Whether a URI is one of this directory.
    pub(crate) fn holds(&self, uri: &str) -> bool {
        self.path(uri).is_ok()
    }

    /// Where a file of the table is, by its path below it.
    pub(crate) fn file_uri(&self, path: &str) -> String {
        format!("{}/{path}", self.uri(&self.data))
    }

    fn document(&self, number: u64) -> Path {
        self.metadata.clone().join(document_name(number))
    }

    pub(crate) fn document_uri(&self, number: u64) -> String {
        self.uri(&self.document(number))
    }

    /// The directory as it is. One request for a thousand objects.
    pub(crate) async fn list(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let mut objects = self.store().list(Some(&self.metadata));
        while let Some(object) = objects.try_next().await? {
            let name = object.location.filename().unwrap_or_default();
            if let Some(number) = name.strip_prefix('v').and_then(|name| name.strip_suffix(".metadata.json")) {
                listing.numbers.extend(number.parse::<u64>().ok());
            } else if let Some(number) = number_of_avro(name) {
                listing.avro.push((number, object.location));
            } else if is_proposal(name) {
                listing.proposals.push((object.last_modified.timestamp_millis(), object.location));
            }
        }
        Ok(listing)
    }

    pub(crate) async fn read_document(&self, number: u64) -> Result<Bytes, Error> {
        Ok(self.store().get(&self.document(number)).await?.bytes().await?)
    }

    /// Puts a document where none of its number is.
    pub(crate) async fn put_document(&self, number: u64, content: Vec<u8>) -> Result<Put, Error> {
        match self.store().put_opts(&self.document(number), content.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(Put::Made),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(error.into()),
        }
    }

    /// Sees to it that the hint says `number`.
    pub(crate) async fn hint(&self, number: u64) -> Result<(), Error> {
        let (path, content) = (self.metadata.clone().join(HINT), number.to_string());
        let found = match self.store().get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => Bytes::new(),
            Err(error) => return Err(error.into()),
        };
        if found == content.as_bytes() {
            return Ok(());
        }
        self.store().put(&path, content.into()).await?;
        Ok(())
    }

    /// Reads what [`Self::put_avro`] put.
    ///
    /// # Errors
    /// [`Error::IcebergLost`] when it is not there, or not in this directory; [`Error::ObjectStore`].
    pub(crate) async fn read_avro(&self, uri: &str) -> Result<Bytes, Error> {
        match self.store().get(&self.path(uri)?).await {
            Ok(found) => Ok(found.bytes().await?),
            Err(object_store::Error::NotFound { .. }) => Err(Error::IcebergLost { uri: uri.to_owned() }),
            Err(error) => Err(error.into()),
        }
    }

    /// A name that nobody else has, for a manifest or a list (`kind`) written for the document `number`.
    pub(crate) fn fresh_avro(&self, kind: &str, number: u64) -> String {
        let random = alphanumeric(self.warehouse.platform().fresh_id());
        self.uri(&self.metadata.clone().join(format!("{kind}-{number}-{random}.avro")))
    }

    pub(crate) async fn put_avro(&self, uri: &str, content: Vec<u8>) -> Result<(), Error> {
        self.store().put(&self.path(uri)?, content.into()).await?;
        Ok(())
    }

    /// Deletes what other programs proposed long ago: it was adopted, or never will be.
    pub(crate) async fn delete_old_proposals(&self, listing: &Listing) -> Result<(), Error> {
        let now = i64::try_from(self.warehouse.platform().now_millis()).unwrap_or(i64::MAX);
        let old = listing.proposals.iter().filter(|(at, _)| now.saturating_sub(*at) > PROPOSALS_KEPT_MS);
        self.delete(old.map(|(_, path)| path.clone()).collect()).await
    }

    /// Deletes the documents of the numbers in `listing` beyond the newest `kept`, and all older manifests and lists than
    /// `oldest` but those in `used`.
    pub(crate) async fn prune(
        &self,
        listing: &Listing,
        kept: usize,
        oldest: u64,
        used: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let documents = listing.numbers.iter().rev().skip(kept.max(1)).map(|number| self.document(*number));
        let avro = listing.avro.iter().filter(|(number, path)| *number < oldest && !used.contains(&self.uri(path)));
        self.delete(documents.chain(avro.map(|(_, path)| path.clone())).collect()).await
    }

    async fn delete(&self, paths: Vec<Path>) -> Result<(), Error> {
        let mut deleted = self.store().delete_stream(stream::iter(paths).map(Ok).boxed());
        while let Some(one) = deleted.next().await {
            match one {
                // Another compactor was first.
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The number that a manifest or a list was written for; `None` for names that Granary does not give.
fn number_of_avro(name: &str) -> Option<u64> {
    let mut parts = name.strip_suffix(".avro")?.split('-');
    let (kind, number, random, end) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    ((kind == SNAPSHOT || kind == MANIFEST) && random.len() == 16 && end.is_none()).then(|| number.parse().ok())?
}

/// The name of the document of a number.
pub(crate) fn document_name(number: u64) -> String {
    format!("v{number}.metadata.json")
}

/// The number of the document that a URI ends in.
pub(crate) fn document_number(uri: &str) -> Option<u64> {
    let name = uri.rsplit('/').next()?;
    name.strip_prefix('v')?.strip_suffix(".metadata.json")?.parse().ok()
}

/// Whether an object in a table's `metadata/` is called as Iceberg's clients call the documents that they want to have adopted:
/// `00001-<uuid>.metadata.json`. The table itself never names one.
pub fn is_proposal(name: &str) -> bool {
    let parts = name.strip_suffix(".metadata.json").and_then(|name| name.split_once('-'));
    let digits = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(number, uuid)| digits(number) && uuid::Uuid::try_parse(uuid).is_ok())
}
