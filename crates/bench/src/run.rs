//! The two loops: open, by a schedule, and closed, by its callers.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use xxhash_rust::xxh3::Xxh3;

use crate::clock::Clock;
use crate::mix;
use crate::record::{End, Outcome, Recorder, Window};
use crate::schedule::{Arrival, Arrivals, Gaps, Merged, Phase};

/// Operations that a checksum looks at.
const CHECKED: u64 = 10_000;

/// More than any machine has sockets for; a semaphore holds it on every platform.
const IN_FLIGHT_LIMIT: usize = 1 << 20;

/// Which operation is to be done. One seed and one operation are always the same keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Index of its class.
    pub class: usize,
    /// Counts the operations of its class from 0. In a closed loop: all operations.
    pub number: u64,
}

/// Why an operation failed: an error kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure(pub &'static str);

/// What operations are done to.
pub trait Target: Send + Sync + 'static {
    /// Does one. It is dropped when its deadline passes.
    fn call(&self, operation: Operation) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Operations of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// What they are called, such as `read`.
    pub name: String,
    /// The latency up to which one is good.
    pub bound: Duration,
    /// How long one may take after it was sent.
    pub deadline: Duration,
    /// When they are due, in an open loop. The first phases are the warm-up's.
    pub phases: Vec<Phase>,
    /// Their share of all operations, in a closed loop.
    pub share: f64,
}

/// What a run does, all of it fixed before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Kinds of operations.
    pub classes: Vec<Class>,
    /// What is measured; the rest is warm-up.
    pub windows: Vec<Window>,
    /// How arrivals are spread, in an open loop.
    pub gaps: Gaps,
    /// Fixes schedule and mix.
    pub seed: u64,
    /// The most operations under way, in an open loop.
    pub in_flight_max: usize,
    /// The most operations that wait for one of those to end; what is due beyond is shed.
    pub backlog_max: usize,
}

impl Plan {
    /// Every arrival of an open loop, in order.
    pub fn arrivals(&self) -> Merged {
        let seed = |class: usize| mix(self.seed, class as u64);
        let arrivals = self.classes.iter().enumerate();
        Merged::new(arrivals.map(|(class, it)| Arrivals::new(it.phases.clone(), self.gaps, seed(class))))
    }

    /// The class of an operation of a closed loop.
    pub fn class_of(&self, number: u64) -> usize {
        // 53 bits are what a double holds exactly.
        let mut drawn = (mix(!self.seed, number) >> 11) as f64 / (1_u64 << 53) as f64;
        for (class, it) in self.classes.iter().enumerate() {
            if drawn < it.share {
                return class;
            }
            drawn -= it.share;
        }
        // Shares that do not quite add up to one.
        self.classes.len().saturating_sub(1)
    }

