//! Latencies, counted so that several processes' counts merge exactly.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest that has a place of its own, in microseconds.
const HIGHEST_US: u64 = 60_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Counts of latencies from 1 µs to 60 s with three significant digits; what is longer is counted as that.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Compact", into = "Compact")]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
    above: u64,
    max_us: u64,
}

/// How a histogram is written: the values that were seen with their counts. Read again and merged, each value falls
/// in the place that it came from.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Compact {
    /// Microseconds and how many of them, in order.
    counts: Vec<(u64, u64)>,
    /// How many took longer than 60 s.
    above: u64,
    /// The longest, in microseconds.
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = hdrhistogram::Histogram::new_with_bounds(1, HIGHEST_US, SIGNIFICANT_DIGITS);
        Self { counts: counts.expect("the bounds are right"), above: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts one latency; what is shorter than a microsecond counts as one.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.count(micros, 1);
        self.max_us = self.max_us.max(micros);
    }

    fn count(&mut self, micros: u64, count: u64) {
        if micros > HIGHEST_US || self.counts.record_n(micros.max(1), count).is_err() {
            self.above += count;
        }
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.add(&other.counts).expect("all have the same bounds");
        self.above += other.above;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many latencies were counted.
    pub fn len(&self) -> u64 {
        self.counts.len() + self.above
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many took longer than 60 s.
    pub fn above(&self) -> u64 {
        self.above
    }

    /// The longest; zero without any.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// The latency that the share `quantile` of all did not exceed, to three digits; none without any. Where that
    /// share reaches into what took longer than 60 s, the longest.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let rank = ((self.len() as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        if rank > self.counts.len() {
            return Some(self.max());
        }
        // A place holds values that differ in the fourth digit; its upper end must not exceed the longest.
        let mut before = 0;
        let mut places = self.counts.iter_recorded();
        let place = places.find(|place| {
            before += place.count_at_value();
            before >= rank
        })?;
        Some(Duration::from_micros(place.value_iterated_to().min(self.max_us)))
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        (&self.counts, self.above, self.max_us) == (&other.counts, other.above, other.max_us)
    }
}

impl From<Histogram> for Compact {
    fn from(histogram: Histogram) -> Self {
        let places = histogram.counts.iter_recorded();
        let counts = places.map(|place| (place.value_iterated_to(), place.count_at_value())).collect();
        Self { counts, above: histogram.above, max_us: histogram.max_us }
    }
}

impl From<Compact> for Histogram {
    fn from(compact: Compact) -> Self {
        let mut histogram = Self { above: compact.above, max_us: compact.max_us, ..Self::default() };
        for (micros, count) in compact.counts {
            // The upper end of the last place lies above the bound.
            histogram.count(micros.min(HIGHEST_US), count);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        micros.into_iter().for_each(|micros| histogram.record(Duration::from_micros(micros)));
        histogram
    }

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let histogram = of(1..=100_000);
        for (quantile, micros) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let got = histogram.quantile(quantile).expect("not empty").as_secs_f64() * 1e6;
            assert!((got / micros - 1.0).abs() < 0.001, "{quantile}: {got}");
        }
        assert_eq!(histogram.max(), Duration::from_millis(100));
        assert_eq!(histogram.quantile(1.0), Some(histogram.max()));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn what_is_too_short_or_too_long_is_counted() {
        let mut histogram = of([61_000_000, 60_000_000]);
        histogram.record(Duration::from_nanos(1));
        assert_eq!((histogram.len(), histogram.above()), (3, 1));
        assert_eq!(histogram.quantile(0.1), Some(Duration::from_micros(1)));
        assert_eq!(histogram.quantile(0.99), Some(Duration::from_secs(61)));
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut one, other) = (of((1..9_000).step_by(7)), of((5..70_000_000).step_by(90_001)));
        one.merge(&other);
        assert_eq!(one, of((1..9_000).step_by(7).chain((5..70_000_000).step_by(90_001))));
    }

    #[test]
    fn json_keeps_everything() {
        for histogram in [Histogram::default(), of((1..80_000_000).step_by(12_345)), of([60_000_000, 59_999_999, 1])] {
            let json = serde_json::to_string(&histogram).expect("plain numbers");
            let mut read: Histogram = serde_json::from_str(&json).expect("as written");
            assert_eq!(read, histogram, "{json}");
            // And what is read merges like what was counted.
            read.merge(&histogram);
            assert_eq!(read.len(), 2 * histogram.len());
        }
        assert_eq!(serde_json::to_string(&of([7, 7])).expect("JSON"), r#"{"counts":[[7,2]],"above":0,"max_us":7}"#);
    }
}
