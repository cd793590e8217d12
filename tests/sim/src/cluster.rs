//! The cluster in the world: nodes, two compactors, hosts with routers and clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use granary_compactor::{Compactor, StepHook};
use granary_history::Recorder;
use granary_history::model::{ReplicaState, What};
use granary_node::replica::Replica;
use granary_offline_store::{Options, Warehouse};
use granary_platform::Platform;
use granary_router::{Router, Session};
use granary_types::ShardId;
use parking_lot::Mutex;
use prometheus::Registry;

use crate::disk::Health;
use crate::rng::Rng;
use crate::workload::{Shared, Worker};
use crate::world::{Death, MS, NODES, SHARDS, World, node_name};

const COMPACTORS: usize = 2;
/// The clients of the last one only read, as a router does that serves a model: no write of its own tells it of a new leader.
const CLIENT_HOSTS: usize = 3;
const CLIENTS_PER_HOST: usize = 4;
const READERS: usize = 2;
/// How long a process that ended by itself stays down.
const RESTART_NS: u64 = 1_000 * MS;

pub(crate) fn compactor_name(number: usize) -> String {
    format!("compactor-{number}")
}

fn client_name(number: usize) -> String {
    format!("clients-{number}")
}

/// A router on a host of clients, and the platform of that host.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) host: String,
    pub(crate) router: Router,
    pub(crate) platform: Platform,
}

/// The cluster and its world.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) warehouse: Arc<Warehouse>,
    pub(crate) desks: Vec<Desk>,
    recorder: Recorder,
    /// Hosts to be restarted, and when.
    restarts: BTreeMap<String, u64>,
    /// Why processes ended by themselves.
    pub(crate) ends: Vec<String>,
    sampled_ns: u64,
    seed: Rng,
}

impl Cluster {
    /// Starts everything; nothing has run yet.
    pub(crate) fn start_all(mut world: World, recorder: Recorder) -> anyhow::Result<Self> {
        let root = "memory:///warehouse".parse()?;
        let bucket = Arc::new(world.bucket.clone());
        // Names of files are drawn from the seed: whether a request for one fails depends on its name.
        let options = Options { platform: world.nobodys_platform(), ..Options::default() };
        let warehouse = Arc::new(world.aside(Warehouse::over(bucket, root, options))?);
        let mut desks = Vec::new();
        for number in 1..=CLIENT_HOSTS {
            let host = client_name(number);
            let (platform, catalog) = world.start_plain(&host);
            let router = Router::new(platform.clone(), catalog, granary_router::Settings::default(), &Registry::new());
            desks.push(Desk { host, router, platform });
        }
        let seed = world.rng.fork("cluster");
        let (restarts, ends) = (BTreeMap::new(), Vec::new());
        let mut cluster = Self { world, warehouse, desks, recorder, restarts, ends, sampled_ns: 0, seed };
        for number in 1..=NODES {
            cluster.world.start_node(number);
        }
        for number in 1..=COMPACTORS {
            cluster.start(&compactor_name(number));
        }
        Ok(cluster)
    }

    /// Starts a host that is down.
    pub(crate) fn start(&mut self, name: &str) {
        self.restarts.remove(name);
        if self.world.is_up(name) {
            return;
        }
        match (1..=NODES).find(|number| node_name(*number) == name) {
            Some(number) => self.world.start_node(number),
            None => self.start_compactor(name),
        }
    }

    fn start_compactor(&mut self, name: &str) {
        let (platform, catalog) = self.world.start_plain(name);
        let rng = Arc::new(Mutex::new(self.seed.fork(&format!("{name} {}", self.world.now()))));
        let pauses = platform.clone();
        // What is done in one go takes its time between the steps, where twins and crashes come in.
        let hook = StepHook::new(move |_| {
            let (platform, pause) = (pauses.clone(), Duration::from_millis(rng.lock().between(1, 120)));
            async move { platform.sleep(pause).await }
        });
        let settings = granary_compactor::Settings {
            flush_interval: Duration::from_millis(900),
            hook: Some(hook),
            ..granary_compactor::Settings::default()
        };
        let compactor = Compactor::new(platform, catalog, Arc::clone(&self.warehouse), settings, &Registry::new());
        self.world.run_on(name, compactor.expect("a registry of its own").run());
    }

    /// Has the host killed at `at_ns` and started again.
    pub(crate) fn restart_later(&mut self, name: &str, at_ns: u64) {
        self.restarts.insert(name.to_owned(), at_ns);
    }

    /// Starts the clients.
    pub(crate) fn start_clients(&self, shared: &Arc<Shared>) {
        for (host, desk) in self.desks.iter().enumerate() {
            let only_reads = host + 1 == CLIENT_HOSTS;
            for number in 0..if only_reads { READERS } else { CLIENTS_PER_HOST } {
                let name = format!("{} {number}", desk.host);
                let session = u64::try_from(number + 100 * host).expect("few");
                let worker = Worker {
                    shared: Arc::clone(shared),
                    router: desk.router.clone(),
                    platform: desk.platform.clone(),
                    client: self.recorder.client(Some(session)),
                    session: Session::default(),
                    rng: self.seed.fork(&name),
                    only_reads,
                };
                self.world.run_on(&desk.host, worker.run());
            }
        }
    }

    /// The hosts that are no nodes.
    pub(crate) fn plain_hosts(&self) -> Vec<String> {
        (1..=COMPACTORS).map(compactor_name).chain(self.desks.iter().map(|desk| desk.host.clone())).collect()
    }

