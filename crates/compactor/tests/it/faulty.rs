//! An object store that refuses puts, or makes them and does not say so.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// What happens to the next puts.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// So many puts below a path that contains `sellers` are refused.
    pub(crate) refused_sellers: AtomicUsize,
    /// So many puts of Iceberg metadata are refused.
    pub(crate) refused_metadata: AtomicUsize,
    /// Whether a listing of the directory of `goods` never ends.
    pub(crate) endless_listing: AtomicBool,
    /// So many commits are made and answered with an error.
    pub(crate) unanswered_commits: AtomicUsize,
}

/// Takes one from a counter, if there is one.
pub(crate) fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[derive(Debug, Default)]
pub(crate) struct FaultyStore {
    inner: InMemory,
    pub(crate) faults: Arc<Faults>,
    /// How many puts were made.
    pub(crate) puts: watch::Sender<u64>,
    /// How many listings of the directory of `goods` were begun.
    pub(crate) listings: watch::Sender<u64>,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "the connection broke".into() }
}

#[tonic::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if location.as_ref().contains("sellers") && take(&self.faults.refused_sellers) {
            return Err(broken());
        }
        if location.as_ref().contains("/metadata/") && take(&self.faults.refused_metadata) {
            return Err(broken());
        }
        let result = self.inner.put_opts(location, payload, opts).await;
        self.puts.send_modify(|puts| *puts += 1);
        let commit = location.as_ref().contains("_delta_log/") && location.as_ref().ends_with(".json");
        if commit && take(&self.faults.unanswered_commits) {
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
        let directory = prefix.is_some_and(|prefix| prefix.as_ref().ends_with("goods/data"));
        self.listings.send_modify(|listings| *listings += u64::from(directory));
        if directory && self.faults.endless_listing.load(Ordering::SeqCst) {
            return stream::pending().boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
