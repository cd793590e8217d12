//! One replica of one Raft group.
//!
//! A proposal is answered after a majority has it on disk and this replica applied it (WR-1). A read index is what a
//! majority confirmed after the read arrived (LIN-1); the read itself waits until that index is applied here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_platform::{Platform, TaskKind};
use granary_types::invariants::{self, Invariant};
use granary_types::mutants::{Mutant, is_planted};
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{LinearizerOption, ServerState};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admission::{self, Asking};
use crate::leadership::{self, Leadership};
use crate::logs::{Log, Logs};
use crate::network::Network;
use crate::peers::PeerPool;
use crate::propose::{self, Acknowledged, Budget, PendingProposal, Proposed};
use crate::read_index::{ReadQueue, read_queue_counted};
use crate::snapshot_store::{SnapshotError, SnapshotStore};
use crate::standing::{Admission, Standings};
use crate::state_machine_adapter::StateMachineAdapter;
use crate::stats::{Stats, StatsSnapshot};
use crate::type_config::{Peer, TypeConfig};
use crate::{Error, ProposeError, ReadError, Settings, StateMachine, WaitError};

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachineAdapter>;

/// How long a stopping group waits for the entry being applied before it takes the log away from under it.
const APPLY_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Which replica of which group this is, and where it keeps its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// The cluster. Requests and snapshots of another one are refused.
    pub cluster: ClusterId,
    /// The group.
    pub group: ShardId,
    /// This replica. Its id dies with its files: it must never come back with an empty directory.
    pub replica: ReplicaId,
    /// Holds `log/` and `snapshots/`.
    pub dir: PathBuf,
}

/// A member to initialise a group with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The replica.
    pub replica: ReplicaId,
    /// The node it lives on.
    pub node: NodeId,
    /// `host:port` of the node's peer listener.
    pub address: String,
}

/// What a replica is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows and votes.
    Follower,
    /// It stands for election.
    Candidate,
    /// It follows without a vote; also before the group is initialised.
    Learner,
    /// It was stopped, or failed.
    Stopped,
}

/// A replica as of one moment. Indexes are those of the Raft log; 0 also stands for "none".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// What the replica is.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The leader and its node, if one is known.
    pub leader: Option<(ReplicaId, NodeId)>,
    /// The last entry applied here.
    pub applied: u64,
    /// The last entry known to be committed.
    pub committed: u64,
    /// The last entry in the newest snapshot.
    pub snapshot: u64,
    /// The last entry in the log.
    pub last_log: u64,
    /// The last entry purged from the log.
    pub purged: u64,
    /// Size of the log's files, in bytes.
    pub log_bytes: u64,
    /// The members, by replica.
    pub members: Vec<(ReplicaId, NodeId)>,
    /// Why openraft stopped by itself, if it did: the process must restart.
    pub failure: Option<String>,
    /// Why the replica takes part no more, if so: its log is an older copy, or another process runs as this replica.
    /// It must be replaced, not restarted.
    pub refusal: Option<String>,
    /// Whether it waits for the other members to say what they remember of it. Till then it does not take part.
    pub asking: bool,
    /// Counters since the start.
    pub stats: StatsSnapshot,
}

/// One replica of one Raft group. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: Arc<GroupSpec>,
    settings: Settings,
    platform: Platform,
    raft: Raft,
    log: Log,
    snapshots: Arc<SnapshotStore>,
    stats: Arc<Stats>,
    applied: watch::Receiver<u64>,
    leadership: watch::Receiver<Leadership>,
    reads: ReadQueue,
    budget: Budget,
    acknowledged: Acknowledged,
    /// One snapshot comes in at a time.
    receiving: Semaphore,
    snapshot_wanted: Arc<AtomicBool>,
    standings: Arc<Standings>,
}

