//! Log lines, process metrics and the last words of a panic.
//!
//! Lines go to standard error, answers of commands to standard output. Each role registers its own metrics in the
//! registry that [`registry`] makes; here are only those of the process.

use std::io::IsTerminal;
use std::panic;

use anyhow::{Context, anyhow};
use granary_platform::Platform;
use granary_types::invariants;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Libraries whose information is about their own insides. A directive of the user for one of them wins.
const QUIET: &str = "openraft=warn,chunked_wal=warn,raft_log=warn,h2=warn,hyper_util=warn";

/// Starts logging to standard error and logs panics from now on. Once for each process.
///
/// # Errors
/// Directives that cannot be parsed, or logging that was started before.
pub(crate) fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| {
        granary_types::Error::invalid(format!("log.filter: {filter:?} is not a list of directives: {error}"))
    })?;
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow!(error)).context("start logging")?;
    log_panics();
    Ok(())
}

/// A panic is a bug: it goes where the operator looks, with its place, whichever thread it ends.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(message, place, thread, %backtrace, "panic");
    }));
}

/// A registry that holds the metrics of the process: start time, build, violated invariants.
///
/// # Errors
/// None in practice: a name that stands twice.
pub(crate) fn registry(platform: &Platform) -> anyhow::Result<Registry> {
    let registry = Registry::new();
    let started = IntGauge::new("granary_process_start_time_seconds", "When the process started, in Unix seconds")?;
    started.set(platform.now_micros() / 1_000_000);
    registry.register(Box::new(started))?;
    let build = IntGaugeVec::new(Opts::new("granary_build_info", "Always 1; the labels say what runs"), &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(InvariantViolations::new()?))?;
    Ok(registry)
}

/// `granary_invariant_violations_total{invariant}`: anything above zero is a bug or damage, and wakes somebody.
struct InvariantViolations {
    counter: IntCounterVec,
}

impl InvariantViolations {
    fn new() -> Result<Self, prometheus::Error> {
        let about = Opts::new("granary_invariant_violations_total", "Violations seen of each invariant of the design");
        Ok(Self { counter: IntCounterVec::new(about, &["invariant"])? })
    }
}

impl Collector for InvariantViolations {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (id, count) in invariants::violations() {
            // The counts are kept below all crates, where no metrics library is; here they are only carried over.
            let counter = self.counter.with_label_values(&[id]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.counter.collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    #[test]
    fn every_invariant_is_exported() {
        let registry = registry(&Platform::system()).expect("names are unique");
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).expect("encoded");
        let text = String::from_utf8(text).expect("UTF-8");
        for invariant in invariants::Invariant::ALL {
            let line = format!("granary_invariant_violations_total{{invariant=\"{}\"}} 0", invariant.id());
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
        assert!(text.contains("granary_build_info{version=") && text.contains("granary_process_start_time_seconds 1"));
    }
}
