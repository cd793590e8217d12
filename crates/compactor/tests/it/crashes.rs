//! A compactor that dies at each step of a round, early and late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use granary_compactor::{Step, StepHook};
use tokio::sync::Notify;

use crate::cluster::{Cluster, group};

/// A hook that stops for good when `step` comes for the `at`-th time, and tells.
pub(crate) fn stop_at(step: Step, at: usize) -> (StepHook, Arc<Notify>) {
    let stopped = Arc::new(Notify::new());
    let (seen, tell) = (Arc::new(AtomicUsize::new(0)), stopped.clone());
    let hook = StepHook::new(move |now| {
        let (seen, tell) = (seen.clone(), tell.clone());
        async move {
            if now == step && seen.fetch_add(1, Ordering::SeqCst) + 1 == at {
                tell.notify_one();
                std::future::pending::<()>().await;
            }
        }
    });
    (hook, stopped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_step_loses_and_doubles_nothing() {
    let groups = [group(1, "customers", 1), group(2, "sellers", 1)];
    for step in [Step::Fetched, Step::FilesWritten, Step::Committed, Step::ReadBack, Step::Acknowledged] {
        for at in 1..=3 {
            let cluster = Cluster::start(2, &groups).await;
            let (hook, stopped) = stop_at(step, at);
            let dying = cluster.compactor(Some(hook));
            // Round after round, until it has died: each is a chance for the step to come once more.
            let died = stopped.notified();
            tokio::pin!(died);
            loop {
                cluster.put_some(&groups, 7);
                tokio::select! {
                    () = &mut died => break,
                    () = cluster.all_acknowledged() => {}
                }
            }
            dying.abort();
            cluster.put_some(&groups, 4);
            let next = cluster.compactor(None);
            cluster.all_acknowledged().await;
            next.abort();
            cluster.check_exactly_once().await;
        }
    }
}
