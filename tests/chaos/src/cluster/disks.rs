//! The nodes' disks: what goes wrong on them, and how a process takes it.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use granary_test_disk::{Disk, Fault, Shim};

use super::Cluster;
use crate::{PATIENCE, eventually};

/// What a replica of a node is called in paths: its directory below `shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaName {
    /// The shard.
    pub shard: u32,
    /// The replica.
    pub replica: u64,
}

impl ReplicaName {
    /// What only paths in its Raft log contain.
    pub fn log(self) -> String {
        format!("/shards/{}-{}/log/", self.shard, self.replica)
    }
}

/// Whether what faults disks can be built here.
pub fn can_be_faulted() -> bool {
    tempfile::tempdir().is_ok_and(|dir| Shim::build(dir.path()).is_ok())
}

impl Cluster {
    pub(super) fn make_disks(&mut self) -> anyhow::Result<()> {
        let shim = Shim::build(&self.dir.path().join("shim")).context("build what faults the disks")?;
        for node in 0..self.settings.nodes {
            let run = self.dir.path().join(format!("{}.disk", super::node_name(node)));
            self.disks.push(Disk::unrecorded(&shim, &self.data_dir(node), &run)?);
        }
        Ok(())
    }

    /// From now on exactly these faults are in force on the node's disk, also under a process that runs.
    ///
    /// # Errors
    /// When the cluster's disks cannot be faulted.
    pub fn set_disk_faults(&self, node: usize, faults: &[Fault]) -> anyhow::Result<()> {
        Ok(self.disk(node)?.set_faults(faults)?)
    }

    /// What the faults on the node's disk have struck since the cluster started, one line for each operation.
    ///
    /// # Errors
    /// When the cluster's disks cannot be faulted.
    pub fn disk_strikes(&self, node: usize) -> anyhow::Result<Vec<String>> {
        Ok(self.disk(node)?.strikes()?)
    }

    fn disk(&self, node: usize) -> anyhow::Result<&Disk> {
        self.disks.get(node).context("the cluster was started without disks that can be faulted")
    }

    /// The engine under the node, which is also the name of its directory.
    pub fn engine(&self, node: usize) -> &str {
        let engines = &self.settings.engines;
        &engines[node % engines.len()]
    }

    /// A shard that the node leads, by its replica there; another one of its shards when it leads none.
    ///
    /// # Errors
    /// When it does not answer, or has no replica.
    pub async fn some_replica(&self, node: usize) -> anyhow::Result<ReplicaName> {
        let status = self.answer(node).await?;
        let mut replicas: Vec<_> = status.replicas.iter().filter(|replica| replica.shard != 0).collect();
        replicas.sort_by_key(|replica| (replica.role != "leader", replica.shard));
        let first = replicas.first().context("it has a replica")?;
        Ok(ReplicaName { shard: first.shard, replica: first.replica })
    }

    /// Waits until the node's process ends by itself, as it must, with exit code 1. Returns how it ended.
    ///
    /// # Errors
    /// When it does not end in time, or ends otherwise.
    pub async fn ends_by_itself(&mut self, node: usize) -> anyhow::Result<String> {
        let child = self.nodes[node].as_mut().context("the node runs")?;
        let ended = async || child.try_wait().is_ok_and(|ended| ended.is_some());
        eventually(PATIENCE, &format!("node {node} ends by itself"), ended).await?;
        let mut child = self.nodes[node].take().context("the node ran")?;
        self.network.node_runs(node, None);
        let status = child.wait()?;
        ensure!(status.code() == Some(1), "node {node} ended by itself, but not in order: {status}");
        Ok(format!("process {} ended with exit code 1", child.id()))
    }

    /// Waits until the cluster is ready with a node that was started on a bad disk, which is well by now. A process
    /// that ends by itself meanwhile, for what it met before, is started again.
    ///
    /// # Errors
    /// When it is not ready in time, or ends again and again.
    pub async fn comes_back(&mut self, node: usize) -> anyhow::Result<()> {
        for _ in 0..3 {
            let probe = self.network.metrics(node);
            let child = self.nodes[node].as_mut().context("the node was started")?;
            let mut ended = false;
            eventually(PATIENCE, &format!("node {node} is ready, or ends"), async || {
                ended = child.try_wait().is_ok_and(|status| status.is_some());
                ended || super::http_ok(&probe, "/readyz").await
            })
            .await?;
            if !ended {
                return self.ready().await;
            }
            self.ends_by_itself(node).await?;
            self.restart(node)?;
        }
        anyhow::bail!("node {node} ends again and again although its disk is well")
    }

    /// Waits until the node has applied all that is committed as of now, in every shard.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn catches_up(&self, node: usize) -> anyhow::Result<()> {
        let mut reached: BTreeMap<u32, u64> = BTreeMap::new();
        for other in 0..self.nodes.len() {
            for replica in self.status(other).await.into_iter().flat_map(|status| status.replicas) {
                let committed = reached.entry(replica.shard).or_default();
                *committed = replica.applied_index.max(*committed);
            }
        }
        eventually(PATIENCE, &format!("node {node} catches up with {reached:?}"), async || {
            let Some(status) = self.status(node).await else { return false };
            let has = |shard: u32, index: u64| {
                status.replicas.iter().any(|replica| replica.shard == shard && replica.applied_index >= index)
            };
            reached.iter().filter(|(shard, _)| **shard != 0).all(|(shard, index)| has(*shard, *index))
        })
        .await
    }

    /// The least entry that all the node's shards have in a snapshot; nought before each has one.
    pub async fn snapshots_reach(&self, node: usize) -> u64 {
        let replicas = self.status(node).await.map(|status| status.replicas).unwrap_or_default();
        let shards = replicas.iter().filter(|replica| replica.shard != 0);
        shards.map(|replica| replica.snapshot_index).min().unwrap_or_default()
    }

    /// How long a node's log of words is: a place to read on from with [`Self::says`].
    pub fn said(&self, name: &str) -> u64 {
        std::fs::metadata(self.log_path(name)).map_or(0, |found| found.len())
    }

    /// The first line that a process has said since `from` with all of these words in it.
    pub fn line_with(&self, name: &str, from: u64, words: &[&str]) -> Option<String> {
        let said = std::fs::read(self.log_path(name)).ok()?;
        let said = String::from_utf8_lossy(said.get(usize::try_from(from).ok()?..)?);
        let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)))?;
        Some(line.chars().take(300).collect())
    }

    /// Waits for such a line.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn says(&self, name: &str, from: u64, words: &[&str]) -> anyhow::Result<String> {
        let mut line = None;
        eventually(PATIENCE, &format!("{name} says {words:?}"), async || {
            line = self.line_with(name, from, words);
            line.is_some()
        })
        .await?;
        line.context("it was there")
    }

    fn log_path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }
}
