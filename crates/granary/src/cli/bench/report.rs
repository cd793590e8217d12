//! What a run measured, as a table and as one JSON document.

use std::collections::BTreeMap;
use std::time::Duration;

use granary_bench::workload::{Kind, Workload};
use granary_bench::{ClassResult, Histogram, Outcome};
use serde_json::{Value, json};

use super::args::{BenchArgs, show_skew};
use super::setup::{Drive, Setup};
use crate::config::units::show_duration;
use crate::output::table;

/// The generator's own lag above which its figures are no longer the server's.
const LAG_MAX: Duration = Duration::from_millis(1);
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// A run and its result.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) outcome: Outcome,
    /// Stands for the schedule and the keys of all processes.
    pub(super) checksum: u64,
    pub(super) started_at_ms: u64,
}

impl Report {
    /// For programs. The members `classes`, `lag` and `schedule_checksum` are what a parent process merges.
    pub(super) fn to_json(&self, setup: &Setup, args: &BenchArgs) -> Value {
        let windows = setup.plan.windows.iter().map(|window| {
            json!({ "name": window.name, "from_s": window.from.as_secs_f64(), "until_s": window.until.as_secs_f64() })
        });
        json!({
            "command": std::env::args().collect::<Vec<_>>(),
            "granary": env!("CARGO_PKG_VERSION"),
            "machine": {
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
                "os": std::env::consts::OS,
                "architecture": std::env::consts::ARCH,
            },
            "started_at_ms": self.started_at_ms,
            "seed": args.seed,
            "workload": workload_json(&setup.workload, setup.scale),
            "loop": loop_json(setup, args),
            "processes": args.processes,
            "connections": args.connections,
            "consistency": consistency(args),
            "shape": args.shape.name(),
            "duration_s": args.duration.as_secs_f64(),
            "warmup_s": args.warmup.as_secs_f64(),
            "phases": windows.collect::<Vec<_>>(),
            "schedule_checksum": format!("{:016x}", self.checksum),
            "classes": self.outcome.classes.iter().map(class_json).collect::<Vec<_>>(),
            "lag": lag_json(&self.outcome.lag),
            "p99_to_quiet": self.ratios().into_iter().collect::<BTreeMap<_, _>>(),
            "warnings": self.warnings(),
        })
    }

    /// For people.
    pub(super) fn to_text(&self, setup: &Setup, args: &BenchArgs) -> String {
        let mut header = vec!["class", "phase", "due", "completed", "errors", "timeouts", "shed", "rate", "good"];
        header.extend(QUANTILES.map(|(name, _)| name));
        header.push("max");
        // A class that was not due in a phase, such as writes in a quiet one, has nothing to show.
        let rows: Vec<_> = self.outcome.classes.iter().filter(|result| result.scheduled > 0).map(row).collect();
        let mut text = format!("{}\n\n{}\n", title(setup, args), table(&header, &rows));
        text.push_str("rate: completed a second. good: completed a second within the bound");
        text.push_str(&format!(" of {}.\n", show_duration(setup.workload.bound)));
        for (window, ratio) in self.ratios() {
            text.push_str(&format!("read p99 in {window}: {ratio:.2} times that of quiet\n"));
        }
        let lag = &self.outcome.lag;
        if let (Some(p50), Some(p99)) = (lag.quantile(0.5), lag.quantile(0.99)) {
            let (p50, p99, max) = (show(p50), show(p99), show(lag.max()));
            text.push_str(&format!("the generator was late by: p50 {p50}, p99 {p99}, max {max}\n"));
        }
        text.push_str(&format!("schedule and keys: {:016x}\n", self.checksum));
        for warning in self.warnings() {
            text.push_str(&format!("warning: {warning}\n"));
        }
        text
    }

    /// The reads' p99 of each other phase over that of the quiet one.
    fn ratios(&self) -> Vec<(String, f64)> {
        let reads = || self.outcome.classes.iter().filter(|result| result.class == "read");
        let p99 = |result: &ClassResult| result.latency.quantile(0.99).map(|p99| p99.as_secs_f64());
        let Some(quiet) = reads().find(|result| result.window == "quiet").and_then(p99) else { return Vec::new() };
        let others = reads().filter(|result| result.window != "quiet");
        others.filter_map(|result| Some((result.window.clone(), p99(result)? / quiet))).collect()
    }

    /// What whoever reads the figures has to know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let p99 = self.outcome.lag.quantile(0.99).unwrap_or_default();
        let fastest = self.outcome.classes.iter().filter_map(|result| result.latency.quantile(0.99)).min();
        if p99 > LAG_MAX || fastest.is_some_and(|fastest| p99 > fastest / 10) {
            let text = format!("the generator itself was late, p99 {}: the latencies are partly its own", show(p99));
            warnings.push(format!("{text}. Give it cores of its own, more --processes or a lower --rate"));
        }
        for result in &self.outcome.classes {
            let lost = result.scheduled - result.completed;
            if lost > 0 {
                let (class, window, due) = (&result.class, &result.window, result.scheduled);
                warnings.push(format!("{lost} of {due} {class}s ({window}) did not complete: no latency holds them"));
            }
        }
        warnings
    }
}

