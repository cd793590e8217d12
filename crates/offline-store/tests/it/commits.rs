//! Exactly once: repeated, raced and half-answered commits (CP-1, CP-2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_offline_store::{Error, OffsetMove, Options, Outcome, Warehouse};
use object_store::memory::InMemory;
use url::Url;

use crate::faults::{Faults, FaultyStore};
use crate::support::{append, group, memory_warehouse, sequences, simple, stream, warehouse};

#[tokio::test]
async fn a_commit_moves_the_offsets_of_all_its_streams() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    let streams = [stream(1), stream(2)];
    assert_eq!(table.offsets(&streams).await.expect("offsets")[&stream(1)], 0);
    let files = table
        .write_files(vec![simple(&group, stream(1), 4, "a", 8), simple(&group, stream(2), 9, "a", 8)])
        .await
        .expect("files");
    assert_eq!(files.len(), 1, "streams share a file");
    let moves =
        [OffsetMove { stream: stream(1), expected: 0, new: 4 }, OffsetMove { stream: stream(2), expected: 0, new: 9 }];
    assert_eq!(table.append(&files, &moves).await.expect("a commit"), Outcome::Committed(1));
    let offsets = table.offsets(&streams).await.expect("offsets");
    assert_eq!((offsets[&stream(1)], offsets[&stream(2)]), (4, 9));

    // The same again is seen to be done; half of it, or a step from elsewhere, is told to begin anew.
    assert_eq!(table.append(&files, &moves).await.expect("looked up"), Outcome::AlreadyDone);
    let ahead = [OffsetMove { stream: stream(1), expected: 5, new: 6 }];
    assert_eq!(table.append(&files, &ahead).await.expect("looked up"), Outcome::Moved);
    let half = [moves[0], OffsetMove { stream: stream(2), expected: 9, new: 10 }];
    assert_eq!(table.append(&files, &half).await.expect("looked up"), Outcome::Moved);
    assert_eq!(sequences(&mut table).await, [4, 9]);
}

#[tokio::test]
async fn of_twins_one_commits() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut tables = Vec::new();
    for _ in 0..4 {
        tables.push(warehouse.table(&group).await.expect("a table"));
    }
    for round in 0..5_u64 {
        let from = round * 3;
        let attempts = tables.iter_mut().enumerate().map(|(index, table)| {
            // Twins do not cut their flushes alike: each goes a different way past `from`.
            let until = from + 3 - u64::try_from(index % 2).expect("small");
            let rows = (from + 1..=until).map(|sequence| simple(&group, stream(1), sequence, "a", 8)).collect();
            append(table, from, rows)
        });
        let outcomes = futures::future::join_all(attempts).await;
        let committed = |outcome: &Result<Outcome, Error>| matches!(outcome, Ok(Outcome::Committed(_)));
        assert_eq!(outcomes.iter().filter(|outcome| committed(outcome)).count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        // Whoever won, the stream goes on from a round's end.
        let offset = tables[0].offsets(&[stream(1)]).await.expect("offsets")[&stream(1)];
        if offset < from + 3 {
            let rows = vec![simple(&group, stream(1), from + 3, "a", 8)];
            append(&mut tables[0], offset, rows).await.expect("the rest");
        }
    }
    assert_eq!(sequences(&mut tables[0]).await, (1..=15).collect::<Vec<i64>>());
}

#[tokio::test]
async fn streams_do_not_hinder_each_other() {
    let warehouse = memory_warehouse().await;
    let group = group();
    let mut tables = Vec::new();
    for _ in 0..4 {
        tables.push(warehouse.table(&group).await.expect("a table"));
    }
    let attempts = tables.iter_mut().zip(1..).map(|(table, shard)| {
        let rows = vec![simple(&group, stream(shard), u64::from(shard), "a", 8)];
        append(table, 0, rows)
    });
    for outcome in futures::future::join_all(attempts).await {
        assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
    }
    assert_eq!(sequences(&mut tables[0]).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_and_not_repeated() {
    let faults = Arc::new(Faults::default());
    let store = FaultyStore { inner: Arc::new(InMemory::new()), faults: faults.clone() };
    let warehouse = warehouse(Arc::new(store)).await;
    let group = group();

    faults.lose_answer.store(1, Ordering::SeqCst);
    let mut table = warehouse.table(&group).await.expect("a table, though the answer to its creation was lost");
    assert_eq!(table.version(), 0);

    faults.lose_answer.store(1, Ordering::SeqCst);
    let outcome = append(&mut table, 0, vec![simple(&group, stream(1), 1, "a", 8)]).await.expect("looked up");
    assert_eq!(outcome, Outcome::AlreadyDone);
    assert_eq!(sequences(&mut table).await, [1]);

    faults.lose_request.store(1, Ordering::SeqCst);
    append(&mut table, 1, vec![simple(&group, stream(1), 2, "a", 8)]).await.expect_err("not made, and not said to be");
    assert_eq!(table.offsets(&[stream(1)]).await.expect("offsets")[&stream(1)], 1);
    let outcome = append(&mut table, 1, vec![simple(&group, stream(1), 2, "a", 8)]).await.expect("from the offsets");
    assert!(matches!(outcome, Outcome::Committed(_)));
    assert_eq!(sequences(&mut table).await, [1, 2]);
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_refused() {
    let faults = Arc::new(Faults::default());
    faults.ignore_conditions.store(true, Ordering::SeqCst);
    let store = FaultyStore { inner: Arc::new(InMemory::new()), faults };
    let root = Url::parse("memory:///warehouse").expect("a URL");
    let refused = Warehouse::over(Arc::new(store), root, Options::default()).await.expect_err("not safe");
    assert!(matches!(refused, Error::NoConditionalPut { .. }), "{refused}");
}
