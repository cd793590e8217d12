//! Tables that lose what they held: nothing is written to them and nothing acknowledged beyond, until the history is back
//! or was given up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use granary_compactor::{give_up, lost_history};
use granary_platform::Platform;
use granary_types::FeatureGroup;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, group, stream};

const CUSTOMERS: &str = "lake/customers/data";

/// What somebody did to the table of customers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    TableDeleted,
    LogDeleted,
    OlderCopyPutBack,
    /// The newest commit keeps so many of its lines.
    NewestCommitCutAfterLine(usize),
    /// The newest commit lacks its last bytes.
    NewestCommitCutInLine,
    FirstCommitDeleted,
}

/// Every object of the table, or of its log.
async fn objects(cluster: &Cluster, under: &str) -> Vec<(Path, Bytes)> {
    let prefix = Path::from(format!("warehouse/{under}"));
    let metas: Vec<_> = cluster.objects.list(Some(&prefix)).try_collect().await.expect("a listing");
    let mut found = Vec::new();
    for meta in metas {
        let bytes = cluster.objects.get(&meta.location).await.expect("there").bytes().await.expect("readable");
        found.push((meta.location, bytes));
    }
    found.sort();
    found
}

async fn delete(cluster: &Cluster, under: &str) {
    for (location, _) in objects(cluster, under).await {
        cluster.objects.delete(&location).await.expect("deleted");
    }
}

async fn put_back(cluster: &Cluster, copy: &[(Path, Bytes)]) {
    delete(cluster, CUSTOMERS).await;
    for (location, bytes) in copy {
        cluster.objects.put(location, bytes.clone().into()).await.expect("put");
    }
}

async fn do_damage(cluster: &Cluster, damage: Damage, older: &[(Path, Bytes)]) {
    let log = format!("{CUSTOMERS}/_delta_log");
    match damage {
        Damage::TableDeleted => delete(cluster, CUSTOMERS).await,
        Damage::LogDeleted => delete(cluster, &log).await,
        Damage::OlderCopyPutBack => put_back(cluster, older).await,
        Damage::FirstCommitDeleted => {
            let (first, _) = objects(cluster, &log).await.into_iter().next().expect("commits");
            cluster.objects.delete(&first).await.expect("deleted");
        }
        Damage::NewestCommitCutAfterLine(_) | Damage::NewestCommitCutInLine => {
            let (newest, bytes) = objects(cluster, &log).await.pop().expect("commits");
            let kept = match damage {
                Damage::NewestCommitCutAfterLine(lines) => {
                    bytes.split(|byte| *byte == b'\n').take(lines).map(|line| line.len() + 1).sum()
                }
                _ => bytes.len() - 5,
            };
            assert!(kept < bytes.len(), "{damage:?} cuts something");
            cluster.objects.put(&newest, bytes.slice(..kept).into()).await.expect("put");
        }
    }
}

/// A cluster with two rounds in its tables, and a copy of the customers' table after each.
async fn two_rounds(groups: &[FeatureGroup]) -> (Arc<Cluster>, JoinHandle<()>, [Vec<(Path, Bytes)>; 2]) {
    let cluster = Cluster::start(2, groups).await;
    let compactor = cluster.compactor(None);
    let mut copies = [Vec::new(), Vec::new()];
    for copy in &mut copies {
        cluster.put_some(groups, 6);
        cluster.all_acknowledged().await;
        *copy = objects(&cluster, CUSTOMERS).await;
    }
    (cluster, compactor, copies)
}

/// With events to be written; with the compactor at work all the time, or started after the damage.
async fn nothing_is_written_until_the_history_is_back(damage: Damage, restarted: bool) {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let (cluster, mut compactor, [older, newest]) = two_rounds(&groups).await;
    if restarted {
        compactor.abort();
        assert!((&mut compactor).await.expect_err("aborted").is_cancelled());
    }
    let acknowledged = cluster.acknowledgements();
    do_damage(&cluster, damage, &older).await;
    let damaged = objects(&cluster, CUSTOMERS).await;
    cluster.put_some(&groups, 4);
    if restarted {
        compactor = cluster.compactor(None);
    }

    let told = cluster.told(|tables| tables.iter().any(|table| table.starts_with("customers: "))).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(cluster.gauge("granary_compactor_failing_tables_count"), 1.0);
    if matches!(damage, Damage::TableDeleted | Damage::LogDeleted | Damage::OlderCopyPutBack) {
        let lost = cluster.told(|tables| tables.iter().any(|table| table.contains("lacks history"))).await;
        assert!(lost[0].contains("granary offline give-up"), "{lost:?}");
        assert_eq!(cluster.gauge("granary_compactor_lost_history_tables_count"), 1.0);
    }
    assert_eq!(cluster.acknowledgements(), acknowledged, "{damage:?}");
    assert_eq!(objects(&cluster, CUSTOMERS).await, damaged, "{damage:?}: nothing is written");

    put_back(&cluster, &newest).await;
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    cluster.told(<[String]>::is_empty).await;
    compactor.abort();
}