    /// A number that stands for the schedule and the keys: of the first 10,000 operations, for an open loop as they are
    /// due, for a closed one as they are begun. `keys` are those of an operation.
    pub fn checksum(&self, closed: bool, keys: impl Fn(Operation) -> Vec<u64>) -> u64 {
        let mut hash = Xxh3::new();
        let mut add = |operation: Operation, at: Duration| {
            hash.update(&u64::try_from(at.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(&(operation.class as u64).to_le_bytes());
            keys(operation).into_iter().for_each(|key| hash.update(&key.to_le_bytes()));
        };
        if closed {
            (0..CHECKED).for_each(|number| add(Operation { class: self.class_of(number), number }, Duration::ZERO));
        } else {
            let arrivals = self.arrivals().take(usize::try_from(CHECKED).unwrap_or(usize::MAX));
            arrivals.for_each(|Arrival { class, number, at }| add(Operation { class, number }, at));
        }
        hash.digest()
    }

    /// When the last window ends.
    pub fn ends(&self) -> Duration {
        self.windows.iter().map(|window| window.until).max().unwrap_or_default()
    }
}

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Live {
    ended: AtomicU64,
    failed: AtomicU64,
}

impl Live {
    /// Operations that ended, in any way.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Of these, those that did not complete.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

struct Run<C, T> {
    clock: C,
    plan: Plan,
    target: Arc<T>,
    recorder: Recorder,
    live: Arc<Live>,
}

impl<C: Clock, T: Target> Run<C, T> {
    fn new(clock: C, plan: Plan, target: Arc<T>, live: Arc<Live>) -> Arc<Self> {
        let recorder = Recorder::new(&plan.classes, &plan.windows);
        Arc::new(Self { clock, plan, target, recorder, live })
    }

    fn end(&self, class: usize, at: Duration, end: End) {
        self.live.ended.fetch_add(1, Ordering::Relaxed);
        self.live.failed.fetch_add(u64::from(!matches!(end, End::Completed(_))), Ordering::Relaxed);
        self.recorder.end(class, at, end);
    }

    /// Does an operation that was due at `at` and is sent now.
    async fn perform(&self, operation: Operation, at: Duration) {
        let deadline = self.clock.now() + self.plan.classes[operation.class].deadline;
        let end = tokio::select! {
            biased;
            done = self.target.call(operation) => match done {
                Ok(()) => End::Completed(self.clock.now().saturating_sub(at)),
                Err(failure) => End::Failed(failure),
            },
            () = self.clock.sleep_until(deadline) => End::TimedOut,
        };
        self.end(operation.class, at, end);
    }

    /// Sends what is due. Returns when all of it has ended.
    async fn send(self: &Arc<Self>, mut due: mpsc::Receiver<Arrival>) {
        let in_flight_max = self.plan.in_flight_max.clamp(1, IN_FLIGHT_LIMIT);
        let permits = Arc::new(Semaphore::new(in_flight_max));
        // What was due before this moment was held back by the server, not by the generator.
        let mut held_until = Duration::ZERO;
        while let Some(Arrival { class, number, at }) = due.recv().await {
            let permit = match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    let permit = Arc::clone(&permits).acquire_owned().await.expect("never closed");
                    held_until = self.clock.now();
                    permit
                }
            };
            if self.clock.now() > at + self.plan.classes[class].deadline {
                self.end(class, at, End::Shed);
                continue;
            }
            let (run, own) = (Arc::clone(self), at >= held_until);
            tokio::spawn(async move {
                if own {
                    run.recorder.lag(at, run.clock.now().saturating_sub(at));
                }
                run.perform(Operation { class, number }, at).await;
                drop(permit);
            });
        }
        let all = u32::try_from(in_flight_max).expect("clamped");
        drop(permits.acquire_many(all).await.expect("never closed"));
    }
}

/// Does every operation when it is due, whatever became of those before, and counts its latency from then on.
///
/// At most `in_flight_max` are under way; up to `backlog_max` more wait for their turn and are not sent when their
/// deadline has passed by then. What is due beyond that is shed. Either way it is counted.
pub async fn open<C: Clock, T: Target>(clock: C, plan: Plan, target: Arc<T>, live: Arc<Live>) -> Outcome {
    let (sender, due) = mpsc::channel(plan.backlog_max.max(1));
    let arrivals = plan.arrivals();
    let run = Run::new(clock, plan, target, live);
    let feeder = Arc::clone(&run);
    let feed = move |arrival: Arrival| match sender.try_send(arrival) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            feeder.end(arrival.class, arrival.at, End::Shed);
            true
        }
        Err(mpsc::error::TrySendError::Closed(_)) => false,
    };
    run.clock.feed(arrivals, Box::new(feed));
    run.send(due).await;
    run.recorder.outcome()
}