    /// A node that leads a shard.
    pub(crate) fn leader(&self) -> Option<usize> {
        (1..=NODES).find(|number| {
            self.world.node(*number).is_some_and(|node| (1..=SHARDS).any(|shard| node.serves(ShardId(shard))))
        })
    }

    /// One tick of the world, and what whoever runs the processes does: start anew what has ended.
    pub(crate) fn tick(&mut self) {
        self.world.tick();
        let now = self.world.now();
        for number in 1..=NODES {
            let name = node_name(number);
            if let Some(why) = self.world.ended(&name).filter(|_| !self.restarts.contains_key(&name)) {
                self.ends.push(format!("{name}: {why}"));
                self.restart_later(&name, now + RESTART_NS);
            }
        }
        let due: Vec<String> =
            self.restarts.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            if let Some(number) = (1..=NODES).find(|number| node_name(*number) == name)
                && let Some(disk) = self.world.disk_of(number)
            {
                disk.set(Health::WELL);
            }
            if self.world.is_up(&name) {
                self.world.crash(&name, Death::Kill);
            }
            self.start(&name);
        }
        if now >= self.sampled_ns + 500 * MS {
            self.sampled_ns = now;
            self.sample();
        }
    }

    /// Notes where each replica stands (RG-2).
    pub(crate) fn sample(&self) {
        for number in 1..=NODES {
            let Some(node) = self.world.node(number) else { continue };
            for replica in node.replicas().all() {
                let status = replica.store().status();
                let Some(hash) = status.state_hash else { continue };
                self.recorder.note(What::ReplicaState(ReplicaState {
                    node: node_name(number),
                    shard: replica.shard().0,
                    replica: replica.group().spec().replica.0,
                    applied_index: status.applied_index,
                    state_hash: format!("{hash:032x}"),
                }));
            }
        }
    }

    /// Whether every replica is there, comparable, and has applied what the furthest one has.
    pub(crate) fn has_converged(&self) -> Result<(), String> {
        for shard in (1..=SHARDS).map(ShardId) {
            let mut applied = Vec::new();
            for number in 1..=NODES {
                let node = self.world.node(number).ok_or_else(|| format!("node {number} is not up"))?;
                let replica = node.replicas().get(shard).ok_or_else(|| {
                    let why = node.replicas().note(shard).unwrap_or_default();
                    format!("node {number} has no replica of shard {shard}: {why}")
                })?;
                let status = replica.store().status();
                if status.state_hash.is_none() {
                    return Err(format!("node {number} still replays shard {shard}"));
                }
                applied.push(status.applied_index);
            }
            if applied.iter().any(|index| *index != applied[0]) {
                return Err(format!("replicas of shard {shard} have applied {applied:?}"));
            }
            let led = (1..=NODES).any(|number| self.world.node(number).is_some_and(|node| node.serves(shard)));
            if !led {
                return Err(format!("shard {shard} has no leader"));
            }
        }
        Ok(())
    }

    /// Whether no leader has a record left that has expired.
    pub(crate) fn has_nothing_expired(&self) -> Result<(), String> {
        for shard in (1..=SHARDS).map(ShardId) {
            let store = Arc::clone(self.leading(shard)?.store());
            // A look sees the tree, so all must be in there.
            let waiting = store.status().memory_table_bytes;
            let look = store.look_for_expired(&[], usize::MAX, u64::MAX).map_err(|error| error.to_string())?;
            if waiting > 0 || !look.expired.is_empty() {
                return Err(format!("shard {shard}: {} records, {waiting} bytes in memory", look.expired.len()));
            }
        }
        Ok(())
    }

    /// The replica that leads a shard.
    fn leading(&self, shard: ShardId) -> Result<Arc<Replica>, String> {
        let leader = (1..=NODES).filter_map(|number| self.world.node(number)).find(|node| node.serves(shard));
        leader.and_then(|node| node.replicas().get(shard)).ok_or_else(|| format!("shard {shard} has no leader"))
    }

    /// Whether every event is in a committed table version.
    pub(crate) fn is_offline_complete(&self) -> Result<(), String> {
        for shard in (1..=SHARDS).map(ShardId) {
            let log = self.leading(shard)?.store().change_log();
            if log.trimmed_sequence < log.last_sequence {
                return Err(format!("shard {shard}: {} of {} events", log.trimmed_sequence, log.last_sequence));
            }
        }
        Ok(())
    }

    /// Runs a task on a host of clients and ticks until it has ended; `false` when it did not in time.
    pub(crate) fn await_on(
        &mut self,
        desk: &Desk,
        task: impl Future<Output = ()> + Send + 'static,
        limit_ns: u64,
    ) -> bool {
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        self.world.run_on(&desk.host, async move {
            task.await;
            told.store(true, Ordering::SeqCst);
        });
        let until = self.world.now() + limit_ns;
        while !done.load(Ordering::SeqCst) && self.world.now() < until {
            self.tick();
        }
        done.load(Ordering::SeqCst)
    }

    /// Ticks until all of the counter's clients have ended.
    pub(crate) fn await_none(&mut self, running: &AtomicUsize, limit_ns: u64) -> bool {
        let until = self.world.now() + limit_ns;
        while running.load(Ordering::SeqCst) > 0 && self.world.now() < until {
            self.tick();
        }
        running.load(Ordering::SeqCst) == 0
    }
}
