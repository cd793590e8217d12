//! What S3 keeps beside an object's bytes, and a local disk does not: MD5, checksum, type, the user's metadata.
//!
//! A note is a document under `_granary/s3/notes/`, written after its object. It says which size and time of change it is
//! about; one that is about others, since the object was written by somebody else or the process died in between, counts
//! for nothing. Without a note an object's ETag is made of its size and time, with a hyphen, which says that it is no MD5.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::S3;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Of the object, without quotes.
    pub(super) etag: String,
    /// CRC-32 of the bytes in base64, where it is known.
    pub(super) crc32: Option<String>,
    pub(super) content_type: Option<String>,
    /// Of `x-amz-meta-…`, by what follows.
    pub(super) metadata: BTreeMap<String, String>,
    /// What the note is about.
    pub(super) size: u64,
    pub(super) modified_micros: i64,
}

/// The writers of this process: one at a time for each object, so that a note is about what its own writer wrote. Between
/// the two another one's object of the same size would get the first one's MD5. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Writers(Arc<Mutex<BTreeMap<Path, Weak<AsyncMutex<()>>>>>);

impl Writers {
    /// Waits until nobody else writes the object; others wait while what is returned lives.
    pub(super) async fn turn(&self, path: &Path) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            turns.get(path).and_then(Weak::upgrade).unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(path.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

impl S3 {
    /// Where an object's note is. Directories and notes must not meet.
    fn note_path(&self, path: &Path) -> Path {
        let directory = self.documents.path(&["s3", "notes"]);
        Path::parse(format!("{directory}/{path}~note")).expect("a path below a path")
    }

    /// Keeps a note about the object that was just written, in its writer's turn. `written` is what the store calls that
    /// object, where it says: when it is another by now, which another process wrote, no note is kept. An error loses only
    /// what the note says.
    pub(super) async fn keep_note(&self, path: &Path, note: Note, written: Option<&str>) {
        let kept = async {
            let meta = self.documents.store().head(path).await?;
            if written.is_some() && meta.e_tag.as_deref() != written {
                return Ok(());
            }
            let note = Note { size: meta.size, modified_micros: meta.last_modified.timestamp_micros(), ..note };
            self.documents.put(&self.note_path(path), &note).await
        };
        if let Err(error) = kept.await {
            tracing::debug!(%error, %path, "no note kept");
        }
    }

    pub(super) async fn forget_note(&self, path: &Path) {
        if let Err(error) = self.documents.delete(&self.note_path(path)).await {
            tracing::debug!(%error, %path, "note stays");
        }
    }

    /// The note about an object, or what can be told without one.
    pub(super) async fn note(&self, meta: &ObjectMeta) -> Note {
        let kept = self.documents.get::<Note>(&self.note_path(&meta.location)).await;
        let modified = meta.last_modified.timestamp_micros();
        match kept {
            Ok(Some(note)) if note.size == meta.size && note.modified_micros == modified => note,
            _ => {
                // A real S3 knows its own; a local disk's changes with the file's inode.
                let theirs = meta.e_tag.as_ref().filter(|_| !self.places.warehouse().is_local());
                let etag = match theirs {
                    Some(etag) => etag.trim_matches('"').to_owned(),
                    None => format!("{modified:x}-{:x}", meta.size),
                };
                Note { etag, ..Note::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, s3};
    use super::*;

    #[tokio::test]
    async fn a_late_note_is_not_about_the_next_writers_object() {
        let s3 = s3().await;
        let path = s3.places.object("bucket", "a").expect("a place");
        let note = |etag: &str| Note { etag: etag.to_owned(), ..Note::default() };
        let store = s3.documents.store();
        let first = store.put(&path, "one".into()).await.expect("put");
        let second = store.put(&path, "two".into()).await.expect("put");
        s3.keep_note(&path, note("of two"), second.e_tag.as_deref()).await;
        s3.keep_note(&path, note("of one"), first.e_tag.as_deref()).await;
        let meta = store.head(&path).await.expect("there");
        assert_eq!(s3.note(&meta).await.etag, "of two");
    }

    #[tokio::test]
    async fn an_object_has_one_writer_at_a_time() {
        let s3 = s3().await;
        let path = s3.places.object("bucket", "a").expect("a place");
        let turn = s3.writers.turn(&path).await;
        let mut put = Box::pin(call(&s3, http::Method::PUT, "/bucket/a", &[], "x"));
        assert!(futures::poll!(&mut put).is_pending());
        assert_eq!(call(&s3, http::Method::PUT, "/bucket/b", &[], "x").await.0, 200);
        assert!(futures::poll!(&mut put).is_pending());
        drop(turn);
        assert_eq!(put.await.0, 200);
        drop(s3.writers.turn(&path).await);
        assert_eq!(s3.writers.0.lock().len(), 1, "turns that are over are forgotten");
    }
}
