//! Apply depends on state and entry alone (RG-2): replicas with other settings, engines, caches and pasts, whose
//! checkpoints, snapshots and restarts come at other times, give equal answers, segments, snapshots and samples.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use granary_proto::internal::Segment;
use granary_shard::{Sample, Settings, ShardStore, TreeTrust};
use granary_store::memory::MemoryEngine;
use granary_store::{Engine as _, Tree};
use proptest::prelude::*;

use crate::commands::{SETTINGS, any_entries, apply, batch_within, open_slots, put, seal, snapshot, trim};
use crate::tree::TestTree;

/// Everything that replicas must agree about.
#[derive(Debug, PartialEq)]
struct Seen {
    replies: Vec<Bytes>,
    /// Every segment as it was sealed, also those trimmed since.
    segments: Vec<Segment>,
    samples: Vec<Sample>,
    body: Vec<u8>,
}

/// A replica and what it does beside applying.
struct Replica {
    tree: Arc<dyn Tree>,
    settings: Settings,
    /// Steps of the checkpointer after each entry.
    steps: u64,
    /// By its clock, rows get old between two entries.
    clock: Duration,
    /// A snapshot is taken, and the state thrown away and restored from it, after so many entries.
    restart_every: usize,
}

impl Replica {
    fn live(&self, entries: &[(u64, Bytes)]) -> Seen {
        let open = |trust| ShardStore::open_stepped(Arc::clone(&self.tree), trust, self.settings).expect("opens");
        let mut store = open(TreeTrust::Untrusted);
        let (mut now, mut replies, mut segments) = (Instant::now(), Vec::new(), Vec::<Segment>::new());
        for (place, (index, command)) in (1..).zip(entries) {
            replies.push(store.apply(*index, command).expect("is applied"));
            let last = segments.last().map_or(0, |segment| segment.last_sequence);
            segments.extend(store.segments_after(last, usize::MAX).segments);
            for _ in 0..self.steps {
                now += self.clock;
                store.step(now);
            }
            if place % self.restart_every == 0 {
                let body = snapshot(&store);
                drop(store);
                store = open(TreeTrust::Untrusted);
                store.restore(*index, true, &mut body.as_slice()).expect("is restored");
            }
        }
        store.scrub().expect("rows are whole");
        Seen { replies, segments, samples: store.samples(), body: snapshot(&store) }
    }
}

fn replicas() -> Vec<Replica> {
    let memory = || MemoryEngine::new().tree("rows").expect("memory opens");
    let tree = || -> Arc<dyn Tree> { Arc::new(TestTree::default()) };
    let plain = |tree| Replica { tree, settings: SETTINGS, steps: 0, clock: Duration::ZERO, restart_every: 1_000 };
    let tight = Settings { checkpoint_bytes: 1, checkpoint_step_cells: 1, row_cache_bytes: 0, ..SETTINGS };
    let other_budget = Settings { change_log_budget_bytes: 1, memory_table_bytes: 1, ..SETTINGS };
    let hasty = Settings { checkpoint_age_ms: 1, row_cache_bytes: 1 << 24, ..SETTINGS };
    vec![
        plain(tree()),
        Replica { settings: tight, steps: 1, ..plain(memory()) },
        Replica { settings: other_budget, steps: 9, ..plain(tree()) },
        Replica { settings: hasty, steps: 3, clock: Duration::from_hours(1), ..plain(memory()) },
        Replica { restart_every: 5, ..plain(memory()) },
        Replica { settings: tight, steps: 2, restart_every: 11, ..plain(tree()) },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_whatever_their_settings_engines_clocks_and_pasts(entries in any_entries()) {
        let mut replicas = replicas().into_iter();
        let first = replicas.next().expect("several").live(&entries);
        for (place, other) in (1..).zip(replicas) {
            prop_assert_eq!(&other.live(&entries), &first, "replica {}", place);
        }
    }
}

#[test]
fn samples_are_taken_at_the_same_indexes_on_every_replica() {
    let open = || ShardStore::open_stepped(Arc::new(TestTree::default()), TreeTrust::Untrusted, SETTINGS);
    let (straight, late) = (open().expect("opens"), open().expect("opens"));
    let command = |index: u64| match index {
        1 => open_slots(),
        // Indexes are not dense: blank and membership entries never come here.
        _ if index.is_multiple_of(7) => seal(index),
        _ if index % 50 == 1 => trim(index / 2),
        _ => batch_within(0, index, vec![put(u128::from(index), &format!("r{}", index % 300), 1)]),
    };
    let indexes = (1..4_000).filter(|index| !(1_020..1_030).contains(index) && index % 11 != 3);
    for index in indexes {
        apply(&straight, index, &command(index));
        if index == 1_500 {
            let body = snapshot(&straight);
            late.restore(index, false, &mut body.as_slice()).expect("is restored");
        } else if index > 1_500 {
            apply(&late, index, &command(index));
        }
    }
    let indexes = |samples: &[Sample]| samples.iter().map(|sample| sample.index).collect::<Vec<_>>();
    let (all, some) = (straight.samples(), late.samples());
    assert_eq!(indexes(&all), [1_024, 2_048, 3_072, 3_999]);
    assert_eq!(some, all[1..]);
    assert!(all.windows(2).all(|pair| pair[0].state_hash != pair[1].state_hash));
    let other = Sample { change_log_digest: Some(1), ..all[0] };
    assert_eq!((all[0].difference(&other), all[0].difference(&all[0])), (Some("change log"), None));
    let unknown = Sample { change_log_digest: None, ..all[0] };
    assert_eq!(all[0].difference(&unknown), None, "what is not known is not compared");
}
