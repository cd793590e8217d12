//! Two compactors at once: safe, only wasteful.

use std::sync::Arc;

use granary_compactor::{Step, StepHook};
use tokio::sync::{Notify, Semaphore};

use crate::cluster::{Cluster, group};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_write_each_event_once() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    let cluster = Cluster::start(2, &groups).await;
    let twins = [cluster.compactor(None), cluster.compactor(None)];
    for _ in 0..8 {
        cluster.put_some(&groups, 6);
        cluster.acknowledged(|_, last| last.saturating_sub(6)).await;
    }
    cluster.all_acknowledged().await;
    twins.iter().for_each(tokio::task::JoinHandle::abort);
    cluster.check_exactly_once().await;
}

/// A compactor that stops at each `step` from the first on until it is let go.
struct Sleeper {
    asleep: Arc<Notify>,
    wake: Arc<Semaphore>,
    hook: StepHook,
}

fn sleeper(step: Step) -> Sleeper {
    let (asleep, wake) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let hook = {
        let (asleep, wake) = (asleep.clone(), wake.clone());
        StepHook::new(move |now| {
            let (asleep, wake) = (asleep.clone(), wake.clone());
            async move {
                if now == step {
                    asleep.notify_one();
                    // Open for good once it is opened.
                    drop(wake.acquire().await);
                }
            }
        })
    };
    Sleeper { asleep, wake, hook }
}

/// A compactor that is held up with its files written, while another does all the work, and then goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compactor_that_wakes_up_late_commits_nothing_twice() {
    let groups = [group(1, "customers", 1)];
    for step in [Step::Fetched, Step::FilesWritten, Step::Committed, Step::ReadBack] {
        let cluster = Cluster::start(1, &groups).await;
        let late = sleeper(step);
        cluster.put_some(&groups, 5);
        let running = cluster.compactor(Some(late.hook));
        late.asleep.notified().await;
        cluster.put_some(&groups, 5);
        let other = cluster.compactor(None);
        cluster.all_acknowledged().await;
        other.abort();
        late.wake.add_permits(1);
        cluster.put_some(&groups, 5);
        cluster.all_acknowledged().await;
        running.abort();
        cluster.check_exactly_once().await;
    }
}

/// Two that hold files of overlapping events and commit one after the other: the second holds more than the first,
/// so its offset is not reached, and what it was made from has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_overlap_are_not_both_committed() {
    let groups = [group(1, "customers", 1)];
    let cluster = Cluster::start(1, &groups).await;
    let (first, second) = (sleeper(Step::FilesWritten), sleeper(Step::FilesWritten));
    cluster.put_some(&groups, 5);
    let with_less = cluster.compactor(Some(first.hook));
    first.asleep.notified().await;
    cluster.put_some(&groups, 5);
    let with_more = cluster.compactor(Some(second.hook));
    second.asleep.notified().await;
    first.wake.add_permits(1);
    cluster.acknowledged(|_, _| 5).await;
    with_less.abort();
    second.wake.add_permits(1);
    cluster.all_acknowledged().await;
    with_more.abort();
    cluster.check_exactly_once().await;
}
