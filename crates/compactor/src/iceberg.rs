//! Iceberg metadata, published behind the flushes: nobody waits for it, and what fails or is missed is made up when the
//! table is next written or looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use granary_offline_store::OfflineTable;
use granary_platform::Platform;
use granary_types::{FeatureGroupId, with_causes};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::settings::Settings;

/// The tables whose newest version may not be published yet, and the loop that publishes them.
#[derive(Debug)]
pub(crate) struct Publisher {
    platform: Platform,
    metrics: Metrics,
    interval: Duration,
    in_flight: usize,
    waiting_max: usize,
    waiting: Mutex<BTreeMap<FeatureGroupId, OfflineTable>>,
    news: Notify,
    /// Those that failed last time, which is told once.
    failing: Mutex<BTreeSet<FeatureGroupId>>,
}

impl Publisher {
    pub(crate) fn new(platform: Platform, settings: &Settings, metrics: Metrics) -> Self {
        Self {
            platform,
            metrics,
            interval: settings.iceberg_interval,
            in_flight: settings.tables_in_flight.max(1),
            waiting_max: settings.tables_open_max,
            waiting: Mutex::default(),
            news: Notify::new(),
            failing: Mutex::default(),
        }
    }

    /// Asks for a table's newest version to be published, if it is a table that is. One that finds no room is left out until
    /// the table is looked at again.
    pub(crate) fn queue(&self, table: &OfflineTable) {
        if !table.group().is_iceberg() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < self.waiting_max || waiting.contains_key(&table.group().id) {
            waiting.insert(table.group().id, table.clone());
            self.metrics.iceberg_waiting.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
            self.news.notify_one();
        }
    }

    /// Publishes what waits, each table at most once in an interval. Never ends.
    pub(crate) async fn run(&self) {
        loop {
            self.news.notified().await;
            let waiting = std::mem::take(&mut *self.waiting.lock());
            self.metrics.iceberg_waiting.set(0);
            let publications = waiting.into_values().map(|table| self.publish(table));
            stream::iter(publications).buffer_unordered(self.in_flight).collect::<()>().await;
            self.platform.sleep(self.interval).await;
        }
    }

    async fn publish(&self, mut table: OfflineTable) {
        let published = self.platform.apart_from_time(table.publish_iceberg()).await;
        let (id, name) = (table.group().id, table.group().name.clone());
        match published {
            Ok(number) => {
                if let Some(number) = number {
                    tracing::debug!(group = name, number, "published iceberg metadata");
                    self.metrics.iceberg_published.inc();
                }
                if self.failing.lock().remove(&id) {
                    tracing::info!(group = name, "iceberg metadata is published again");
                }
            }
            Err(error) => {
                self.metrics.iceberg_failures.inc();
                if self.failing.lock().insert(id) {
                    tracing::warn!(group = name, error = with_causes(&error), "publish iceberg metadata, again later");
                } else {
                    tracing::debug!(group = name, error = with_causes(&error), "publish iceberg metadata still fails");
                }
            }
        }
    }
}
