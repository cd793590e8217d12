//! Which keys operations touch: uniform or Zipf, fixed by a seed.

use rand::Rng;
use rand::distr::Uniform;
use rand_distr::{Distribution, Zipf};

use crate::mix;

/// How often each key is touched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Skew {
    /// All alike.
    Uniform,
    /// The one of rank r as often as 1 / r to the power of this exponent.
    Zipf(f64),
}

/// Draws keys 0 to n - 1.
#[derive(Debug, Clone)]
pub struct Keys {
    count: u64,
    ranks: Ranks,
    /// Which key has which rank.
    order: Order,
}

#[derive(Debug, Clone)]
enum Ranks {
    Uniform(Uniform<u64>),
    Zipf(Zipf<f64>),
}

impl Keys {
    /// Keys 0 to `count` - 1; at least one. `seed` says which of them are hot, so all processes of a run share it.
    pub fn new(count: u64, skew: Skew, seed: u64) -> Self {
        let count = count.max(1);
        let uniform = || Ranks::Uniform(Uniform::new(0, count).expect("at least one key"));
        #[expect(clippy::cast_precision_loss, reason = "far fewer keys than 2^52")]
        let ranks = match skew {
            Skew::Uniform => uniform(),
            Skew::Zipf(exponent) => Zipf::new(count as f64, exponent).map_or_else(|_| uniform(), Ranks::Zipf),
        };
        Self { count, ranks, order: Order::new(count, seed) }
    }

    /// How many keys there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One key.
    pub fn draw(&self, random: &mut impl Rng) -> u64 {
        let rank = match &self.ranks {
            Ranks::Uniform(ranks) => ranks.sample(random),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number from 1 on")]
            Ranks::Zipf(ranks) => (ranks.sample(random) as u64).clamp(1, self.count) - 1,
        };
        self.order.key_of(rank)
    }

    /// `wanted` keys of which no two are alike, or all keys where there are not so many.
    pub fn draw_distinct(&self, wanted: u64, random: &mut impl Rng) -> Vec<u64> {
        let wanted = usize::try_from(wanted.min(self.count)).unwrap_or(usize::MAX);
        let mut seen = std::collections::HashSet::with_capacity(wanted);
        let mut keys = Vec::with_capacity(wanted);
        // Of a skewed distribution the last few would take for ever: from then on the neighbours of what is drawn.
        let (mut tries, tries_max) = (0, wanted * 8);
        while keys.len() < wanted {
            let mut key = self.draw(random);
            tries += 1;
            while tries > tries_max && seen.contains(&key) {
                key = (key + 1) % self.count;
            }
            if seen.insert(key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// A permutation of 0 to n - 1 that looks random: ranks next to each other are keys far apart.
///
/// A Feistel network permutes the smallest power of four that holds n; what falls outside is permuted again.
#[derive(Debug, Clone)]
struct Order {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Order {
    fn new(count: u64, seed: u64) -> Self {
        let bits = u64::BITS - (count - 1).leading_zeros();
        Self { count, half_bits: bits.div_ceil(2).max(1), seed }
    }

    fn key_of(&self, rank: u64) -> u64 {
        let mut key = self.permute(rank);
        while key >= self.count {
            key = self.permute(key);
        }
        key
    }

    fn permute(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(self.seed ^ round, right) & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn every_rank_is_one_key() {
        for count in [1, 2, 3, 4, 5, 100, 1_000, 4_097] {
            let order = Order::new(count, 9);
            let mut keys: Vec<_> = (0..count).map(|rank| order.key_of(rank)).collect();
            keys.sort_unstable();
            assert!(keys.into_iter().eq(0..count), "{count}");
        }
    }

    #[test]
    fn zipf_is_as_theory_says() {
        let (count, exponent, draws) = (10_000_u64, 0.99, 400_000);
        let keys = Keys::new(count, Skew::Zipf(exponent), 1);
        let mut random = StdRng::seed_from_u64(5);
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for _ in 0..draws {
            *seen.entry(keys.draw(&mut random)).or_default() += 1;
        }
        let whole: f64 = (1..=count).map(|rank| (rank as f64).powf(-exponent)).sum();
        for rank in [1_u64, 2, 5, 10, 50] {
            let expected = f64::from(draws) * (rank as f64).powf(-exponent) / whole;
            let got = f64::from(seen[&keys.order.key_of(rank - 1)]);
            // Six standard deviations of a count.
            assert!((got - expected).abs() < 6.0 * expected.sqrt(), "rank {rank}: {got}, expected {expected}");
        }
        let top: f64 = (0..1_000).map(|rank| f64::from(*seen.get(&keys.order.key_of(rank)).unwrap_or(&0))).sum();
        let expected = (1..=1_000_u64).map(|rank| (rank as f64).powf(-exponent)).sum::<f64>() / whole;
        assert!((top / f64::from(draws) - expected).abs() < 0.01, "{top} of {draws}, expected {expected}");
    }

    #[test]
    fn the_hot_keys_are_not_neighbours() {
        let keys = Keys::new(1 << 20, Skew::Zipf(0.99), 1);
        let mut hottest: Vec<_> = (0..64).map(|rank| keys.order.key_of(rank)).collect();
        hottest.sort_unstable();
        // 64 keys spread at random over 16 parts leave hardly any part empty; neighbours would fill one.
        let parts: std::collections::HashSet<_> = hottest.iter().map(|key| key >> 16).collect();
        assert!(parts.len() >= 10, "{parts:?}");
    }

    #[test]
    fn uniform_keys_are_alike() {
        let keys = Keys::new(100, Skew::Uniform, 1);
        let mut random = StdRng::seed_from_u64(5);
        let mut seen = [0_i64; 100];
        for _ in 0..100_000 {
            seen[usize::try_from(keys.draw(&mut random)).expect("below 100")] += 1;
        }
        assert!(seen.iter().all(|count| (count - 1_000).abs() < 190), "{seen:?}");
    }

    #[test]
    fn distinct_keys_are_distinct_and_end() {
        let mut random = StdRng::seed_from_u64(5);
        for (count, wanted) in [(10, 10), (10, 20), (1_000, 1_000), (100_000, 500)] {
            let keys = Keys::new(count, Skew::Zipf(2.0), 1).draw_distinct(wanted, &mut random);
            let distinct: std::collections::HashSet<_> = keys.iter().collect();
            assert_eq!((keys.len() as u64, distinct.len()), (wanted.min(count), keys.len()));
            assert!(keys.iter().all(|&key| key < count));
        }
    }
}
