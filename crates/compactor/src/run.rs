//! The compactor's loop: read, flush when it is time, acknowledge, wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use granary_catalog::CatalogView;
use granary_offline_store::Warehouse;
use granary_platform::Platform;
use granary_proto::internal::{FailingTables, ReadSegmentsRequest};
use granary_types::{FeatureGroup, FeatureGroupId, FeatureGroupStatus, ShardId, StreamId, with_causes};
use prometheus::Registry;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;
use crate::flush::{StreamOutcome, flush};
use crate::foreign::ForeignFiles;
use crate::founding::Founding;
use crate::health::Rests;
use crate::iceberg::Publisher;
use crate::metrics::Metrics;
use crate::nodes::{Nodes, ReadAnswer};
use crate::settings::{Settings, Step};
use crate::tables::{Tables, audit};
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
    publisher: Arc<Publisher>,
    tails: BTreeMap<StreamId, Tail>,
    audits: Audits,
    foreign: Arc<ForeignFiles>,
    founding: Arc<Founding>,
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
        let rests = Rests { min: settings.backoff_min, max: settings.backoff_max };
        let metrics = Metrics::register(registry)?;
        let publisher = Arc::new(Publisher::new(platform.clone(), &settings, metrics.clone()));
        let tables = Tables::new(warehouse.clone(), publisher.clone(), settings.tables_open_max);
        let founding = Founding {
            platform: platform.clone(),
            catalog: catalog.clone(),
            warehouse: warehouse.clone(),
            marks: tables.marks.clone(),
            publisher: publisher.clone(),
            rest_min: settings.backoff_min,
            rest_max: settings.backoff_max,
        };
        let foreign = ForeignFiles {
            platform: platform.clone(),
            catalog: catalog.clone(),
            warehouse,
            marks: tables.marks.clone(),
            publisher: publisher.clone(),
            metrics: metrics.clone(),
            interval: settings.foreign_files_interval,
            open_max: settings.tables_open_max,
        };
        Ok(Self {
            nodes: Nodes::new(platform.clone(), settings.call_timeout, rests),
            tables,
            metrics,
            publisher,
            tails: BTreeMap::new(),
            audits: Audits { due: platform.instant(), last: None, last_failing: None, of_failing: false },
            foreign: Arc::new(foreign),
            founding: Arc::new(founding),
            platform,
            catalog,
            settings,
        })
    }

    /// Works until shutdown, then stops where it is: what is unfinished is done again by whoever comes next.
    pub async fn run(mut self) {
        let (platform, publisher) = (self.platform.clone(), self.publisher.clone());
        let (foreign, founding) = (self.foreign.clone(), self.founding.clone());
        tokio::select! {
            () = platform.shutdown_begun() => {}
            () = self.work() => {}
            () = publisher.run() => {}
            () = foreign.run() => {}
            () = founding.run() => {}
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
            self.audit(&catalog).await;
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
        let hungry = self.tails.values().filter(|tail| tail.may_ask(now) && tail.held_bytes() < share);
        let asks = hungry.filter_map(|tail| {
            let shard = catalog.shard(tail.shard)?;
            let room = share - tail.held_bytes();
            let stream = tail.stream;
            let request = ReadSegmentsRequest {
                shard: tail.shard.0,
                after_sequence: tail.cursor(),
                max_bytes: u32::try_from(room).unwrap_or(u32::MAX),
                trimmed_groups_after: self.tables.marks.known(stream),
                failing_tables: Some(FailingTables { lines: self.tables.failing.lines() }),
            };
            let ask = self.nodes.read_segments(catalog, shard, tail.turn, request);
            Some(async move { (stream, ask.await) })
        });
        let asks: Vec<_> = asks.collect();
        let answers: Vec<_> = stream::iter(asks).buffer_unordered(CALLS_IN_FLIGHT).collect().await;
        let mut fresh = 0;
        for (stream, answer) in answers {
            match self.take(stream, answer) {
                Ok(bytes) => fresh += bytes,
                Err(error @ Error::ReadChangeLog { .. }) => self.unanswered(stream, &error),
                Err(error) => {
                    tracing::warn!(error = with_causes(&error), "read change log, another replica is next");
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

    fn take(&mut self, stream: StreamId, answer: ReadAnswer) -> Result<usize, Error> {
        let now = self.platform.instant();
        let tail = self.tails.get_mut(&stream).expect("only streams with a tail are asked");
        let (turn, response) = answer.map_err(|source| Error::ReadChangeLog { stream, source })?;
        tail.check_stream(&response)?;
        self.tables.marks.note(stream, &response);
        tail.take(turn, response, now)
    }

    /// No replica gave an answer: the stream asks again later and keeps what it holds, which may be flushed meanwhile.
    fn unanswered(&mut self, stream: StreamId, error: &Error) {
        let tail = self.tails.get_mut(&stream).expect("only streams with a tail are asked");
        let silent = tail.silent();
        if silent == 0 {
            tracing::warn!(error = with_causes(error), "no replica answers");
        } else {
            tracing::debug!(error = with_causes(error), silent, "no replica answers");
        }
        tail.unanswered(backoff(&self.platform, &self.settings, silent), self.platform.instant());
        self.metrics.failures.with_label_values(&[label(tail.shard)]).inc();
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
        let outcomes = flush(&working, catalog, &mut self.tables, &self.platform, &self.settings, &self.metrics).await;
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
                    (tail.leader, tail.unheard) = (Some(leader), false);
                    tail.acknowledged = sequence;
                    self.settings.reached(Step::Acknowledged).await;
                }
                Err(status) => {
                    tail.leader = None;
                    if std::mem::replace(&mut tail.unheard, true) {
                        tracing::debug!(%status, %stream, sequence, "acknowledge, again on the next round");
                    } else {
                        tracing::warn!(%status, %stream, sequence, "acknowledge, again on each round");
                    }
                }
            }
        }
    }

    /// Looks at one table when it is time, whether or not there is anything to write to it.
    async fn audit(&mut self, catalog: &CatalogView) {
        let now = self.platform.instant();
        if now < self.audits.due {
            return;
        }
        self.audits.due = now + self.settings.audit_interval;
        let Some(id) = self.audits.next(&self.tables) else { return };
        let live = |group: &&Arc<FeatureGroup>| group.offline.is_some() && group.status == FeatureGroupStatus::Created;
        let Some(group) = catalog.group_by_id(id).filter(live) else {
            self.tables.failing.clear(id);
            return;
        };
        // A kept handle has read its log long ago.
        drop(self.tables.take(id));
        let (warehouse, marks) = (self.tables.warehouse(), self.tables.marks.of(id));
        match self.platform.apart_from_time(audit(&warehouse, group, &marks)).await {
            Ok(table) => {
                self.tables.failing.clear(id);
                self.tables.keep(table);
            }
            Err(error) => self.tables.failing.note(group, &error),
        }
    }

    /// Forgets a stream's round and lets it rest.
    fn pause(&mut self, stream: StreamId) {
        let tail = self.tails.get_mut(&stream).expect("only streams with a tail are paused");
        let pause = backoff(&self.platform, &self.settings, tail.failures());
        tail.failed(pause, self.platform.instant());
        self.metrics.failures.with_label_values(&[label(tail.shard)]).inc();
    }

    fn observe(&self) {
        let (failing, lost) = self.tables.failing.count();
        self.metrics.failing_tables.set(i64::try_from(failing).unwrap_or(i64::MAX));
        self.metrics.lost_tables.set(i64::try_from(lost).unwrap_or(i64::MAX));
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

/// Whose table is looked at when. Tables that fail have every second turn, so that what works again is told soon.
#[derive(Debug)]
struct Audits {
    due: Instant,
    last: Option<FeatureGroupId>,
    last_failing: Option<FeatureGroupId>,
    of_failing: bool,
}

impl Audits {
    fn next(&mut self, tables: &Tables) -> Option<FeatureGroupId> {
        self.of_failing = !self.of_failing;
        let failing = tables.failing.next_group(self.last_failing).filter(|_| self.of_failing);
        // One that has nothing to lose yet is tried again with its events.
        if let Some(failing) = failing.filter(|failing| !tables.marks.of(*failing).is_empty()) {
            self.last_failing = Some(failing);
            return Some(failing);
        }
        self.last = tables.marks.next_group(self.last);
        self.last
    }
}

/// How long to rest after so many failures in a row: twice as long each time, and not in step with other compactors.
fn backoff(platform: &Platform, settings: &Settings, failures: u32) -> Duration {
    let longest = settings.backoff_min.saturating_mul(1 << failures.min(16)).min(settings.backoff_max);
    let chance = u32::try_from(platform.fresh_id() % 1_000).expect("below 1000");
    longest / 2 + longest / 2 * chance / 1_000
}

fn label(shard: ShardId) -> String {
    shard.to_string()
}
