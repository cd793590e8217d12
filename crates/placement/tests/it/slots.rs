//! The fixed hash, and the table as vectors.

use std::collections::BTreeSet;

use granary_placement::{Error, SLOT_COUNT, SlotTable, planner, slot_of, slots};
use granary_types::{Epoch, ShardId, Slot};

fn three_shards() -> BTreeSet<ShardId> {
    (1..=3).map(ShardId).collect()
}

/// These values may never change: stored keys begin with the slot, and every router must agree.
#[test]
fn the_hash_is_fixed_for_ever() {
    let all_bytes: Vec<u8> = (0..=255).collect();
    // As the reference implementation has them; the first is its published XXH3 of nothing, 0x2d06800538d394c2.
    let golden: [(&[u8], u16); 6] = [
        (b"", 0x4c2),
        (b"1", 344),
        (b"customer-1", 2_380),
        (b"0000000000000000", 1_133),
        ("kü".as_bytes(), 2_561),
        (&all_bytes, 3_441),
    ];
    let slots = golden.map(|(identifier, _)| slot_of(identifier).0);
    assert_eq!(slots, golden.map(|(_, slot)| slot));
}

#[test]
fn slots_are_hit_evenly() {
    let mut hits = vec![0_u32; usize::from(SLOT_COUNT)];
    for customer in 0..400_000 {
        hits[usize::from(slot_of(format!("customer-{customer}").as_bytes()).0)] += 1;
    }
    // The mean is 97.7; a Poisson count is this far off less than once in a million slots.
    assert!(hits.iter().all(|count| (45..=160).contains(count)), "{:?}", hits.iter().max());
}

#[test]
fn vectors_round_trip() {
    let table = planner::deal(&three_shards()).expect("three shards");
    let (shards, epochs) = table.to_vectors();
    assert_eq!(SlotTable::from_vectors(&shards, &epochs), Ok(table));
}

#[test]
fn wrong_vectors_are_refused() {
    let (shards, epochs) = planner::deal(&three_shards()).expect("three shards").to_vectors();
    assert_eq!(SlotTable::from_vectors(&shards[1..], &epochs), Err(Error::WrongLength { shards: 4095, epochs: 4096 }));
    assert_eq!(SlotTable::from_vectors(&shards, &[]), Err(Error::WrongLength { shards: 4096, epochs: 0 }));

    let mut meta_owned = shards.clone();
    meta_owned[7] = 0;
    assert_eq!(
        SlotTable::from_vectors(&meta_owned, &epochs),
        Err(Error::UnknownShard { slot: Slot(7), shard: ShardId::META })
    );
    let mut no_epoch = epochs;
    no_epoch[4095] = 0;
    assert_eq!(SlotTable::from_vectors(&shards, &no_epoch), Err(Error::NoEpoch { slot: Slot(4095), epoch: Epoch(0) }));
}

#[test]
fn a_table_names_only_shards_that_exist() {
    let table = planner::deal(&three_shards()).expect("three shards");
    assert_eq!(table.check(&three_shards()), Ok(()));
    let two = (1..=2).map(ShardId).collect();
    assert!(matches!(table.check(&two), Err(Error::UnknownShard { shard: ShardId(3), .. })));
    assert_eq!(table.get(Slot(SLOT_COUNT)), None);
    assert_eq!(slots().filter(|slot| table.get(*slot).is_some()).count(), 4096);
}