fn title(setup: &Setup, args: &BenchArgs) -> String {
    let how = match setup.drive {
        Drive::Open(rate) => format!("{rate} due a second"),
        Drive::Closed(in_flight) => format!("{in_flight} under way"),
    };
    let processes = if args.processes == 1 { "1 process".to_owned() } else { format!("{} processes", args.processes) };
    format!(
        "{} ({}): {how}, {} after {}, {processes}, keys {}, seed {}, {}, by {}",
        setup.workload.id,
        setup.workload.about,
        show_duration(args.duration),
        show_duration(args.warmup),
        show_skew(setup.workload.skew),
        args.seed,
        consistency(args),
        args.shape.name(),
    )
}

fn row(result: &ClassResult) -> Vec<String> {
    let errors = match result.failed() {
        0 => "0".to_owned(),
        _ => result.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", "),
    };
    let mut cells = vec![
        result.class.clone(),
        result.window.clone(),
        result.scheduled.to_string(),
        result.completed.to_string(),
        errors,
        result.timeouts.to_string(),
        result.shed.to_string(),
        format!("{:.1}/s", result.rate()),
        format!("{:.1}/s", result.goodput()),
    ];
    let quantiles = QUANTILES.map(|(_, share)| result.latency.quantile(share).map_or_else(|| "-".to_owned(), show));
    cells.extend(quantiles);
    cells.push(if result.latency.is_empty() { "-".to_owned() } else { show(result.latency.max()) });
    cells
}

/// Three digits, as the histograms have.
fn show(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        _ if micros < 1_000.0 => format!("{micros:.0}µs"),
        _ if micros < 10_000.0 => format!("{:.2}ms", micros / 1e3),
        _ if micros < 100_000.0 => format!("{:.1}ms", micros / 1e3),
        _ if micros < 1_000_000.0 => format!("{:.0}ms", micros / 1e3),
        _ => format!("{:.2}s", micros / 1e6),
    }
}

fn class_json(result: &ClassResult) -> Value {
    let mut json = serde_json::to_value(result).expect("plain data");
    let summary = json!({
        "rate": result.rate(),
        "goodput": result.goodput(),
        "p50_us": quantile_us(&result.latency, 0.5),
        "p90_us": quantile_us(&result.latency, 0.9),
        "p99_us": quantile_us(&result.latency, 0.99),
        "p999_us": quantile_us(&result.latency, 0.999),
    });
    if let (Value::Object(json), Value::Object(summary)) = (&mut json, summary) {
        json.extend(summary);
    }
    json
}

fn lag_json(lag: &Histogram) -> Value {
    let mut json = serde_json::to_value(lag).expect("plain data");
    if let Value::Object(json) = &mut json {
        json.insert("p50_us".to_owned(), quantile_us(lag, 0.5));
        json.insert("p99_us".to_owned(), quantile_us(lag, 0.99));
    }
    json
}

