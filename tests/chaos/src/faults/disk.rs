//! Disks that are slow, hang, fail or are full, under a node at work.

use std::ops::Range;

use granary_history::model::{Edge, Installed};
use granary_test_disk::{Fault as Wrong, Op, errno};
use rand::Rng;

use super::{Attack, Fault};
use crate::network::Party;
use crate::{PATIENCE, eventually};

/// How long a slow sync takes.
const SLOW_MICROS: Range<u64> = 300_000..3_000_000;
/// How much still fits on a disk that is about to be full.
const LAST_BYTES: Range<u64> = 0..16 << 10;
/// How many operations go well before one fails.
const OPERATIONS_BEFORE: Range<u64> = 1..40;
/// Everything that changes files.
const CHANGES: [Op; 7] = [Op::Open, Op::Write, Op::Truncate, Op::Sync, Op::Rename, Op::Remove, Op::MakeDir];

impl Attack<'_> {
    pub(super) async fn on_a_disk(&mut self, fault: Fault, any: usize) -> anyhow::Result<()> {
        let node = match fault {
            Fault::SlowAnyDisk | Fault::HangingAnyDisk | Fault::FullSnapshots | Fault::FullEngine => any,
            _ => self.cluster.leader_of_most_shards().await?,
        };
        // One that lost replicas for good takes no snapshot of them and is never ready: nothing could be waited for.
        let node = self.cluster.whole_from(node);
        let (slow, left) = (self.chance.random_range(SLOW_MICROS), self.chance.random_range(LAST_BYTES));
        let nth = self.chance.random_range(OPERATIONS_BEFORE);
        let log = self.cluster.some_replica(node).await?.log();
        let engine = format!("/{}/", self.cluster.engine(node));
        let once = |op: Op| vec![Wrong::fail(op, errno::EIO, &log).nth(nth).times(1)];
        let hang = |part: &str| CHANGES.map(|op| Wrong::hang(op, part)).to_vec();
        match fault {
            Fault::SlowLeaderDisk | Fault::SlowAnyDisk => {
                self.bear(fault, node, vec![Wrong::delay(Op::Sync, slow, "")]).await
            }
            Fault::HangingLeaderDisk | Fault::HangingAnyDisk => self.bear(fault, node, hang("")).await,
            Fault::HangingLeaderEngine => self.bear(fault, node, hang(&engine)).await,
            Fault::FullSnapshots => self.full_snapshots(node).await,
            Fault::FailingSync => self.die(fault, node, once(Op::Sync), "the raft log failed").await,
            Fault::FailingWrite => self.die(fault, node, once(Op::Write), "the raft log failed").await,
            Fault::FullLog => self.die(fault, node, vec![Wrong::space(left, &log)], "the raft log failed").await,
            Fault::FullEngine => self.die(fault, node, vec![Wrong::space(left, &engine)], "the engine failed").await,
            _ => self.die(fault, node, vec![Wrong::space(left, "")], "failed under").await,
        }
    }

    /// A fault that the process lives through: meanwhile every shard serves, afterwards the node catches up.
    async fn bear(&mut self, fault: Fault, node: usize, wrong: Vec<Wrong>) -> anyhow::Result<()> {
        let name = Party::Node(node).to_string();
        let said = self.cluster.said(&name);
        self.begin_on_disk(fault, node, &wrong).await?;
        self.shards_serve(fault).await?;
        self.lasts().await;
        self.shards_serve(fault).await?;
        let line = self.cluster.line_with(&name, said, &["stands still"]);
        let evidence = line.unwrap_or_else(|| "it handed over no leadership".to_owned());
        self.note(fault, Edge::Once, &[name], Installed::Yes, evidence);
        self.end_on_disk(fault, node)?;
        self.cluster.catches_up(node).await
    }

    /// A full disk under snapshots: they are put off, the process goes on, and takes one once there is space.
    async fn full_snapshots(&mut self, node: usize) -> anyhow::Result<()> {
        let (fault, name) = (Fault::FullSnapshots, Party::Node(node).to_string());
        // A replica whose first one fails has none to fall back to, and ends.
        let each_has_one = async || self.cluster.snapshots_reach(node).await > 0;
        eventually(PATIENCE, "every shard of the node has a snapshot", each_has_one).await?;
        let said = self.cluster.said(&name);
        self.begin_on_disk(fault, node, &[Wrong::space(0, "/snapshots/")]).await?;
        let line = self.cluster.says(&name, said, &["snapshot could not be written", "No space left"]).await?;
        self.shards_serve(fault).await?;
        self.lasts().await;
        let before = self.cluster.snapshots_reach(node).await;
        self.end_on_disk(fault, node)?;
        let next = async || self.cluster.snapshots_reach(node).await > before;
        eventually(PATIENCE, &format!("a snapshot is taken after {line:?}"), next).await
    }

    /// A fault that ends the process, in plain words. The others serve on. It is started again before or after the
    /// disk is well; if before, it may end again, or wait.
    async fn die(&mut self, fault: Fault, node: usize, wrong: Vec<Wrong>, words: &str) -> anyhow::Result<()> {
        let name = Party::Node(node).to_string();
        let said = self.cluster.said(&name);
        self.begin_on_disk(fault, node, &wrong).await?;
        let ended = self.cluster.ends_by_itself(node).await?;
        let line = self.cluster.says(&name, said, &["the process cannot go on", words]).await?;
        self.note(fault, Edge::Once, &[name], Installed::Yes, format!("{ended}: {line}"));
        self.shards_serve(fault).await?;
        let too_early = self.chance.random_bool(0.5);
        if too_early {
            self.cluster.restart(node)?;
        }
        self.lasts().await;
        self.end_on_disk(fault, node)?;
        if !too_early {
            self.cluster.restart(node)?;
        }
        self.cluster.comes_back(node).await?;
        self.cluster.catches_up(node).await
    }

    /// Sets what goes wrong, and waits until it has struck: only then is it known to be there.
    async fn begin_on_disk(&self, fault: Fault, node: usize, wrong: &[Wrong]) -> anyhow::Result<()> {
        let before = self.cluster.disk_strikes(node)?.len();
        self.workload.take_longest_silence();
        self.cluster.set_disk_faults(node, wrong)?;
        let strikes = async || self.cluster.disk_strikes(node).is_ok_and(|strikes| strikes.len() > before);
        let seen = eventually(PATIENCE, "the disk's fault strikes", strikes).await;
        let installed = if seen.is_ok() { Installed::Yes } else { Installed::Unclear };
        let first = self.cluster.disk_strikes(node)?.get(before).cloned().unwrap_or_default();
        self.note(fault, Edge::Begin, &[Party::Node(node).to_string()], installed, format!("first struck: {first}"));
        Ok(())
    }

    fn end_on_disk(&self, fault: Fault, node: usize) -> anyhow::Result<()> {
        self.cluster.set_disk_faults(node, &[])?;
        let strikes = self.cluster.disk_strikes(node)?.len();
        let silence = self.workload.take_longest_silence();
        let evidence =
            format!("{strikes} operations struck by now; a shard acknowledged nothing for {silence:.1?} at most");
        self.note(fault, Edge::End, &[Party::Node(node).to_string()], Installed::Yes, evidence);
        Ok(())
    }
}
