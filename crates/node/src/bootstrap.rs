//! How empty seeds become a cluster, and how a node finds the one it belongs to (protocols 2).
//!
//! The first seed founds: once every seed answers, is empty and was given the same seed list, it draws the cluster
//! id, writes its own identity, and only then assigns the others theirs. Each step can be repeated: after a crash
//! the founder goes on from its identity file. A node never concludes from its own empty disk that there is no
//! cluster; a seed that lost its disk finds a cluster at the others and joins as a new node.

use std::sync::Arc;
use std::time::Duration;

use granary_consensus::PeerPool;
use granary_link::Link;
use granary_platform::Platform;
use granary_proto::convert::{cluster_from_wire, cluster_to_wire, u128_from_wire, u128_to_wire};
use granary_proto::internal::{self, meta_client::MetaClient, meta_command::Command, meta_reply};
use granary_types::{ClusterId, NodeId};
use parking_lot::Mutex;

use crate::Settings;
use crate::identity::{Identity, MetaMember, MetaSeat, hex, unhex};

const RETRY: Duration = Duration::from_millis(200);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What every step needs.
pub(crate) struct Bootstrap {
    pub(crate) settings: Settings,
    pub(crate) platform: Platform,
    pub(crate) identity: Arc<Mutex<Identity>>,
    pub(crate) peers: Arc<PeerPool>,
}

/// A seed's answer to hello.
struct Seed {
    address: String,
    uuid: u128,
    cluster: Option<ClusterId>,
    seeds: Vec<String>,
    founders: Vec<u128>,
}

impl Bootstrap {
    /// Returns the node's place in a cluster, founding or joining one where needed; `None` at shutdown.
    pub(crate) async fn run(&self) -> Option<(ClusterId, NodeId)> {
        let mut told = false;
        loop {
            if let Some(membership) = self.identity.lock().membership() {
                return Some(membership);
            }
            let seeds = self.hello_all().await;
            if let Err(problem) = self.step(&seeds).await
                && !told
            {
                tracing::info!(%problem, "waiting for the cluster");
                told = true;
            }
            tokio::select! {
                () = self.platform.sleep(RETRY) => {}
                () = self.platform.shutdown_begun() => return None,
            }
        }
    }

