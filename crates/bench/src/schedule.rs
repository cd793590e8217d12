//! When operations are due: fixed before a run by a seed, whatever the server does meanwhile.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp1};

/// How the gaps between arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gaps {
    /// Exponentially, as the arrivals of many callers that know nothing of each other.
    #[default]
    Poisson,
    /// Not at all.
    Even,
}

/// A stretch of time with one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// How long.
    pub lasts: Duration,
    /// Arrivals a second; none at 0.
    pub per_second: f64,
}

/// The arrivals of one class of operations: the time of each after the start of the run, in order.
#[derive(Debug, Clone)]
pub struct Arrivals {
    phases: Vec<Phase>,
    /// The phase that the next arrival may fall in.
    phase: usize,
    /// When that phase ends, in seconds.
    ends: f64,
    /// The last arrival, or the begin of the phase.
    at: f64,
    /// The first of a phase is not a whole gap after its begin.
    first: bool,
    gaps: Gaps,
    random: StdRng,
}

impl Arrivals {
    /// Arrivals in `phases`, one after the other.
    pub fn new(phases: Vec<Phase>, gaps: Gaps, seed: u64) -> Self {
        let ends = phases.first().map_or(0.0, |phase| phase.lasts.as_secs_f64());
        Self { phases, phase: 0, ends, at: 0.0, first: true, gaps, random: StdRng::seed_from_u64(seed) }
    }

    fn gap(&mut self, per_second: f64) -> f64 {
        let gaps: f64 = match self.gaps {
            Gaps::Poisson => Exp1.sample(&mut self.random),
            // Several processes with even gaps must not all send at the same moments.
            Gaps::Even if self.first => self.random.random(),
            Gaps::Even => 1.0,
        };
        gaps / per_second
    }

    /// A Poisson process has no memory, so a new rate begins afresh with its phase.
    fn next_phase(&mut self) {
        self.phase += 1;
        self.at = self.ends;
        self.first = true;
        if let Some(phase) = self.phases.get(self.phase) {
            self.ends += phase.lasts.as_secs_f64();
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let phase = *self.phases.get(self.phase)?;
            if phase.per_second > 0.0 {
                let at = self.at + self.gap(phase.per_second);
                if at < self.ends {
                    (self.at, self.first) = (at, false);
                    return Some(Duration::from_secs_f64(at));
                }
            }
            self.next_phase();
        }
    }
}

/// One operation that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Index of its class.
    pub class: usize,
    /// Counts the arrivals of its class from 0.
    pub number: u64,
    /// When it is due, after the start of the run.
    pub at: Duration,
}

/// The arrivals of several classes in the order of their times.
#[derive(Debug, Clone)]
pub struct Merged {
    classes: Vec<(Arrivals, Option<Duration>, u64)>,
}

impl Merged {
    /// Merges `classes`.
    pub fn new(classes: impl IntoIterator<Item = Arrivals>) -> Self {
        let first = |mut arrivals: Arrivals| {
            let next = arrivals.next();
            (arrivals, next, 0)
        };
        Self { classes: classes.into_iter().map(first).collect() }
    }
}

impl Iterator for Merged {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let due = self.classes.iter().enumerate().filter_map(|(class, (_, next, _))| Some((next.as_ref()?, class)));
        let (&at, class) = due.min()?;
        let (arrivals, next, count) = &mut self.classes[class];
        let number = *count;
        (*next, *count) = (arrivals.next(), number + 1);
        Some(Arrival { class, number, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(seconds: u64, per_second: f64) -> Phase {
        Phase { lasts: Duration::from_secs(seconds), per_second }
    }

    fn count_between(arrivals: &[Duration], from: u64, until: u64) -> usize {
        let range = Duration::from_secs(from)..Duration::from_secs(until);
        arrivals.iter().filter(|at| range.contains(at)).count()
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let arrivals: Vec<_> = Arrivals::new(vec![phase(100, 1_000.0)], Gaps::Poisson, 7).collect();
        // 100,000 expected, with a standard deviation of 316: five of them either way.
        assert!(arrivals.len().abs_diff(100_000) < 1_600, "{}", arrivals.len());
        assert!(arrivals.is_sorted());
        // The variance of the counts of equal intervals is their mean: a ratio of 1, within some 1/sqrt(500) = 0.045.
        let mut counts = vec![0.0; 1_000];
        for at in &arrivals {
            counts[(at.as_millis() / 100) as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1_000.0;
        let variance = counts.iter().map(|count| (count - mean) * (count - mean)).sum::<f64>() / 1_000.0;
        assert!((0.75..1.25).contains(&(variance / mean)), "{variance} over {mean}");
    }

    #[test]
    fn a_schedule_is_its_seed() {
        let arrivals = |seed| Arrivals::new(vec![phase(1, 500.0)], Gaps::Poisson, seed).collect::<Vec<_>>();
        assert_eq!(arrivals(1), arrivals(1));
        assert_ne!(arrivals(1), arrivals(2));
    }

    #[test]
    fn even_arrivals_are_a_gap_apart() {
        let arrivals: Vec<_> = Arrivals::new(vec![phase(1, 100.0)], Gaps::Even, 3).collect();
        assert_eq!(arrivals.len(), 100);
        for pair in arrivals.windows(2) {
            assert_eq!((pair[1] - pair[0]).as_micros().div_ceil(10), 1_000);
        }
    }

    #[test]
    fn phases_have_their_own_rates() {
        let phases = vec![phase(10, 100.0), phase(10, 0.0), phase(10, 1_000.0)];
        let arrivals: Vec<_> = Arrivals::new(phases, Gaps::Poisson, 1).collect();
        assert!(count_between(&arrivals, 0, 10).abs_diff(1_000) < 160);
        assert_eq!(count_between(&arrivals, 10, 20), 0);
        assert!(count_between(&arrivals, 20, 30).abs_diff(10_000) < 500);
        assert_eq!(count_between(&arrivals, 30, 99), 0);
    }

    #[test]
    fn classes_are_merged_by_time_and_numbered_each() {
        let class = |rate, seed| Arrivals::new(vec![phase(2, rate)], Gaps::Poisson, seed);
        let merged: Vec<_> = Merged::new([class(100.0, 1), class(10.0, 2)]).collect();
        assert!(merged.is_sorted_by_key(|arrival| arrival.at));
        for (index, (rate, seed)) in [(100.0, 1), (10.0, 2)].into_iter().enumerate() {
            let of_class = || merged.iter().filter(|arrival| arrival.class == index);
            assert!(of_class().map(|arrival| arrival.number).eq(0..of_class().count() as u64));
            assert!(of_class().map(|arrival| arrival.at).eq(class(rate, seed)));
        }
    }
}
