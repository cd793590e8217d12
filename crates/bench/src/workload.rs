//! The workloads as data: which groups there are, what one read asks for, how much is written, and what is good.
//!
//! They are the W1 to W7 and W11 of the survey of feature stores in use: full-size numbers here, scaled to the machine
//! by [`Workload::scaled`]. Keys and values follow from a seed and the number of an operation, so a run can be repeated.

use std::time::Duration;

use granary_proto::v1::{FeatureType, FeatureValue, Value, value};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::keys::{Keys, Skew};
use crate::mix;

/// The feature that identifies a record.
pub const IDENTIFIER: &str = "entity";
/// The feature that holds a record's event time.
pub const EVENT_TIME: &str = "at";
/// Identifier and event time: what every record has besides the features of its workload.
pub const OWN_FEATURES: usize = 2;

/// What is special about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads and writes all along.
    Mixed,
    /// Reads all along, and writes in two phases of three: a storm, and a burst of five times as many.
    Storm,
    /// Events that are put and looked for, online and offline.
    Freshness,
}

/// A feature group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its name, behind the prefix.
    pub name: &'static str,
    /// Records.
    pub entities: u64,
    /// Fractional features.
    pub fractional: u32,
    /// Integral features.
    pub integral: u32,
    /// Text features.
    pub text: u32,
    /// Bytes of each text.
    pub text_bytes: u32,
}

impl Group {
    /// Features besides identifier and event time.
    pub fn feature_count(&self) -> u32 {
        self.fractional + self.integral + self.text
    }

    /// Bytes of a record's values, without names.
    pub fn record_bytes(&self) -> u64 {
        u64::from(self.fractional + self.integral) * 8 + u64::from(self.text) * u64::from(self.text_bytes)
    }

    /// Its features with their types, in order.
    pub fn features(&self) -> Vec<(String, FeatureType)> {
        let own = [(IDENTIFIER, FeatureType::String), (EVENT_TIME, FeatureType::Fractional)];
        let mut features: Vec<_> = own.map(|(name, kind)| (name.to_owned(), kind)).into();
        let kinds = [
            ("f", self.fractional, FeatureType::Fractional),
            ("i", self.integral, FeatureType::Integral),
            ("s", self.text, FeatureType::String),
        ];
        for (letter, count, kind) in kinds {
            features.extend((0..count).map(|number| (format!("{letter}{number}"), kind)));
        }
        features
    }

    /// `count` of its features, evenly spread over all that are not its own.
    pub fn projection(&self, count: u32) -> Vec<String> {
        let features = self.features();
        let of_workload = &features[OWN_FEATURES..];
        let place = |number: u32| (u64::from(number) * of_workload.len() as u64 / u64::from(count.max(1))) as usize;
        (0..count.min(self.feature_count())).map(|number| of_workload[place(number)].0.clone()).collect()
    }

    /// A record with all its values: the same for the same seed, key and version.
    pub fn record(&self, seed: u64, key: u64, version: u64, event_time_nanos: u64) -> Vec<FeatureValue> {
        let seconds = event_time_nanos / 1_000_000_000;
        let at = format!("{seconds}.{:09}", event_time_nanos % 1_000_000_000);
        let of_record = mix(mix(seed, key), version);
        let values = self.features().into_iter().enumerate().map(|(place, (name, kind))| {
            let mixed = mix(of_record, place as u64);
            let value = match kind {
                _ if name == IDENTIFIER => value::Kind::Text(identifier(key)),
                _ if name == EVENT_TIME => value::Kind::Text(at.clone()),
                FeatureType::Fractional => value::Kind::Fractional((mixed >> 11) as f64 / (1_u64 << 43) as f64),
                FeatureType::Integral => value::Kind::Integral((mixed % 1_000_000) as i64),
                _ => value::Kind::Text(text(mixed, self.text_bytes)),
            };
            FeatureValue { name, value: Some(Value { kind: Some(value) }) }
        });
        values.collect()
    }
}

/// The identifier of a key's record.
pub fn identifier(key: u64) -> String {
    format!("entity-{key:010}")
}

