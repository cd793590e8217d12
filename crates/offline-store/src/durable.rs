//! A local disk as an object store whose writes survive a power cut.
//!
//! `object_store`'s [`LocalFileSystem`] (0.13.2) never calls fsync. The change log is trimmed once a commit is made
//! (CL-3), so a commit or data file that vanished with the page cache would be lost for good. Here a put returns only
//! after the file's bytes, its directory entry and every directory made for it are on disk; the name appears after
//! the bytes are, so that no reader ever finds a short file, not even after a crash in between.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use granary_platform::Platform;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

const STORE: &str = "durable local disk";
/// Some hundred bytes each; when so many were seen, they are forgotten, which costs a few syncs.
const SYNCED_MAX: usize = 16_384;

/// The whole file system of this machine, `/` being its root.
#[derive(Debug, Clone)]
pub(crate) struct DurableLocal {
    inner: Arc<LocalFileSystem>,
    synced: Arc<Synced>,
    platform: Platform,
}

impl DurableLocal {
    pub(crate) fn new(platform: Platform) -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()), synced: Arc::default(), platform }
    }

    async fn put_durably(&self, location: &Path, payload: PutPayload, mode: PutMode) -> Result<PutResult> {
        let target = self.inner.path_to_filesystem(location)?;
        let staged = self.staged(&target);
        let (location, synced) = (location.to_string(), self.synced.clone());
        let work = move || write(&target, &staged, &payload, &mode, &synced);
        let written = tokio::task::spawn_blocking(work).await;
        written.map_err(|source| generic(source.into()))?.map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => Error::AlreadyExists { path: location, source: source.into() },
            ErrorKind::PermissionDenied => Error::PermissionDenied { path: location, source: source.into() },
            _ => generic(source.into()),
        })?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// A fresh name beside `target` for what is not whole yet. `LocalFileSystem` hides names that end in `#` and
    /// digits, as it does its own unfinished files.
    fn staged(&self, target: &FsPath) -> PathBuf {
        let mut staged = target.to_owned().into_os_string();
        staged.push(format!("#{}", self.platform.fresh_id()));
        staged.into()
    }
}

/// Runs `work`, which waits for the disk, on a thread that may.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| generic(source.into()))?.map_err(|source| generic(source.into()))
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: STORE, source }
}

/// Writes, syncs, names, and syncs the name.
fn write(
    target: &FsPath,
    staged: &FsPath,
    payload: &PutPayload,
    mode: &PutMode,
    synced: &Synced,
) -> std::io::Result<()> {
    let directory = target.parent().unwrap_or(FsPath::new("/"));
    synced.create(directory)?;
    let named = write_staged(staged, payload).and_then(|()| match mode {
        // A hard link fails where the name is taken: the conditional put of table commits.
        PutMode::Create => fs::hard_link(staged, target),
        _ => fs::rename(staged, target),
    });
    if named.is_err() || matches!(mode, PutMode::Create) {
        // The staged name is litter by now; a crash here leaves a file that no listing shows.
        let _ = fs::remove_file(staged);
    }
    named?;
    sync_directory(directory)
}

fn write_staged(staged: &FsPath, payload: &PutPayload) -> std::io::Result<()> {
    let mut file = File::create_new(staged)?;
    for chunk in payload {
        file.write_all(chunk)?;
    }
    file.sync_all()
}

/// Directories whose entries in their parents are on disk, as far as this process has seen to it.
#[derive(Debug, Default)]
struct Synced(Mutex<HashSet<PathBuf>>);

