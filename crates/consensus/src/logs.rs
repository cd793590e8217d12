//! Where Raft logs are kept: in files, or on a simulated disk.

use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;

use futures::Stream;
use futures::future::Either;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use crate::log_store::LogStore;
use crate::memory_log::{MemoryDisk, MemoryLog};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};
use crate::{Error, Settings, dirs};

/// Where the Raft logs of a process are kept.
#[derive(Debug, Clone, Default)]
pub enum Logs {
    /// In files, in a directory for each group.
    #[default]
    Files,
    /// In a simulation.
    Memory(MemoryDisk),
}

impl Logs {
    pub(crate) fn open(&self, dir: &Path, settings: &Settings) -> Result<Log, Error> {
        match self {
            Self::Files => LogStore::open(dir, settings).map(Log::Files),
            Self::Memory(disk) => {
                // The identity looks for the files of a log that it knows of.
                dirs::create_synced(dir).map_err(Error::io("create raft log directory", dir))?;
                let name = raft_log::chunked_wal::Config::chunk_file_name(raft_log::ChunkId(0));
                std::fs::write(dir.join(name), b"").map_err(Error::io("mark raft log", dir))?;
                Ok(Log::Memory(disk.open(dir, settings.append_bytes_max)))
            }
        }
    }
}

/// The Raft log of one group.
#[derive(Debug, Clone)]
pub(crate) enum Log {
    Files(LogStore),
    Memory(MemoryLog),
}

impl Log {
    pub(crate) fn purged(&self) -> io::Result<Option<LogId>> {
        match self {
            Self::Files(log) => log.purged(),
            Self::Memory(log) => Ok(log.purged()),
        }
    }

    /// What the replica wrote into its log about itself, if it did.
    pub(crate) fn user_data(&self) -> io::Result<Option<String>> {
        match self {
            Self::Files(log) => log.user_data(),
            Self::Memory(log) => Ok(log.user_data()),
        }
    }

    /// Writes what the replica says about itself; durable when this returns.
    pub(crate) async fn save_user_data(&self, text: String) -> io::Result<()> {
        match self {
            Self::Files(log) => log.save_user_data(text).await,
            Self::Memory(log) => log.save_user_data(text).await,
        }
    }

    /// The position up to which the log is synced; never goes back.
    pub(crate) fn durable_end(&self) -> u64 {
        match self {
            Self::Files(log) => log.durable_end(),
            Self::Memory(log) => log.durable_end(),
        }
    }

    /// The position up to which syncs were asked for: beyond [`Self::durable_end`] while one is under way.
    pub(crate) fn wanted_end(&self) -> u64 {
        match self {
            Self::Files(log) => log.wanted_end(),
            Self::Memory(log) => log.wanted_end(),
        }
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        match self {
            Self::Files(log) => log.bytes_on_disk(),
            Self::Memory(_) => 0,
        }
    }

    pub(crate) fn close(&self) {
        match self {
            Self::Files(log) => log.close(),
            Self::Memory(log) => log.close(),
        }
    }
}

/// Does the same with whichever log it is.
macro_rules! either {
    ($log:expr, $name:ident => $call:expr) => {
        match $log {
            Log::Files($name) => $call,
            Log::Memory($name) => $call,
        }
    };
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        either!(self, log => log.try_get_log_entries(range).await)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        either!(self, log => log.read_vote().await)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        either!(self, log => log.limited_get_log_entries(start, end).await)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        match self {
            Self::Files(log) => Either::Left(log.entries_stream(range).await),
            Self::Memory(log) => Either::Right(log.entries_stream(range).await),
        }
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        either!(self, log => log.get_log_state().await)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        either!(self, log => log.save_vote(vote).await)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        either!(self, log => log.save_committed(committed).await)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        either!(self, log => log.read_committed().await)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        either!(self, log => log.append(entries, callback).await)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        either!(self, log => log.truncate_after(last).await)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        either!(self, log => log.purge(upto).await)
    }
}
