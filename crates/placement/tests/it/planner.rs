//! Properties of plans: full coverage, evenness, least movement, determinism.

use std::collections::BTreeSet;

use granary_placement::planner::{deal, plan};
use granary_placement::{Error, Plan, SLOT_COUNT, SlotTable, slots};
use granary_types::{Epoch, ShardId};
use proptest::prelude::*;

/// Counts over all of `shards`, also those that own nothing.
fn counts(table: &SlotTable, shards: &BTreeSet<ShardId>) -> Vec<usize> {
    let counts = table.counts();
    shards.iter().map(|shard| counts.get(shard).copied().unwrap_or(0)).collect()
}

fn assert_covers_evenly(table: &SlotTable, shards: &BTreeSet<ShardId>) {
    table.check(shards).expect("every slot is owned by one of the shards");
    let counts = counts(table, shards);
    assert_eq!(counts.iter().sum::<usize>(), usize::from(SLOT_COUNT));
    let (most, least) = (counts.iter().max().expect("shards"), counts.iter().min().expect("shards"));
    assert!(most - least <= 1, "{counts:?}");
    // At most one above the mean: max/mean stays below 1.02 up to 80 shards.
    if shards.len() <= 80 {
        let mean = f64::from(SLOT_COUNT) / shards.len() as f64;
        assert!(*most as f64 / mean <= 1.02, "{counts:?}");
    }
}

/// The moves are exactly the difference of the tables, and epochs rise for moved slots only.
fn assert_moves_explain(before: &SlotTable, plan: &Plan) {
    let moves: std::collections::BTreeMap<_, _> = plan.moves.iter().map(|step| (step.slot, step)).collect();
    assert_eq!(moves.len(), plan.moves.len(), "each slot moves at most once");
    assert!(plan.moves.is_sorted_by_key(|step| step.slot));
    for ((slot, from, epoch), (_, to, epoch_after)) in before.iter().zip(plan.table.iter()) {
        match moves.get(&slot) {
            Some(step) => {
                assert_eq!((step.from, step.to), (from, to));
                assert_ne!(from, to);
                assert_eq!(epoch_after, Epoch(epoch.0 + 1));
            }
            None => assert_eq!((from, epoch), (to, epoch_after)),
        }
    }
}

/// The fewest moves that any table within one slot of even needs: what the quotas leave over must go, with the larger
/// quotas given to the shards that hold the most.
fn least_moves(before: &SlotTable, shards: &BTreeSet<ShardId>) -> usize {
    let mut held = counts(before, shards);
    held.sort_unstable_by(|a, b| b.cmp(a));
    let (share, over) = (usize::from(SLOT_COUNT) / held.len(), usize::from(SLOT_COUNT) % held.len());
    let kept: usize = held.iter().enumerate().map(|(rank, held)| *held.min(&(share + usize::from(rank < over)))).sum();
    usize::from(SLOT_COUNT) - kept
}

fn shard_sets() -> impl Strategy<Value = BTreeSet<ShardId>> {
    prop::collection::btree_set((1..200_u32).prop_map(ShardId), 1..24)
}

/// Any table at all, also a very uneven one, over some of 1..=12.
fn tables() -> impl Strategy<Value = SlotTable> {
    (prop::collection::vec(1..=12_u32, usize::from(SLOT_COUNT)), 1..5_u64, 1..=12_u32).prop_map(
        |(mut shards, epoch, favourite)| {
            for shard in shards.iter_mut().step_by(3) {
                *shard = favourite;
            }
            SlotTable::from_vectors(&shards, &vec![epoch; usize::from(SLOT_COUNT)]).expect("well formed")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_deal_covers_evenly_and_deterministically(shards in shard_sets()) {
        let table = deal(&shards).expect("there are shards");
        assert_covers_evenly(&table, &shards);
        prop_assert!(table.iter().all(|(_, _, epoch)| epoch == Epoch(1)));
        prop_assert_eq!(&deal(&shards).expect("there are shards"), &table);
        prop_assert!(plan(&table, &shards).expect("there are shards").moves.is_empty());
    }

    #[test]
    fn adding_shards_moves_slots_only_to_the_new_ones(shards in shard_sets(), added in shard_sets()) {
        let before = deal(&shards).expect("there are shards");
        let after: BTreeSet<ShardId> = shards.union(&added).copied().collect();
        let plan = plan(&before, &after).expect("there are shards");
        assert_covers_evenly(&plan.table, &after);
        assert_moves_explain(&before, &plan);
        prop_assert!(plan.moves.iter().all(|step| !shards.contains(&step.to)));
        prop_assert_eq!(plan.moves.len(), least_moves(&before, &after));
    }

    #[test]
    fn removing_shards_moves_only_their_slots(shards in shard_sets(), pick in any::<prop::sample::Index>()) {
        prop_assume!(shards.len() > 1);
        let before = deal(&shards).expect("there are shards");
        let gone = *shards.iter().nth(pick.index(shards.len())).expect("the index is inside");
        let after: BTreeSet<ShardId> = shards.iter().copied().filter(|shard| *shard != gone).collect();
        let plan = plan(&before, &after).expect("there are shards");
        assert_covers_evenly(&plan.table, &after);
        assert_moves_explain(&before, &plan);
        prop_assert!(plan.moves.iter().all(|step| step.from == gone));
        prop_assert_eq!(plan.moves.len(), before.slots_of(gone).count());
    }

    #[test]
    fn any_table_is_evened_out_with_the_fewest_moves(before in tables(), shards in shard_sets()) {
        let plan = plan(&before, &shards).expect("there are shards");
        assert_covers_evenly(&plan.table, &shards);
        assert_moves_explain(&before, &plan);
        prop_assert_eq!(plan.moves.len(), least_moves(&before, &shards));
    }

    #[test]
    fn a_long_life_keeps_every_property(steps in prop::collection::vec(shard_sets(), 1..6)) {
        let mut table = deal(&steps[0]).expect("there are shards");
        for shards in &steps {
            let next = plan(&table, shards).expect("there are shards");
            assert_covers_evenly(&next.table, shards);
            assert_moves_explain(&table, &next);
            prop_assert_eq!(&plan(&table, shards).expect("there are shards"), &next);
            table = next.table;
        }
    }
}

/// Routers never compute this, but a node that replays the meta group's log with a newer build must: the first
/// table is made at apply. So it may not change either.
#[test]
fn the_first_table_is_fixed_for_ever() {
    let table = deal(&(1..=3).map(ShardId).collect()).expect("there are shards");
    let bytes: Vec<u8> = table.iter().flat_map(|(_, shard, _)| shard.0.to_be_bytes()).collect();
    assert_eq!(xxhash_rust::xxh3::xxh3_64(&bytes), 4_354_286_075_622_476_469);
}

#[test]
fn the_limits_are_refused() {
    assert_eq!(deal(&BTreeSet::new()), Err(Error::ShardCount { shards: 0 }));
    assert_eq!(deal(&(1..=4097).map(ShardId).collect()), Err(Error::ShardCount { shards: 4097 }));
    assert_eq!(deal(&(0..3).map(ShardId).collect()), Err(Error::MetaShard));
    let each: BTreeSet<ShardId> = (1..=u32::from(SLOT_COUNT)).map(ShardId).collect();
    let table = deal(&each).expect("one slot for each shard");
    assert_eq!(table.counts().len(), slots().len());
}
