//! What is done to the cluster, one fault at a time, each with evidence that it took.
//!
//! A fault is a name and a function that begins it, waits while it lasts, ends it, and notes both in the history. To
//! add one: a variant of [`Fault`], its arm in [`Attack::run`], and its place in [`Fault::ALL`].

mod copies;
mod disk;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use granary_history::Recorder;
use granary_history::model::{self, Edge, Installed, What};
use rand::Rng;
use rand::rngs::StdRng;

use crate::cluster::Service;
use crate::network::{Cut, Party};
use crate::workload::Workload;
use crate::{Cluster, PATIENCE, eventually};

/// How soon a cut must have held something up: peers talk several times a second.
const CUT_PATIENCE: Duration = Duration::from_secs(10);
/// How many acknowledged writes show that the cluster serves again.
const WRITES_AFTER: u64 = 60;
/// How many of each shard show that it serves while a fault is there.
const WRITES_OF_EACH: u64 = 10;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the node that leads most, then a restart.
    KillLeader,
    /// kill -9 of any node, then a restart.
    KillAny,
    /// kill -9 of all nodes at once, then a restart of all.
    KillAll,
    /// kill -9 of the router, then a restart: clients lose every call under way.
    KillRouter,
    /// kill -9 of the compactor, twice, then a restart each time.
    KillCompactor,
    /// SIGSTOP of the node that leads most, for longer than lease and election, then SIGCONT.
    PauseLeader,
    /// SIGSTOP of any node, then SIGCONT.
    PauseAny,
    /// The node that leads most hears no other node and none hears it; clients reach it all the same.
    IsolateLeader,
    /// A node is cut from the others and from clients.
    IsolateAny,
    /// What the leader sends does not reach the others; what they send reaches it.
    LeaderIsNotHeard,
    /// What the others send does not reach the leader; what it sends reaches them.
    LeaderDoesNotHear,
    /// Two nodes are cut from each other; the third reaches both.
    Partial,
    /// A node is cut from the others and joined again, many times.
    Flapping,
    /// A leader is cut off, killed behind the cut and restarted before it heals.
    KillBehindCut,
    /// Every sync on the disk of the node that leads most takes up to three seconds.
    SlowLeaderDisk,
    /// Every sync on any node's disk takes up to three seconds.
    SlowAnyDisk,
    /// The disk of the node that leads most hangs: nothing that changes files returns.
    HangingLeaderDisk,
    /// Any node's disk hangs.
    HangingAnyDisk,
    /// Only the engine's directory hangs, of the node that leads most: its Raft logs work.
    HangingLeaderEngine,
    /// A sync of a Raft log fails, once, at the node that leads most: its process must end.
    FailingSync,
    /// A write to a Raft log fails, once, at the node that leads most: its process must end.
    FailingWrite,
    /// The disk is full for one Raft log of the node that leads most.
    FullLog,
    /// The disk is full for snapshots of any node, which goes on.
    FullSnapshots,
    /// The disk is full for the engine of any node.
    FullEngine,
    /// The disk of the node that leads most is full for everything.
    FullDisk,
    /// A node is started on an older copy of its directory, then on the original.
    OlderCopy,
    /// A node is started with its Raft logs gone, then with the logs.
    EmptiedLogs,
    /// A node is started on an empty directory under its old address, then on the original.
    EmptiedDirectory,
    /// Two processes at once are one node, on two copies of its directory. It loses replicas for good, so this strikes once.
    Twins,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 29] = [
        Self::KillLeader,
        Self::KillAny,
        Self::KillAll,
        Self::KillRouter,
        Self::KillCompactor,
        Self::PauseLeader,
        Self::PauseAny,
        Self::IsolateLeader,
        Self::IsolateAny,
        Self::LeaderIsNotHeard,
        Self::LeaderDoesNotHear,
        Self::Partial,
        Self::Flapping,
        Self::KillBehindCut,
        Self::SlowLeaderDisk,
        Self::SlowAnyDisk,
        Self::HangingLeaderDisk,
        Self::HangingAnyDisk,
        Self::HangingLeaderEngine,
        Self::FailingSync,
        Self::FailingWrite,
        Self::FullLog,
        Self::FullSnapshots,
        Self::FullEngine,
        Self::FullDisk,
        Self::OlderCopy,
        Self::EmptiedLogs,
        Self::EmptiedDirectory,
        Self::Twins,
    ];

    /// What the history calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "kill-leader",
            Self::KillAny => "kill-any",
            Self::KillAll => "kill-all",
            Self::KillRouter => "kill-router",
            Self::KillCompactor => "kill-compactor",
            Self::PauseLeader => "pause-leader",
            Self::PauseAny => "pause-any",
            Self::IsolateLeader => "isolate-leader",
            Self::IsolateAny => "isolate-any",
            Self::LeaderIsNotHeard => "leader-is-not-heard",
            Self::LeaderDoesNotHear => "leader-does-not-hear",
            Self::Partial => "partial-partition",
            Self::Flapping => "flapping",
            Self::KillBehindCut => "kill-behind-cut",
            Self::SlowLeaderDisk => "slow-leader-disk",
            Self::SlowAnyDisk => "slow-disk",
            Self::HangingLeaderDisk => "hanging-leader-disk",
            Self::HangingAnyDisk => "hanging-disk",
            Self::HangingLeaderEngine => "hanging-leader-engine",
            Self::FailingSync => "failing-sync",
            Self::FailingWrite => "failing-write",
            Self::FullLog => "full-log",
            Self::FullSnapshots => "full-snapshots",
            Self::FullEngine => "full-engine",
            Self::FullDisk => "full-disk",
            Self::OlderCopy => "older-copy",
            Self::EmptiedLogs => "emptied-logs",
            Self::EmptiedDirectory => "emptied-directory",
            Self::Twins => "twins",
        }
    }

    /// Whether it needs disks that can be faulted.
    pub fn is_of_a_disk(self) -> bool {
        matches!(
            self,
            Self::SlowLeaderDisk
                | Self::SlowAnyDisk
                | Self::HangingLeaderDisk
                | Self::HangingAnyDisk
                | Self::HangingLeaderEngine
                | Self::FailingSync
                | Self::FailingWrite
                | Self::FullLog
                | Self::FullSnapshots
                | Self::FullEngine
                | Self::FullDisk
        )
    }

    /// Whether it needs every node to have all its replicas.
    pub fn needs_a_whole_cluster(self) -> bool {
        matches!(self, Self::OlderCopy | Self::EmptiedLogs | Self::EmptiedDirectory | Self::Twins)
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// What faults are made with.
#[derive(Debug)]
pub struct Attack<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// Where faults are noted.
    pub recorder: &'a Recorder,
    /// Who shows that the cluster serves.
    pub workload: &'a Workload,
    /// Draws victims and lengths.
    pub chance: &'a mut StdRng,
    /// How long a fault lasts at most; at least half of it.
    pub longest: Duration,
}

