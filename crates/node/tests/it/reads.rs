//! What each consistency level promises, with leaders that are paused and deposed under load.
//!
//! The value of a record is its event time, which only rises: a max register. A read must return at least what its level
//! promises, counted from before it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use granary_proto::internal::{ReadLevel, ShardReadRequest, row_result};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

use crate::cluster::{Client, Clients, Cluster, eventually, put, read};

const STALENESS: Duration = Duration::from_millis(300);

/// What was acknowledged, and when.
#[derive(Default)]
struct Register {
    issued: AtomicI64,
    /// Rising in time, with the highest value acknowledged or read linearizably by then.
    known: Mutex<Vec<(Instant, i64)>>,
    /// The newest acknowledged write, and the index of its entry.
    session: Mutex<(i64, u64)>,
    done: AtomicBool,
    reads: [AtomicU64; 4],
}

impl Register {
    fn learn(&self, value: i64) {
        let mut known = self.known.lock();
        let highest = known.last().map_or(0, |(_, highest)| *highest);
        known.push((Instant::now(), highest.max(value)));
    }

    /// The highest value that was known at an instant.
    fn known_at(&self, at: Instant) -> i64 {
        let known = self.known.lock();
        let count = known.partition_point(|(when, _)| *when <= at);
        known[..count].last().map_or(0, |(_, value)| *value)
    }