fn quantile_us(histogram: &Histogram, share: f64) -> Value {
    json!(histogram.quantile(share).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}

fn loop_json(setup: &Setup, args: &BenchArgs) -> Value {
    match setup.drive {
        Drive::Closed(in_flight) => json!({ "kind": "closed", "in_flight": in_flight }),
        Drive::Open(rate) => {
            let gaps = format!("{:?}", args.gaps).to_lowercase();
            let write_rate = (setup.workload.kind == Kind::Storm).then_some(args.write_rate);
            json!({ "kind": "open", "rate": rate, "gaps": gaps, "write_rate": write_rate })
        }
    }
}

fn workload_json(workload: &Workload, scale: f64) -> Value {
    let groups = workload.groups.iter().map(|group| {
        json!({
            "name": group.name,
            "entities": group.entities,
            "features": group.feature_count(),
            "record_bytes": group.record_bytes(),
        })
    });
    json!({
        "id": workload.id,
        "about": workload.about,
        "scale": scale,
        "groups": groups.collect::<Vec<_>>(),
        "records_per_read": workload.records_per_read(),
        "values_per_read": workload.values_per_read(),
        "read_share": workload.read_share,
        "keys": show_skew(workload.skew),
        "bound_us": u64::try_from(workload.bound.as_micros()).unwrap_or(u64::MAX),
    })
}

fn consistency(args: &BenchArgs) -> String {
    let level = args.consistency.to_wire().level().as_str_name();
    level.trim_start_matches("CONSISTENCY_LEVEL_").to_lowercase()
}

/// The workloads with their numbers, as a table.
pub(super) fn list_text(workloads: &[(Workload, f64)]) -> String {
    let row = |(workload, scale): &(Workload, f64)| {
        let full = Workload::find(workload.id).expect("it is from there");
        let entities = |workload: &Workload| {
            let each =
                workload.groups.iter().map(|group| format!("{} x {}", short(group.entities), group.feature_count()));
            each.collect::<Vec<_>>().join(" + ")
        };
        vec![
            workload.id.to_owned(),
            workload.about.to_owned(),
            entities(&full),
            format!("{scale}"),
            entities(workload),
            format!("{} of {}", workload.values_per_read(), workload.records_per_read()),
            format!("{:.0} %", workload.read_share * 100.0),
            show_skew(workload.skew),
            show_duration(workload.bound),
            format!("{}/s", workload.default_rate),
        ]
    };
    let header = [
        "",
        "workload",
        "entities x features",
        "scale",
        "scaled",
        "values of records",
        "reads",
        "keys",
        "bound",
        "rate",
    ];
    table(&header, &workloads.iter().map(row).collect::<Vec<_>>())
}

/// 10M for 10,000,000.
fn short(count: u64) -> String {
    match count {
        _ if count >= 1_000_000 && count.is_multiple_of(1_000_000) => format!("{}M", count / 1_000_000),
        _ if count >= 1_000 && count.is_multiple_of(1_000) => format!("{}k", count / 1_000),
        _ => count.to_string(),
    }
}

/// The same for programs.
pub(super) fn list_json(workloads: &[(Workload, f64)]) -> Value {
    let one = |(workload, scale): &(Workload, f64)| {
        let full = Workload::find(workload.id).expect("it is from there");
        json!({
            "full": workload_json(&full, 1.0),
            "scaled": workload_json(workload, *scale),
            "rate": workload.default_rate,
        })
    };
    json!({ "workloads": workloads.iter().map(one).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(window: &str, millis: &[u64]) -> ClassResult {
        let mut latency = Histogram::default();
        millis.iter().for_each(|&millis| latency.record(Duration::from_millis(millis)));
        let json = json!({
            "class": "read", "window": window, "seconds": 1.0, "bound_us": 2_000, "scheduled": millis.len(),
            "completed": millis.len(), "within_bound": 0, "errors": {}, "timeouts": 0, "shed": 0,
            "latency": serde_json::to_value(latency).expect("JSON"),
        });
        serde_json::from_value(json).expect("a result")
    }

    fn report(classes: Vec<ClassResult>, lag_us: u64) -> Report {
        let mut lag = Histogram::default();
        lag.record(Duration::from_micros(lag_us));
        Report { outcome: Outcome { classes, lag }, checksum: 0, started_at_ms: 0 }
    }

    #[test]
    fn a_late_generator_and_lost_operations_are_told() {
        assert_eq!(report(vec![result("all", &[20])], 900).warnings(), Vec::<String>::new());
        assert_eq!(report(vec![result("all", &[20])], 1_100).warnings().len(), 1);
        // A tenth of the reads' p99 is too much already.
        assert_eq!(report(vec![result("all", &[5])], 600).warnings().len(), 1);
        let mut lossy = result("all", &[20]);
        (lossy.scheduled, lossy.shed) = (3, 2);
        assert!(report(vec![lossy], 1).warnings()[0].starts_with("2 of 3 reads"));
    }

    #[test]
    fn phases_are_compared_with_the_quiet_one() {
        let report = report(vec![result("quiet", &[10]), result("storm", &[13]), result("burst", &[40])], 1);
        let ratios = report.ratios();
        let near = |ratio: f64, to: f64| (ratio / to - 1.0).abs() < 0.01;
        assert!(ratios[0].0 == "storm" && near(ratios[0].1, 1.3), "{ratios:?}");
        assert!(ratios[1].0 == "burst" && near(ratios[1].1, 4.0), "{ratios:?}");
    }

    #[test]
    fn a_class_is_read_again_as_it_was_written() {
        let class = result("all", &[1, 2, 3]);
        let read: ClassResult = serde_json::from_value(class_json(&class)).expect("a result");
        assert_eq!(read, class);
        assert_eq!(class_json(&class)["p50_us"], 2_000);
    }

    #[test]
    fn counts_are_short_where_they_are_round() {
        assert_eq!([999, 1_000, 1_500, 10_000_000].map(short), ["999", "1k", "1500", "10M"]);
    }

    #[test]
    fn times_have_three_digits() {
        let shown = [7, 999, 1_234, 12_345, 123_456, 1_234_567].map(|micros| show(Duration::from_micros(micros)));
        assert_eq!(shown, ["7µs", "999µs", "1.23ms", "12.3ms", "123ms", "1.23s"]);
    }
}
