//! The compactor's loop: read, flush when it is time, acknowledge, wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use granary_catalog::CatalogView;
use granary_offline_store::Warehouse;
use granary_platform::Platform;
use granary_proto::internal::ReadSegmentsResponse;
use granary_types::{ShardId, StreamId};
use prometheus::Registry;
use tokio::sync::watch;
use tonic::Status;

use crate::Error;
use crate::error::chain;
use crate::flush::{StreamOutcome, flush};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::settings::{Settings, Step};
use crate::tables::Tables;
use crate::tail::Tail;

/// How many shards are called at the same time.
const CALLS_IN_FLIGHT: usize = 16;

/// A compactor. It may be dropped or killed at any point of [`Self::run`].
pub struct Compactor {
    platform: Platform,
    catalog: watch::Receiver<Arc<CatalogView>>,
    settings: Settings,
    metrics: Metrics,
    nodes: Nodes,
    tables: Tables,
    tails: BTreeMap<StreamId, Tail>,
}

impl fmt::Debug for Compactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compactor").field("tails", &self.tails.len()).finish_non_exhaustive()
    }
}

impl Compactor {
    /// A compactor of all shards in the catalog, into the tables of `warehouse`. Counts in `registry`.
    ///
    /// # Errors
    /// When a metric's name is taken: two compactors of one process need a registry each.
    pub fn new(
        platform: Platform,
        catalog: watch::Receiver<Arc<CatalogView>>,
        warehouse: Arc<Warehouse>,
        settings: Settings,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            nodes: Nodes::new(settings.call_timeout),
            tables: Tables::new(warehouse, settings.tables_open_max),
            metrics: Metrics::register(registry)?,
            tails: BTreeMap::new(),
            platform,
            catalog,
            settings,
        })
    }

    /// Works until shutdown, then stops where it is: what is unfinished is done again by whoever comes next.
    pub async fn run(mut self) {
        let platform = self.platform.clone();
        tokio::select! {
            () = platform.shutdown_begun() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        loop {
            let catalog = self.catalog.borrow_and_update().clone();
            self.follow(&catalog);
            let fresh = self.read(&catalog).await;
            if self.is_due(&catalog) {
                self.flush(&catalog).await;
            }
            self.acknowledge(&catalog).await;
            self.observe();
            if fresh == 0 {
                self.wait().await;
            }
        }
    }

    /// A tail for each stream in the catalog, and none else.
    fn follow(&mut self, catalog: &CatalogView) {
        self.nodes.follow(catalog);
        self.tails.retain(|stream, _| catalog.shard(stream.shard).is_some_and(|shard| shard.stream == *stream));
        for shard in catalog.shards() {
            self.tails.entry(shard.stream).or_insert_with(|| Tail::new(shard.id, shard.stream));
        }
    }

    /// Asks each stream that has room for more. Returns the bytes that are new.
    async fn read(&mut self, catalog: &CatalogView) -> usize {
        let now = self.platform.instant();
        let share = (self.settings.flush_bytes / self.tails.len().max(1)).max(1);
        let hungry = self.tails.values().filter(|tail| tail.is_awake(now) && tail.held_bytes() < share);
        let asks = hungry.filter_map(|tail| {
            let shard = catalog.shard(tail.shard)?;
            let room = share - tail.held_bytes();
            let ask = self.nodes.read_segments(catalog, shard, tail.turn, tail.cursor(), room);
            let stream = tail.stream;
            Some(async move { (stream, ask.await) })
        });
        let asks: Vec<_> = asks.collect();
        let answers: Vec<_> = stream::iter(asks).buffer_unordered(CALLS_IN_FLIGHT).collect().await;
        let mut fresh = 0;
        for (stream, answer) in answers {
            match self.take(stream, answer) {
                Ok(bytes) => fresh += bytes,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "read change log, another replica is next");
                    self.pause(stream);
                }
            }
        }
        if fresh > 0 {
            self.metrics.fetched_bytes.inc_by(fresh as u64);
            self.settings.reached(Step::Fetched).await;
        }
        fresh
    }

    fn take(&mut self, stream: StreamId, answer: Result<ReadSegmentsResponse, Status>) -> Result<usize, Error> {
        let now = self.platform.instant();
        let tail = self.tails.get_mut(&stream).expect("only streams with a tail are asked");
        let fresh = answer
            .map_err(|source| Error::ReadChangeLog { stream, source })
            .and_then(|response| tail.take(response, now))?;
        if fresh == 0 {
            tail.turn += 1;
        }
        Ok(fresh)
    }

    /// Whether enough is held, or long enough.
    fn is_due(&self, catalog: &CatalogView) -> bool {
        let now = self.platform.instant();
        let working = || self.tails.values().filter(|tail| tail.has_work(now, catalog.version));
        let bytes: usize = working().map(Tail::held_bytes).sum();
        let old = |tail: &Tail| tail.held_since().is_some_and(|since| now >= since + self.settings.flush_interval);
        // A stream that has used up its share is read no further, so it counts as enough.
        let share = (self.settings.flush_bytes / self.tails.len().max(1)).max(1);
        bytes >= self.settings.flush_bytes || working().any(|tail| old(tail) || tail.held_bytes() >= share)
    }

    async fn flush(&mut self, catalog: &Arc<CatalogView>) {
        let (started, timer) = (self.platform.instant(), self.metrics.flush_seconds.start_timer());
        let working: Vec<&Tail> = self.tails.values().filter(|tail| tail.has_work(started, catalog.version)).collect();
        let outcomes = flush(&working, catalog, &mut self.tables, &self.settings, &self.metrics).await;
        timer.observe_duration();
        for (stream, outcome) in outcomes {
            match outcome {
                StreamOutcome::Done { until, waiting } => {
                    let tail = self.tails.get_mut(&stream).expect("only streams with a tail are flushed");
                    if let Some(waiting) = waiting.filter(|_| !tail.is_waiting()) {
                        let (sequence, group) = (waiting.sequence, waiting.group);
                        tracing::info!(%stream, sequence, %group, "event waits for a newer catalog");
                    }
                    tail.succeeded(until, waiting.map(|_| catalog.version));
                }
                StreamOutcome::Failed => self.pause(stream),
            }
        }
    }

    /// Tells each shard how far its stream was read back; again on every round until its leader has heard.
    async fn acknowledge(&mut self, catalog: &CatalogView) {
        let behind = self.tails.values().filter(|tail| tail.acknowledged < tail.done());
        let calls = behind.filter_map(|tail| {
            let (stream, sequence) = (tail.stream, tail.done());
            let shard = catalog.shard(tail.shard)?;
            let call = self.nodes.acknowledge(catalog, shard, stream, sequence, tail.leader);
            Some(async move { (stream, sequence, call.await) })
        });
        let calls: Vec<_> = calls.collect();
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(CALLS_IN_FLIGHT).collect().await;
        for (stream, sequence, answer) in answers {
            let tail = self.tails.get_mut(&stream).expect("only streams with a tail are acknowledged");
            match answer {
                Ok(leader) => {
                    tail.leader = Some(leader);
                    tail.acknowledged = sequence;
                    self.settings.reached(Step::Acknowledged).await;
                }
                Err(status) => {
                    tail.leader = None;
                    tracing::warn!(%status, %stream, sequence, "acknowledge, again on the next round");
                }
            }
        }
    }

    /// Forgets a stream's round and lets it rest: twice as long each time, and not in step with other compactors.
    fn pause(&mut self, stream: StreamId) {
        let tail = self.tails.get_mut(&stream).expect("only streams with a tail are paused");
        let doubled = self.settings.backoff_min.saturating_mul(1 << tail.failures().min(16));
        let longest = doubled.min(self.settings.backoff_max);
        let chance = u32::try_from(self.platform.fresh_id() % 1_000).expect("below 1000");
        let pause = longest / 2 + longest / 2 * chance / 1_000;
        tail.failed(pause, self.platform.instant());
        self.metrics.failures.with_label_values(&[label(tail.shard)]).inc();
    }

    fn observe(&self) {
        for tail in self.tails.values() {
            let shard = label(tail.shard);
            let lag = i64::try_from(tail.lag()).unwrap_or(i64::MAX);
            self.metrics.lag_events.with_label_values(&[&shard]).set(lag);
            self.metrics.waiting.with_label_values(&[&shard]).set(i64::from(tail.is_waiting()));
        }
    }

    /// Until the next poll, or earlier when the catalog changes.
    async fn wait(&mut self) {
        let changed = async {
            if self.catalog.changed().await.is_err() {
                // The catalog's follower is gone, which happens on shutdown only.
                std::future::pending::<()>().await;
            }
        };
        let poll: Duration = self.settings.poll;
        tokio::select! {
            () = changed => {}
            () = self.platform.sleep(poll) => {}
        }
    }
}

fn label(shard: ShardId) -> String {
    shard.to_string()
}
