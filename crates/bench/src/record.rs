//! What came of every operation.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::Histogram;
use crate::run::{Class, Failure};

/// A stretch of the run that has results of its own. What is due outside of all windows, such as the warm-up, is done and
/// left out of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What it is called, such as `storm`.
    pub name: String,
    /// Its begin, after the start of the run.
    pub from: Duration,
    /// Its end.
    pub until: Duration,
}

/// The result of one class of operations in one window.
///
/// Every operation that was due there is counted once: `scheduled` is the sum of `completed`, `timeouts`, `shed` and
/// all `errors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassResult {
    /// The class, such as `read`.
    pub class: String,
    /// The window.
    pub window: String,
    /// How long the window is.
    pub seconds: f64,
    /// The latency, in microseconds, up to which an operation is good.
    pub bound_us: u64,
    /// Operations that were due. In a closed loop: that were begun.
    pub scheduled: u64,
    /// Operations that did what they should.
    pub completed: u64,
    /// Of these, the good ones.
    pub within_bound: u64,
    /// Operations that failed, by error kind.
    pub errors: BTreeMap<String, u64>,
    /// Operations without an answer within their deadline.
    pub timeouts: u64,
    /// Operations that were not sent, as too many others waited already.
    pub shed: u64,
    /// Latencies of the completed ones, from when each was due.
    pub latency: Histogram,
}

impl ClassResult {
    fn new(class: &Class, window: &Window) -> Self {
        Self {
            class: class.name.clone(),
            window: window.name.clone(),
            seconds: (window.until - window.from).as_secs_f64(),
            bound_us: u64::try_from(class.bound.as_micros()).unwrap_or(u64::MAX),
            scheduled: 0,
            completed: 0,
            within_bound: 0,
            errors: BTreeMap::new(),
            timeouts: 0,
            shed: 0,
            latency: Histogram::default(),
        }
    }

    /// Completed operations a second.
    pub fn rate(&self) -> f64 {
        self.per_second(self.completed)
    }

    /// Operations a second that completed without error within the bound.
    pub fn goodput(&self) -> f64 {
        self.per_second(self.within_bound)
    }

    /// Operations that failed, of any kind.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds what another process counted of the same class in the same window.
    pub fn merge(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.completed += other.completed;
        self.within_bound += other.within_bound;
        self.timeouts += other.timeouts;
        self.shed += other.shed;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.latency.merge(&other.latency);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn per_second(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }
}

/// What a run measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// A result for each window and each class, windows first.
    pub classes: Vec<ClassResult>,
    /// How late the generator itself was to send; empty for a closed loop. Operations that waited because the server
    /// had too many already are not among them.
    pub lag: Histogram,
}

impl Outcome {
    /// Adds what another process measured by the same plan.
    pub fn merge(&mut self, other: &Self) {
        for result in &other.classes {
            let same = |mine: &&mut ClassResult| (&mine.class, &mine.window) == (&result.class, &result.window);
            match self.classes.iter_mut().find(same) {
                Some(mine) => mine.merge(result),
                None => self.classes.push(result.clone()),
            }
        }
        self.lag.merge(&other.lag);
    }

    /// Operations of all classes that completed.
    pub fn completed(&self) -> u64 {
        self.classes.iter().map(|result| result.completed).sum()
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Completed(Duration),
    Failed(Failure),
    TimedOut,
    Shed,
}

/// Counts ends, from any task.
#[derive(Debug)]
pub(crate) struct Recorder {
    windows: Vec<Window>,
    /// A window's classes stand together.
    results: Vec<Mutex<ClassResult>>,
    class_count: usize,
    lag: Mutex<Histogram>,
}

impl Recorder {
    pub(crate) fn new(classes: &[Class], windows: &[Window]) -> Self {
        let results = windows.iter().flat_map(|window| classes.iter().map(|class| ClassResult::new(class, window)));
        Self {
            results: results.map(Mutex::new).collect(),
            windows: windows.to_vec(),
            class_count: classes.len(),
            lag: Mutex::default(),
        }
    }

