//! The commit: the files of a flush and the change-log offsets they reach, in one table version.
//!
//! A stream's offset is a Delta application transaction: its id is the stream's, its version the last sequence
//! number. delta-rs refuses a commit when another one moved the same transaction since the snapshot it builds on, but
//! does not compare versions; so the rule is: read the offsets from the newest version, go on only if each stands
//! where the caller read from, commit on that very version, and after a conflict look again (CP-1). A commit whose
//! outcome was not told (a timeout, a connection that broke) is looked up, never repeated: a second try could only be
//! made by a caller that has read the offsets anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use deltalake_core::kernel::transaction::TransactionError;
use deltalake_core::kernel::{Action, Transaction};
use deltalake_core::logstore::{LogStore, get_actions};
use deltalake_core::{DeltaTable, DeltaTableError};
use granary_types::StreamId;
use granary_types::invariants::{Invariant, check};
use granary_types::mutants::{Mutant, is_planted};

use crate::table::{appends, properties};
use crate::{Error, OfflineTable, WrittenFile};

/// In the commit info of a commit that moves offsets and brings no files: what it moves them past.
const HISTORY_LOST: &str = "granary.historyLost";

/// What a commit does to the offset of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetMove {
    /// The stream.
    pub stream: StreamId,
    /// The committed offset that the files were made from: they hold this group's events after it.
    pub expected: u64,
    /// The offset after the commit: they hold this group's events up to it. Above `expected`.
    pub new: u64,
}

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The files and offsets are this table version.
    Committed(u64),
    /// Every stream stands at or past its new offset: the same events were committed before, by a twin or by a commit
    /// whose answer was lost. The files are orphans, unless that commit was this one.
    AlreadyDone,
    /// A stream does not stand where the caller read from: read the offsets and begin anew. The files are orphans.
    Moved,
}

impl OfflineTable {
    /// Commits files together with the offsets they reach: all or nothing, and only if no stream has moved from its
    /// expected offset.
    ///
    /// # Errors
    /// [`Error::Table`] and [`Error::ObjectStore`] when the log cannot be reached; after these the commit may or may
    /// not be made, and only the offsets tell. [`Error::Busy`] when others always came first.
    pub async fn append(&mut self, files: &[WrittenFile], moves: &[OffsetMove]) -> Result<Outcome, Error> {
        let attempts = self.warehouse.settings().commit_attempts_max;
        let streams: Vec<StreamId> = moves.iter().map(|offset| offset.stream).collect();
        for _ in 0..attempts {
            if let Some(outcome) = judge(&self.offsets(&streams).await?, moves)
                && !is_planted(Mutant::CommitsBlindly)
            {
                return Ok(outcome);
            }
            match self.commit(files, moves).await {
                Ok(version) => return Ok(Outcome::Committed(version)),
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(%error, table = %self.url(), "another commit came first");
                }
                Err(error) => return self.look_up(&streams, moves, error).await,
            }
        }
        Err(Error::Busy { attempts })
    }

    /// Moves offsets past events that the table does not hold and never will, because an operator gave them up. The
    /// commit says so in its `granary.historyLost`.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn give_up(&mut self, moves: &[OffsetMove]) -> Result<Outcome, Error> {
        self.append(&[], moves).await
    }

    async fn commit(&self, files: &[WrittenFile], moves: &[OffsetMove]) -> Result<u64, DeltaTableError> {
        let lost = moves.iter().map(|lost| format!("{}: {} to {}", lost.stream, lost.expected + 1, lost.new));
        let lost: Option<Vec<String>> = files.is_empty().then(|| lost.collect());
        let metadata = lost.map(|lost| (HISTORY_LOST.to_owned(), lost.into()));
        let transactions = moves.iter().map(|offset| {
            let version = i64::try_from(offset.new).expect("a stream never has 2^63 events");
            Transaction::new(offset.stream, version)
        });
        let properties = properties().with_application_transactions(transactions.collect()).with_metadata(metadata);
        let adds = files.iter().map(|file| Action::Add(file.to_add())).collect();
        self.commit_on_loaded(properties, adds, appends()).await
    }

    /// After a commit that ended in an error that does not say whether it was made.
    async fn look_up(
        &mut self,
        streams: &[StreamId],
        moves: &[OffsetMove],
        error: DeltaTableError,
    ) -> Result<Outcome, Error> {
        tracing::warn!(%error, table = %self.url(), "commit ended in an unknown state, reading the offsets");
        match judge(&self.offsets(streams).await?, moves) {
            Some(outcome) => Ok(outcome),
            None => Err(error.into()),
        }
    }
}

