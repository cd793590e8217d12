//! How a warehouse is opened and how its files are written.

use std::collections::BTreeMap;

use granary_platform::Platform;

/// Bounds and sizes of writing.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many files of one flush are encoded and uploaded at the same time. Bounds the memory of a flush over its
    /// rows: this many encoded files, each smaller than its rows.
    pub files_in_flight: usize,
    /// The most rows of one file. A directory with more gets several files.
    pub file_rows_max: usize,
    /// zstd level of the Parquet pages, 1 to 22.
    pub compression_level: i32,
    /// How often a commit is tried again because others came first.
    pub commit_attempts_max: usize,
    /// After this many table versions the log gets a checkpoint, so that a reader has at most this many small commit
    /// files to read.
    pub checkpoint_interval: u64,
    /// So many snapshots of an Iceberg table can be read, and so many of its metadata documents are kept; older ones are
    /// deleted. At one document in five seconds, which is the most that the compactor makes, 500 last 40 minutes.
    pub iceberg_snapshots_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            files_in_flight: 4,
            file_rows_max: 1 << 20,
            compression_level: 3,
            commit_attempts_max: 16,
            checkpoint_interval: 50,
            iceberg_snapshots_max: 500,
        }
    }
}

/// What [`crate::Warehouse::open`] needs beside the URL.
#[derive(Debug, Clone)]
pub struct Options {
    /// Clock and chance.
    pub platform: Platform,
    /// Options of the object store (`aws_endpoint`, `aws_access_key_id`, ...; the names of the `object_store` crate).
    /// They win over the environment variables of the same names.
    pub store: BTreeMap<String, String>,
    /// Bounds and sizes of writing.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self { platform: Platform::system(), store: BTreeMap::new(), settings: Settings::default() }
    }
}
