//! An object store that fails on purpose.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens to the next puts of commit files.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// This many are made, and answered with an error.
    pub(crate) lose_answer: AtomicUsize,
    /// This many are not made, and answered with an error.
    pub(crate) lose_request: AtomicUsize,
    /// So many puts of Iceberg metadata on, one is made and answered with an error.
    pub(crate) lose_metadata_answer: AtomicUsize,
    /// So many on, one is not made and answered with an error.
    pub(crate) lose_metadata_request: AtomicUsize,
    /// So many commits are made by a twin a moment earlier, word for word.
    pub(crate) twin_commits: AtomicUsize,
    /// What listings say instead of what is there, or beside it.
    pub(crate) stale_listing: Mutex<Vec<ObjectMeta>>,
    /// Everything is taken and overwritten: a store without conditional puts.
    pub(crate) ignore_conditions: std::sync::atomic::AtomicBool,
}

impl Faults {
    fn take(counter: &AtomicUsize) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Whether it is the turn of this one.
fn struck(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1)
}

#[derive(Debug)]
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) faults: Arc<Faults>,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "the connection broke".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        if self.faults.ignore_conditions.load(Ordering::SeqCst) {
            opts.mode = object_store::PutMode::Overwrite;
        }
        let commit = location.as_ref().contains("_delta_log/") && location.as_ref().ends_with(".json");
        let metadata = location.as_ref().contains("/metadata/");
        if metadata && struck(&self.faults.lose_metadata_request) {
            return Err(broken());
        }
        if commit && Faults::take(&self.faults.lose_request) {
            return Err(broken());
        }
        if commit && Faults::take(&self.faults.twin_commits) {
            self.inner.put_opts(location, payload.clone(), opts.clone()).await?;
        }
        let result = self.inner.put_opts(location, payload, opts).await;
        if metadata && struck(&self.faults.lose_metadata_answer) {
            return Err(broken());
        }
        if commit && Faults::take(&self.faults.lose_answer) {
            return Err(broken());
        }
        result
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let stale = self.faults.stale_listing.lock().expect("not poisoned").clone();
        let (others, prefix_of) = (stale.clone(), prefix.cloned());
        let is_listed = move |meta: &ObjectMeta| prefix_of.as_ref().is_none_or(|of| meta.location.prefix_matches(of));
        let inner = self.inner.list(prefix);
        let inner = inner.try_filter(move |meta| ready(others.iter().all(|other| other.location != meta.location)));
        inner.chain(stream::iter(stale.into_iter().filter(is_listed).map(Ok))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
