//! The journal: what a process did to its files, in order.
//!
//! Each record is a packed head (numbers little endian), then path, second path and data:
//!
//! | bytes | what |
//! |---|---|
//! | 4, 2, 2 | magic, kind, flags |
//! | 4 | error number (of a sync) |
//! | 4, 4, 4 | lengths of path, second path, data |
//! | 8 | handle: which opening of a file |
//! | 8 | offset, or new length |
//! | 8 | how many records came before a sync began |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::Model;
use crate::tree::Files;

const MAGIC: u32 = 0x6b73_6964;
const HEAD_LEN: usize = 48;

/// One operation that the disk did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which opening of a file it went through; 0 for operations by path.
    pub handle: u64,
    /// What was done.
    pub change: Change,
}

/// What an operation did. Paths are from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file or directory was opened.
    Open {
        /// By which path.
        path: PathBuf,
        /// It was not there before.
        created: bool,
        /// It was emptied.
        truncated: bool,
    },
    /// Bytes were written.
    Write {
        /// Where in the file.
        offset: u64,
        /// Which.
        data: Vec<u8>,
    },
    /// The length was set.
    Truncate {
        /// To this.
        len: u64,
    },
    /// A sync has ended.
    Sync {
        /// How many records came before it began: it covers no more.
        begin: u64,
        /// It succeeded.
        done: bool,
    },
    /// `sync_file_range` was called, which makes nothing durable.
    SyncRange,
    /// A path was renamed.
    Rename {
        /// From here.
        from: PathBuf,
        /// To here.
        to: PathBuf,
    },
    /// A file was removed.
    Unlink(PathBuf),
    /// A directory was made.
    MakeDir(PathBuf),
    /// A directory was removed.
    RemoveDir(PathBuf),
    /// The process said something through [`crate::note`].
    Note(String),
}

/// A directory before a run, and what was done to it.
#[derive(Debug, Clone)]
pub struct Journal {
    /// The files before.
    pub before: Files,
    /// The operations.
    pub records: Vec<Record>,
}

impl Journal {
    pub(crate) fn read(before: Files, path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        // A killed process may leave half a record.
        while let Some((record, after)) = parse(rest)? {
            records.push(record);
            rest = after;
        }
        Ok(Self { before, records })
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The notes of the first `at` operations.
    pub fn notes(&self, at: usize) -> impl Iterator<Item = &str> {
        self.records[..at].iter().filter_map(|record| match &record.change {
            Change::Note(text) => Some(&text[..]),
            _ => None,
        })
    }

    /// The directory as the process saw it after the first `at` operations, synced or not.
    pub fn files(&self, at: usize) -> Files {
        let mut model = Model::new(&self.before);
        for (place, record) in self.records[..at].iter().enumerate() {
            model.take(place, record, &mut |_| true);
        }
        model.files_with(usize::MAX, &mut |_, _| true)
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Record, &[u8])>> {
    if bytes.len() < HEAD_LEN {
        return Ok(None);
    }
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if word(0) != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no record of a disk's journal"));
    }
    let (kind, flags, error) = (short(4), short(6), word(8));
    let [path_len, to_len, data_len] = [12, 16, 20].map(|at| word(at) as usize);
    let (handle, offset, begin) = (long(24), long(32), long(40));
    let total = HEAD_LEN + path_len + to_len + data_len;
    if bytes.len() < total {
        return Ok(None);
    }
    let text = |at: usize, len: usize| String::from_utf8_lossy(&bytes[at..at + len]).into_owned();
    let path = |at: usize, len: usize| PathBuf::from(text(at, len).trim_start_matches('/'));
    let (first, second) = (path(HEAD_LEN, path_len), path(HEAD_LEN + path_len, to_len));
    let data_at = HEAD_LEN + path_len + to_len;
    let change = match kind {
        1 => Change::Open { path: first, created: flags & 1 != 0, truncated: flags & 2 != 0 },
        2 => Change::Write { offset, data: bytes[data_at..total].to_vec() },
        3 => Change::Truncate { len: offset },
        4 => Change::Sync { begin, done: error == 0 },
        5 => Change::Rename { from: first, to: second },
        6 => Change::Unlink(first),
        7 => Change::MakeDir(first),
        8 => Change::RemoveDir(first),
        9 => Change::SyncRange,
        10 => Change::Note(text(data_at, data_len)),
        other => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("record of kind {other}"))),
    };
    Ok(Some((Record { handle, change }, &bytes[total..])))
}
