//! What a compactor counts.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Counters and gauges of one compactor.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) fetched_bytes: IntCounter,
    pub(crate) rows: IntCounter,
    pub(crate) files: IntCounter,
    pub(crate) file_bytes: IntCounter,
    pub(crate) foreign_files: IntCounterVec,
    pub(crate) commits: IntCounter,
    pub(crate) conflicts: IntCounter,
    pub(crate) failures: IntCounterVec,
    pub(crate) flush_seconds: Histogram,
    pub(crate) lag_events: IntGaugeVec,
    pub(crate) waiting: IntGaugeVec,
    pub(crate) failing_tables: IntGauge,
    pub(crate) lost_tables: IntGauge,
    pub(crate) iceberg_published: IntCounter,
    pub(crate) iceberg_failures: IntCounter,
    pub(crate) iceberg_waiting: IntGauge,
}

/// What becomes of a file of another program.
pub(crate) const FOREIGN_OUTCOMES: [&str; 3] = ["taken", "refused", "removed"];

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let by_shard =
            |name: &str, help: &str| registered(registry, IntGaugeVec::new(Opts::new(name, help), &["shard"])?);
        let foreign_files = registered(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "granary_compactor_foreign_files_total",
                    "Files of other programs that became part of a table, cannot, or are part of it no more",
                ),
                &["outcome"],
            )?,
        )?;
        // Shown from the beginning on, so that the first file is seen as an increase.
        for outcome in FOREIGN_OUTCOMES {
            foreign_files.with_label_values(&[outcome]).inc_by(0);
        }
        // 10 ms to 41 s.
        let buckets = prometheus::exponential_buckets(0.01, 2.0, 13)?;
        Ok(Self {
            fetched_bytes: counter("granary_compactor_fetched_bytes_total", "Bytes of events read from change logs")?,
            rows: counter("granary_compactor_rows_total", "Rows committed")?,
            files: counter("granary_compactor_files_total", "Files committed")?,
            file_bytes: counter("granary_compactor_file_bytes_total", "Bytes of the committed files")?,
            foreign_files,
            commits: counter("granary_compactor_commits_total", "Table commits made")?,
            conflicts: counter(
                "granary_compactor_conflicts_total",
                "Flushes of a table given up because another compactor committed the same events",
            )?,
            failures: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "granary_compactor_failures_total",
                        "Rounds of a shard's stream given up, and reads of it that no replica answered",
                    ),
                    &["shard"],
                )?,
            )?,
            flush_seconds: registered(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new("granary_compactor_flush_seconds", "From events held to offsets read back")
                        .buckets(buckets),
                )?,
            )?,
            lag_events: by_shard("granary_compactor_lag_events_count", "Events of a shard that are not committed yet")?,
            failing_tables: gauge(
                "granary_compactor_failing_tables_count",
                "Offline tables that could not be written or read when last tried",
            )?,
            lost_tables: gauge(
                "granary_compactor_lost_history_tables_count",
                "Offline tables that lack acknowledged history and are not written to: an operator must act",
            )?,
            iceberg_published: counter(
                "granary_compactor_iceberg_published_total",
                "Iceberg metadata documents written",
            )?,
            iceberg_failures: counter(
                "granary_compactor_iceberg_failures_total",
                "Iceberg metadata documents that could not be written, which is tried again later",
            )?,
            iceberg_waiting: gauge(
                "granary_compactor_iceberg_waiting_count",
                "Tables whose newest version waits to be shown as Iceberg",
            )?,
            waiting: by_shard(
                "granary_compactor_waiting_for_catalog",
                "1 where a shard's next event is of a feature group or schema that the catalog does not show yet",
            )?,
        })
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
