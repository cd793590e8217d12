//! The query service's metrics.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

use crate::Error;

/// `granary_query_*`.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Calls at work.
    pub(crate) running: IntGauge,
    /// Calls that ended, by method and outcome.
    pub(crate) calls: IntCounterVec,
    /// How long calls took, by method.
    pub(crate) seconds: HistogramVec,
    /// Rows sent, by method.
    pub(crate) rows: IntCounterVec,
    /// Bytes of Arrow sent, by method.
    pub(crate) bytes: IntCounterVec,
    /// Events indexed by joins.
    pub(crate) joined_events: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let running = IntGauge::new("granary_query_running", "Query calls at work.")?;
        registry.register(Box::new(running.clone()))?;
        let buckets = prometheus::exponential_buckets(0.005, 3.0, 12)?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("granary_query_duration_seconds", "How long query calls took.").buckets(buckets),
            &["method"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            running,
            seconds,
            calls: counter("granary_query_calls_total", "Query calls that ended.", &["method", "outcome"])?,
            rows: counter("granary_query_rows_total", "Rows of answers.", &["method"])?,
            bytes: counter("granary_query_answer_bytes_total", "Arrow bytes of answers.", &["method"])?,
            joined_events: counter(
                "granary_query_joined_events_total",
                "Events of histories that point-in-time joins held.",
                &["method"],
            )?,
        })
    }
}
