//! Small JSON objects in the warehouse's store: what outlives a process.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A directory of JSON objects. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Documents {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self { store, root }
    }

    /// The path of segments below the root.
    pub(crate) fn path(&self, segments: &[&str]) -> Path {
        segments.iter().fold(self.root.clone(), |path, segment| path.join(*segment))
    }

    /// The document at `path`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not of this shape.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        let bytes = match self.store.get(path).await {
            Ok(found) => found.bytes().await?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Generic { store: "documents", source: source.into() })
    }

    /// Writes a document over whatever is there.
    pub(crate) async fn put(&self, path: &Path, document: &impl Serialize) -> Result<()> {
        self.store.put(path, encode(document)?).await.map(drop)
    }

    /// Writes a document where none is; whether it did.
    pub(crate) async fn create(&self, path: &Path, document: &impl Serialize) -> Result<bool> {
        match self.store.put_opts(path, encode(document)?, PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a document; whether there was one.
    pub(crate) async fn delete(&self, path: &Path) -> Result<bool> {
        match self.store.delete(path).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is in a directory and below it.
    pub(crate) async fn list(&self, directory: &Path) -> Result<Vec<ObjectMeta>> {
        self.store.list(Some(directory)).try_collect().await
    }

    /// The names of the directories in one.
    pub(crate) async fn directories(&self, directory: &Path) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(directory)).await?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Removes a directory and what is in it.
    pub(crate) async fn delete_all(&self, directory: &Path) -> Result<()> {
        let found = self.store.list(Some(directory)).map_ok(|meta| meta.location).boxed();
        self.store.delete_stream(found).try_for_each(|_| std::future::ready(Ok(()))).await
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }
}

fn encode(document: &impl Serialize) -> Result<PutPayload> {
    let bytes = serde_json::to_vec(document);
    let bytes = bytes.map_err(|source| Error::Generic { store: "documents", source: source.into() })?;
    Ok(Bytes::from(bytes).into())
}
