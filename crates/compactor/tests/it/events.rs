//! What becomes of events when nobody crashes.

use std::sync::atomic::Ordering;

use granary_types::FeatureGroupStatus;

use crate::cluster::{Cluster, group};

#[tokio::test]
async fn every_event_of_every_shard_reaches_its_table_once() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let cluster = Cluster::start(3, &groups).await;
    let compactor = cluster.compactor(None);
    for _ in 0..4 {
        cluster.put_some(&groups, 11);
        cluster.all_acknowledged().await;
    }
    cluster.check_exactly_once().await;
    compactor.abort();
}

#[tokio::test]
async fn refused_and_damaged_reads_are_tried_elsewhere() {
    let groups = [group(1, "customers", 1)];
    let cluster = Cluster::start(1, &groups).await;
    cluster.put_some(&groups, 5);
    cluster.refused_reads.store(2, Ordering::SeqCst);
    cluster.damaged_reads.store(2, Ordering::SeqCst);
    let compactor = cluster.compactor(None);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

#[tokio::test]
async fn an_event_of_an_unknown_group_waits_with_all_after_it() {
    let (known, later) = (group(1, "customers", 1), group(2, "sellers", 1));
    let cluster = Cluster::start(1, std::slice::from_ref(&known)).await;
    let compactor = cluster.compactor(None);
    for (group, record) in [(&known, "a"), (&known, "b"), (&later, "c"), (&known, "d")] {
        cluster.put(1, group, record, 1);
    }
    cluster.seal(1);
    cluster.acknowledged(|_, _| 2).await;
    cluster.publish(&[known, later]);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

#[tokio::test]
async fn an_event_of_a_newer_schema_waits_for_it() {
    let (before, after) = (group(1, "customers", 1), group(1, "customers", 2));
    let cluster = Cluster::start(1, std::slice::from_ref(&before)).await;
    let compactor = cluster.compactor(None);
    cluster.put(1, &before, "a", 1);
    cluster.put(1, &after, "b", 1);
    cluster.seal(1);
    cluster.acknowledged(|_, _| 1).await;
    cluster.publish(&[after]);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

/// Routers learn of a change one after the other, so that events of both schemas arrive mixed. The old ones have null
/// where they have no feature.
#[tokio::test]
async fn events_of_two_schemas_stand_side_by_side() {
    let (before, after) = (group(1, "customers", 1), group(1, "customers", 2));
    let cluster = Cluster::start(3, std::slice::from_ref(&before)).await;
    let compactor = cluster.compactor(None);
    cluster.put_some(std::slice::from_ref(&before), 7);
    cluster.all_acknowledged().await;
    cluster.publish(std::slice::from_ref(&after));
    let mixed = [before, after.clone()];
    for _ in 0..3 {
        cluster.put_some(&mixed, 6);
        cluster.all_acknowledged().await;
    }
    cluster.check_exactly_once().await;
    // In each of 3 shards, 7 and then 3 times 3 without an age, and 3 times 3 with one.
    assert_eq!(cluster.rows_and_ages(&after).await, (3 * (7 + 9 + 9), 3 * 9));
    compactor.abort();
}

#[tokio::test]
async fn events_of_a_deleted_group_still_reach_its_table() {
    let mut deleted = group(1, "customers", 1);
    deleted.status = FeatureGroupStatus::Deleted;
    let groups = [deleted];
    let cluster = Cluster::start(1, &groups).await;
    cluster.put_some(&groups, 3);
    let compactor = cluster.compactor(None);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

/// Nothing is acknowledged beyond what every table holds, however long one of them cannot be written.
#[tokio::test]
async fn a_table_that_fails_holds_its_streams_back() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let cluster = Cluster::start(2, &groups).await;
    cluster.faults.refused_sellers.store(6, Ordering::SeqCst);
    cluster.put_some(&groups, 5);
    let compactor = cluster.compactor(None);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}

#[tokio::test]
async fn commits_whose_answers_are_lost_are_not_repeated() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let cluster = Cluster::start(2, &groups).await;
    let compactor = cluster.compactor(None);
    for _ in 0..3 {
        cluster.faults.unanswered_commits.store(3, Ordering::SeqCst);
        cluster.put_some(&groups, 5);
        cluster.all_acknowledged().await;
    }
    cluster.check_exactly_once().await;
    compactor.abort();
}