fn text(mut state: u64, bytes: u32) -> String {
    let mut text = String::with_capacity(bytes as usize);
    while text.len() < bytes as usize {
        state = mix(state, 0);
        let letters = state.to_le_bytes().into_iter().map(|byte| char::from(b'a' + byte % 26));
        text.extend(letters.take(bytes as usize - text.len()));
    }
    text
}

/// A part of what one read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Index of the group.
    pub group: usize,
    /// Index of the key drawn: parts with the same one ask for the same keys.
    pub key: usize,
    /// Records.
    pub records: u64,
    /// Features of each; all unless set.
    pub features: Option<u32>,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// `W1` and so on.
    pub id: &'static str,
    /// In a few words.
    pub about: &'static str,
    /// What is special about it.
    pub kind: Kind,
    /// Its feature groups.
    pub groups: Vec<Group>,
    /// What one read asks for.
    pub asks: Vec<Ask>,
    /// The share of reads among all operations.
    pub read_share: f64,
    /// How keys are drawn.
    pub skew: Skew,
    /// The latency up to which a read is good.
    pub bound: Duration,
    /// The scale at which its largest group has some 10,000 entities.
    pub default_scale: f64,
    /// Operations a second, unless told otherwise: modest enough for two cores.
    pub default_rate: f64,
}

impl Workload {
    /// All of them, in full size.
    pub fn all() -> Vec<Self> {
        vec![w1(), w2(), w3(), w4(), w5(), w6(), w7(), w11()]
    }

    /// The workload called `id`, whatever its case.
    pub fn find(id: &str) -> Option<Self> {
        Self::all().into_iter().find(|workload| workload.id.eq_ignore_ascii_case(id))
    }

    /// The same with `scale` times as many entities, but never fewer than one read asks for.
    #[must_use]
    pub fn scaled(mut self, scale: f64) -> Self {
        for (index, group) in self.groups.iter_mut().enumerate() {
            let least = self.asks.iter().filter(|ask| ask.group == index).map(|ask| ask.records).max().unwrap_or(1);
            #[expect(clippy::cast_precision_loss, reason = "far fewer entities than 2^52")]
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, rounded")]
            let entities = (group.entities as f64 * scale).round() as u64;
            group.entities = entities.max(least);
        }
        self
    }

    /// The same where the largest part of a read asks for `records` records.
    #[must_use]
    pub fn with_records(mut self, records: u64) -> Self {
        if let Some(largest) = self.asks.iter_mut().max_by_key(|ask| ask.records) {
            let group = largest.group;
            for ask in self.asks.iter_mut().filter(|ask| ask.group == group) {
                ask.records = records;
            }
        }
        self
    }

    /// Records that one read asks for.
    pub fn records_per_read(&self) -> u64 {
        self.asks.iter().map(|ask| ask.records).sum()
    }

    /// Values that one read asks for, identifiers and event times not counted.
    pub fn values_per_read(&self) -> u64 {
        let features = |ask: &Ask| ask.features.unwrap_or(self.groups[ask.group].feature_count());
        self.asks.iter().map(|ask| ask.records * u64::from(features(ask))).sum()
    }
}

/// Draws the keys of operations.
#[derive(Debug, Clone)]
pub struct Draws {
    keys: Vec<Keys>,
    asks: Vec<Ask>,
    seed: u64,
}

impl Draws {
    /// For operations of `workload`. `hot_seed` says which keys are hot: all processes of a run share it, while `seed`
    /// is each one's own.
    pub fn new(workload: &Workload, hot_seed: u64, seed: u64) -> Self {
        let groups = workload.groups.iter().enumerate();
        let keys = groups.map(|(index, group)| Keys::new(group.entities, workload.skew, mix(hot_seed, index as u64)));
        Self { keys: keys.collect(), asks: workload.asks.clone(), seed }
    }

    /// The keys of each part of a read.
    pub fn read(&self, number: u64) -> Vec<Vec<u64>> {
        let of_ask = |ask: &Ask| {
            let mut random = StdRng::seed_from_u64(mix(mix(self.seed, number), ask.key as u64));
            // Groups of one key may still differ in size, and then in which of their keys are hot.
            self.keys[ask.group].draw_distinct(ask.records, &mut random)
        };
        self.asks.iter().map(of_ask).collect()
    }

