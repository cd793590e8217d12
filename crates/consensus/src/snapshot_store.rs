//! Snapshot files of one group: immutable, checksummed, synced before they count, replaced by renaming.
//!
//! | part | bytes, integers big endian |
//! |---|---|
//! | magic | `granSNAP` |
//! | format version | u32, 1 |
//! | header length | u32 |
//! | header | message `SnapshotHeader`: cluster, group, last log id, membership |
//! | body | the state machine's, opaque |
//! | body length | u64 |
//! | checksum | u64, XXH3-64 of everything before it |
//!
//! Invariants: a file under its final name was synced, and its name was synced in the directory; a file is verified
//! as a whole before anything of it is used, and its name must be what it says of itself; the newest and the one
//! before it are kept. Only such files allow the Raft log to be purged (ST-1).
//!
//! | name | what |
//! |---|---|
//! | `<index>-<term>-<leader>.snapshot` | a snapshot |
//! | `<n>.tmp` | being written; removed at the next start |
//! | `<length>-<checksum>.partial` | the beginning of a peer's file; one at most, kept until a snapshot is installed |
//! | `….damaged` | set aside; removed with the next snapshot |

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use granary_proto::convert::{cluster_from_wire, cluster_to_wire};
use granary_proto::internal as wire;
use granary_types::{ClusterId, ShardId};
use parking_lot::Mutex;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::codec::{Malformed, log_id_from_wire, log_id_to_wire, membership_to_wire, stored_membership_from_wire};
use crate::dirs;
use crate::type_config::{LogId, SnapshotMeta};

const MAGIC: &[u8; 8] = b"granSNAP";
const FORMAT_VERSION: u32 = 1;
/// Magic, format version, header length.
const PREFIX_LEN: u64 = 8 + 4 + 4;
/// Body length, checksum.
const TRAILER_LEN: u64 = 8 + 8;
/// A membership of a thousand members fits.
const HEADER_LEN_MAX: u32 = 1 << 20;
/// The newest file and the one to fall back to.
const FILES_KEPT: usize = 2;
const BUFFER_LEN: usize = 1 << 20;

const SUFFIX: &str = ".snapshot";
const SUFFIX_TEMPORARY: &str = ".tmp";
const SUFFIX_PARTIAL: &str = ".partial";
const SUFFIX_DAMAGED: &str = ".damaged";

/// A snapshot file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read or written.
    #[error("snapshot file: path={}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its checksum or its form is wrong.
    #[error("snapshot is damaged: path={} found={found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: &'static str,
    },
    /// It belongs to another cluster or group.
    #[error("snapshot belongs elsewhere: path={} cluster={cluster:032x} group={group}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The cluster it is of.
        cluster: u128,
        /// The group it is of.
        group: u32,
    },
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io { source, path } => {
                Self::new(source.kind(), format!("snapshot file: path={}: {source}", path.display()))
            }
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { path, source }
}

/// What tells a file from others while it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Length of the whole file, in bytes.
    pub len: u64,
    /// The checksum at its end.
    pub checksum: u64,
}

/// A verified snapshot file, open. Cheap to clone; stays readable when the file is removed meanwhile.
#[derive(Debug, Clone)]
pub struct SnapshotFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    meta: SnapshotMeta,
    len: u64,
    body_start: u64,
    body_len: u64,
    temporary: bool,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.temporary {
            // Renamed if it was installed. If not: leftovers are removed at the next start at the latest.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl SnapshotFile {
    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its last log id and membership.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.0.meta
    }

    /// Length of the whole file, in bytes.
    pub fn file_len(&self) -> u64 {
        self.0.len
    }

    /// What tells the file from others.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn id(&self) -> io::Result<FileId> {
        let mut checksum = [0; 8];
        self.read_at(&mut checksum, self.0.len - 8)?;
        Ok(FileId { len: self.0.len, checksum: u64::from_be_bytes(checksum) })
    }

    /// Reads `bytes` at `offset` of the whole file.
    ///
    /// # Errors
    /// When the file cannot be read or ends before.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.file.read_exact_at(bytes, offset)
    }

    /// The state machine's part.
    pub fn body(&self) -> impl Read + use<> {
        let section = Section { file: Arc::clone(&self.0), at: self.0.body_start, left: self.0.body_len };
        BufReader::with_capacity(BUFFER_LEN, section)
    }

    fn index(&self) -> Option<u64> {
        self.0.meta.last_log_id.map(|id| id.index)
    }
}