impl Attack<'_> {
    /// Begins a fault, lets it last, ends it, and waits until writes are acknowledged again.
    ///
    /// # Errors
    /// When a fault cannot be made or the cluster does not serve after it.
    pub async fn run(&mut self, fault: Fault) -> anyhow::Result<()> {
        let any = self.chance.random_range(0..self.cluster.node_count());
        match fault {
            Fault::KillLeader => self.kill(fault, vec![self.cluster.leader_of_most_shards().await?]).await,
            Fault::KillAny => self.kill(fault, vec![any]).await,
            Fault::KillAll => self.kill(fault, (0..self.cluster.node_count()).collect()).await,
            Fault::KillRouter => self.kill_service(fault, Service::Router),
            Fault::KillCompactor => {
                self.kill_service(fault, Service::Compactor)?;
                // It has begun to work again, or not yet: both are of interest.
                self.lasts().await;
                self.kill_service(fault, Service::Compactor)
            }
            Fault::PauseLeader => self.pause(fault, self.cluster.leader_of_most_shards().await?).await,
            Fault::PauseAny => self.pause(fault, any).await,
            Fault::IsolateLeader => {
                let cuts = self.isolated(self.cluster.leader_of_most_shards().await?, true, true);
                self.cut(fault, cuts).await
            }
            Fault::IsolateAny => {
                let mut cuts = self.isolated(any, true, true);
                cuts.extend([(Party::Node(any), Party::Clients), (Party::Clients, Party::Node(any))]);
                self.cut(fault, cuts).await
            }
            Fault::LeaderIsNotHeard => {
                let cuts = self.isolated(self.cluster.leader_of_most_shards().await?, true, false);
                self.cut(fault, cuts).await
            }
            Fault::LeaderDoesNotHear => {
                let cuts = self.isolated(self.cluster.leader_of_most_shards().await?, false, true);
                self.cut(fault, cuts).await
            }
            Fault::Partial => {
                let other = (any + 1) % self.cluster.node_count();
                let (any, other) = (Party::Node(any), Party::Node(other));
                self.cut(fault, BTreeSet::from([(any, other), (other, any)])).await
            }
            Fault::Flapping => self.flap(any).await,
            Fault::KillBehindCut => self.kill_behind_cut().await,
            _ if fault.is_of_a_disk() => Box::pin(self.on_a_disk(fault, any)).await,
            _ => Box::pin(self.on_a_directory(fault, any)).await,
        }
        .with_context(|| format!("fault {}", fault.name()))?;
        self.serves_again(fault).await
    }

    /// The cuts between a node and all others: what it says, what it hears.
    fn isolated(&self, node: usize, says: bool, hears: bool) -> BTreeSet<Cut> {
        let others = (0..self.cluster.node_count()).filter(|other| *other != node);
        let both = others.flat_map(|other| {
            let (node, other) = (Party::Node(node), Party::Node(other));
            [says.then_some((node, other)), hears.then_some((other, node))]
        });
        both.flatten().collect()
    }

    fn note(&self, fault: Fault, edge: Edge, targets: &[String], installed: Installed, evidence: String) {
        let (name, targets) = (fault.name().to_owned(), targets.to_vec());
        self.recorder.note(What::Fault(model::Fault { name, targets, edge, installed, evidence }));
    }

    /// The fault's length: it is what the fault is, no condition ends it.
    async fn lasts(&mut self) {
        let longest = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        let millis = self.chance.random_range(longest / 2..=longest);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn serves_again(&self, fault: Fault) -> anyhow::Result<()> {
        let before = self.workload.acknowledged();
        let what = format!("writes are acknowledged after {}", fault.name());
        eventually(PATIENCE, &what, async || self.workload.acknowledged() >= before + WRITES_AFTER).await
    }

    /// Waits until every shard has acknowledged more writes, while a fault of one node is there. Once replicas were given
    /// up, one node more is a majority, and that is not asked.
    async fn shards_serve(&self, fault: Fault) -> anyhow::Result<()> {
        if !self.cluster.is_whole() {
            return Ok(());
        }
        let before = self.workload.acknowledged_by_shard();
        eventually(PATIENCE, &format!("every shard serves beside {}", fault.name()), async || {
            let now = self.workload.acknowledged_by_shard();
            now.len() >= before.len()
                && now.iter().all(|(shard, writes)| *writes >= before.get(shard).unwrap_or(&0) + WRITES_OF_EACH)
        })
        .await
    }

    async fn kill(&mut self, fault: Fault, nodes: Vec<usize>) -> anyhow::Result<()> {
        let targets: Vec<String> = nodes.iter().map(|node| Party::Node(*node).to_string()).collect();
        for node in &nodes {
            let evidence = self.cluster.kill(*node)?;
            self.note(fault, Edge::Begin, &[Party::Node(*node).to_string()], Installed::Yes, evidence);
        }
        self.lasts().await;
        for node in &nodes {
            self.cluster.restart(*node)?;
        }
        self.note(fault, Edge::End, &targets, Installed::Yes, "started again".to_owned());
        self.cluster.ready().await
    }

    fn kill_service(&mut self, fault: Fault, service: Service) -> anyhow::Result<()> {
        let evidence = self.cluster.kill_service(service)?;
        self.note(fault, Edge::Once, &[service.name().to_owned()], Installed::Yes, evidence);
        self.cluster.restart_service(service)
    }

    async fn pause(&mut self, fault: Fault, node: usize) -> anyhow::Result<()> {
        let targets = [Party::Node(node).to_string()];
        let evidence = self.cluster.pause(node).await?;
        self.note(fault, Edge::Begin, &targets, Installed::Yes, evidence);
        self.lasts().await;
        let evidence = self.cluster.resume(node).await?;
        self.note(fault, Edge::End, &targets, Installed::Yes, evidence);
        Ok(())
    }

    async fn cut(&mut self, fault: Fault, cuts: BTreeSet<Cut>) -> anyhow::Result<()> {
        self.begin_cut(fault, &cuts).await?;
        self.lasts().await;
        self.end_cut(fault, &cuts).await
    }

    /// Cuts, and waits until the network has held something up: only then is the cut known to be there.
    async fn begin_cut(&self, fault: Fault, cuts: &BTreeSet<Cut>) -> anyhow::Result<()> {
        self.cluster.network().set_cuts(cuts).await?;
        let held_up = async || self.cluster.network().held_up().is_ok_and(|count| count > 0);
        let seen = eventually(CUT_PATIENCE, "the cut holds something up", held_up).await;
        let installed = if seen.is_ok() { Installed::Yes } else { Installed::Unclear };
        self.note(fault, Edge::Begin, &told(cuts), installed, self.evidence()?);
        Ok(())
    }

    async fn end_cut(&self, fault: Fault, cuts: &BTreeSet<Cut>) -> anyhow::Result<()> {
        let evidence = self.evidence()?;
        self.cluster.network().set_cuts(&BTreeSet::new()).await?;
        self.note(fault, Edge::End, &told(cuts), Installed::Yes, evidence);
        Ok(())
    }

    fn evidence(&self) -> anyhow::Result<String> {
        let network = self.cluster.network();
        Ok(format!("{}: {} {}", network.name(), network.held_up()?, network.held_up_unit()))
    }

    async fn flap(&mut self, node: usize) -> anyhow::Result<()> {
        let cuts = self.isolated(node, true, true);
        for _ in 0..6 {
            self.begin_cut(Fault::Flapping, &cuts).await?;
            // Long enough for an election to begin, too short for many to end.
            let millis = self.chance.random_range(200..2_500);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            self.end_cut(Fault::Flapping, &cuts).await?;
            let millis = self.chance.random_range(100..1_000);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        Ok(())
    }

    async fn kill_behind_cut(&mut self) -> anyhow::Result<()> {
        let (fault, node) = (Fault::KillBehindCut, self.cluster.leader_of_most_shards().await?);
        let cuts = self.isolated(node, true, true);
        self.begin_cut(fault, &cuts).await?;
        self.lasts().await;
        let evidence = self.cluster.kill(node)?;
        self.note(fault, Edge::Once, &[Party::Node(node).to_string()], Installed::Yes, evidence);
        self.cluster.restart(node)?;
        self.lasts().await;
        self.end_cut(fault, &cuts).await
    }
}

fn told(cuts: &BTreeSet<Cut>) -> Vec<String> {
    cuts.iter().map(|(from, to)| format!("{from} to {to}")).collect()
}