    /// Group and key of each record of a write.
    pub fn write(&self, number: u64, records: u64) -> Vec<(usize, u64)> {
        let mut random = StdRng::seed_from_u64(mix(mix(!self.seed, number), 0));
        let group = (mix(self.seed, !number) % self.keys.len() as u64) as usize;
        let keys = self.keys[group].draw_distinct(records, &mut random);
        keys.into_iter().map(|key| (group, key)).collect()
    }
}

const ZIPF: Skew = Skew::Zipf(0.99);

/// 50 features of some 1.7 KB: 15 fractional, 15 integral, 20 texts of 73 bytes.
fn of_50(name: &'static str, entities: u64) -> Group {
    Group { name, entities, fractional: 15, integral: 15, text: 20, text_bytes: 73 }
}

fn numbers(name: &'static str, entities: u64, fractional: u32, integral: u32) -> Group {
    Group { name, entities, fractional, integral, text: 0, text_bytes: 0 }
}

fn ask(group: usize, key: usize, records: u64) -> Ask {
    Ask { group, key, records, features: None }
}

fn w1() -> Workload {
    Workload {
        id: "W1",
        about: "fraud: one entity, 150 features of 3 groups by 2 keys",
        kind: Kind::Mixed,
        groups: vec![of_50("w1-users", 10_000_000), of_50("w1-history", 10_000_000), of_50("w1-merchants", 1_000_000)],
        asks: vec![ask(0, 0, 1), ask(1, 0, 1), ask(2, 1, 1)],
        read_share: 0.95,
        skew: ZIPF,
        bound: Duration::from_millis(2),
        default_scale: 0.001,
        default_rate: 200.0,
    }
}

fn w2() -> Workload {
    Workload {
        id: "W2",
        about: "ranking: one user and 200 items",
        kind: Kind::Mixed,
        groups: vec![numbers("w2-users", 10_000_000, 100, 100), numbers("w2-items", 1_000_000, 25, 25)],
        asks: vec![ask(0, 0, 1), ask(1, 1, 200)],
        read_share: 0.99,
        skew: ZIPF,
        bound: Duration::from_millis(10),
        default_scale: 0.001,
        default_rate: 20.0,
    }
}

fn w3() -> Workload {
    Workload {
        id: "W3",
        about: "advertising: 500 entities, 50 of 300 features",
        kind: Kind::Mixed,
        groups: vec![numbers("w3-ads", 1_000_000, 150, 150)],
        asks: vec![Ask { features: Some(50), ..ask(0, 0, 500) }],
        read_share: 0.97,
        skew: ZIPF,
        bound: Duration::from_millis(15),
        default_scale: 0.01,
        default_rate: 10.0,
    }
}

fn w4() -> Workload {
    Workload {
        id: "W4",
        about: "Feast's service level: 50 entities of 200 features",
        kind: Kind::Mixed,
        groups: vec![numbers("w4-entities", 1_000_000, 100, 100)],
        asks: vec![ask(0, 0, 50)],
        read_share: 1.0,
        skew: Skew::Uniform,
        bound: Duration::from_millis(5),
        default_scale: 0.01,
        default_rate: 20.0,
    }
}

fn w5() -> Workload {
    Workload {
        id: "W5",
        about: "murr: 1,000 entities of 10 numbers",
        kind: Kind::Mixed,
        groups: vec![numbers("w5-entities", 100_000_000, 10, 0)],
        asks: vec![ask(0, 0, 1_000)],
        read_share: 1.0,
        skew: Skew::Uniform,
        bound: Duration::from_millis(1),
        default_scale: 0.0001,
        default_rate: 10.0,
    }
}

fn w6() -> Workload {
    Workload {
        id: "W6",
        about: "RonDB: 100 entities of 5 integers",
        kind: Kind::Mixed,
        groups: vec![numbers("w6-entities", 1_000_000, 0, 5)],
        asks: vec![ask(0, 0, 100)],
        read_share: 1.0,
        skew: Skew::Uniform,
        bound: Duration::from_millis(3),
        default_scale: 0.01,
        default_rate: 100.0,
    }
}