impl Synced {
    /// Creates what is missing of a path and makes the entry of each directory in it durable, also of one that another
    /// process has just made and not synced yet. Costs nothing for a path that was seen before.
    fn create(&self, directory: &FsPath) -> std::io::Result<()> {
        let new: Vec<PathBuf> = {
            let synced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = |ancestor: &&FsPath| !(synced.contains(*ancestor) && ancestor.exists());
            directory.ancestors().take_while(known).map(FsPath::to_owned).collect()
        };
        fs::create_dir_all(directory)?;
        for parent in new.iter().rev().filter_map(|created| created.parent()) {
            match sync_directory(parent) {
                // Nobody could have made an entry there who may not even look.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        let mut synced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if synced.len() > SYNCED_MAX {
            synced.clear();
        }
        synced.extend(new);
        Ok(())
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(directory: &FsPath) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if let PutMode::Update(_) = opts.mode {
            return self.inner.put_opts(location, payload, opts).await;
        }
        self.put_durably(location, payload, opts.mode).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let staged = self.staged(&target);
        let synced = Arc::clone(&self.synced);
        let create = {
            let (target, staged) = (target.clone(), staged.clone());
            move || {
                synced.create(target.parent().unwrap_or(FsPath::new("/")))?;
                File::create_new(staged)
            }
        };
        let file = on_disk(create).await?;
        Ok(Box::new(StagedUpload { target, staged, file: Arc::new(file), len: 0, done: false }))
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
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// An upload in parts: written beside the target as they come, named once all of them are on disk.
#[derive(Debug)]
struct StagedUpload {
    target: PathBuf,
    staged: PathBuf,
    file: Arc<File>,
    /// Bytes of the parts taken so far, which is where the next one goes.
    len: u64,
    done: bool,
}

#[async_trait]
impl MultipartUpload for StagedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (file, mut at) = (Arc::clone(&self.file), self.len);
        self.len += data.content_length() as u64;
        Box::pin(on_disk(move || {
            for chunk in &data {
                file.write_all_at(chunk, at)?;
                at += chunk.len() as u64;
            }
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (file, staged, target) = (Arc::clone(&self.file), self.staged.clone(), self.target.clone());
        self.done = true;
        on_disk(move || {
            let named = file.sync_all().and_then(|()| fs::rename(&staged, &target));
            if named.is_err() {
                let _ = fs::remove_file(&staged);
            }
            named?;
            sync_directory(target.parent().unwrap_or(FsPath::new("/")))
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.done = true;
        let staged = self.staged.clone();
        on_disk(move || fs::remove_file(staged)).await
    }
}

impl Drop for StagedUpload {
    /// An upload that was given up leaves nothing behind; after a crash its file stays, which no listing shows.
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn names_in(directory: &FsPath) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn of_racing_creations_one_wins_and_no_litter_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = DurableLocal::new(Platform::system());
        let location = Path::from_absolute_path(directory.path().join("deep/below/it")).expect("a path");
        let creations = (0..8_u8)
            .map(|content| store.put_opts(&location, PutPayload::from(vec![content; 100]), PutMode::Create.into()));
        let results = futures::future::join_all(creations).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(
            results
                .iter()
                .flat_map(|result| result.as_ref().err())
                .all(|error| matches!(error, Error::AlreadyExists { .. }))
        );
        assert_eq!(names_in(&directory.path().join("deep/below")), ["it"]);
        let won = results.iter().position(Result::is_ok).expect("one won");
        let content = store.get(&location).await.expect("there").bytes().await.expect("readable");
        assert_eq!(content, vec![u8::try_from(won).expect("small"); 100]);
    }

    #[tokio::test]
    async fn parts_appear_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = DurableLocal::new(Platform::system());
        let location = Path::from_absolute_path(directory.path().join("it")).expect("a path");
        let mut upload = store.put_multipart(&location).await.expect("begun");
        upload.put_part("one ".into()).await.expect("taken");
        upload.put_part("two".into()).await.expect("taken");
        assert!(!directory.path().join("it").exists());
        upload.complete().await.expect("put");
        let content = store.get(&location).await.expect("there").bytes().await.expect("readable");
        assert_eq!(content, "one two");
        let mut given_up = store.put_multipart(&location).await.expect("begun");
        given_up.put_part("three".into()).await.expect("taken");
        drop(given_up);
        assert_eq!(names_in(directory.path()), ["it"]);
        fs::remove_dir_all(directory.path()).expect("gone");
        store.put(&location, "again".into()).await.expect("directories are made anew");
    }
}
