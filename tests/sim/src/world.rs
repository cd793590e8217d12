//! The world: hosts, their disks, the network between them and the object store, under one clock.
//!
//! Time moves in ticks. In each tick the network hands out what is due, and every host that is up and not paused runs
//! until it waits, in the order of names. Nothing else moves anything, so one seed gives one history.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use granary_catalog::CatalogView;
use granary_consensus::{Logs, MemoryDisk};
use granary_node::{EngineKind, Node, Port, Simulated};
use granary_platform::{Clock, Platform, Randomness};
use granary_shard::TreeTrust;
use granary_store::memory::MemoryEngine;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::bucket::Bucket;
use crate::disk::Times;
use crate::host::Host;
use crate::net::Net;
use crate::rng::Rng;
use crate::seams;

pub(crate) const MS: u64 = 1_000_000;
/// The step of simulated time.
const TICK_NS: u64 = 2 * MS;
/// How often an engine makes durable what it was given, as sled does.
const ENGINE_FLUSH_NS: u64 = 500 * MS;

const FOREIGN_WORKERS: usize = 2;
const FOREIGN_BLOCKING: usize = 8;

/// How many nodes a cluster has.
pub(crate) const NODES: usize = 3;
/// How many shards.
pub(crate) const SHARDS: u32 = 2;

/// One host's wall clock: simulated time and how far it is off.
#[derive(Debug)]
struct HostClock {
    now_ns: Arc<AtomicU64>,
    off_ns: Arc<AtomicI64>,
}

impl Clock for HostClock {
    fn now_nanos(&self) -> u64 {
        let now = seams::EPOCH_SECONDS * 1_000_000_000 + self.now_ns.load(Ordering::SeqCst);
        now.saturating_add_signed(self.off_ns.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct HostChance(Mutex<Rng>);

impl Randomness for HostChance {
    fn fresh(&self) -> u128 {
        let mut rng = self.0.lock();
        u128::from(rng.next()) << 64 | u128::from(rng.next())
    }
}

/// What of a node survives its process.
struct Machine {
    dir: PathBuf,
    engine: MemoryEngine,
    trust: TreeTrust,
    logs: MemoryDisk,
    times: Arc<Times>,
    flushed_ns: u64,
}

/// A host, up or down.
struct Slot {
    host: Option<Host>,
    platform: Option<Platform>,
    /// Of a node: it, once it has its place in the cluster.
    node: Arc<Mutex<Option<Arc<Node>>>>,
    machine: Option<Machine>,
    off_ns: Arc<AtomicI64>,
    paused_until_ns: u64,
    starts: u64,
    /// Why its process ended by itself.
    ended: Arc<Mutex<Option<String>>>,
}

/// How a host goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process is killed; the machine stays up and has written what the process gave it, or a first part of it.
    Kill,
    /// The machine loses power: what was not synced is gone or not, and no tree is to be trusted.
    PowerCut,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) bucket: Bucket,
    pub(crate) rng: Rng,
    pub(crate) now_ns: Arc<AtomicU64>,
    slots: BTreeMap<String, Slot>,
    foreign: Runtime,
    /// Identities and snapshots lie here, as real files.
    dir: tempfile::TempDir,
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number}:7461")
}

impl World {
    /// A world without hosts.
    pub(crate) fn new(seed: u64) -> anyhow::Result<Self> {
        let rng = Rng::new(seed);
        Ok(Self {
            net: Net::new(rng.fork("net")),
            bucket: Bucket::new(rng.fork("bucket")),
            now_ns: Arc::default(),
            slots: BTreeMap::new(),
            foreign: foreign_runtime()?,
            // Its name is drawn from simulated chance, so that other runs have the same one; and where a name is taken, more is
            // drawn. With the process's number nothing is taken.
            dir: tempfile::Builder::new().prefix(&format!("granary-sim-{}-", std::process::id())).tempdir()?,
            rng,
        })
    }

    /// Clock and chance that belong to no host.
    pub(crate) fn nobodys_platform(&self) -> Platform {
        let clock = HostClock { now_ns: Arc::clone(&self.now_ns), off_ns: Arc::default() };
        Platform::new(Arc::new(clock), Arc::new(HostChance(Mutex::new(self.rng.fork("nobody")))))
    }

