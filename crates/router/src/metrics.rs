//! The router's metrics, `granary_router_*`. Labels are bounded: operations, kinds and reasons, never names.

use granary_proto::convert::kind_code;
use granary_types::Error;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// From 0.2 ms to 10 s, where the deadline is.
const SECONDS: [f64; 15] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// What a router counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By operation and outcome: `ok` or the code of the error's kind.
    requests: IntCounterVec,
    /// By operation.
    seconds: HistogramVec,
    /// Attempts at a replica without an answer, by reason.
    pub(crate) failed_attempts: IntCounterVec,
    /// Requests that went another round, by operation and reason.
    pub(crate) retries: IntCounterVec,
    /// Writes in one request to a shard.
    pub(crate) batch_writes: Histogram,
    /// Keys in one request to a shard.
    pub(crate) read_keys: Histogram,
    /// Writes that wait for a shard, in all.
    pub(crate) queued_writes: IntGauge,
    /// Their bytes, with those on their way.
    pub(crate) queued_bytes: IntGauge,
}

impl Metrics {
    /// The metrics, registered. A second router with the same registry counts unseen, with a warning.
    pub(crate) fn register(registry: &Registry) -> Self {
        let vec = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("the name and labels are valid");
            enter(registry, metric)
        };
        let gauge = |name: &str, help: &str| enter(registry, IntGauge::new(name, help).expect("the name is valid"));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            enter(registry, Histogram::with_opts(options).expect("the name and buckets are valid"))
        };
        let seconds = HistogramVec::new(
            HistogramOpts::new("granary_router_request_seconds", "Time from a request's arrival to its end")
                .buckets(SECONDS.to_vec()),
            &["operation"],
        );
        Self {
            requests: vec("granary_router_requests_total", "Requests that ended", &["operation", "outcome"]),
            seconds: enter(registry, seconds.expect("the name and labels are valid")),
            failed_attempts: vec(
                "granary_router_failed_attempts_total",
                "Attempts at one replica that brought no answer",
                &["reason"],
            ),
            retries: vec(
                "granary_router_retries_total",
                "Rounds over a shard's replicas after the first",
                &["operation", "reason"],
            ),
            batch_writes: histogram("granary_router_batch_writes", "Writes in one request to a shard", &COUNTS),
            read_keys: histogram("granary_router_read_keys", "Keys in one read request to a shard", &COUNTS),
            queued_writes: gauge("granary_router_queued_writes", "Writes that wait to be sent to their shard"),
            queued_bytes: gauge("granary_router_queued_bytes", "Bytes of writes that wait or are on their way"),
        }
    }

    /// Counts a request that ended.
    pub(crate) fn ended<T>(&self, operation: &str, seconds: f64, result: &Result<T, Error>) {
        let outcome = result.as_ref().map_or_else(|error| kind_code(error.kind), |_| "ok");
        self.requests.with_label_values(&[operation, outcome]).inc();
        self.seconds.with_label_values(&[operation]).observe(seconds);
    }
}

fn enter<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        tracing::warn!(%error, "a metric of the router is not shown");
    }
    metric
}