/// What the offsets say about an append, or `None` when it may be tried.
fn judge(offsets: &HashMap<StreamId, u64>, moves: &[OffsetMove]) -> Option<Outcome> {
    let at = |stream: &StreamId| offsets.get(stream).copied().unwrap_or(0);
    if !moves.is_empty() && moves.iter().all(|offset| at(&offset.stream) >= offset.new) {
        return Some(Outcome::AlreadyDone);
    }
    let stand = moves.iter().all(|offset| at(&offset.stream) == offset.expected && offset.new > offset.expected);
    (!stand).then_some(Outcome::Moved)
}

/// Whether another commit came first, so that this one was certainly not made.
pub(crate) fn is_conflict(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source: TransactionError::CommitConflict(_)
                    | TransactionError::VersionAlreadyExists(_)
                    | TransactionError::MaxCommitAttempts(_)
            }
    )
}

/// Offsets as read from the table up to one version of it.
///
/// A stream that is asked for the first time is looked up in the whole log, from its checkpoint on; afterwards only
/// the commits since are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offsets {
    version: u64,
    by_stream: HashMap<StreamId, u64>,
}

impl Offsets {
    /// The offsets in the version that `table` has loaded.
    pub(crate) async fn read(
        &mut self,
        table: &DeltaTable,
        streams: &[StreamId],
    ) -> Result<HashMap<StreamId, u64>, Error> {
        let snapshot = table.snapshot()?;
        let log_store = table.log_store();
        self.advance(log_store.as_ref(), snapshot.version()).await?;
        for stream in streams.iter().copied() {
            if let Entry::Vacant(unknown) = self.by_stream.entry(stream) {
                let found = snapshot.transaction_version(log_store.as_ref(), stream).await?;
                unknown.insert(offset(found.unwrap_or(0)));
            }
        }
        Ok(streams.iter().map(|stream| (*stream, self.by_stream[stream])).collect())
    }

    /// Applies the commits after the version that was read last.
    async fn advance(&mut self, log_store: &dyn LogStore, newest: u64) -> Result<(), Error> {
        while self.version < newest && !self.by_stream.is_empty() {
            let next = self.version + 1;
            let Some(bytes) = log_store.read_commit_entry(next).await? else {
                // The log was cleaned up that far: look everything up again.
                self.by_stream.clear();
                break;
            };
            for action in get_actions(next, &bytes)? {
                if let Action::Txn(transaction) = action {
                    self.note(&transaction)?;
                }
            }
            self.version = next;
        }
        self.version = newest;
        Ok(())
    }

    fn note(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let Some((stream, before)) =
            self.by_stream.iter_mut().find(|(stream, _)| stream.to_string() == transaction.app_id)
        else {
            return Ok(());
        };
        let now = offset(transaction.version);
        let detail = || format!("offset of stream {stream} went from {before} to {now}");
        if !check(Invariant::WatermarkMonotone, now >= *before, detail) {
            return Err(Error::OffsetRetreated { stream: stream.to_string(), from: *before, to: now });
        }
        *before = now;
        Ok(())
    }
}

fn offset(version: i64) -> u64 {
    u64::try_from(version).unwrap_or(0)
}
