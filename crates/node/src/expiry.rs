//! Expired records leave the online store, and say so offline (`docs/adr/0014-expiry.md`).
//!
//! Reads judge expiry by themselves, exact to the second. What happens here is later and unhurried: the leader of each
//! shard goes through its rows, a piece at a time, and proposes a hard delete for each record that expired a while ago.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_catalog::CatalogView;
use granary_platform::{Platform, TaskKind};
use granary_proto::convert::write_to_wire;
use granary_proto::internal::{self, write_outcome::Status};
use granary_shard::{Error, ExpiredRecord, Look, ShardStore};
use granary_types::{
    Epoch, ErrorKind, FeatureGroup, FeatureGroupStatus, RecordIdentifier, ShardId, Targets, Write, WriteId, WriteKind,
    WriteStamp,
};
use prost::Message;
use tokio::sync::watch;

use crate::group_commit::{WriteError, store_error};
use crate::replica::Replica;
use crate::supervisor::Replicas;
use crate::{Metrics, Settings};

/// Cells looked at in one go.
const PIECE_CELLS: usize = 4_096;
/// The pause between two: ten thousand cells a second are less than a tenth of a core, with either engine.
const PIECE_PAUSE: Duration = Duration::from_millis(400);
/// Expiries proposed in one entry. Few, because two in a bucket of touches wait for the next round.
const ENTRY_EXPIRIES: usize = 128;

/// What a round through a shard's rows came across.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    cells: usize,
    with_ttl: u64,
}

/// Removes expired records of the shards that this node leads.
pub(crate) struct Sweeper {
    replicas: Arc<Replicas>,
    catalog: watch::Receiver<Arc<CatalogView>>,
    platform: Platform,
    interval: Duration,
    grace: Duration,
    idle_rounds: u32,
    metrics: Arc<Metrics>,
    /// Rounds still to be left out.
    idle: HashMap<ShardId, u32>,
}

impl Sweeper {
    pub(crate) fn start(
        settings: &Settings,
        platform: &Platform,
        replicas: Arc<Replicas>,
        catalog: watch::Receiver<Arc<CatalogView>>,
        metrics: Arc<Metrics>,
    ) {
        let sweeper = Self {
            replicas,
            catalog,
            platform: platform.clone(),
            interval: settings.expiry_interval,
            grace: settings.expiry_grace,
            idle_rounds: settings.expiry_idle_rounds,
            metrics,
            idle: HashMap::new(),
        };
        platform.spawn(TaskKind::Request, "expiry", sweeper.run());
    }

    async fn run(mut self) {
        while self.rest(self.interval).await {
            for replica in self.replicas.all().into_iter().filter(|replica| replica.leads()) {
                self.sweep_if_due(&replica).await;
            }
        }
    }

