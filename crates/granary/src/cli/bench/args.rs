//! The flags of `granary bench`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use granary_bench::keys::Skew;
use granary_bench::schedule::Gaps;
use granary_bench::store::Shape;
use granary_bench::workload::Workload;

use super::super::consistency::ConsistencyArg;
use crate::config::units::parse_duration;

const MORE: &str = "\
Latency is counted from when an operation was due by the schedule, not from when it was sent: a stall is charged to all
that were due while it lasted. --in-flight waits for its answers instead and shows the limit. Reads are checked.

Examples:
  granary bench --list
  granary bench W1 --own --rate 500
  granary bench W2 --endpoint http://10.0.0.7:7460 --rate 2000 --processes 4 --scale 0.1 --duration 5m
  granary bench W6 --in-flight 64 --output json";

#[derive(Debug, Args)]
#[command(after_help = MORE, args_override_self = true)]
pub(crate) struct BenchArgs {
    /// The workload: W1 to W7, or W11
    #[arg(required_unless_present = "list", value_parser = parse_workload)]
    pub(crate) workload: Option<Workload>,
    /// Show the workloads and their numbers, scaled
    #[arg(long)]
    pub(crate) list: bool,
    /// Operations a second, by a schedule fixed beforehand; each workload has its own default
    #[arg(long, value_parser = parse_positive, conflicts_with = "in_flight")]
    pub(crate) rate: Option<f64>,
    /// Keep so many operations under way instead, each begun when another ends: for limits
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: Option<u32>,
    /// How long is measured
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    pub(crate) duration: Duration,
    /// How long the same is done before, and left out of the result
    #[arg(long, value_parser = parse_duration, default_value = "5s", value_name = "TIME")]
    pub(crate) warmup: Duration,
    /// Fixes schedule, keys and values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The share of the full size's entities; by default some 10,000 in the largest group
    #[arg(long, value_parser = parse_positive)]
    pub(crate) scale: Option<f64>,
    /// How keys are drawn: uniform, or zipf:EXPONENT; each workload has its own default
    #[arg(long, value_parser = parse_skew)]
    pub(crate) keys: Option<Skew>,
    /// Records that the largest part of a read asks for, instead of the workload's
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) records: Option<u64>,
    /// The share of reads among the operations, instead of the workload's
    #[arg(long, value_parser = parse_share, value_name = "SHARE")]
    pub(crate) read_share: Option<f64>,
    /// W7: records written a second in the storm; five times as many in the burst
    #[arg(long, value_parser = parse_positive, default_value = "1000", value_name = "RATE")]
    pub(crate) write_rate: f64,
    /// How the schedule's arrivals are spread
    #[arg(long, value_enum, default_value_t)]
    pub(crate) gaps: GapsArg,
    /// A read is good up to this latency; each workload has its own default
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) bound: Option<Duration>,
    /// How long an operation may take before it counts as timed out
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME")]
    pub(crate) deadline: Duration,
    /// By a schedule: the most operations under way in each process, and as many more that wait; the rest is shed
    #[arg(long, default_value_t = 4_096, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight_max: u32,
    /// What reads promise: linearizable, session:TOKEN, bounded:TIME or eventual
    #[arg(long, default_value = "linearizable")]
    pub(crate) consistency: ConsistencyArg,
    /// How reads ask
    #[arg(long, value_enum, default_value_t)]
    pub(crate) shape: ShapeArg,
    /// Client processes that share the rate
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) processes: u32,
    /// Connections of each process
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) connections: u32,
    /// Whether records are put before
    #[arg(long, value_enum, default_value_t)]
    pub(crate) load: LoadArg,
    /// In front of the feature groups' names
    #[arg(long, default_value = "bench")]
    pub(crate) prefix: String,
    /// Start a `granary dev` of its own in a temporary directory, whatever --endpoint says, and take it down at the end
    #[arg(long)]
    pub(crate) own: bool,
    /// Which of several processes this is, and when all of them start, in nanoseconds since 1970
    #[arg(long, hide = true, value_parser = parse_child)]
    pub(crate) child: Option<ChildArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum GapsArg {
    /// As of many callers that know nothing of each other
    #[default]
    Poisson,
    /// All gaps alike
    Even,
}

impl GapsArg {
    pub(super) fn gaps(self) -> Gaps {
        match self {
            Self::Poisson => Gaps::Poisson,
            Self::Even => Gaps::Even,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ShapeArg {
    /// By GetFeatures: a typed list for each feature
    #[default]
    Columns,
    /// By BatchGetRecord: names and texts for each record
    Records,
}

impl ShapeArg {
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Columns => Shape::Columns,
            Self::Records => Shape::Records,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Columns => "columns",
            Self::Records => "records",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LoadArg {
    /// Those that no earlier run has put
    #[default]
    Auto,
    /// The same, and nothing else is done
    Only,
    /// None
    Skip,
}

/// One of several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildArg {
    pub(super) index: u32,
    pub(super) starts_at_nanos: u64,
}

fn parse_child(text: &str) -> Result<ChildArg, String> {
    let parts = text.split_once('@').and_then(|(index, at)| Some((index.parse().ok()?, at.parse().ok()?)));
    let (index, starts_at_nanos) = parts.ok_or("expected INDEX@NANOSECONDS")?;
    Ok(ChildArg { index, starts_at_nanos })
}

fn parse_workload(text: &str) -> Result<Workload, String> {
    let ids = || Workload::all().iter().map(|workload| workload.id).collect::<Vec<_>>().join(", ");
    Workload::find(text).ok_or_else(|| format!("there is no such workload: take one of {}", ids()))
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1".to_owned())
}

fn parse_skew(text: &str) -> Result<Skew, String> {
    match text.split_once(':') {
        None if text == "uniform" => Ok(Skew::Uniform),
        Some(("zipf", exponent)) => parse_positive(exponent).map(Skew::Zipf),
        _ => Err("expected uniform, or zipf:EXPONENT such as zipf:0.99".to_owned()),
    }
}

/// As [`parse_skew`] reads it.
pub(super) fn show_skew(skew: Skew) -> String {
    match skew {
        Skew::Uniform => "uniform".to_owned(),
        Skew::Zipf(exponent) => format!("zipf:{exponent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skews_are_read_and_shown() {
        for text in ["uniform", "zipf:0.99", "zipf:1"] {
            assert_eq!(parse_skew(text).map(show_skew), Ok(text.to_owned()));
        }
        for text in ["", "zipf", "zipf:", "zipf:-1", "zipf:NaN", "uniform:1", "normal"] {
            assert!(parse_skew(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for text in ["0", "-1", "inf", "NaN", "", "x"] {
            assert!(parse_positive(text).is_err(), "{text:?} was accepted");
        }
        assert!(parse_share("1.01").is_err() && parse_share("1").is_ok() && parse_share("0").is_ok());
        assert!(parse_workload("W8").is_err() && parse_workload("w11").is_ok());
        assert_eq!(parse_child("3@17"), Ok(ChildArg { index: 3, starts_at_nanos: 17 }));
    }
}