impl Group {
    /// Opens the replica's files, restores the state machine from the newest valid snapshot, applies what was
    /// committed after it, and takes part in the group.
    ///
    /// # Errors
    /// [`Error::LogDamaged`] and [`Error::SnapshotMissing`] mean that this replica must rejoin from a peer under a
    /// new id; otherwise as the variants say.
    pub async fn start(
        spec: GroupSpec,
        settings: Settings,
        sm: Arc<dyn StateMachine>,
        peers: Arc<PeerPool>,
        platform: Platform,
    ) -> Result<Self, Error> {
        Self::start_on(Logs::Files, spec, settings, sm, peers, platform).await
    }

    /// [`Self::start`] with its Raft log kept in `logs`.
    ///
    /// # Errors
    /// As `start`.
    pub async fn start_on(
        logs: Logs,
        spec: GroupSpec,
        settings: Settings,
        sm: Arc<dyn StateMachine>,
        peers: Arc<PeerPool>,
        platform: Platform,
    ) -> Result<Self, Error> {
        let config = settings.raft_config(format!("{:032x}/{}", spec.cluster.0, spec.group))?;
        let platform = platform.child();
        let (spec, stats) = (Arc::new(spec), Arc::<Stats>::default());
        let (log, snapshots, adapter) = open(logs, &spec, &settings, sm, &stats, &platform).await?;
        let (applied, snapshot_wanted) = (adapter.applied(), adapter.snapshot_wanted());
        let standings = admission::begin(&spec, &log, &platform).await?;
        let network = Network {
            peers: Arc::clone(&peers),
            platform: platform.clone(),
            standings: Arc::clone(&standings),
            spec: Arc::clone(&spec),
            stats: Arc::clone(&stats),
            append_timeout: Duration::from_millis(settings.append_timeout_ms),
        };
        let raft = Raft::new(spec.replica.0, Arc::new(config), network, log.clone(), adapter)
            .await
            .map_err(|error| Error::Raft(error.to_string()))?;

        let asking = Asking {
            raft: raft.clone(),
            standings: Arc::clone(&standings),
            peers,
            spec: Arc::clone(&spec),
            platform: platform.clone(),
        };
        platform.spawn(TaskKind::Request, "raft admission", asking.run());

        let (follower, leadership) = leadership::Follower::new(&raft);
        platform.spawn(TaskKind::Request, "raft leadership", follower.run());

        let round_timeout = Duration::from_millis(settings.read_round_timeout_ms);
        let (reads, rounds) = read_queue_counted(settings.reads_queued_max, round_timeout, Arc::clone(&stats));
        let acknowledged = Acknowledged::default();
        let (asked, known, stop) = (raft.clone(), acknowledged.clone(), platform.clone());
        platform.spawn(TaskKind::Service, "raft read rounds", async move {
            tokio::select! {
                () = rounds.run(|| confirm_leadership(&asked, &known, round_timeout)) => {}
                () = stop.shutdown_begun() => {}
            }
        });
        let budget = Budget::new(settings.proposals_bytes_max);
        let receiving = Semaphore::new(1);
        let inner = Inner {
            spec,
            settings,
            platform,
            raft,
            log,
            snapshots,
            stats,
            applied,
            leadership,
            reads,
            budget,
            acknowledged,
            receiving,
            snapshot_wanted,
            standings,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes the members the group's first. Does nothing when the group was initialised before; every member may
    /// call it, with the same members.
    ///
    /// Whoever initialises a group stands for election at once. Of several that were all to do so, only the one with
    /// the lowest id does; the others wait for it, and step in after `election_min_ms`.
    ///
    /// # Errors
    /// [`Error::Members`] when this replica is not among them, [`Error::Raft`] when the group failed.
    pub async fn initialize(&self, members: Vec<Member>) -> Result<(), Error> {
        let lowest = members.iter().map(|member| member.replica).min();
        if lowest != Some(self.inner.spec.replica) {
            let patience = Duration::from_millis(self.inner.settings.election_min_ms);
            let mut metrics = self.inner.raft.metrics();
            let others_first = metrics.wait_until(|metrics| metrics.last_log_index.is_some());
            let _ = tokio::time::timeout(patience, others_first).await;
        }
        if self.inner.raft.is_initialized().await.map_err(|error| Error::Raft(error.to_string()))? {
            return Ok(());
        }
        let members: BTreeMap<u64, Peer> = members
            .into_iter()
            .map(|member| (member.replica.0, Peer { node: member.node.0, address: member.address }))
            .collect();
        match self.inner.raft.initialize(members).await {
            // Not allowed: entries or a vote of an initialised group arrived meanwhile.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => Err(Error::Members(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(Error::Raft(error.to_string())),
        }
    }

    /// Proposes a command and waits until it was applied here.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] after `propose_timeout_ms`; otherwise as the variants say.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        self.check_len(&command)?;
        let timeout = Duration::from_millis(self.inner.settings.propose_timeout_ms);
        let permit = tokio::time::timeout(timeout, self.inner.budget.acquire(command.len())).await;
        let permit = permit.map_err(|_| ProposeError::Overloaded)?.map_err(|_| ProposeError::Stopped)?;
        self.start_propose(command, permit).await?.wait_for(timeout).await
    }

    /// Hands a command to Raft without waiting for its outcome: proposals started one after the other stand in the
    /// log in that order, and several may be under way.
    ///
    /// # Errors
    /// [`ProposeError::Overloaded`] at once when the budget is spent, [`ProposeError::TooLarge`],
    /// [`ProposeError::Stopped`].
    pub async fn try_start_propose(&self, command: Bytes) -> Result<PendingProposal, ProposeError> {
        self.check_len(&command)?;
        let permit = self.inner.budget.try_acquire(command.len()).map_err(|error| match error {
            tokio::sync::TryAcquireError::NoPermits => ProposeError::Overloaded,
            tokio::sync::TryAcquireError::Closed => ProposeError::Stopped,
        })?;
        self.start_propose(command, permit).await
    }

    async fn start_propose(
        &self,
        command: Bytes,
        permit: OwnedSemaphorePermit,
    ) -> Result<PendingProposal, ProposeError> {
        let Inner { raft, stats, acknowledged, standings, .. } = &*self.inner;
        if standings.refusal().is_some() {
            return Err(ProposeError::Stopped);
        }
        propose::start(raft, stats, acknowledged, command, permit).await
    }

    fn check_len(&self, command: &Bytes) -> Result<(), ProposeError> {
        let (len, max) = (command.len(), self.inner.settings.command_bytes_max);
        if len > max { Err(ProposeError::TooLarge { len, max }) } else { Ok(()) }
    }

    /// The index that a linearizable read must wait for with [`Self::wait_applied`] before it looks at the state:
    /// a majority confirmed, after this call began, that this replica leads and had committed up to there (LIN-1).
    ///
    /// # Errors
    /// As the variants say.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        if self.inner.standings.refusal().is_some() {
            return Err(ReadError::Stopped);
        }
        self.inner.reads.read_index().await
    }

    /// Waits until the entry at `index` is applied here.
    ///
    /// # Errors
    /// As the variants say.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), WaitError> {
        let mut applied = self.inner.applied.clone();
        if *applied.borrow() >= index {
            return Ok(());
        }
        match tokio::time::timeout(timeout, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(WaitError::Stopped),
            Err(_) => Err(WaitError::Timeout),
        }
    }

    /// The last entry applied here; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        *self.inner.applied.borrow()
    }

    /// Follows [`Self::applied_index`].
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// Who leads, as far as this replica knows.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Which replica this is.
    pub fn spec(&self) -> &GroupSpec {
        &self.inner.spec
    }

    /// The replica as of now.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let node_of = |replica: u64| NodeId(membership.get_node(&replica).map_or(0, |peer| peer.node));
        let failure = match &metrics.running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(error) => Some(error.to_string()),
        };
        let index = |log_id: Option<crate::type_config::LogId>| log_id.map_or(0, |id| id.index);
        GroupStatus {
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Shutdown => Role::Stopped,
            },
            term: metrics.current_term,
            leader: metrics.current_leader.map(|leader| (ReplicaId(leader), node_of(leader))),
            applied: self.applied_index(),
            committed: index(metrics.local_committed),
            snapshot: index(metrics.snapshot),
            last_log: metrics.last_log_index.unwrap_or(0),
            purged: index(metrics.purged),
            log_bytes: self.inner.log.bytes_on_disk(),
            members: membership.nodes().map(|(replica, peer)| (ReplicaId(*replica), NodeId(peer.node))).collect(),
            failure,
            refusal: self.inner.standings.refusal(),
            asking: *self.inner.standings.admission().borrow() == Admission::Asking,
            stats: self.inner.stats.snapshot(),
        }
    }

    /// Returns why openraft stopped by itself: an I/O error, for one. The process must restart. Never returns for a
    /// group that is stopped in order.
    pub async fn failed(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Some(failure) = self.status().failure {
                return failure;
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Returns why the replica takes part no more ([`GroupStatus::refusal`]), once it does not.
    pub async fn refused(&self) -> String {
        let mut admission = self.inner.standings.admission();
        match admission.wait_for(|now| matches!(now, Admission::Refused(_))).await.as_deref() {
            Ok(Admission::Refused(why)) => why.clone(),
            _ => std::future::pending().await,
        }
    }

    /// Returns once the replica takes part: enough other members said what they remember of it.
    pub async fn admitted(&self) {
        let mut admission = self.inner.standings.admission();
        if admission.wait_for(|now| *now == Admission::Admitted).await.is_err() {
            std::future::pending().await
        }
    }

    /// The position up to which this replica's log is synced, in bytes since it began.
    pub fn log_end(&self) -> u64 {
        self.inner.log.durable_end()
    }

    /// The position up to which this replica's log was written and is to be synced: beyond [`Self::log_end`] while the
    /// disk is at work, and for as long as it hangs.
    pub fn log_wanted_end(&self) -> u64 {
        self.inner.log.wanted_end()
    }

    /// The furthest such position of another replica that this one has heard of.
    pub fn remembered_end(&self, replica: ReplicaId) -> Option<u64> {
        self.inner.standings.remembered(replica.0).iter().map(|standing| standing.end).max()
    }

    pub(crate) fn standings(&self) -> &Standings {
        &self.inner.standings
    }

    /// Takes a snapshot soon, whatever the settings say about when; [`GroupStatus::snapshot`] tells when it is there.
    ///
    /// # Errors
    /// [`Error::Raft`] when the group was stopped.
    pub async fn trigger_snapshot(&self) -> Result<(), Error> {
        self.inner.snapshot_wanted.store(true, Ordering::Relaxed);
        self.inner.raft.trigger().snapshot().await.map_err(|error| Error::Raft(error.to_string()))
    }

    /// Hands leadership to the voter whose log is longest, if this replica leads, and returns when it no longer
    /// does or after an election's time. Whether it worked is for [`Self::leadership`] to say; what is returned is
    /// whether there was such a voter.
    pub async fn transfer_leadership(&self) -> bool {
        let Some(to) = self.successor() else { return false };
        let timeout = Duration::from_millis(self.inner.settings.election_max_ms);
        let mut leadership = self.leadership();
        let handed_over = async {
            // openraft hangs with a disk that hangs under a vote.
            if self.inner.raft.trigger().transfer_leader(to).await.is_ok() {
                let _ = leadership.wait_for(|now| !now.leads).await;
            }
        };
        let _ = tokio::time::timeout(timeout, handed_over).await;
        true
    }

    fn successor(&self) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let voters: Vec<u64> = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id).collect();
        voters.into_iter().max_by_key(|voter| replication.get(voter).copied().flatten())
    }

    /// Stops taking part, and releases the files: when this returns, the state machine is applied to no more.
    ///
    /// Proposals under way end as [`ProposeError::Unknown`]. Leadership is not handed over; see
    /// [`Self::transfer_leadership`].
    pub async fn shutdown(&self) {
        self.inner.budget.close();
        let stopping = self.inner.raft.shutdown();
        tokio::pin!(stopping);
        if tokio::time::timeout(Duration::from_secs(1), &mut stopping).await.is_err() {
            // The state machine may be waiting for room that does not come any more.
            self.inner.platform.begin_shutdown();
            let _ = stopping.await;
        }
        self.inner.platform.begin_shutdown();
        // openraft does not wait for the task that applies. It is gone when its end of the channel is.
        let mut applied = self.inner.applied.clone();
        let gone = async { while applied.changed().await.is_ok() {} };
        if tokio::time::timeout(APPLY_STOP_TIMEOUT, gone).await.is_err() {
            tracing::warn!(group = self.inner.spec.group.0, "an entry is still being applied; closing its log");
        }
        let log = self.inner.log.clone();
        let _ = self.inner.platform.blocking(move || log.close()).await;
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) fn snapshots(&self) -> &Arc<SnapshotStore> {
        &self.inner.snapshots
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.inner.platform
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    pub(crate) fn receiving(&self) -> &Semaphore {
        &self.inner.receiving
    }
}