    /// Whether to go on afterwards.
    async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.platform.sleep(time) => true,
            () = self.platform.shutdown_begun() => false,
        }
    }

    async fn sweep_if_due(&mut self, replica: &Arc<Replica>) {
        let shard = replica.shard();
        if let Some(rounds) = self.idle.get_mut(&shard).filter(|rounds| **rounds > 0) {
            *rounds -= 1;
            return;
        }
        match self.sweep(replica).await {
            Ok(found) => {
                // An empty tree costs nothing to look at, and the first rows may be on their way into it.
                let is_idle = found.cells > 0 && found.with_ttl == 0;
                self.idle.insert(shard, if is_idle { self.idle_rounds } else { 0 });
            }
            // Another leader, a full queue, a full change log: the next round does it.
            Err(error) => tracing::debug!(%shard, ?error, "expired records are not removed for now"),
        }
    }

    /// Goes through all rows of the shard.
    async fn sweep(&self, replica: &Arc<Replica>) -> Result<Found, WriteError> {
        let (mut after, mut found) = (Bytes::new(), Found::default());
        loop {
            let look = self.look(replica, after).await?;
            found.cells += look.cells;
            found.with_ttl += look.with_ttl;
            for expired in look.expired.chunks(ENTRY_EXPIRIES) {
                self.remove(replica, expired).await?;
            }
            let Some(reached) = look.reached else { return Ok(found) };
            after = reached;
            if !self.rest(PIECE_PAUSE).await || !replica.leads() {
                return Ok(found);
            }
        }
    }

    async fn look(&self, replica: &Arc<Replica>, after: Bytes) -> Result<Look, WriteError> {
        let (store, now) = (Arc::clone(replica.store()), self.now());
        let look = self.platform.blocking(move || store.look_for_expired(&after, PIECE_CELLS, now));
        look.await.map_err(|error| broken(&error))?.map_err(store_error)
    }

    /// The clock by which records have expired: behind the node's, so that no router with a slower clock still serves
    /// what is removed.
    fn now(&self) -> u64 {
        self.platform.now_nanos().saturating_sub(u64::try_from(self.grace.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Proposes the removal of records as far as they are still expired.
    async fn remove(&self, replica: &Arc<Replica>, expired: &[ExpiredRecord]) -> Result<(), WriteError> {
        replica.confirm_in_term().await?;
        let view = Arc::clone(&self.catalog.borrow());
        // What is left of a feature group that was deleted is nobody's history.
        let of_live_group = |record: &ExpiredRecord| {
            let group = view.group_by_id(record.group).filter(|group| group.status == FeatureGroupStatus::Created)?;
            self.expiry(group, record)
        };
        let wanted = expired.iter().filter_map(of_live_group);
        let (store, wanted, room) = (Arc::clone(replica.store()), wanted.collect(), replica.entry_bytes_max());
        let entry =
            self.platform.blocking(move || confirmed(&store, wanted, room)).await.map_err(|error| broken(&error))?;
        let entry = entry.map_err(store_error)?;
        if entry.is_empty() {
            return Ok(());
        }
        let written = replica.queue().submit(entry).await?;
        let removed = written.outcomes.iter().filter(|outcome| outcome.status() == Status::Applied).count();
        self.metrics.expired.with_label_values(&[&replica.shard().to_string()]).inc_by(removed as u64);
        Ok(())
    }

    fn expiry(&self, group: &FeatureGroup, record: &ExpiredRecord) -> Option<internal::Write> {
        let identifier = RecordIdentifier::new(record.record.clone()).ok()?;
        let event_time = record.expires_at.text(group.event_time_feature().kind);
        let row = granary_row::encode_delete(group, &identifier, &event_time);
        let row = row.inspect_err(|error| tracing::error!(%error, group = group.name, "record cannot expire")).ok()?;
        let write = Write {
            id: WriteId(self.platform.fresh_id()),
            slot: record.slot,
            // Set when it is confirmed.
            epoch: Epoch(0),
            group: record.group,
            record: identifier,
            event_time: record.expires_at,
            kind: WriteKind::Expiry { based_on: WriteStamp(0) },
            targets: Targets { online: true, offline: group.offline.is_some() },
            invoked_at_us: self.platform.now_micros(),
            row,
        };
        Some(internal::Write { now_nanos: self.now(), ..write_to_wire(&write) })
    }
}

/// The expiries that are still due, as far as an entry has room. Reads a cell for each.
fn confirmed(store: &ShardStore, wanted: Vec<internal::Write>, room: usize) -> Result<Vec<internal::Write>, Error> {
    let (mut entry, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
    for expiry in wanted {
        let Some(write) = store.confirm_expiry(expiry)? else { continue };
        bytes += write.encoded_len();
        if bytes > room {
            break;
        }
        entry.push(write);
    }
    Ok(entry)
}

/// Work off the async threads that did not end.
fn broken(error: &dyn fmt::Display) -> WriteError {
    WriteError::Failed(granary_types::Error::new(ErrorKind::Internal, format!("look for expired records: {error}")))
}
