//! Directories that are still there after a power cut.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Creates the directory and those above it that are missing, and syncs each one's parent: a file is only as durable
/// as the path to it.
pub(crate) fn create_synced(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_synced(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}