/// Opens the files and restores the state machine, on a blocking thread.
async fn open(
    logs: Logs,
    spec: &Arc<GroupSpec>,
    settings: &Settings,
    sm: Arc<dyn StateMachine>,
    stats: &Arc<Stats>,
    platform: &Platform,
) -> Result<(Log, Arc<SnapshotStore>, StateMachineAdapter), Error> {
    let (spec, settings, stats, platform) = (Arc::clone(spec), settings.clone(), Arc::clone(stats), platform.clone());
    let door = platform.clone();
    let opened = door.blocking(move || {
        let dir = spec.dir.join("snapshots");
        let snapshots = SnapshotStore::open(&dir, spec.cluster, spec.group).map_err(|error| match error {
            SnapshotError::Io { path, source } => Error::Io { action: "open snapshots", path, source },
            other => Error::Io { action: "open snapshots", path: dir.clone(), source: other.into() },
        })?;
        let log_dir = spec.dir.join("log");
        let log = logs.open(&log_dir, &settings)?;
        let snapshot = snapshots.newest().and_then(|newest| newest.meta().last_log_id);
        let purged = log.purged().map_err(Error::io("read raft log", log_dir))?;
        if let Some(purged) = purged
            && snapshot < Some(purged)
        {
            return Err(Error::SnapshotMissing { purged, snapshot });
        }
        let snapshots = Arc::new(snapshots);
        let adapter = StateMachineAdapter::restore_counted(
            sm,
            Arc::clone(&snapshots),
            stats,
            settings.snapshot_free_bytes,
            platform,
        )
        .map_err(Error::io("restore state machine", dir))?;
        Ok((log, snapshots, adapter))
    });
    opened.await.map_err(|_| Error::Raft("opening the group panicked".to_owned()))?
}

/// One round: a majority confirms that this replica leads. R2 is openraft's: the index is at least the first entry of
/// its own term.
async fn confirm_leadership(raft: &Raft, acknowledged: &Acknowledged, timeout: Duration) -> Result<u64, ReadError> {
    let known = acknowledged.highest();
    if is_planted(Mutant::StaleReadIndex) && raft.metrics().borrow_watched().state == ServerState::Leader {
        return Ok(known);
    }
    let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(timeout);
    match raft.get_read_log_id(option).await {
        Ok((read, _applied)) => {
            let index = read.index();
            let held = invariants::check(Invariant::LinearizableRead, index >= known, || {
                format!("read index {index} is before the acknowledged {known}")
            });
            if held { Ok(index) } else { Err(ReadError::Unavailable) }
        }
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(match propose::leader_elsewhere(&forward, ReplicaId(*raft.node_id())) {
                Some(leader) => ReadError::NotLeader { leader },
                None => ReadError::Unavailable,
            })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadError::Unavailable),
        Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
    }
}
