//! The beginning of a replica's part in its group: it notes the start in its log, and asks the other members what they
//! remember of it ([`crate::standing`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use granary_platform::Platform;
use granary_proto::convert::cluster_to_wire;
use granary_proto::internal as wire;
use tonic::Status;

use crate::Error;
use crate::group::{GroupSpec, Raft};
use crate::lineage::{self, Lineage};
use crate::logs::Log;
use crate::peers::PeerPool;
use crate::standing::Standings;
use crate::type_config::Peer;

/// How long one member may take to answer. One that hangs holds up nothing longer, if the others are enough.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before the members are asked again.
const RETRY: Duration = Duration::from_millis(100);

/// Notes this start in the log, durably, before anybody hears of it.
pub(crate) async fn begin(spec: &GroupSpec, log: &Log, platform: &Platform) -> Result<Arc<Standings>, Error> {
    let dir = spec.dir.join("log");
    let text = log.user_data().map_err(Error::io("read raft log", &dir))?;
    let nonce = u64::try_from(platform.fresh_id() & u128::from(u64::MAX)).expect("64 bits");
    let lineage = Lineage::next(text.as_deref(), spec, nonce, log.durable_end())
        .map_err(|found| Error::LogForeign { path: dir.clone(), found, expected: lineage::owner(spec) })?;
    log.save_user_data(lineage.text(spec)).await.map_err(Error::io("write raft log", &dir))?;
    Ok(Standings::new(spec.replica.0, lineage, log.clone()))
}

/// Asks until enough members have answered.
pub(crate) struct Asking {
    pub(crate) raft: Raft,
    pub(crate) standings: Arc<Standings>,
    pub(crate) peers: Arc<PeerPool>,
    pub(crate) spec: Arc<GroupSpec>,
    pub(crate) platform: Platform,
}

impl Asking {
    pub(crate) async fn run(self) {
        loop {
            tokio::select! {
                enough = self.ask_all() => if enough { return self.standings.admit() },
                () = self.platform.shutdown_begun() => return,
            }
            if self.standings.refusal().is_some() {
                return;
            }
            tokio::select! {
                () = self.platform.sleep(RETRY) => {}
                () = self.platform.shutdown_begun() => return,
            }
        }
    }

    /// Whether a majority of every set of voters, with this replica, remembers nothing that contradicts its log.
    async fn ask_all(&self) -> bool {
        // Not from the metrics: those are empty until openraft has published its first, and nobody would be asked.
        let read = self.raft.with_raft_state(|state| state.membership_state.effective().membership().clone());
        let Ok(membership) = read.await else { return false };
        let own = self.spec.replica.0;
        let others = membership.nodes().filter(|(replica, _)| **replica != own);
        let asked = others.map(|(replica, peer)| async { self.ask(*replica, peer).await.ok().map(|()| *replica) });
        let answered: BTreeSet<u64> = future::join_all(asked).await.into_iter().flatten().chain([own]).collect();
        let majority = |voters: &BTreeSet<u64>| 2 * voters.intersection(&answered).count() > voters.len();
        self.standings.refusal().is_none() && membership.get_joint_config().iter().all(majority)
    }

    async fn ask(&self, replica: u64, peer: &Peer) -> Result<(), Status> {
        let header = wire::PeerHeader {
            cluster: cluster_to_wire(self.spec.cluster),
            group: self.spec.group.0,
            from_replica: self.spec.replica.0,
            to_replica: replica,
            sender: Some(self.standings.own()),
            remembered: self.standings.remembered(replica),
        };
        let mut client = self.peers.client(&peer.address).map_err(|error| Status::unavailable(error.to_string()))?;
        let call = client.remember(wire::RememberRequest { header: Some(header) });
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, call).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("no answer"))?;
        let answer = answer.inspect_err(|status| self.standings.heed(status))?.into_inner();
        self.standings.check_own(&answer.remembered)?;
        self.standings.hear(replica, answer.standing.as_ref()).map_err(|why| Status::unavailable(why.to_string()))
    }
}
