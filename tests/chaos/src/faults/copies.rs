//! Directories that are not what they were: older copies, emptied ones, one of them twice.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};
use granary_history::model::{Edge, Installed};

use super::{Attack, Fault};
use crate::cluster::directories::{Twin, stopped};
use crate::network::Party;
use crate::{PATIENCE, eventually};

/// What a replica says that was refused as older or as a second one.
const REFUSALS: [&str; 4] = [
    "raft log is an older copy",
    "another process runs as this replica",
    "the replica was started again elsewhere since",
    "a copy that went its own way",
];
/// What a replica says that finds no log where it had one.
const EMPTIED: [&str; 1] = ["is missing"];

impl Attack<'_> {
    pub(super) async fn on_a_directory(&mut self, fault: Fault, node: usize) -> anyhow::Result<()> {
        ensure!(self.cluster.is_whole(), "it needs a cluster in which nothing was given up");
        let replicas = self.cluster.answer(node).await?.replicas;
        let groups: BTreeSet<u32> = replicas.iter().map(|replica| replica.shard).collect();
        match fault {
            Fault::OlderCopy => self.older_copy(node, &groups).await,
            Fault::EmptiedLogs => self.emptied_logs(node, &groups).await,
            Fault::EmptiedDirectory => self.emptied_directory(node).await,
            _ => self.twins(node, &groups).await,
        }
    }

    /// A copy is made of the stopped node, which then runs on. Started on the copy it refuses; an operator vouches for
    /// the copy wrongly, and each replica refuses itself. With the original back it is whole.
    async fn older_copy(&mut self, node: usize, groups: &BTreeSet<u32>) -> anyhow::Result<()> {
        let (fault, targets) = (Fault::OlderCopy, [Party::Node(node).to_string()]);
        let (here, copy) = (self.cluster.data_dir(node), self.cluster.aside(node, "copy"));
        let original = self.cluster.aside(node, "original");
        self.cluster.stop_node(node).await?;
        self.cluster.copy_dir(node, &copy)?;
        self.cluster.restart(node)?;
        self.cluster.ready().await?;
        self.shards_serve(fault).await?;
        self.cluster.catches_up(node).await?;
        self.cluster.kill(node)?;
        std::fs::rename(&here, &original)?;
        std::fs::rename(&copy, &here)?;
        let said = self.cluster.said(&targets[0]);
        self.cluster.restart(node)?;
        self.cluster.ends_by_itself(node).await?;
        let line = self.cluster.says(&targets[0], said, &["data directory is a copy"]).await?;
        self.note(fault, Edge::Begin, &targets, Installed::Yes, line);
        self.cluster.vouch_for(&here)?;
        self.cluster.restart(node)?;
        let why = self.all_refuse(node, groups, &REFUSALS).await?;
        self.shards_serve(fault).await?;
        self.put_back(fault, node, &original, why).await
    }

    /// The Raft logs are gone under the old identity: no replica starts. With the logs back all do.
    async fn emptied_logs(&mut self, node: usize, groups: &BTreeSet<u32>) -> anyhow::Result<()> {
        let (fault, targets) = (Fault::EmptiedLogs, [Party::Node(node).to_string()]);
        let here = self.cluster.data_dir(node);
        self.cluster.kill(node)?;
        let shards = std::fs::read_dir(here.join("shards"))?.map(|shard| Ok(shard?.path()));
        let replicas = shards.chain([Ok(here.join("meta"))]).collect::<std::io::Result<Vec<_>>>()?;
        let logs: Vec<_> = replicas.iter().map(|replica| (replica.join("log"), replica.join("log-aside"))).collect();
        for (log, aside) in &logs {
            std::fs::rename(log, aside)?;
            std::fs::create_dir(log)?;
        }
        self.note(fault, Edge::Begin, &targets, Installed::Yes, format!("{} raft logs are empty", logs.len()));
        self.cluster.restart(node)?;
        let why = self.all_refuse(node, groups, &EMPTIED).await?;
        self.shards_serve(fault).await?;
        self.cluster.kill(node)?;
        for (log, aside) in &logs {
            std::fs::remove_dir_all(log)?;
            std::fs::rename(aside, log)?;
        }
        self.cluster.restart(node)?;
        self.note(fault, Edge::End, &targets, Installed::Yes, why);
        self.cluster.ready().await?;
        self.cluster.catches_up(node).await
    }

    /// Everything is gone: at the old address there is a new node, without replicas. With the original back it is who
    /// it was.
    async fn emptied_directory(&mut self, node: usize) -> anyhow::Result<()> {
        let (fault, targets) = (Fault::EmptiedDirectory, [Party::Node(node).to_string()]);
        let original = self.cluster.aside(node, "original");
        let before = self.cluster.answer(node).await?.id;
        self.cluster.kill(node)?;
        std::fs::rename(self.cluster.data_dir(node), &original)?;
        std::fs::create_dir(self.cluster.data_dir(node))?;
        self.cluster.restart(node)?;
        let now = self.cluster.answer(node).await?;
        ensure!(now.id != before && now.replicas.is_empty(), "an empty directory passes for node {before}: {now:?}");
        let evidence = format!("node {before} has become node {}, without replicas", now.id);
        self.note(fault, Edge::Begin, &targets, Installed::Yes, evidence);
        self.shards_serve(fault).await?;
        self.put_back(fault, node, &original, "an empty directory was a new node".to_owned()).await
    }

    /// A second process is refused the same directory, then a copy of it. Vouched for, it runs beside the first on a
    /// copy that is as good: of each group at most one of the two takes part.
    async fn twins(&mut self, node: usize, groups: &BTreeSet<u32>) -> anyhow::Result<()> {
        let (fault, targets) = (Fault::Twins, [Party::Node(node).to_string()]);
        let (here, copy) = (self.cluster.data_dir(node), self.cluster.aside(node, "copy"));
        let in_use = self.second_is_refused(node, &here, "data directory is in use by another process").await?;
        self.cluster.stop_node(node).await?;
        self.cluster.copy_dir(node, &copy)?;
        let copied = self.second_is_refused(node, &copy, "data directory is a copy").await?;
        self.note(fault, Edge::Once, &targets, Installed::Yes, format!("{in_use}; {copied}"));

        self.cluster.vouch_for(&copy)?;
        self.cluster.give_up_replicas(node);
        self.cluster.restart(node)?;
        let twin = self.cluster.start_twin(node, &copy)?;
        let why = self.at_most_one_takes_part(node, &twin, groups).await?;
        self.note(fault, Edge::Begin, &targets, Installed::Yes, why);
        self.lasts().await;
        let why = self.at_most_one_takes_part(node, &twin, groups).await?;
        drop(twin);
        self.note(fault, Edge::End, &targets, Installed::Yes, why);
        Ok(())
    }

    /// Starts a second process as the node on a directory, which must end by itself and say why.
    async fn second_is_refused(&self, node: usize, data: &Path, words: &str) -> anyhow::Result<String> {
        let second = self.cluster.start_twin(node, data)?;
        let (name, said) = (second.name.clone(), second.said);
        second.ends_by_itself().await?;
        self.cluster.says(&name, said, &[words]).await
    }

    /// Waits until in each group one of the two has refused itself, or both have.
    async fn at_most_one_takes_part(&self, node: usize, twin: &Twin, groups: &BTreeSet<u32>) -> anyhow::Result<String> {
        let mut why = Vec::new();
        let settled = eventually(PATIENCE, "of two processes one refuses itself in each group", async || {
            let (Some(one), Some(two)) = (self.cluster.status(node).await, twin.status().await) else { return false };
            let said = |who, status| stopped(status).into_iter().map(move |(group, why)| (group, who, why));
            why = said("the first", &one).chain(said("the second", &two)).collect();
            why.retain(|(_, _, why)| REFUSALS.iter().any(|refusal| why.contains(refusal)));
            why.sort();
            groups.iter().all(|group| why.iter().any(|(refused, ..)| refused == group))
        })
        .await;
        settled.with_context(|| format!("of {groups:?} so far: {why:?}"))?;
        Ok(format!("{why:?}"))
    }

    /// Waits until every replica of the node, its meta group's too, stays stopped with one of these words.
    async fn all_refuse(&self, node: usize, groups: &BTreeSet<u32>, words: &[&str]) -> anyhow::Result<String> {
        let mut why = Vec::new();
        let refused = eventually(PATIENCE, "every replica refuses itself", async || {
            let Some(status) = self.cluster.status(node).await else { return false };
            why = stopped(&status);
            why.retain(|(_, why)| words.iter().any(|words| why.contains(words)));
            groups.iter().all(|group| why.iter().any(|(refused, _)| refused == group))
        })
        .await;
        refused.with_context(|| format!("of {groups:?} so far: {why:?}"))?;
        Ok(format!("{why:?}"))
    }

    /// Ends the process on the wrong directory, and starts one on the original.
    async fn put_back(&mut self, fault: Fault, node: usize, original: &Path, why: String) -> anyhow::Result<()> {
        let here = self.cluster.data_dir(node);
        self.cluster.kill(node)?;
        std::fs::remove_dir_all(&here)?;
        std::fs::rename(original, &here)?;
        self.cluster.restart(node)?;
        self.note(fault, Edge::End, &[Party::Node(node).to_string()], Installed::Yes, why);
        self.cluster.ready().await?;
        self.cluster.catches_up(node).await
    }
}
