//! The time of a run, and who hands its arrivals over.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::schedule::{Arrival, Merged};

/// Takes arrivals as they become due; false when nobody wants any more.
pub type Feed = Box<dyn FnMut(Arrival) -> bool + Send>;

/// Time since the start of a run. Tests have one that they move themselves.
pub trait Clock: Clone + Send + Sync + 'static {
    /// How long the run has lasted.
    fn now(&self) -> Duration;

    /// Waits until the run has lasted that long, to a millisecond or so: for deadlines.
    fn sleep_until(&self, at: Duration) -> impl Future<Output = ()> + Send;

    /// Gives each of `arrivals` to `feed` when it is due, as exactly as it can. Returns at once.
    fn feed(&self, arrivals: Merged, feed: Feed);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A run that starts, or started, at `start`.
    pub fn starting_at(start: Instant) -> Self {
        Self { start }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep_until(&self, at: Duration) {
        tokio::time::sleep_until(self.start + at).await;
    }

    /// By a thread of its own: the runtime's timers are a millisecond too coarse, the system's some 60 µs.
    fn feed(&self, arrivals: Merged, mut feed: Feed) {
        let start = self.start.into_std();
        let work = move || {
            for arrival in arrivals {
                let due = start + arrival.at;
                std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
                if !feed(arrival) {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("arrivals".to_owned()).spawn(work).expect("a thread can be started");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;

    /// Time that moves to the next moment anybody waits for as soon as nothing else is to be done.
    ///
    /// Tokio's own paused time is behind a feature that no build of the product may have.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Simulated {
        state: Arc<Mutex<State>>,
    }

    #[derive(Debug, Default)]
    struct State {
        now: Duration,
        waiting: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
        waits: u64,
    }

    impl Simulated {
        /// Runs `work` to its end in simulated time, on one thread.
        pub(crate) fn run<T>(work: impl AsyncFnOnce(Self) -> T) -> T {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let clock = Self::default();
                tokio::select! {
                    biased;
                    done = work(clock.clone()) => done,
                    () = clock.move_on() => unreachable!("it never ends"),
                }
            })
        }

        async fn move_on(&self) {
            loop {
                // Nothing here waits for anything but this clock, so after some rounds everything has settled.
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
                let mut state = self.state.lock();
                if let Some(((at, _), waiter)) = state.waiting.pop_first() {
                    state.now = state.now.max(at);
                    // Whoever waited may have gone.
                    let _ = waiter.send(());
                }
            }
        }
    }

    impl Clock for Simulated {
        fn now(&self) -> Duration {
            self.state.lock().now
        }

        async fn sleep_until(&self, at: Duration) {
            let (sender, receiver) = oneshot::channel();
            {
                let mut state = self.state.lock();
                state.waits += 1;
                let wait = state.waits;
                state.waiting.insert((at, wait), sender);
            }
            receiver.await.expect("the clock outlives its waiters");
        }

        fn feed(&self, arrivals: Merged, mut feed: Feed) {
            let clock = self.clone();
            tokio::spawn(async move {
                for arrival in arrivals {
                    if arrival.at > clock.now() {
                        clock.sleep_until(arrival.at).await;
                    }
                    if !feed(arrival) {
                        break;
                    }
                }
            });
        }
    }
}