    /// Counts an operation that was due at `at`.
    pub(crate) fn end(&self, class: usize, at: Duration, end: End) {
        let Some(window) = self.window(at) else { return };
        let mut result = self.results[window * self.class_count + class].lock();
        result.scheduled += 1;
        match end {
            End::Completed(latency) => {
                result.completed += 1;
                result.within_bound += u64::from(latency.as_micros() <= u128::from(result.bound_us));
                result.latency.record(latency);
            }
            End::Failed(Failure(kind)) => *result.errors.entry(kind.to_owned()).or_default() += 1,
            End::TimedOut => result.timeouts += 1,
            End::Shed => result.shed += 1,
        }
    }

    /// Counts how late the generator sent what was due at `at`.
    pub(crate) fn lag(&self, at: Duration, lag: Duration) {
        if self.window(at).is_some() {
            self.lag.lock().record(lag);
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let classes = self.results.iter().map(|result| result.lock().clone()).collect();
        Outcome { classes, lag: self.lag.lock().clone() }
    }

    fn window(&self, at: Duration) -> Option<usize> {
        self.windows.iter().position(|window| (window.from..window.until).contains(&at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Recorder {
        let class = Class {
            name: "read".to_owned(),
            bound: Duration::from_millis(2),
            deadline: Duration::from_secs(1),
            phases: Vec::new(),
            share: 1.0,
        };
        let window = |name: &str, from, until| Window {
            name: name.to_owned(),
            from: Duration::from_secs(from),
            until: Duration::from_secs(until),
        };
        Recorder::new(&[class], &[window("quiet", 1, 3), window("storm", 3, 4)])
    }

    #[test]
    fn goodput_counts_what_completed_within_the_bound() {
        let recorder = recorder();
        let at = Duration::from_secs(2);
        for micros in [100, 2_000, 2_001, 50_000] {
            recorder.end(0, at, End::Completed(Duration::from_micros(micros)));
        }
        for end in [End::Failed(Failure("missing")), End::TimedOut, End::Shed] {
            recorder.end(0, at, end);
        }
        let result = recorder.outcome().classes.remove(0);
        assert_eq!((result.scheduled, result.completed, result.within_bound), (7, 4, 2));
        assert!((result.rate() - 2.0).abs() < 1e-9 && (result.goodput() - 1.0).abs() < 1e-9);
        assert_eq!(result.errors, BTreeMap::from([("missing".to_owned(), 1)]));
        assert_eq!(result.scheduled, result.completed + result.failed() + result.timeouts + result.shed);
    }

    #[test]
    fn windows_are_apart_and_the_warm_up_is_left_out() {
        let recorder = recorder();
        for millis in [0, 999, 1_000, 2_999, 3_000, 3_999, 4_000] {
            recorder.end(0, Duration::from_millis(millis), End::Completed(Duration::from_micros(1)));
            recorder.lag(Duration::from_millis(millis), Duration::from_micros(1));
        }
        let outcome = recorder.outcome();
        let counts: Vec<_> = outcome.classes.iter().map(|result| (result.window.as_str(), result.scheduled)).collect();
        assert_eq!(counts, [("quiet", 2), ("storm", 2)]);
        assert_eq!(outcome.lag.len(), 4);
    }

    #[test]
    fn outcomes_merge_class_by_class() {
        let (one, other) = (recorder(), recorder());
        one.end(0, Duration::from_secs(1), End::Completed(Duration::from_micros(7)));
        other.end(0, Duration::from_secs(1), End::Completed(Duration::from_micros(9)));
        other.end(0, Duration::from_secs(3), End::Failed(Failure("unavailable")));
        let mut merged = Outcome::default();
        merged.merge(&one.outcome());
        merged.merge(&other.outcome());
        assert_eq!((merged.classes[0].completed, merged.classes[0].latency.len()), (2, 2));
        assert_eq!((merged.classes[1].failed(), merged.completed()), (1, 2));
    }
}
