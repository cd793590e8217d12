//! The note beside a Raft log: how far the log was synced. It tells a lost tail from a torn one.
//!
//! A log cannot know from its own bytes whether a tail that is cut off or zero was ever synced. The note, a file of
//! its own, can: a torn write lies behind the position that it names, a loss before it.
//!
//! Two slots, each alone in a page, written in turn; the valid one with the higher sequence number counts.
//!
//! | bytes of a slot, integers big endian | what |
//! |---|---|
//! | 8 | `granNOTE` |
//! | 4 | format version, 1 |
//! | 8 | sequence number |
//! | 8 | end: the position in the log up to which it was synced |
//! | 1 | clean: 1 after a stop in order, 0 otherwise |
//! | 8 | checksum, XXH3-64 of the bytes before it |
//!
//! It is written after each sync of the log and before anybody hears of that sync, and synced itself each
//! [`SYNC_EVERY`] times, at start and at stop. So after a crash of the process it names exactly what was acknowledged;
//! after a power cut it may be [`SYNC_EVERY`] syncs behind, never ahead.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, dirs};

const MAGIC: &[u8; 8] = b"granNOTE";
const FORMAT_VERSION: u32 = 1;
const SLOT_LEN: usize = 8 + 4 + 8 + 8 + 1 + 8;
/// Each slot has a page of its own, so that a torn write of one leaves the other.
const PAGE_LEN: u64 = 4_096;
/// One more sync of a few bytes after this many of the log: under 2 % of its syncs.
const SYNC_EVERY: u32 = 64;

/// What the note says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Noted {
    /// The position in the log up to which it was synced.
    pub(crate) end: u64,
    /// The log was closed in order: all of it was synced.
    pub(crate) clean: bool,
}

/// The note of an open log.
#[derive(Debug)]
pub(crate) struct Note {
    path: PathBuf,
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    sequence: u64,
    end: u64,
    unsynced: u32,
}

impl Note {
    /// The note's place: beside the log's directory.
    pub(crate) fn path(log_dir: &Path) -> PathBuf {
        let mut name = log_dir.file_name().unwrap_or_default().to_owned();
        name.push(".note");
        log_dir.with_file_name(name)
    }

    /// Opens the note, if there is one.
    ///
    /// # Errors
    /// [`Error::LogNoteDamaged`] when neither slot is valid, [`Error::Io`].
    pub(crate) fn open(path: &Path) -> Result<Option<(Self, Noted)>, Error> {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open raft log note", path)(error)),
        };
        let mut newest: Option<(u64, Noted)> = None;
        for page in 0..2 {
            let mut slot = [0; SLOT_LEN];
            match file.read_exact_at(&mut slot, page * PAGE_LEN) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(Error::io("read raft log note", path)(error)),
            }
            newest = newest.into_iter().chain(decode(&slot)).max_by_key(|(sequence, _)| *sequence);
        }
        let (sequence, noted) = newest.ok_or_else(|| Error::LogNoteDamaged { path: path.to_owned() })?;
        let written = Mutex::new(Written { sequence, end: noted.end, unsynced: 0 });
        Ok(Some((Self { path: path.to_owned(), file, written }, noted)))
    }

    /// Begins a note at position nought: under its name only once it is whole.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let temporary = path.with_extension("note.new");
        let written = (|| {
            let file = File::create(&temporary)?;
            file.write_all_at(&encode(0, Noted::default()), 0)?;
            file.write_all_at(&encode(1, Noted::default()), PAGE_LEN)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            dirs::sync_parent(path)?;
            File::options().read(true).write(true).open(path)
        })();
        let file = written.map_err(Error::io("create raft log note", path))?;
        Ok(Self { path: path.to_owned(), file, written: Mutex::new(Written { sequence: 1, end: 0, unsynced: 0 }) })
    }

    /// Notes that the log was synced up to `end`. Positions that come late are passed over.
    ///
    /// # Errors
    /// When the note cannot be written or synced: the log must not be used further.
    pub(crate) fn reached(&self, end: u64) -> io::Result<()> {
        let mut written = self.written.lock();
        if end <= written.end {
            return Ok(());
        }
        self.write(&mut written, Noted { end, clean: false })?;
        written.unsynced += 1;
        if written.unsynced >= SYNC_EVERY { self.sync(&mut written) } else { Ok(()) }
    }

    /// Notes where the log ends, durably: at the start of a process, or as its last act.
    pub(crate) fn settle(&self, noted: Noted) -> Result<(), Error> {
        let mut written = self.written.lock();
        self.write(&mut written, noted)
            .and_then(|()| self.sync(&mut written))
            .map_err(Error::io("write raft log note", &self.path))
    }

    fn write(&self, written: &mut Written, noted: Noted) -> io::Result<()> {
        let sequence = written.sequence + 1;
        self.file.write_all_at(&encode(sequence, noted), (sequence % 2) * PAGE_LEN)?;
        (written.sequence, written.end) = (sequence, noted.end);
        Ok(())
    }

    fn sync(&self, written: &mut Written) -> io::Result<()> {
        self.file.sync_data()?;
        written.unsynced = 0;
        Ok(())
    }
}

fn encode(sequence: u64, noted: Noted) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..12].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
    slot[12..20].copy_from_slice(&sequence.to_be_bytes());
    slot[20..28].copy_from_slice(&noted.end.to_be_bytes());
    slot[28] = u8::from(noted.clean);
    let checksum = xxh3_64(&slot[..29]);
    slot[29..].copy_from_slice(&checksum.to_be_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_LEN]) -> Option<(u64, Noted)> {
    let number = |at: usize| slot[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let known = slot[..8] == *MAGIC && slot[8..12] == FORMAT_VERSION.to_be_bytes();
    if !known || number(29)? != xxh3_64(&slot[..29]) {
        return None;
    }
    Some((number(12)?, Noted { end: number(20)?, clean: slot[28] == 1 }))
}
