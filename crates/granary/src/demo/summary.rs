//! What the demo did, in plain words, and whether it was right.

use std::fmt;
use std::time::Duration;

use serde_json::json;

/// The demo's report.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    steps: Vec<Step>,
    checks: Vec<Check>,
    tables: Vec<String>,
    took: Duration,
}

#[derive(Debug)]
struct Step {
    what: String,
    count: usize,
    things: &'static str,
    took: Duration,
}

#[derive(Debug)]
struct Check {
    what: String,
    failure: Option<String>,
}

impl Summary {
    /// Something was done with `count` things, none where it only took time.
    pub(super) fn did(&mut self, what: impl Into<String>, count: usize, things: &'static str, took: Duration) {
        self.steps.push(Step { what: what.into(), count, things, took });
    }

    /// Something was compared with what it must be.
    pub(super) fn check(&mut self, what: impl Into<String>, result: Result<(), String>) {
        self.checks.push(Check { what: what.into(), failure: result.err() });
    }

    /// A result to show.
    pub(super) fn show(&mut self, title: &str, table: &str) {
        self.tables.push(format!("{title}\n{table}"));
    }

    /// The demo is over.
    pub(super) fn finish(&mut self, took: Duration) {
        self.took = took;
    }

    /// # Errors
    /// Where a check failed.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let failed = self.checks.iter().filter(|check| check.failure.is_some()).count();
        if failed > 0 {
            anyhow::bail!("{failed} of {} checks failed", self.checks.len());
        }
        Ok(())
    }

    /// The report for programs.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let step = |step: &Step| {
            json!({
                "what": step.what,
                "count": step.count,
                "things": step.things,
                "seconds": step.took.as_secs_f64(),
                "per_second": step.rate(),
            })
        };
        let check = |check: &Check| json!({ "what": check.what, "failure": check.failure });
        json!({
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
            "seconds": self.took.as_secs_f64(),
        })
    }
}

impl Step {
    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let count = self.count as f64;
        count / self.took.as_secs_f64().max(1e-6)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nDone")?;
        for step in &self.steps {
            let seconds = step.took.as_secs_f64();
            let count = match step.count {
                0 => String::new(),
                count => format!("{} {}", thousands(count), step.things),
            };
            write!(f, "  {:<44} {count:<20} {seconds:>7.2} s", step.what)?;
            if step.count > 1 { writeln!(f, "  {:>9}/s", thousands(rounded(step.rate())))? } else { writeln!(f)? }
        }
        for table in &self.tables {
            writeln!(f, "\n{}", table.trim_end())?;
        }
        writeln!(f, "\nChecked")?;
        for check in &self.checks {
            match &check.failure {
                None => writeln!(f, "  ok      {}", check.what)?,
                Some(failure) => writeln!(f, "  FAILED  {}: {failure}", check.what)?,
            }
        }
        let failed = self.checks.iter().filter(|check| check.failure.is_some()).count();
        let seconds = self.took.as_secs_f64();
        match failed {
            0 => write!(f, "\nAll {} checks passed in {seconds:.1} s.", self.checks.len()),
            failed => write!(f, "\n{failed} of {} checks FAILED ({seconds:.1} s).", self.checks.len()),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and small")]
fn rounded(rate: f64) -> usize {
    rate.round() as usize
}

/// 1234567 as `1,234,567`.
pub(super) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_an_error() {
        let mut summary = Summary::default();
        summary.did("put flights", 336_776, "records", Duration::from_secs(10));
        summary.check("counts agree", Ok(()));
        assert!(summary.verdict().is_ok());
        assert!(summary.to_string().contains("336,776 records") && summary.to_string().contains("33,678/s"));
        summary.check("means agree", Err("1 is not 2".to_owned()));
        assert!(summary.verdict().is_err());
        assert!(summary.to_string().contains("FAILED  means agree: 1 is not 2"));
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