    pub(crate) fn now(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    /// Runs a future of a library that owns threads while everything stands still.
    pub(crate) fn aside<F: Future>(&self, future: F) -> F::Output {
        self.foreign.block_on(future)
    }

    /// A host that is up and runs nothing.
    fn boot(&mut self, name: &str) -> Platform {
        let host = Host::boot();
        self.net.attach(name, host.handle());
        let rng = &self.rng;
        let slot = self.slots.entry(name.to_owned()).or_insert_with(|| Slot {
            host: None,
            platform: None,
            node: Arc::default(),
            machine: None,
            off_ns: Arc::default(),
            paused_until_ns: 0,
            starts: 0,
            ended: Arc::default(),
        });
        slot.starts += 1;
        let clock = HostClock { now_ns: Arc::clone(&self.now_ns), off_ns: Arc::clone(&slot.off_ns) };
        let chance = HostChance(Mutex::new(rng.fork(&format!("{name} {}", slot.starts))));
        let dial = self.net.dial_from(name);
        let platform = Platform::simulated(Arc::new(clock), Arc::new(chance), self.foreign.handle().clone(), dial);
        (slot.host, slot.platform) = (Some(host), Some(platform.clone()));
        slot.ended = Arc::default();
        platform
    }

    /// Runs a task on a host that is up.
    pub(crate) fn run_on(&self, name: &str, task: impl Future<Output = ()> + Send + 'static) {
        let host = self.slots[name].host.as_ref().expect("the host is up");
        drop(host.handle().spawn(task));
    }

    /// Starts node `number`, on its machine as it was left.
    pub(crate) fn start_node(&mut self, number: usize) {
        let name = node_name(number);
        let platform = self.boot(&name);
        let dir = self.dir.path().join(format!("node-{number}"));
        let rng = self.rng.fork(&format!("disk of {name}"));
        let slot = self.slots.get_mut(&name).expect("booted");
        let machine = slot.machine.get_or_insert_with(|| {
            let times = Arc::new(Times::new(rng));
            let logs = MemoryDisk::new(Arc::clone(&times) as _);
            let (engine, trust) = (MemoryEngine::new(), TreeTrust::Untrusted);
            Machine { dir, engine, trust, logs, times, flushed_ns: 0 }
        });
        let settings = node_settings(&name, machine);
        let (net, node, ended) = (self.net.clone(), Arc::clone(&slot.node), Arc::clone(&slot.ended));
        let served = name.clone();
        let port = Port::Given(Box::new(move |routes| net.serve(&served, routes)));
        self.run_on(&name, async move {
            match Node::start(settings, &platform, port, &Registry::new()).await {
                Ok(started) => *node.lock() = Some(Arc::new(started)),
                Err(error) => {
                    *ended.lock() = Some(format!("does not start: {error:?}"));
                    return;
                }
            }
            let why = platform.failed().await;
            *ended.lock() = Some(why);
        });
    }

    /// A host with a catalog that it follows: for a router or a compactor.
    pub(crate) fn start_plain(&mut self, name: &str) -> (Platform, watch::Receiver<Arc<CatalogView>>) {
        let platform = self.boot(name);
        let seeds = (1..=NODES).map(node_name).collect();
        let _inside = self.slots[name].host.as_ref().expect("booted").handle().enter();
        let catalog = granary_catalog::watch::follow(&platform, seeds);
        (platform, catalog)
    }

    /// Ends a host at once, wherever its tasks stand.
    pub(crate) fn crash(&mut self, name: &str, death: Death) {
        self.net.detach(name);
        let mut rng = self.rng.fork(&format!("crash of {name} at {}", self.now()));
        let slot = self.slots.get_mut(name).expect("a host of this world");
        slot.node.lock().take();
        slot.paused_until_ns = 0;
        drop((slot.host.take(), slot.platform.take()));
        let Some(machine) = &mut slot.machine else { return };
        match death {
            Death::Kill => {
                let whole = rng.per_mille(500);
                machine.logs.crash(|count| if whole { count } else { index(rng.below(count as u64 + 1)) });
                machine.engine = machine.engine.crash_torn(rng.next());
                // Trees that were never opened by this process were left by the one before it.
                machine.trust = TreeTrust::Trusted { clean: false };
            }
            Death::PowerCut => {
                machine.logs.crash(|count| index(rng.below(count as u64 + 1)));
                machine.engine = MemoryEngine::new();
                machine.trust = TreeTrust::Untrusted;
            }
        }
    }

    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.slots.get(name).is_some_and(|slot| slot.host.is_some())
    }

