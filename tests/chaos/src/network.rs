//! What connects the nodes, and how it is cut.
//!
//! Three kinds: plain loopback, which cannot be cut; a network namespace for each node, joined by a bridge, where cuts are
//! packets dropped by the kernel (needs root, `ip` and `nft`); and TCP proxies between the addresses that nodes advertise
//! and those they listen on (needs nothing). With namespaces a cut connection loses packets and finds out by its
//! timers; with proxies it stands still. Nobody is told of a cut by a closed connection.

mod namespaces;
mod proxies;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use namespaces::Namespaces;
use proxies::Proxies;
use tokio::net::TcpSocket;

/// Which kind of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Loopback, without cuts.
    Loopback,
    /// A network namespace for each node.
    Namespaces,
    /// TCP proxies on loopback.
    Proxies,
}

impl Kind {
    /// Namespaces where they can be made, otherwise proxies.
    pub fn best() -> Self {
        if Namespaces::can_be_made() { Self::Namespaces } else { Self::Proxies }
    }
}

/// One end of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A node.
    Node(usize),
    /// Router, compactor, query service and the test.
    Clients,
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node-{node}"),
            Self::Clients => write!(f, "clients"),
        }
    }
}

/// Nothing that the first sends reaches the second. Not the other way round.
pub type Cut = (Party, Party);

/// Loopback ports.
#[derive(Debug)]
struct Loopback {
    listen: Vec<Port>,
    metrics: Vec<Port>,
}

#[derive(Debug)]
enum Inner {
    Loopback(Loopback),
    Namespaces(Namespaces),
    Proxies(Loopback, Proxies),
}

/// The network of one cluster.
#[derive(Debug)]
pub struct Network {
    inner: Inner,
}

impl Network {
    pub(crate) async fn start(kind: Kind, nodes: usize) -> anyhow::Result<Self> {
        let loopback = || {
            let (listen, metrics) = (free_ports(nodes)?, free_ports(nodes)?);
            anyhow::Ok(Loopback { listen, metrics })
        };
        let inner = match kind {
            Kind::Loopback => Inner::Loopback(loopback()?),
            Kind::Namespaces => Inner::Namespaces(Namespaces::make(nodes).context("make network namespaces")?),
            Kind::Proxies => {
                let loopback = loopback()?;
                let targets: Vec<u16> = loopback.listen.iter().map(|port| port.number).collect();
                let proxies = Proxies::start(&targets).await?;
                Inner::Proxies(loopback, proxies)
            }
        };
        Ok(Self { inner })
    }

    /// What the history calls it.
    pub fn name(&self) -> &'static str {
        match &self.inner {
            Inner::Loopback(_) => "loopback",
            Inner::Namespaces(_) => "network namespaces",
            Inner::Proxies(..) => "proxies",
        }
    }

    pub(crate) fn listen(&self, node: usize) -> String {
        match &self.inner {
            Inner::Loopback(ports) | Inner::Proxies(ports, _) => format!("127.0.0.1:{}", ports.listen[node].number),
            Inner::Namespaces(namespaces) => format!("{}:7461", namespaces.address(Party::Node(node))),
        }
    }

    pub(crate) fn advertise(&self, node: usize) -> String {
        match &self.inner {
            Inner::Proxies(_, proxies) => proxies.address(node),
            Inner::Loopback(_) | Inner::Namespaces(_) => self.listen(node),
        }
    }

    pub(crate) fn metrics(&self, node: usize) -> String {
        match &self.inner {
            Inner::Loopback(ports) | Inner::Proxies(ports, _) => format!("127.0.0.1:{}", ports.metrics[node].number),
            Inner::Namespaces(namespaces) => format!("{}:7471", namespaces.address(Party::Node(node))),
        }
    }

    /// A command that will run where the party is.
    pub(crate) fn command(&self, place: Party, program: &Path) -> Command {
        match (&self.inner, place) {
            (Inner::Namespaces(namespaces), Party::Node(node)) => namespaces.command(node, program),
            _ => Command::new(program),
        }
    }

    /// Tells which process plays a node: proxies know a connection's end by its process.
    pub(crate) fn node_runs(&self, node: usize, process: Option<u32>) {
        if let Inner::Proxies(_, proxies) = &self.inner {
            proxies.node_runs(node, process);
        }
    }

    /// From now on exactly these cuts are in force.
    ///
    /// # Errors
    /// When the network cannot be cut.
    pub async fn set_cuts(&self, cuts: &BTreeSet<Cut>) -> anyhow::Result<()> {
        match &self.inner {
            Inner::Loopback(_) if cuts.is_empty() => Ok(()),
            Inner::Loopback(_) => bail!("loopback cannot be cut"),
            Inner::Namespaces(namespaces) => namespaces.set_cuts(cuts),
            Inner::Proxies(_, proxies) => {
                proxies.set_cuts(cuts);
                Ok(())
            }
        }
    }

    /// How much the present cuts have held up so far: proof that they are in force.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn held_up(&self) -> anyhow::Result<u64> {
        match &self.inner {
            Inner::Loopback(_) => Ok(0),
            Inner::Namespaces(namespaces) => namespaces.dropped_packets(),
            Inner::Proxies(_, proxies) => Ok(proxies.held_up()),
        }
    }

    /// What [`Self::held_up`] counts.
    pub fn held_up_unit(&self) -> &'static str {
        match &self.inner {
            Inner::Namespaces(_) => "packets dropped",
            Inner::Loopback(_) | Inner::Proxies(..) => "messages held",
        }
    }
}

/// A port on loopback for a process of the cluster. While this lives the system gives it to nobody who asks for any
/// port, also when the process does not run: it is bound and never listened on, which who binds to it by name does not mind.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _held: TcpSocket,
}

/// So many ports, each another one.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<Port>> {
    let port = |_| {
        let held = TcpSocket::new_v4()?;
        // As listeners do; else they could not bind.
        held.set_reuseaddr(true)?;
        held.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        anyhow::Ok(Port { number: held.local_addr()?.port(), _held: held })
    };
    (0..count).map(port).collect()
}
