//! Directories that are still there after a power cut.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Creates the directory and those above it that are missing, and syncs each one's parent: a file is only as durable
/// as the path to it. The parent is synced even if the directory is there: whoever made it may not have come so far.
///
/// # Errors
/// When the directory cannot be made or its parent cannot be synced.
pub fn create_synced(dir: &Path) -> io::Result<()> {
    let parent = parent(dir);
    if !parent.is_dir() {
        create_synced(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// Syncs the directory that `path` is in: a new name there is durable from then on.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
