//! The object store of a simulation: in memory, refusing requests or making puts and not saying so.
//!
//! Whether a request fails depends on the seed, its path and how often the path was asked for, and not on the order in
//! which a library's threads come: so one seed gives one history.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::rng::Rng;

/// How an object store misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mood {
    /// Requests that are refused.
    pub(crate) refused_per_mille: u64,
    /// Puts that are made and answered with an error.
    pub(crate) unanswered_per_mille: u64,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    asked: BTreeMap<String, u64>,
    faults: u64,
}

/// The object store that all hosts share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    inner: Arc<InMemory>,
    rng: Rng,
    state: Arc<Mutex<State>>,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated bucket")
    }
}

fn broken() -> Error {
    Error::Generic { store: "simulated bucket", source: "the connection broke".into() }
}

impl Bucket {
    pub(crate) fn new(rng: Rng) -> Self {
        let state = State { mood: Mood::default(), asked: BTreeMap::new(), faults: 0 };
        Self { inner: Arc::default(), rng, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.lock().mood = mood;
    }

    /// How many requests went wrong.
    pub(crate) fn faults(&self) -> u64 {
        self.state.lock().faults
    }

    fn happens(&self, what: &str, path: &Path, chance: impl Fn(Mood) -> u64) -> bool {
        let mut state = self.state.lock();
        let asked = state.asked.entry(format!("{what} {path}")).or_default();
        *asked += 1;
        let purpose = format!("{what} {path} {asked}");
        let happens = self.rng.fork(&purpose).per_mille(chance(state.mood));
        state.faults += u64::from(happens);
        happens
    }

    fn refuses(&self, what: &str, path: &Path) -> Result<()> {
        if self.happens(what, path, |mood| mood.refused_per_mille) { Err(broken()) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.refuses("put", location)?;
        let result = self.inner.put_opts(location, payload, opts).await;
        if self.happens("unanswered", location, |mood| mood.unanswered_per_mille) { Err(broken()) } else { result }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.refuses("put", location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.refuses("get", location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.refuses("get", location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