/// Keeps `in_flight` operations under way until the last window ends: each caller begins its next when its last has
/// ended. A server that stalls is asked less, so this shows what it can do and not what its callers would see.
pub async fn closed<C: Clock, T: Target>(
    clock: C,
    plan: Plan,
    in_flight: usize,
    target: Arc<T>,
    live: Arc<Live>,
) -> Outcome {
    let ends = plan.ends();
    let run = Run::new(clock, plan, target, live);
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (run, next) = (Arc::clone(&run), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let begun = run.clock.now();
                if begun >= ends {
                    break;
                }
                let number = next.fetch_add(1, Ordering::Relaxed);
                run.perform(Operation { class: run.plan.class_of(number), number }, begun).await;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("a caller does not panic");
    }
    run.recorder.outcome()
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::SystemClock;
    use crate::clock::tests::Simulated;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn plan(per_second: f64, lasts: Duration) -> Plan {
        let class = Class {
            name: "read".to_owned(),
            bound: 2 * MILLISECOND,
            deadline: Duration::from_secs(10),
            phases: vec![Phase { lasts, per_second }],
            share: 1.0,
        };
        Plan {
            classes: vec![class],
            windows: vec![Window { name: "all".to_owned(), from: Duration::ZERO, until: lasts }],
            gaps: Gaps::Even,
            seed: 1,
            in_flight_max: 4_096,
            backlog_max: 4_096,
        }
    }

    fn open_in_simulated_time<T: Target>(plan: Plan, target: impl FnOnce(Simulated) -> T) -> Outcome {
        Simulated::run(async |clock| {
            let target = Arc::new(target(clock.clone()));
            let outcome = open(clock, plan, target, Arc::default()).await;
            for result in &outcome.classes {
                assert_eq!(result.scheduled, result.completed + result.failed() + result.timeouts + result.shed);
                assert_eq!(result.completed, result.latency.len());
            }
            outcome
        })
    }

    /// Answers at once, but for 100 ms from half a second on: then at the end of these.
    struct Stalls(Simulated);

    impl Target for Stalls {
        async fn call(&self, _: Operation) -> Result<(), Failure> {
            let (from, until) = (500 * MILLISECOND, 600 * MILLISECOND);
            if (from..until).contains(&self.0.now()) {
                self.0.sleep_until(until).await;
            }
            Ok(())
        }
    }

    /// Answers one after the other; one of them takes 100 ms.
    struct StallsOnce {
        clock: Simulated,
        calls: AtomicU64,
    }

    impl Target for StallsOnce {
        async fn call(&self, _: Operation) -> Result<(), Failure> {
            let lasts = if self.calls.fetch_add(1, Ordering::Relaxed) == 500 { 100 } else { 1 };
            self.clock.sleep_until(self.clock.now() + lasts * MILLISECOND).await;
            Ok(())
        }
    }

    fn slower_than(outcome: &Outcome, latency: Duration) -> u64 {
        let result = &outcome.classes[0];
        (1..=result.completed)
            .filter(|&rank| result.latency.quantile(rank as f64 / result.completed as f64) > Some(latency))
            .count() as u64
    }

    #[test]
    fn an_open_loop_charges_a_stall_to_all_that_were_due() {
        let outcome = open_in_simulated_time(plan(1_000.0, Duration::from_secs(1)), Stalls);
        assert_eq!(outcome.classes[0].completed, 1_000);
        // 100 were due while it lasted, all but the last ones for longer than the bound.
        let slow = slower_than(&outcome, 2 * MILLISECOND);
        assert!((95..=100).contains(&slow), "{slow}");
        assert_eq!(outcome.classes[0].within_bound, 1_000 - slow);
        let longest = outcome.classes[0].latency.max();
        assert!(longest > 98 * MILLISECOND && longest <= 100 * MILLISECOND, "{longest:?}");
        // The generator was on time all the while.
        assert_eq!((outcome.lag.len(), outcome.lag.max()), (1_000, Duration::ZERO));
    }

    /// Answers at once, but for one call that takes 100 ms.
    struct StallsAtOnce(Simulated);

    impl Target for StallsAtOnce {
        async fn call(&self, operation: Operation) -> Result<(), Failure> {
            if operation.number == 500 {
                self.0.sleep_until(self.0.now() + 100 * MILLISECOND).await;
            }
            Ok(())
        }
    }

    #[test]
    fn latency_counts_from_when_it_was_due_and_not_from_when_it_was_sent() {
        // One at a time: what is due during the stall is sent after it, and answered at once then.
        let one = |in_flight_max| Plan { in_flight_max, ..plan(1_000.0, Duration::from_secs(1)) };
        let outcome = open_in_simulated_time(one(1), StallsAtOnce);
        assert_eq!(outcome.classes[0].completed, 1_000);
        let slow = slower_than(&outcome, 2 * MILLISECOND);
        assert!((96..=100).contains(&slow), "{slow}");
        assert_eq!(outcome.lag.max(), Duration::ZERO);
        // With room for more, only the call that stalls is slow.
        assert_eq!(slower_than(&open_in_simulated_time(one(2), StallsAtOnce), 2 * MILLISECOND), 1);
    }

    #[test]
    fn a_closed_loop_omits_what_it_did_not_ask() {
        let outcome = Simulated::run(async |clock| {
            let target = Arc::new(StallsOnce { clock: clock.clone(), calls: AtomicU64::new(0) });
            closed(clock, plan(0.0, Duration::from_secs(1)), 1, target, Arc::default()).await
        });
        assert_eq!(slower_than(&outcome, 2 * MILLISECOND), 1);
        assert_eq!(outcome.classes[0].completed, 901);
        assert!(outcome.lag.is_empty());
    }

    /// Remembers what was called before it was due; by the machine's clock.
    struct Early {
        clock: SystemClock,
        due: Vec<Duration>,
        early: AtomicU64,
    }

    impl Target for Early {
        async fn call(&self, operation: Operation) -> Result<(), Failure> {
            let early = self.clock.now() < self.due[usize::try_from(operation.number).expect("few")];
            self.early.fetch_add(u64::from(early), Ordering::Relaxed);
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_real_time_each_is_called_once_and_none_too_early() {
        let plan = Plan { gaps: Gaps::Poisson, ..plan(1_000.0, 200 * MILLISECOND) };
        let clock = SystemClock::starting_at(tokio::time::Instant::now() + 20 * MILLISECOND);
        let due: Vec<_> = plan.arrivals().map(|arrival| arrival.at).collect();
        let (count, live) = (due.len() as u64, Arc::new(Live::default()));
        let target = Arc::new(Early { clock, due, early: AtomicU64::new(0) });
        let outcome = open(clock, plan, Arc::clone(&target), Arc::clone(&live)).await;
        assert_eq!((outcome.completed(), outcome.lag.len(), live.ended()), (count, count, count));
        assert_eq!(target.early.load(Ordering::Relaxed), 0);
    }

    /// Never answers.
    struct Silent;

    impl Target for Silent {
        async fn call(&self, _: Operation) -> Result<(), Failure> {
            std::future::pending().await
        }
    }

    #[test]
    fn timeouts_and_what_is_shed_are_counted() {
        let mut plan = plan(1_000.0, Duration::from_secs(1));
        plan.classes[0].deadline = 200 * MILLISECOND;
        (plan.in_flight_max, plan.backlog_max) = (10, 20);
        let outcome = open_in_simulated_time(plan, |_| Silent);
        let result = &outcome.classes[0];
        assert_eq!((result.scheduled, result.completed, result.failed()), (1_000, 0, 0));
        // Ten at a time for 200 ms each: five rounds while it lasts, and one or two of the backlog.
        assert!((50..=70).contains(&result.timeouts), "{}", result.timeouts);
        assert_eq!(result.shed, 1_000 - result.timeouts);
        // The generator is not to blame for what waited for the server.
        assert_eq!(outcome.lag.max(), Duration::ZERO);
    }

    /// Fails every third operation, by two kinds; remembers all.
    #[derive(Default)]
    struct Fails(Mutex<Vec<u64>>);

    impl Target for Fails {
        async fn call(&self, operation: Operation) -> Result<(), Failure> {
            self.0.lock().push(operation.number);
            match operation.number % 6 {
                0 => Err(Failure("missing")),
                3 => Err(Failure("unavailable")),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn errors_are_counted_by_kind_and_the_warm_up_is_left_out() {
        let mut plan = plan(600.0, Duration::from_secs(2));
        plan.windows[0].from = Duration::from_secs(1);
        let target = Arc::new(Fails::default());
        let outcome = Simulated::run(async |clock| open(clock, plan, Arc::clone(&target), Arc::default()).await);
        let result = &outcome.classes[0];
        assert_eq!((result.scheduled, result.completed), (600, 400));
        assert_eq!((result.errors["missing"], result.errors["unavailable"]), (100, 100));
        assert!(target.0.lock().iter().copied().eq(0..1_200), "each is done once");
    }

    #[test]
    fn the_checksum_is_that_of_schedule_and_keys() {
        let plan = |seed| Plan { gaps: Gaps::Poisson, seed, ..plan(100.0, Duration::from_secs(1)) };
        let keys = |factor: u64| move |operation: Operation| vec![operation.number * factor];
        for closed in [false, true] {
            let checksum = plan(1).checksum(closed, keys(3));
            assert_eq!(checksum, plan(1).checksum(closed, keys(3)));
            assert_ne!(checksum, plan(1).checksum(closed, keys(4)));
        }
        assert_ne!(plan(1).checksum(false, keys(3)), plan(2).checksum(false, keys(3)));
    }

    #[test]
    fn a_closed_loop_keeps_the_mix() {
        let mut plan = plan(0.0, Duration::from_secs(1));
        plan.classes[0].share = 0.95;
        plan.classes.push(Class { name: "write".to_owned(), share: 0.05, ..plan.classes[0].clone() });
        let writes = (0..100_000).filter(|&number| plan.class_of(number) == 1).count();
        // 5,000 with a standard deviation of 69.
        assert!(writes.abs_diff(5_000) < 415, "{writes}");
    }
}
