//! What S3 keeps beside an object's bytes, and a local disk does not: MD5, checksum, type, the user's metadata.
//!
//! A note is a document under `_granary/s3/notes/`, written after its object. It says which size and time of change it is
//! about; one that is about others, since the object was written by somebody else or the process died in between, counts
//! for nothing. Without a note an object's ETag is made of its size and time, with a hyphen, which says that it is no MD5.

use std::collections::BTreeMap;

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};

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

impl S3 {
    /// Where an object's note is. Directories and notes must not meet.
    fn note_path(&self, path: &Path) -> Path {
        let directory = self.documents.path(&["s3", "notes"]);
        Path::parse(format!("{directory}/{path}~note")).expect("a path below a path")
    }

    /// Keeps a note about the object that was just written. An error loses only what the note says.
    pub(super) async fn keep_note(&self, path: &Path, note: Note) {
        let kept = async {
            let meta = self.documents.store().head(path).await?;
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
