//! TCP proxies between the addresses that nodes advertise and those they listen on.
//!
//! A proxy knows who connects by the process that holds the other end of the connection (`/proc/net/tcp` and `/proc/PID/fd`), so
//! that it can cut one pair of nodes and not another. In a cut direction bytes stand still; they arrive when it heals,
//! as TCP would send them again. A new connection needs both directions.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Cut, Party};

#[derive(Debug)]
struct Shared {
    /// The process of each node.
    processes: Mutex<Vec<Option<u32>>>,
    cuts: watch::Sender<BTreeSet<Cut>>,
    held_up: AtomicU64,
}

impl Shared {
    /// Waits until nothing in `ways` is cut.
    async fn open(&self, ways: &[Cut]) {
        let mut cuts = self.cuts.subscribe();
        let is_open = |cuts: &BTreeSet<Cut>| !ways.iter().any(|way| cuts.contains(way));
        if !is_open(&cuts.borrow()) {
            self.held_up.fetch_add(1, Ordering::Relaxed);
        }
        // The sender lives as long as this.
        let _ = cuts.wait_for(is_open).await;
    }
}

/// One proxy for each node.
#[derive(Debug)]
pub(super) struct Proxies {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    /// Dropped with the network, and all connections with it.
    _accepting: JoinSet<()>,
}

impl Proxies {
    pub(super) async fn start(targets: &[u16]) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            processes: Mutex::new(vec![None; targets.len()]),
            cuts: watch::Sender::new(BTreeSet::new()),
            held_up: AtomicU64::new(0),
        });
        let (mut addresses, mut accepting) = (Vec::new(), JoinSet::new());
        for (node, target) in targets.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a proxy")?;
            addresses.push(listener.local_addr()?);
            accepting.spawn(accept(listener, node, *target, Arc::clone(&shared)));
        }
        Ok(Self { addresses, shared, _accepting: accepting })
    }

    pub(super) fn address(&self, node: usize) -> String {
        self.addresses[node].to_string()
    }

    pub(super) fn node_runs(&self, node: usize, process: Option<u32>) {
        self.shared.processes.lock()[node] = process;
    }

    pub(super) fn set_cuts(&self, cuts: &BTreeSet<Cut>) {
        self.shared.held_up.store(0, Ordering::Relaxed);
        self.shared.cuts.send_replace(cuts.clone());
    }

    pub(super) fn held_up(&self) -> u64 {
        self.shared.held_up.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, node: usize, target: u16, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let processes = shared.processes.lock().clone();
            let here = Party::Node(node);
            let there = tokio::task::spawn_blocking(move || party_at(peer, &processes)).await.unwrap_or(Party::Clients);
            shared.open(&[(there, here), (here, there)]).await;
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", target)).await else { return };
            // Small messages are not held back by the proxy.
            let (_, _) = (stream.set_nodelay(true), upstream.set_nodelay(true));
            let ((near_read, near_write), (far_read, far_write)) = (stream.into_split(), upstream.into_split());
            // Either end closing ends both.
            tokio::select! {
                () = forward(near_read, far_write, (there, here), &shared) => {}
                () = forward(far_read, near_write, (here, there), &shared) => {}
            }
        });
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Cut, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        shared.open(&[way]).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Whose the connection's other end is.
fn party_at(peer: SocketAddr, processes: &[Option<u32>]) -> Party {
    let Some(inode) = inode_of(peer) else { return Party::Clients };
    let socket = format!("socket:[{inode}]");
    let holds = |process: u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| entry.path().read_link().ok()).any(|link| link.as_os_str() == socket.as_str())
    };
    let node = processes.iter().position(|process| process.is_some_and(holds));
    node.map_or(Party::Clients, Party::Node)
}

/// The inode of the local socket at `address`, from `/proc/net/tcp`: address, port and inode are its columns 2 and 10.
fn inode_of(address: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let port = format!("{:04X}", address.port());
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, own) = columns.get(1)?.split_once(':')?;
        let state_is_established = *columns.get(3)? == "01";
        (own == port && state_is_established).then(|| columns.get(9).map(|inode| (*inode).to_owned()))?
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::eventually;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn pair() -> (Proxies, TcpListener) {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = target.local_addr().expect("bound").port();
        // Node 1 is this process, which is how its connections are known.
        let proxies = Proxies::start(&[port, 0, 0]).await.expect("proxies start");
        proxies.node_runs(1, Some(std::process::id()));
        (proxies, target)
    }

    async fn byte(stream: &mut TcpStream) -> u8 {
        tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("a byte")
    }

    #[tokio::test]
    async fn a_cut_holds_one_direction_of_one_pair() {
        let (proxies, target) = pair().await;
        let (zero, one, two) = (Party::Node(0), Party::Node(1), Party::Node(2));
        let mut near = TcpStream::connect(proxies.address(0)).await.expect("connected");
        near.write_u8(1).await.expect("sent");
        let (mut far, _) = target.accept().await.expect("accepted");
        assert_eq!(byte(&mut far).await, 1);
        // Of another pair: nothing is held.
        proxies.set_cuts(&BTreeSet::from([(two, zero), (zero, two), (Party::Clients, zero)]));
        near.write_u8(2).await.expect("sent");
        assert_eq!((byte(&mut far).await, proxies.held_up()), (2, 0));
        // From node 0 to node 1: what node 1 says arrives, the answer does not, until it heals.
        proxies.set_cuts(&BTreeSet::from([(zero, one)]));
        near.write_u8(3).await.expect("sent");
        assert_eq!(byte(&mut far).await, 3);
        far.write_u8(4).await.expect("sent");
        eventually(PATIENCE, "the answer is held", async || proxies.held_up() == 1).await.expect("held");
        assert!(near.try_read(&mut [0]).is_err(), "the answer came through the cut");
        proxies.set_cuts(&BTreeSet::new());
        assert_eq!(byte(&mut near).await, 4);
    }

    #[tokio::test]
    async fn no_connection_is_made_through_a_cut() {
        let (proxies, target) = pair().await;
        proxies.set_cuts(&BTreeSet::from([(Party::Node(0), Party::Node(1))]));
        let mut near = TcpStream::connect(proxies.address(0)).await.expect("the proxy takes it");
        near.write_u8(1).await.expect("sent");
        eventually(PATIENCE, "the connection is held", async || proxies.held_up() == 1).await.expect("held");
        proxies.set_cuts(&BTreeSet::new());
        let (mut far, _) = target.accept().await.expect("accepted");
        assert_eq!(byte(&mut far).await, 1);
    }
}