const DAMAGES: [Damage; 8] = [
    Damage::TableDeleted,
    Damage::LogDeleted,
    Damage::OlderCopyPutBack,
    Damage::NewestCommitCutAfterLine(0),
    Damage::NewestCommitCutAfterLine(1),
    Damage::NewestCommitCutAfterLine(2),
    Damage::NewestCommitCutInLine,
    Damage::FirstCommitDeleted,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_damaged_under_a_compactor_is_not_written_to() {
    // A handle that is open has read its log: that the first commit is gone is seen by whoever looks at the whole log.
    for damage in DAMAGES.into_iter().filter(|damage| *damage != Damage::FirstCommitDeleted) {
        nothing_is_written_until_the_history_is_back(damage, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_damaged_while_no_compactor_runs_is_not_written_to() {
    for damage in DAMAGES {
        nothing_is_written_until_the_history_is_back(damage, true).await;
    }
}

#[tokio::test]
async fn a_lost_table_is_found_though_nothing_is_written_to_it() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let (cluster, compactor, [older, newest]) = two_rounds(&groups).await;
    for (damage, says) in [
        (Damage::TableDeleted, "lacks history"),
        (Damage::OlderCopyPutBack, "lacks history"),
        (Damage::FirstCommitDeleted, "reach table log"),
    ] {
        do_damage(&cluster, damage, &older).await;
        cluster.told(|tables| tables.iter().any(|table| table.contains(says))).await;
        put_back(&cluster, &newest).await;
        cluster.told(<[String]>::is_empty).await;
    }
    compactor.abort();
}

#[tokio::test]
async fn history_that_is_given_up_stays_missing_and_the_rest_arrives() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let (cluster, compactor, _) = two_rounds(&groups).await;
    let lost_until = cluster.acknowledgements();
    do_damage(&cluster, Damage::TableDeleted, &[]).await;
    cluster.put_some(&groups, 4);
    cluster.told(|tables| tables.iter().any(|table| table.contains("lacks history"))).await;

    let (platform, catalog) = (Platform::system(), cluster.catalog.borrow().clone());
    let customers = catalog.group("customers").expect("in the catalog");
    let timeout = Duration::from_secs(5);
    let lost = lost_history(&platform, &catalog, &cluster.warehouse, customers, timeout).await.expect("told");
    assert_eq!(lost.iter().map(|lost| (lost.stream, lost.after)).collect::<Vec<_>>(), [(stream(1), 0), (stream(2), 0)]);
    give_up(&cluster.warehouse, customers, &lost).await.expect("given up");
    assert!(lost_history(&platform, &catalog, &cluster.warehouse, customers, timeout).await.expect("told").is_empty());

    cluster.all_acknowledged().await;
    cluster.forget_events(|shard, sequence, id| id == customers.id && sequence <= lost_until[&shard]);
    cluster.check_exactly_once().await;
    cluster.told(<[String]>::is_empty).await;
    let log = objects(&cluster, &format!("{CUSTOMERS}/_delta_log")).await;
    assert!(String::from_utf8_lossy(&log[1].1).contains("granary.historyLost"), "the log says what is missing");
    compactor.abort();
}

/// What was trimmed is lost only once it is trimmed: a table that goes before that is made again from the change log.
#[tokio::test]
async fn a_table_that_goes_before_anything_was_trimmed_is_made_again() {
    let groups = [group(1, "customers", 1)];
    let cluster = Cluster::start(1, &groups).await;
    let (hook, stopped) = crate::crashes::stop_at(granary_compactor::Step::ReadBack, 1);
    cluster.put_some(&groups, 5);
    let dying = cluster.compactor(Some(hook));
    stopped.notified().await;
    dying.abort();
    delete(&cluster, CUSTOMERS).await;
    let compactor = cluster.compactor(None);
    cluster.all_acknowledged().await;
    cluster.check_exactly_once().await;
    compactor.abort();
}
