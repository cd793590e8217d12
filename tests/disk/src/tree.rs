//! The files of a directory, in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory; what is in it stands under its own paths.
    Dir,
    /// A file with its bytes.
    File(Vec<u8>),
}

/// Files and directories below a root, by path from there, without the root itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<PathBuf, Node>);

impl Files {
    /// Reads what is below `root`.
    ///
    /// # Errors
    /// When something there cannot be read or is neither file nor directory.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir)? {
                let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
                let name = path.strip_prefix(root).expect("below the root").to_owned();
                if kind.is_dir() {
                    files.insert(name, Node::Dir);
                    open.push(path);
                } else if kind.is_file() {
                    files.insert(name, Node::File(fs::read(path)?));
                } else {
                    return Err(io::Error::other(format!("{} is no plain file", path.display())));
                }
            }
        }
        Ok(Self(files))
    }

    /// Writes all below `root`, which is made and must be empty.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        fs::create_dir_all(root)?;
        // A directory sorts before what is in it.
        for (path, node) in &self.0 {
            match node {
                Node::Dir => fs::create_dir(root.join(path))?,
                Node::File(bytes) => fs::write(root.join(path), bytes)?,
            }
        }
        Ok(())
    }
}
