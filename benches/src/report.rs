//! Figures and how they are printed.

use std::time::Duration;

use granary_bench::Histogram;

/// One measured figure.
#[derive(Debug)]
pub(crate) struct Figure {
    name: String,
    in_flight: usize,
    per_second: f64,
    unit: &'static str,
    p50: Option<Duration>,
    p99: Option<Duration>,
}

impl Figure {
    /// From the latencies of calls that each stand for `units`.
    pub(crate) fn of_calls(name: &str, in_flight: usize, latencies: &Histogram, units: u64, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            in_flight,
            per_second: latencies.len() as f64 * units as f64 / seconds,
            unit: "/s",
            p50: latencies.quantile(0.5),
            p99: latencies.quantile(0.99),
        }
    }

    /// From a count of rows and the seconds they took.
    pub(crate) fn of_rows(name: &str, rows: u64, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            in_flight: 1,
            per_second: rows as f64 / seconds,
            unit: " rows/s",
            p50: None,
            p99: None,
        }
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure and says so, since a run takes minutes.
    pub(crate) fn add(&mut self, figure: Figure) {
        eprintln!(
            "measured: {} ({} in flight): {:.0}{}",
            figure.name, figure.in_flight, figure.per_second, figure.unit
        );
        self.figures.push(figure);
    }

    /// Prints the table, or one JSON document.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = String::new();
        if json {
            let figures: Vec<_> = self.figures.iter().map(Figure::to_json).collect();
            out = serde_json::to_string_pretty(&figures)?;
        } else {
            out += "| what | in flight | per second | p50 | p99 |\n|---|---|---|---|---|\n";
            for figure in &self.figures {
                let time = |time: Option<Duration>| time.map_or(String::new(), |time| format!("{time:.1?}"));
                out += &format!(
                    "| {} | {} | {:.0}{} | {} | {} |\n",
                    figure.name,
                    figure.in_flight,
                    figure.per_second,
                    figure.unit,
                    time(figure.p50),
                    time(figure.p99)
                );
            }
        }
        std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes())?;
        Ok(())
    }
}

impl Figure {
    fn to_json(&self) -> serde_json::Value {
        let micros = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e6);
        serde_json::json!({
            "name": self.name,
            "in_flight": self.in_flight,
            "per_second": self.per_second,
            "p50_us": micros(self.p50),
            "p99_us": micros(self.p99),
        })
    }
}