    /// As the founder: hands the other founding members their identities, until each has its own.
    pub(crate) async fn assign_others(&self) {
        let (cluster, seat) = {
            let identity = self.identity.lock();
            let (Some((cluster, _)), Some(seat)) = (identity.membership(), identity.meta_seat().cloned()) else {
                return;
            };
            (cluster, seat)
        };
        let mut waiting: Vec<MetaMember> =
            seat.members.iter().filter(|member| member.address != self.settings.advertise).cloned().collect();
        while !waiting.is_empty() && !self.platform.is_shutting_down() {
            let mut still = Vec::new();
            for member in waiting {
                match self.assign(cluster, &seat, &member).await {
                    Ok(()) => {}
                    Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                        tracing::warn!(address = member.address, %status, "a founding member has another disk now");
                    }
                    Err(_) => still.push(member),
                }
            }
            waiting = still;
            self.platform.sleep(RETRY).await;
        }
    }

    async fn step(&self, answers: &[Seed]) -> Result<(), String> {
        let uuid = self.identity.lock().uuid();
        if let Some(member) = answers.iter().find(|seed| seed.cluster.is_some()) {
            if member.founders.contains(&uuid) {
                return Err("the founder will assign this node its identity".to_owned());
            }
            return self.join(member).await;
        }
        let first = self.settings.seeds.first();
        if first != Some(&self.settings.advertise) {
            return Err(format!("the first seed founds the cluster: seed={}", first.map_or("", String::as_str)));
        }
        if answers.len() < self.settings.seeds.len() {
            return Err(format!("{} of {} seeds answer", answers.len(), self.settings.seeds.len()));
        }
        if let Some(other) = answers.iter().find(|seed| seed.seeds != self.settings.seeds) {
            return Err(format!("seed {} was started with another seed list: {:?}", other.address, other.seeds));
        }
        self.found(answers)
    }

    fn found(&self, seeds: &[Seed]) -> Result<(), String> {
        let cluster = ClusterId(self.platform.fresh_id());
        let members: Vec<MetaMember> = (1..)
            .zip(seeds)
            .map(|(node, seed)| MetaMember { node, uuid: hex(seed.uuid), address: seed.address.clone() })
            .collect();
        let me = members
            .iter()
            .find(|member| member.address == self.settings.advertise)
            .ok_or("the advertised address is not among the seeds")?;
        let seat = MetaSeat { replica: me.node, members: members.clone() };
        let node = NodeId(me.node);
        self.identity.lock().join(cluster, node, Some(seat)).map_err(|error| error.to_string())?;
        tracing::info!(cluster = hex(cluster.0), members = members.len(), "founded a cluster");
        Ok(())
    }

    /// Joins as a new node: the meta group gives it an id.
    async fn join(&self, member: &Seed) -> Result<(), String> {
        let cluster = member.cluster.ok_or("the seed has no cluster")?;
        let uuid = self.identity.lock().uuid();
        let command = Command::RegisterNode(internal::RegisterNode {
            node: 0,
            uuid: u128_to_wire(uuid),
            address: self.settings.advertise.clone(),
        });
        let request = internal::ProposeRequest { command: Some(internal::MetaCommand { command: Some(command) }) };
        let response = self.client(&member.address)?.propose(timed(request)).await.map_err(|s| s.to_string())?;
        match response.into_inner().reply.and_then(|reply| reply.result) {
            Some(meta_reply::Result::Node(node)) => {
                self.identity.lock().join(cluster, NodeId(node), None).map_err(|error| error.to_string())
            }
            Some(meta_reply::Result::Error(error)) => Err(error.message),
            _ => Err("the meta group gave no node id".to_owned()),
        }
    }

    async fn hello_all(&self) -> Vec<Seed> {
        let mut answers = Vec::new();
        for address in &self.settings.seeds {
            if let Ok(seed) = self.hello(address).await {
                answers.push(seed);
            }
        }
        answers
    }

    async fn hello(&self, address: &str) -> Result<Seed, String> {
        let response = self.client(address)?.hello(timed(internal::HelloRequest {})).await;
        let hello = response.map_err(|status| status.to_string())?.into_inner();
        let founders = hello.founders.iter().filter_map(|node| u128_from_wire("uuid", &node.uuid).ok()).collect();
        Ok(Seed {
            address: address.to_owned(),
            uuid: u128_from_wire("uuid", &hello.uuid).map_err(|error| error.message)?,
            cluster: cluster_from_wire(&hello.cluster).ok(),
            seeds: hello.seeds,
            founders,
        })
    }

    async fn assign(&self, cluster: ClusterId, seat: &MetaSeat, member: &MetaMember) -> Result<(), tonic::Status> {
        let request = internal::AssignRequest {
            cluster: cluster_to_wire(cluster),
            uuid: u128_to_wire(unhex(&member.uuid).unwrap_or_default()),
            node: member.node,
            meta_replica: member.node,
            meta_members: seat.members.iter().map(member_to_wire).collect(),
        };
        let mut client = self.client(&member.address).map_err(tonic::Status::unavailable)?;
        client.assign(timed(request)).await.map(|_| ())
    }

    fn client(&self, address: &str) -> Result<MetaClient<Link>, String> {
        Ok(MetaClient::new(self.peers.channel(address).map_err(|error| error.to_string())?))
    }
}

/// A founding member as a message.
pub(crate) fn member_to_wire(member: &MetaMember) -> internal::Node {
    internal::Node {
        id: member.node,
        uuid: u128_to_wire(unhex(&member.uuid).unwrap_or_default()),
        address: member.address.clone(),
    }
}

/// A founding member from a message.
pub(crate) fn member_from_wire(node: &internal::Node) -> Result<MetaMember, granary_types::Error> {
    Ok(MetaMember { node: node.id, uuid: hex(u128_from_wire("uuid", &node.uuid)?), address: node.address.clone() })
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}
