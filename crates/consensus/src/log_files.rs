//! Opens the files of a Raft log: note, repair, and what can only be seen of all files together.
//!
//! A file says nothing about its place. But each begins with the state of the log at its beginning, which must be the
//! state that the file before it ends with: a file that was removed, exchanged or copied over another is found so.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use codeq::Decode;
use raft_log::chunked_wal;
use raft_log::{RaftLog, RaftLogRecord, WALRecord};

use crate::log_note::{Note, Noted};
use crate::log_store::LogTypes;
use crate::{Error, Settings, dirs, log_repair};

/// How long the sync thread looks for further appends before it syncs. It must not be nought, or it would sync every
/// append by itself; a few microseconds take in all that queued up meanwhile and cost a lone append nothing.
const FLUSH_BATCH_WAIT: Duration = Duration::from_micros(5);
const READ_BUFFER_BYTES: usize = 4 << 20;
const FLUSH_QUEUE_BYTES: usize = 64 << 20;

/// Opens the log in `dir`, or begins one, with its note. Blocks. What the log holds then is durable, and noted.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<(RaftLog<LogTypes>, Note), Error> {
    dirs::create_synced(dir).map_err(Error::io("create raft log directory", dir))?;
    let path = Note::path(dir);
    let (note, noted) = match Note::open(&path)? {
        Some((note, noted)) => (Some(note), noted),
        None => (None, Noted::default()),
    };
    let config = config(dir, settings);
    log_repair::repair(&config.wal, noted)?;
    let log = RaftLog::open(Arc::new(config)).map_err(|error| unreadable(dir, error))?;
    check_files(dir, &log)?;
    let note = match note {
        Some(note) => note,
        // Logs were written without one once. One that says whose it is was not among them.
        None if log.log_state().user_data.is_none() => Note::create(&path)?,
        None => return Err(Error::LogNoteMissing { path }),
    };
    note.settle(Noted { end: end(&log), clean: false })?;
    Ok((log, note))
}

/// Whether the directory holds any file of a log.
pub fn exists(dir: &Path) -> io::Result<bool> {
    let files = match std::fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for file in files {
        if chunked_wal::Config::parse_chunk_file_name(&file?.file_name().to_string_lossy()).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The position in the log that the next record will stand at.
pub(crate) fn end(log: &RaftLog<LogTypes>) -> u64 {
    log.stat().open_chunk.global_end
}

fn config(dir: &Path, settings: &Settings) -> raft_log::Config {
    raft_log::Config {
        wal: chunked_wal::Config {
            dir: dir.to_string_lossy().into_owned(),
            read_buffer_size: Some(READ_BUFFER_BYTES),
            chunk_max_records: None,
            chunk_max_size: Some(settings.log_chunk_bytes),
            // `log_repair` decides what may be cut.
            truncate_incomplete_record: Some(false),
            flush_batch_wait: Some(FLUSH_BATCH_WAIT),
            flush_batch_max_items: None,
            flush_queue_max_bytes: Some(FLUSH_QUEUE_BYTES),
        },
        log_cache_max_items: Some(settings.log_cache_entries),
        log_cache_capacity: Some(settings.log_cache_bytes),
    }
}

/// What the disk refused may work another time; what was read and makes no sense stays so.
fn unreadable(dir: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof | ErrorKind::Other => {
            Error::LogUnreadable { path: dir.to_owned(), source: error }
        }
        _ => Error::io("open raft log", dir)(error),
    }
}

fn check_files(dir: &Path, log: &RaftLog<LogTypes>) -> Result<(), Error> {
    let stat = log.stat();
    let starts = stat.closed_chunks.iter().skip(1).map(|chunk| chunk.chunk_id);
    for (before, start) in stat.closed_chunks.iter().zip(starts.chain([stat.open_chunk.chunk_id])) {
        let path = PathBuf::from(log.config().wal.chunk_path(start));
        let first = first_record(&path).map_err(|error| unreadable(&path, error))?;
        if first != WALRecord::Checkpoint(before.log_state.clone()) {
            return Err(Error::LogOutOfPlace { path });
        }
    }
    // Files are removed from the front, once all their entries are purged.
    let state = log.log_state();
    let first_file = stat.closed_chunks.first().unwrap_or(&stat.open_chunk).chunk_id;
    let purged = state.purged().map(|id| id.0);
    let first = purged.map_or(0, |id| id.index + 1);
    if first_file.offset() > 0 && state.last().map(|id| id.0) > purged && log.read(first, first + 1).next().is_none() {
        return Err(Error::LogOutOfPlace { path: dir.to_owned() });
    }
    Ok(())
}

fn first_record(path: &Path) -> io::Result<RaftLogRecord<LogTypes>> {
    RaftLogRecord::decode(BufReader::new(File::open(path)?))
}
