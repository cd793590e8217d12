//! Files that other programs put under a group's prefix: from the directory into the table and out of it again, beside the
//! change log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use bytes::Bytes;
use deltalake_core::parquet::arrow::ArrowWriter;
use granary_compactor::Settings;
use granary_types::FeatureGroup;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, PATIENCE, group};

fn looking(cluster: &Cluster) -> JoinHandle<()> {
    let foreign_files_interval = Duration::from_millis(10);
    cluster.compactor_with(Settings { foreign_files_interval, ..Cluster::hurried() })
}

fn file(ids: &[&str]) -> Bytes {
    let text = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
    let times = text(vec!["2024-01-31T08:00:00Z"; ids.len()]);
    let batch = RecordBatch::try_from_iter([("id", text(ids.to_vec())), ("at", times)]).expect("a batch");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.into_inner().expect("a file").into()
}

fn path(group: &FeatureGroup, name: &str) -> Path {
    Path::from(format!("warehouse/lake/{}/data/{name}", group.name))
}

/// Waits until a table names so many files of others.
async fn foreign_files(cluster: &Cluster, group: &FeatureGroup, wanted: usize) {
    let mut puts = cluster.objects.puts.subscribe();
    let waited = tokio::time::timeout(PATIENCE, async {
        while cluster.foreign_files(group).await != wanted {
            puts.changed().await.expect("the store lives as long as the cluster");
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{} has not {wanted} files of others in time", group.name));
}

#[tokio::test]
async fn files_come_and_go_while_the_change_log_is_written() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let cluster = Cluster::start(2, &groups).await;
    let put = async |group: usize, name: &str, ids: &[&str]| {
        cluster.objects.put(&path(&groups[group], name), file(ids).into()).await.expect("put");
    };
    // One group has a table already, the other has had no event yet.
    cluster.put_some(&groups[..1], 5);
    put(0, "part-0.parquet", &["x", "y"]).await;
    put(1, "part-0.parquet", &["z"]).await;
    let (one, twin) = (looking(&cluster), looking(&cluster));
    cluster.all_acknowledged().await;
    for (group, rows) in groups.iter().zip([2, 1]) {
        foreign_files(&cluster, group, 1).await;
        assert_eq!(cluster.foreign_rows(group).await, rows);
    }
    cluster.put_some(&groups, 6);
    put(0, "part-1.parquet", &["x"]).await;
    foreign_files(&cluster, &groups[0], 2).await;
    assert_eq!(cluster.foreign_rows(&groups[0]).await, 3);
    for group in &groups {
        cluster.objects.delete(&path(group, "part-0.parquet")).await.expect("deleted");
    }
    cluster.objects.delete(&path(&groups[0], "part-1.parquet")).await.expect("deleted");
    for group in &groups {
        foreign_files(&cluster, group, 0).await;
    }
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    one.abort();
    twin.abort();
}

#[tokio::test]
async fn a_directory_that_takes_long_to_list_does_not_hold_events_back() {
    let groups = [group(1, "customers", 1), group(2, "goods", 1)];
    let cluster = Cluster::start(1, &groups).await;
    cluster.put_some(&groups, 4);
    let compactor = looking(&cluster);
    cluster.all_acknowledged().await;
    cluster.faults.endless_listing.store(true, Ordering::SeqCst);
    let mut listings = cluster.objects.listings.subscribe();
    tokio::time::timeout(PATIENCE, listings.changed()).await.expect("listed in time").expect("the store lives");
    cluster.put_some(&groups, 4);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}