fn w7() -> Workload {
    Workload {
        id: "W7",
        about: "W1's reads, then with a storm of writes, then with a burst of 5 times as many",
        kind: Kind::Storm,
        read_share: 1.0,
        ..w1()
    }
}

fn w11() -> Workload {
    Workload {
        id: "W11",
        about: "freshness: from an event to its read, and to the offline table",
        kind: Kind::Freshness,
        groups: vec![numbers("w11-events", 1_000_000, 5, 5)],
        asks: vec![ask(0, 0, 1)],
        read_share: 1.0,
        skew: Skew::Uniform,
        bound: Duration::from_millis(50),
        default_scale: 0.01,
        default_rate: 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ask_for_what_the_survey_says() {
        let asked: Vec<_> = Workload::all()
            .iter()
            .map(|workload| (workload.id, workload.records_per_read(), workload.values_per_read()))
            .collect();
        let expected = [
            ("W1", 3, 150),
            ("W2", 201, 200 + 200 * 50),
            ("W3", 500, 500 * 50),
            ("W4", 50, 50 * 200),
            ("W5", 1_000, 10_000),
            ("W6", 100, 500),
            ("W7", 3, 150),
            ("W11", 1, 10),
        ];
        assert_eq!(asked, expected);
        assert_eq!(of_50("x", 1).record_bytes(), 1_700);
    }

    #[test]
    fn the_default_scale_fits_a_laptop() {
        for workload in Workload::all() {
            let scale = workload.default_scale;
            let largest = workload.scaled(scale).groups.iter().map(|group| group.entities).max();
            assert_eq!(largest, Some(10_000));
        }
        let tiny = w2().scaled(0.000_001);
        assert_eq!(tiny.groups.iter().map(|group| group.entities).collect::<Vec<_>>(), [10, 200]);
        assert_eq!(w6().with_records(150).records_per_read(), 150);
    }

    #[test]
    fn values_follow_from_seed_key_and_version() {
        let group = of_50("x", 10);
        let record = |seed, key, version| group.record(seed, key, version, 1_500_000_000_000_000_007);
        assert_eq!(record(1, 2, 3), record(1, 2, 3));
        for other in [record(2, 2, 3), record(1, 3, 3), record(1, 2, 4)] {
            let same = record(1, 2, 3).iter().zip(&other).filter(|(one, other)| one == other).count();
            // The event time is the same, the identifier may be, and small numbers meet now and then.
            assert!(same <= 3, "{same}");
        }
        let texts: Vec<_> = record(1, 2, 3).into_iter().take(2).map(|value| value.value).collect();
        let text = |text: &str| Some(Value { kind: Some(value::Kind::Text(text.to_owned())) });
        assert_eq!(texts, [text("entity-0000000002"), text("1500000000.000000007")]);
        assert_eq!(record(1, 2, 3).len(), 52);
    }

    #[test]
    fn a_projection_is_spread_over_the_features() {
        let ads = w3().groups[0];
        let names = ads.projection(50);
        assert_eq!((names.len(), names[0].as_str(), names[49].as_str()), (50, "f0", "i144"));
        assert_eq!(ads.projection(999).len(), 300);
    }

    #[test]
    fn operations_are_the_same_for_one_seed_and_hot_keys_for_all() {
        let workload = w1().scaled(0.0001);
        let draws = |seed| Draws::new(&workload, 1, seed);
        assert_eq!(draws(5).read(7), draws(5).read(7));
        assert_eq!(draws(5).write(7, 3), draws(5).write(7, 3));
        assert_ne!(
            (0..9).map(|n| draws(5).read(n)).collect::<Vec<_>>(),
            (0..9).map(|n| draws(6).read(n)).collect::<Vec<_>>()
        );
        let hottest = |seed| {
            let draws = draws(seed);
            let mut counts = vec![0; 1_000];
            (0..5_000).for_each(|number| counts[draws.read(number)[0][0] as usize] += 1);
            (0..1_000).max_by_key(|&key| counts[key])
        };
        assert_eq!(hottest(5), hottest(6));
        let written: std::collections::HashSet<_> = (0..200).map(|number| draws(5).write(number, 1)[0].0).collect();
        assert_eq!(written.len(), 3, "every group is written to");
    }
}
