//! Hosts: each has a runtime of its own, driven by one thread in small steps of simulated time.
//!
//! A runtime runs until every task of it waits, and is then left alone until the next step. It never parks: the hook
//! that tokio calls when it has nothing left to do ends the step. So all hosts take turns on one thread, in the same order
//! in every run. A crash drops the runtime, and with it every task in it, wherever it stands.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

#[derive(Debug, Default)]
struct Idle {
    reached: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// One simulated host's runtime.
#[derive(Debug)]
pub(crate) struct Host {
    runtime: Runtime,
    idle: Arc<Idle>,
}

impl Host {
    /// A host that runs nothing yet.
    pub(crate) fn boot() -> Self {
        let idle = Arc::<Idle>::default();
        let told = Arc::clone(&idle);
        let before_park = move || {
            told.reached.store(true, Ordering::SeqCst);
            if let Some(waker) = told.waker.lock().take() {
                waker.wake();
            }
        };
        let runtime = Builder::new_current_thread().enable_time().on_thread_park(before_park).build();
        Self { runtime: runtime.expect("a runtime without I/O needs nothing of the system"), idle }
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Runs every task until all of them wait: what timers and messages are due is done.
    pub(crate) fn step(&self) {
        let idle = &self.idle;
        self.runtime.block_on(async {
            // Gives way to the timers once.
            tokio::task::yield_now().await;
            idle.reached.store(false, Ordering::SeqCst);
            poll_fn(|context| {
                if idle.reached.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                *idle.waker.lock() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        });
    }
}