struct Section {
    file: Arc<Opened>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.file.file.read_at(&mut buffer[..want], self.at)?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// The snapshot files of one group.
#[derive(Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
    cluster: ClusterId,
    group: ShardId,
    newest: Mutex<Option<SnapshotFile>>,
    temporary_names: AtomicU64,
}

impl SnapshotStore {
    /// Opens the directory, removes what was not finished, and finds the newest valid file. Blocks; reads whole files.
    ///
    /// A damaged or foreign file is set aside with a warning, and the one before it is tried.
    ///
    /// # Errors
    /// When the directory or a file cannot be read.
    pub fn open(dir: &Path, cluster: ClusterId, group: ShardId) -> Result<Self, SnapshotError> {
        dirs::create_synced(dir).map_err(io_error(dir))?;
        let store =
            Self { dir: dir.to_owned(), cluster, group, newest: Mutex::new(None), temporary_names: AtomicU64::new(0) };
        for path in store.files(SUFFIX_TEMPORARY)? {
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        let mut files = store.files(SUFFIX)?;
        while let Some(path) = files.pop() {
            match store.verify(&path, false).and_then(|found| named_right(&path, found)) {
                Ok(found) => {
                    *store.newest.lock() = Some(found);
                    break;
                }
                Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Foreign { .. })) => {
                    tracing::warn!(%error, "setting a snapshot aside");
                    let aside = path.with_extension(&SUFFIX_DAMAGED[1..]);
                    fs::rename(&path, &aside).map_err(io_error(&path))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(store)
    }

    /// The newest valid file.
    pub fn newest(&self) -> Option<SnapshotFile> {
        self.newest.lock().clone()
    }

    /// A name for a file that comes in; it is removed at the next start unless it is installed before.
    pub fn temporary_path(&self) -> PathBuf {
        let name = self.temporary_names.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{name}{SUFFIX_TEMPORARY}"))
    }

    /// The file that an interrupted transfer left the beginning of, and how much of it is here.
    pub fn partial(&self) -> Option<(FileId, u64)> {
        let path = self.files(SUFFIX_PARTIAL).ok()?.pop()?;
        let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX_PARTIAL)?.to_owned();
        let (len, checksum) = name.split_once('-')?;
        let id = FileId { len: len.parse().ok()?, checksum: u64::from_str_radix(checksum, 16).ok()? };
        let here = fs::metadata(path).ok()?.len();
        // A whole file was not verified in time; it is not worth a rule of its own.
        (here < id.len).then_some((id, here))
    }

    /// Opens the file of a transfer at `offset`; nought begins it anew. What is there of other files is removed.
    ///
    /// # Errors
    /// When less or more than `offset` bytes are here, or the disk refuses.
    pub(crate) fn open_partial(&self, id: FileId, offset: u64) -> io::Result<(PathBuf, File)> {
        let path = self.dir.join(format!("{}-{:016x}{SUFFIX_PARTIAL}", id.len, id.checksum));
        for other in self.files(SUFFIX_PARTIAL)?.into_iter().filter(|other| *other != path) {
            fs::remove_file(other)?;
        }
        let file = File::options().create(true).append(true).open(&path)?;
        if offset == 0 {
            file.set_len(0)?;
        } else if file.metadata()?.len() != offset {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "snapshot is not here up to that offset"));
        }
        Ok((path, file))
    }

    /// Writes a snapshot: when this returns, it is durable. Blocks.
    ///
    /// # Errors
    /// When the body cannot be produced or the file cannot be written: nothing is left behind.
    pub fn write(
        &self,
        meta: &SnapshotMeta,
        write_body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let path = self.temporary_path();
        let written = self.write_file(&path, meta, write_body).and_then(|()| Ok(self.publish(&path)?));
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&path);
        }
        written
    }

    fn write_file(
        &self,
        path: &Path,
        meta: &SnapshotMeta,
        write_body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let header = wire::SnapshotHeader {
            cluster: cluster_to_wire(self.cluster),
            group: self.group.0,
            last: meta.last_log_id.as_ref().map(log_id_to_wire),
            membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_to_wire),
            membership: Some(membership_to_wire(meta.last_membership.membership())),
        };
        let header = header.encode_to_vec();
        let header_len = u32::try_from(header.len()).ok().filter(|len| *len <= HEADER_LEN_MAX);
        let header_len = header_len.ok_or_else(|| io::Error::other("snapshot header is too long"))?;

        let mut out = Hashing::new(BufWriter::with_capacity(BUFFER_LEN, File::create_new(path)?));
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT_VERSION.to_be_bytes())?;
        out.write_all(&header_len.to_be_bytes())?;
        out.write_all(&header)?;
        let body_start = out.written;
        write_body(&mut out)?;
        let body_len = out.written - body_start;
        out.write_all(&body_len.to_be_bytes())?;
        let checksum = out.hasher.digest();
        let mut out = out.inner;
        out.write_all(&checksum.to_be_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// Verifies a file that came in under a [`Self::temporary_path`]. It is removed when the last handle to it goes,
    /// unless it was installed. Blocks.
    ///
    /// # Errors
    /// When it is damaged, of another cluster or group, or cannot be read.
    pub fn receive(&self, path: &Path) -> Result<SnapshotFile, SnapshotError> {
        self.verify(path, true)
    }

    /// Makes a received file, or a copy of any other, one of this store's: durable when this returns. Blocks.
    ///
    /// # Errors
    /// When the file cannot be synced, renamed or copied.
    pub fn install(&self, received: &SnapshotFile) -> io::Result<SnapshotFile> {
        let here = received.path().parent() == Some(self.dir.as_path());
        if here && !received.0.temporary {
            return Ok(received.clone());
        }
        if here {
            received.0.file.sync_all()?;
            return Ok(self.publish(received.path())?);
        }
        let path = self.temporary_path();
        fs::copy(received.path(), &path)?;
        File::open(&path)?.sync_all()?;
        Ok(self.publish(&path)?)
    }

    /// Renames a synced file to its final name and removes what is older than the last [`FILES_KEPT`].
    fn publish(&self, path: &Path) -> Result<SnapshotFile, SnapshotError> {
        let mut opened = self.read_header(path)?;
        let to = self.dir.join(file_name(opened.meta.last_log_id.as_ref()));
        fs::rename(path, &to).map_err(io_error(path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error(&self.dir))?;
        opened.path = to;
        let file = SnapshotFile(Arc::new(opened));
        let mut newest = self.newest.lock();
        if newest.as_ref().is_none_or(|newest| newest.index() <= file.index()) {
            *newest = Some(file.clone());
        }
        drop(newest);
        if let Err(error) = self.prune() {
            tracing::warn!(%error, "old snapshots are left behind");
        }
        Ok(file)
    }

    fn prune(&self) -> Result<(), SnapshotError> {
        let mut files = self.files(SUFFIX)?;
        files.truncate(files.len().saturating_sub(FILES_KEPT));
        if !files.is_empty() {
            files.extend(self.files(SUFFIX_DAMAGED)?);
        }
        // The replica has a snapshot now; what it began to receive is not waited for any more.
        files.extend(self.files(SUFFIX_PARTIAL)?);
        for path in files {
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// Files with this suffix, oldest first.
    fn files(&self, suffix: &str) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_error(&self.dir))? {
            let entry = entry.map_err(io_error(&self.dir))?;
            if entry.file_name().to_string_lossy().ends_with(suffix) {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    fn verify(&self, path: &Path, temporary: bool) -> Result<SnapshotFile, SnapshotError> {
        let file = File::open(path).map_err(io_error(path))?;
        let len = file.metadata().map_err(io_error(path))?.len();
        let damaged = |found| SnapshotError::Damaged { path: path.to_owned(), found };
        if len < PREFIX_LEN + TRAILER_LEN {
            return Err(damaged("short file"));
        }
        let mut hasher = Xxh3::new();
        let mut reader = file.take(len - 8);
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let n = reader.read(&mut buffer).map_err(io_error(path))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
        let mut checksum = [0; 8];
        reader.into_inner().read_exact_at(&mut checksum, len - 8).map_err(io_error(path))?;
        if hasher.digest() != u64::from_be_bytes(checksum) {
            return Err(damaged("wrong checksum"));
        }
        let mut opened = self.read_header(path)?;
        opened.temporary = temporary;
        Ok(SnapshotFile(Arc::new(opened)))
    }

    /// Opens a file whose checksum is known to be right, and reads what it says about itself.
    fn read_header(&self, path: &Path) -> Result<Opened, SnapshotError> {
        let file = File::open(path).map_err(io_error(path))?;
        let len = file.metadata().map_err(io_error(path))?.len();
        let damaged = |found| SnapshotError::Damaged { path: path.to_owned(), found };
        let mut prefix = [0; PREFIX_LEN as usize];
        file.read_exact_at(&mut prefix, 0).map_err(io_error(path))?;
        if prefix[..8] != *MAGIC {
            return Err(damaged("not a snapshot"));
        }
        if prefix[8..12] != FORMAT_VERSION.to_be_bytes() {
            return Err(damaged("unknown format version"));
        }
        let header_len = u32::from_be_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]);
        let body_start = PREFIX_LEN + u64::from(header_len);
        if header_len > HEADER_LEN_MAX || body_start + TRAILER_LEN > len {
            return Err(damaged("wrong header length"));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact_at(&mut header, PREFIX_LEN).map_err(io_error(path))?;
        let header = wire::SnapshotHeader::decode(header.as_slice()).map_err(|_| damaged("malformed header"))?;
        let mut body_len = [0; 8];
        file.read_exact_at(&mut body_len, len - TRAILER_LEN).map_err(io_error(path))?;
        let body_len = u64::from_be_bytes(body_len);
        if body_start + body_len + TRAILER_LEN != len {
            return Err(damaged("wrong body length"));
        }
        let cluster = cluster_from_wire(&header.cluster).map_err(|_| damaged("malformed cluster id"))?;
        if cluster != self.cluster || header.group != self.group.0 {
            return Err(SnapshotError::Foreign { path: path.to_owned(), cluster: cluster.0, group: header.group });
        }
        let meta = meta_of(header).map_err(|error| damaged(error.0))?;
        Ok(Opened { path: path.to_owned(), file, meta, len, body_start, body_len, temporary: false })
    }
}

fn meta_of(header: wire::SnapshotHeader) -> Result<SnapshotMeta, Malformed> {
    Ok(SnapshotMeta {
        last_log_id: header.last.map(log_id_from_wire),
        last_membership: stored_membership_from_wire(header.membership_log_id, header.membership)?,
    })
}

/// A file that was copied over another, or renamed, must not pass for the newest.
fn named_right(path: &Path, found: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
    let name = file_name(found.meta().last_log_id.as_ref());
    match path.file_name().is_some_and(|here| *here == *name) {
        true => Ok(found),
        false => Err(SnapshotError::Damaged { path: path.to_owned(), found: "another snapshot under this name" }),
    }
}

/// Sorts by index, then term: the order in which a group's snapshots supersede each other.
fn file_name(last: Option<&LogId>) -> String {
    let (index, term, leader) = last.map_or((0, 0, 0), |id| (id.index, id.leader_id.term, id.leader_id.node_id));
    format!("{index:020}-{term:020}-{leader:020}{SUFFIX}")
}

/// Hashes and counts what is written through it.
struct Hashing<W> {
    inner: W,
    hasher: Xxh3,
    written: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Xxh3::new(), written: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