    /// Why the host's process ended by itself, if it did.
    pub(crate) fn ended(&self, name: &str) -> Option<String> {
        self.slots.get(name)?.ended.lock().clone()
    }

    /// The node, if it is up and has its place.
    pub(crate) fn node(&self, number: usize) -> Option<Arc<Node>> {
        self.slots.get(&node_name(number))?.node.lock().clone()
    }

    pub(crate) fn disk_of(&self, number: usize) -> Option<Arc<Times>> {
        Some(Arc::clone(&self.slots.get(&node_name(number))?.machine.as_ref()?.times))
    }

    /// Steps a host's wall clock; its monotonic clock goes on.
    pub(crate) fn step_clock(&self, name: &str, by_ns: i64) {
        self.slots[name].off_ns.store(by_ns, Ordering::SeqCst);
    }

    /// Stops a host's process for a while, as SIGSTOP does: what is sent to it waits.
    pub(crate) fn pause(&mut self, name: &str, for_ns: u64) {
        let until = self.now() + for_ns;
        self.slots.get_mut(name).expect("a host of this world").paused_until_ns = until;
    }

    /// One tick of time.
    pub(crate) fn tick(&mut self) {
        let now = self.now_ns.fetch_add(TICK_NS, Ordering::SeqCst) + TICK_NS;
        seams::set_now(now);
        self.net.deliver(now);
        for slot in self.slots.values_mut() {
            if let Some(machine) = &mut slot.machine
                && now >= machine.flushed_ns + ENGINE_FLUSH_NS
            {
                machine.engine.flush();
                machine.flushed_ns = now;
            }
            if let Some(host) = &slot.host
                && now >= slot.paused_until_ns
            {
                host.step();
            }
        }
    }
}

/// Threads for libraries that own threads. All of them are started before anything else: tokio draws the seeds of its
/// runtimes from a counter of the process, which threads that start later would move at some time or other.
fn foreign_runtime() -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(FOREIGN_WORKERS).max_blocking_threads(FOREIGN_BLOCKING).enable_all();
    let foreign = builder.thread_keep_alive(Duration::from_secs(1 << 20)).build()?;
    let started = Arc::new(Barrier::new(FOREIGN_WORKERS + FOREIGN_BLOCKING + 1));
    for _ in 0..FOREIGN_WORKERS {
        let started = Arc::clone(&started);
        drop(foreign.spawn(async move { started.wait() }));
    }
    for _ in 0..FOREIGN_BLOCKING {
        let started = Arc::clone(&started);
        drop(foreign.spawn_blocking(move || started.wait()));
    }
    started.wait();
    Ok(foreign)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("a count of writes")
}

/// Small bounds, so that a run of a minute sees checkpoints, snapshots, purged logs and sealed segments many times.
fn node_settings(name: &str, machine: &Machine) -> granary_node::Settings {
    let seeds = (1..=NODES).map(node_name).collect();
    let mut settings = granary_node::Settings::new(machine.dir.clone(), name.to_owned(), seeds);
    settings.shards = SHARDS;
    settings.engine = EngineKind::Memory;
    settings.simulated = Some(Simulated {
        engine: Arc::new(machine.engine.clone()),
        trust: machine.trust,
        logs: Logs::Memory(machine.logs.clone()),
    });
    settings.shard.checkpoint_bytes = 2 << 10;
    settings.shard.memory_table_bytes = 64 << 10;
    settings.shard.row_cache_bytes = 64 << 10;
    settings.consensus.snapshot_after_entries = 60;
    settings.consensus.log_entries_kept = 40;
    settings.seal_bytes = 4 << 10;
    settings.expiry_interval = Duration::from_secs(1);
    settings.expiry_idle_rounds = 1;
    settings
}
