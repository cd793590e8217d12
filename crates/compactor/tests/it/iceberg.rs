//! Tables that are shown as Iceberg too: in time, by whoever is there, and without holding anything up.

use std::sync::atomic::Ordering;

use granary_types::FeatureGroup;

use crate::cluster::{Cluster, PATIENCE, group};

fn iceberg(id: u32, name: &str) -> FeatureGroup {
    let mut group = group(id, name, 1);
    group.offline.as_mut().expect("offline").table_format = Some("Iceberg".into());
    group
}

/// Waits until the newest document is of the newest version.
async fn shown(cluster: &Cluster, group: &FeatureGroup) {
    let version = cluster.warehouse.table(group).await.expect("a table").version();
    let wanted = format!("s3://lake/{}/metadata/v{version}.metadata.json", group.name);
    let mut puts = cluster.objects.puts.subscribe();
    let waited = tokio::time::timeout(PATIENCE, async {
        while cluster.warehouse.iceberg_metadata_location(group).await.expect("a look").as_deref() != Some(&wanted) {
            puts.changed().await.expect("the store lives as long as the cluster");
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{wanted} is not there in time"));
}

#[tokio::test]
async fn tables_are_shown_while_twins_die() {
    let groups = [iceberg(1, "customers"), iceberg(2, "sellers"), group(3, "goods", 1)];
    let cluster = Cluster::start(2, &groups).await;
    let mut dying = cluster.compactor(None);
    let living = cluster.compactor(None);
    for _ in 0..5 {
        cluster.put_some(&groups, 11);
        cluster.all_acknowledged().await;
        dying.abort();
        dying = cluster.compactor(None);
    }
    for group in &groups[..2] {
        shown(&cluster, group).await;
    }
    cluster.check_exactly_once().await;
    assert_eq!(cluster.warehouse.iceberg_metadata_location(&groups[2]).await.expect("a look"), None);
    dying.abort();
    living.abort();
}

#[tokio::test]
async fn an_empty_table_is_shown_from_the_start_and_no_other_is_made() {
    let groups = [iceberg(1, "customers"), group(2, "goods", 1)];
    let cluster = Cluster::start(2, &groups).await;
    let (one, other) = (cluster.compactor(None), cluster.compactor(None));
    let mut puts = cluster.objects.puts.subscribe();
    let waited = tokio::time::timeout(PATIENCE, async {
        while cluster.warehouse.iceberg_metadata_location(&groups[0]).await.expect("a look").is_none() {
            puts.changed().await.expect("the store lives as long as the cluster");
        }
    });
    waited.await.expect("the empty table is shown in time");
    assert!(cluster.warehouse.existing_table(&groups[1]).await.expect("a look").is_none());
    cluster.put_some(&groups, 3);
    cluster.all_acknowledged().await;
    shown(&cluster, &groups[0]).await;
    cluster.check_exactly_once().await;
    one.abort();
    other.abort();
}

#[tokio::test]
async fn metadata_that_cannot_be_written_holds_nothing_up_and_is_made_up_for() {
    let groups = [iceberg(1, "customers")];
    let cluster = Cluster::start(1, &groups).await;
    let compactor = cluster.compactor(None);
    cluster.faults.refused_metadata.store(usize::MAX, Ordering::SeqCst);
    for _ in 0..3 {
        cluster.put_some(&groups, 5);
        cluster.all_acknowledged().await;
    }
    cluster.check_exactly_once().await;
    assert_eq!(cluster.warehouse.iceberg_metadata_location(&groups[0]).await.expect("a look"), None);
    // Nothing is written any more: the look at all tables in turn makes up for it.
    cluster.faults.refused_metadata.store(0, Ordering::SeqCst);
    shown(&cluster, &groups[0]).await;
    compactor.abort();
}
