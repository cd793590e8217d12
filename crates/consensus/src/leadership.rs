//! Who leads a group, as one replica sees it.

use granary_types::{NodeId, ReplicaId};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;

use crate::group::Raft;
use crate::type_config::TypeConfig;

/// Who leads, as far as this replica knows. Only a round of ReadIndex or a committed entry proves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term.
    pub term: u64,
    /// The leader and its node, if one is known.
    pub leader: Option<(ReplicaId, NodeId)>,
    /// Whether this replica leads, and a majority has confirmed it since it was elected: from then on it takes
    /// proposals.
    pub leads: bool,
}

type Watch<T> = WatchReceiverOf<TypeConfig, T>;

/// Publishes every change until openraft stops; then nobody leads.
pub(crate) struct Follower {
    server: Watch<RaftServerMetrics<TypeConfig>>,
    data: Watch<RaftDataMetrics<TypeConfig>>,
    publish: watch::Sender<Leadership>,
}

impl Follower {
    pub(crate) fn new(raft: &Raft) -> (Self, watch::Receiver<Leadership>) {
        let (publish, leadership) = watch::channel(Leadership::default());
        (Self { server: raft.server_metrics(), data: raft.data_metrics(), publish }, leadership)
    }

    pub(crate) async fn run(mut self) {
        loop {
            let (now, elected) = self.observe();
            self.publish.send_if_modified(|last| std::mem::replace(last, now) != now);
            // The data metrics change with every entry: only of interest until the first confirmation.
            let changed = if elected && !now.leads {
                tokio::select! {
                    changed = self.server.changed() => changed,
                    changed = self.data.changed() => changed,
                }
            } else {
                self.server.changed().await
            };
            if changed.is_err() {
                break;
            }
        }
        self.publish.send_modify(|last| *last = Leadership { term: last.term, ..Leadership::default() });
    }

    /// The leadership now, and whether this replica was elected.
    fn observe(&mut self) -> (Leadership, bool) {
        let confirmed = self.data.borrow_and_update().last_quorum_acked.is_some();
        let server = self.server.borrow_and_update();
        let membership = server.membership_config.membership();
        let leader = server.current_leader.map(|leader| {
            let node = membership.get_node(&leader).map_or(0, |peer| peer.node);
            (ReplicaId(leader), NodeId(node))
        });
        let elected = server.state == ServerState::Leader && server.current_leader == Some(server.id);
        let now = Leadership { term: server.vote.leader_id.term, leader, leads: elected && confirmed };
        (now, elected)
    }
}
