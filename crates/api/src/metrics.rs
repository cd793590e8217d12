//! The edge's metrics, `granary_api_*`. Operations are named by this code and never by the request.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// From 0.2 ms to 10 s, where the router's deadline is.
const SECONDS: [f64; 15] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// What the edge counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By protocol, operation and code: `ok` or the name of the error on that protocol.
    requests: IntCounterVec,
    /// By protocol and operation.
    seconds: HistogramVec,
}

impl Metrics {
    /// The metrics, registered. A second API with the same registry counts unseen, with a warning.
    pub(crate) fn register(registry: &Registry) -> Self {
        let requests = IntCounterVec::new(
            Opts::new("granary_api_requests_total", "Requests that were answered"),
            &["protocol", "operation", "code"],
        );
        let seconds = HistogramVec::new(
            HistogramOpts::new("granary_api_request_seconds", "Time from a request's arrival to its answer")
                .buckets(SECONDS.to_vec()),
            &["protocol", "operation"],
        );
        let metrics = Self {
            requests: requests.expect("the name and labels are valid"),
            seconds: seconds.expect("the name and labels are valid"),
        };
        for collector in [
            Box::new(metrics.requests.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(metrics.seconds.clone()),
        ] {
            if let Err(error) = registry.register(collector) {
                tracing::warn!(%error, "a metric of the API is not shown");
            }
        }
        metrics
    }

    /// Counts a request that was answered.
    pub(crate) fn answered(&self, protocol: &str, operation: &str, code: &str, seconds: f64) {
        self.requests.with_label_values(&[protocol, operation, code]).inc();
        self.seconds.with_label_values(&[protocol, operation]).observe(seconds);
    }
}