    async fn write_on(&self, client: Client, writer: u128) {
        let mut number = 0;
        while !self.done.load(Ordering::Relaxed) {
            let value = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
            number += 1;
            let write = put((writer << 64) + number, "register", value);
            if let Some(written) = client.write(vec![write]).await {
                self.learn(value);
                let mut session = self.session.lock();
                *session = (*session).max((value, written.raft_index));
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// One read; `None` when this node cannot answer.
    async fn check(&self, client: &Client, level: ReadLevel) -> Option<()> {
        let begun = Instant::now();
        let (own, index) = *self.session.lock();
        let floor = match level {
            ReadLevel::Linearizable => self.known_at(begun),
            ReadLevel::Session => own,
            ReadLevel::BoundedStaleness => self.known_at(begun.checked_sub(STALENESS)?),
            ReadLevel::Eventual => 0,
        };
        let request = ShardReadRequest {
            min_applied_index: index,
            max_staleness_ms: u32::try_from(STALENESS.as_millis()).expect("small"),
            ..read("register", level)
        };
        let row = client.read(request).await.ok()??.rows.pop()?;
        assert!(matches!(row.status(), row_result::Status::Found | row_result::Status::NotFound), "{row:?}");
        assert!(row.event_seconds >= floor, "{level:?} read returned {} after {floor}", row.event_seconds);
        assert!(row.event_seconds <= self.issued.load(Ordering::SeqCst));
        if level == ReadLevel::Linearizable {
            // Whoever reads after this must not see less.
            self.learn(row.event_seconds);
        }
        self.reads[level as usize].fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    async fn read_on(&self, clients: Clients, mut turn: usize) {
        const LEVELS: [ReadLevel; 4] =
            [ReadLevel::Linearizable, ReadLevel::Session, ReadLevel::BoundedStaleness, ReadLevel::Eventual];
        while !self.done.load(Ordering::Relaxed) {
            turn += 1;
            if self.check(&clients.0[turn % 3], LEVELS[turn / 3 % 4]).await.is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_keeps_its_promise_while_leaders_are_paused_and_killed() {
    let mut cluster = Cluster::start(|_| {}).await;
    let (clients, register) = (cluster.clients(), Arc::new(Register::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for (writer, client) in (1..).zip(clients.0.clone()) {
        let register = Arc::clone(&register);
        tasks.spawn(async move { register.write_on(client, writer).await });
    }
    for reader in 0..4 {
        let (register, clients) = (Arc::clone(&register), clients.clone());
        tasks.spawn(async move { register.read_on(clients, reader * 5).await });
    }
    let mut acknowledged = 0;
    for round in 0..4 {
        eventually("writes are acknowledged", async || register.session.lock().0 > acknowledged + 20).await;
        acknowledged = register.session.lock().0;
        let leader = cluster.leader().await;
        if round % 2 == 0 {
            let paused = cluster.pause(leader);
            cluster.leader_but(Some(leader)).await;
            eventually("the next leader takes writes", async || register.session.lock().0 > acknowledged + 5).await;
            drop(paused);
        } else {
            cluster.kill(leader).await;
            cluster.leader().await;
            cluster.restart().await;
        }
    }
    eventually("each level was read", async || {
        register.reads.iter().all(|reads| reads.load(Ordering::Relaxed) > 50) || !tasks.is_empty() && ended(&mut tasks)
    })
    .await;
    register.done.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("every read kept its promise");
    }
    cluster.agree().await;
}

/// Whether a task has ended before it was told to: a broken promise.
fn ended(tasks: &mut tokio::task::JoinSet<()>) -> bool {
    match tasks.try_join_next() {
        Some(ended) => {
            ended.expect("every read kept its promise");
            true
        }
        None => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_that_does_not_know_it_serves_nothing_old() {
    let cluster = Cluster::start(|_| {}).await;
    let clients = cluster.clients();
    clients.write(&[put(1, "register", 1)]).await;
    let old = cluster.leader().await;
    let client = cluster.client(old);
    // A confirmation that is good for an hour by itself: what was asked before the pause is not asked again.
    let fresh = |ms| ShardReadRequest { max_staleness_ms: ms, ..read("register", ReadLevel::BoundedStaleness) };
    eventually("it is read", async || client.read(fresh(3_600_000)).await.is_ok_and(|rows| rows.is_some())).await;

    let paused = cluster.pause(old);
    let new = cluster.leader_but(Some(old)).await;
    eventually("the new leader takes the write", async || {
        cluster.client(new).write(vec![put(2, "register", 2)]).await.is_some()
    })
    .await;
    // Until the write is older than the staleness asked for below: only time does that.
    tokio::time::sleep(Duration::from_millis(100)).await;
    // They reach the old leader's socket while it stands, and are the first it sees when it goes on.
    let ask = |request: ShardReadRequest| {
        let client = client.clone();
        tokio::spawn(async move { client.read(request).await })
    };
    let linearizable: Vec<_> = (0..20).map(|_| ask(read("register", ReadLevel::Linearizable))).collect();
    let bounded: Vec<_> = (0..20).map(|_| ask(fresh(50))).collect();
    let eventual = ask(read("register", ReadLevel::Eventual));
    // A paused process cannot say what has reached its socket. What comes later is answered as rightly, it only tests less.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(paused);

    for answer in linearizable.into_iter().chain(bounded) {
        // To refuse is right; to answer with what was before the acknowledged write is not.
        if let Ok(Some(rows)) = answer.await.expect("no panic") {
            assert_eq!(rows.rows[0].event_seconds, 2);
        }
    }
    let eventual = eventual.await.expect("no panic").expect("eventual reads are always answered").expect("by anybody");
    assert!((1..=2).contains(&eventual.rows[0].event_seconds));
    eventually("the old leader follows and reads fresh rows again", async || {
        let rows = client.read(fresh(50)).await;
        rows.is_ok_and(|rows| rows.is_some_and(|rows| rows.rows[0].event_seconds == 2))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_the_future_is_told_so_in_bounded_time() {
    let cluster = Cluster::start(|_| {}).await;
    let clients = cluster.clients();
    clients.write(&[put(1, "register", 1)]).await;
    for client in &clients.0 {
        let begun = Instant::now();
        let future = ShardReadRequest { min_applied_index: u64::MAX, ..read("register", ReadLevel::Session) };
        let refused = client.read(future).await.expect_err("no replica will ever get there");
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(begun.elapsed() < Duration::from_secs(4), "within read_wait, on a busy machine");
    }
    // It has hurt nobody.
    assert_eq!(cluster.linearizable("register").await.event_seconds, 1);
}
