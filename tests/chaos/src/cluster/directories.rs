//! The nodes' directories: copied, put aside, put back, and opened by another process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, ensure};

use super::{Cluster, NodeStatus, STOPPED, node_name, status_of};
use crate::network::{Port, free_ports};
use crate::{PATIENCE, eventually};

/// Made by an operator who vouches for a directory that was moved.
const MOVED: &str = "moved";

/// Another process where a node is, under its name and address, on a directory of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Twin {
    child: Child,
    listen: String,
    /// What its log is called, and how long that was when it started.
    pub name: String,
    /// See `name`.
    pub said: u64,
    _ports: Vec<Port>,
}

impl Twin {
    /// What it says of its replicas; `None` when it does not answer.
    pub async fn status(&self) -> Option<NodeStatus> {
        status_of(&self.listen).await
    }

    /// Waits until it ends by itself, with exit code 1.
    ///
    /// # Errors
    /// When it does not, or ends otherwise.
    pub async fn ends_by_itself(mut self) -> anyhow::Result<()> {
        let ended = async || self.child.try_wait().is_ok_and(|ended| ended.is_some());
        eventually(PATIENCE, "a second process ends by itself", ended).await?;
        let status = self.child.wait()?;
        ensure!(status.code() == Some(1), "a second process ended by itself, but not in order: {status}");
        Ok(())
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        // One that ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// The directory of a node.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(node_name(node))
    }

    /// Where a directory of the node is put aside under a word.
    pub fn aside(&self, node: usize, word: &str) -> PathBuf {
        self.dir.path().join(format!("{}.{word}", node_name(node)))
    }

    /// Ctrl-C to a node, which must end with exit code 0.
    ///
    /// # Errors
    /// When it does not.
    pub async fn stop_node(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, "INT")?;
        let mut child = self.nodes[node].take().context("the node runs")?;
        self.network.node_runs(node, None);
        let stopped = async || child.try_wait().is_ok_and(|ended| ended.is_some());
        let in_time = eventually(PATIENCE, &format!("node {node} stops"), stopped).await;
        if in_time.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        in_time?;
        ensure!(status.success(), "node {node} stopped with {status}");
        Ok(())
    }

    /// Copies a stopped node's directory, as `cp` does.
    ///
    /// # Errors
    /// When the node runs, or `cp` fails.
    pub fn copy_dir(&self, node: usize, to: &Path) -> anyhow::Result<()> {
        ensure!(self.nodes[node].is_none(), "node {node} runs");
        let copied = Command::new("cp").arg("-r").args([&self.data_dir(node), to]).status()?;
        ensure!(copied.success(), "cp: {copied}");
        Ok(())
    }

    /// Tells the next process on the directory that it was moved and not copied, as an operator may.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn vouch_for(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(dir.join(MOVED), b"")?)
    }

    /// Starts a second process as the node `node`, beside it, on the directory `data`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_twin(&self, node: usize, data: &Path) -> anyhow::Result<Twin> {
        let host = self.network.listen(node);
        let host = host.rsplit_once(':').context("host:port")?.0.to_owned();
        let ports = free_ports(2)?;
        let at = |port: &Port| format!("{host}:{}", port.number);
        let (listen, name) = (at(&ports[0]), format!("{}.twin", node_name(node)));
        let said = self.said(&name);
        let child = self.spawn_as(node, &name, data, [&listen, &at(&ports[1])])?;
        Ok(Twin { child, listen, name, said, _ports: ports })
    }

    /// The node has lost replicas for good, which is not waited for any more.
    pub fn give_up_replicas(&mut self, node: usize) {
        self.crippled.insert(node);
    }

    /// The node itself if it can have all its replicas, else the next one that can.
    pub fn whole_from(&self, node: usize) -> usize {
        next_whole(node, self.nodes.len(), &self.crippled)
    }

    /// Whether every node can have all its replicas.
    pub fn is_whole(&self) -> bool {
        self.crippled.is_empty()
    }
}

/// The first node from `node` on, round and round, that is not among the crippled ones; `node` if all are.
fn next_whole(node: usize, count: usize, crippled: &BTreeSet<usize>) -> usize {
    (node..node + count).map(|place| place % count).find(|node| !crippled.contains(node)).unwrap_or(node)
}

/// Why replicas of a node stay stopped, by shard; the meta group is shard 0.
pub fn stopped(status: &NodeStatus) -> Vec<(u32, String)> {
    let stopped =
        status.replicas.iter().filter(|replica| replica.role == STOPPED && !replica.rebuilt_because.is_empty());
    stopped.map(|replica| (replica.shard, replica.rebuilt_because.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_lost_replicas_is_passed_over() {
        let whole = |crippled: &[usize]| {
            let crippled = crippled.iter().copied().collect();
            [0, 1, 2].map(|node| next_whole(node, 3, &crippled))
        };
        assert_eq!(whole(&[]), [0, 1, 2]);
        assert_eq!(whole(&[2]), [0, 1, 0]);
        assert_eq!(whole(&[0, 1]), [2, 2, 2]);
        assert_eq!(whole(&[0, 1, 2]), [0, 1, 2]);
    }
}
