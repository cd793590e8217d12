//! A leader whose own disk hangs: the others commit without it, and take over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_consensus::{MemoryDisk, SyncTimes};
use granary_node::Settings;

use crate::cluster::{Cluster, eventually, put, steady};

const HANDED_OVER: &str = "granary_node_leadership_handed_over_total";

/// Syncs at once, or not at all.
#[derive(Debug, Default)]
struct Disk {
    hangs: AtomicBool,
}

impl SyncTimes for Disk {
    fn next(&self) -> io::Result<Duration> {
        // As good as for ever: longer than any test.
        Ok(if self.hangs.load(Ordering::SeqCst) { Duration::from_secs(3_600) } else { Duration::ZERO })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_log_does_not_sync_hands_over() {
    let disks: [Arc<Disk>; 3] = Default::default();
    let logs = disks.clone().map(|disk| Some(MemoryDisk::new(disk)));
    let configure = |settings: &mut Settings| {
        settings.standstill_max = Duration::from_millis(1_500);
        // It is the leader that hands over, not the others that no longer hear of it.
        steady(settings);
    };
    let cluster = Cluster::start_on(logs, configure).await;
    let (leader, clients) = (cluster.leader().await, cluster.clients());
    clients.write(&[put(0, "r", 0)]).await;
    disks[leader].hangs.store(true, Ordering::SeqCst);
    let writing = tokio::spawn(async move {
        for id in 1_u32.. {
            clients.write(&[put(id.into(), "r", id.into())]).await;
        }
    });
    let next = cluster.leader_but(Some(leader)).await;
    eventually("it is counted", async || cluster.metric(leader, HANDED_OVER).is_some_and(|count| count >= 1.0)).await;
    eventually("the next leader takes writes", async || {
        cluster.client(next).write(vec![put(u128::MAX, "another", 1)]).await.is_some()
    })
    .await;
    assert!(!writing.is_finished(), "no write was given up");
    writing.abort();
    assert_eq!(cluster.metric(next, HANDED_OVER).unwrap_or_default(), 0.0);
}
