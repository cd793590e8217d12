//! The meta group's replica: the catalog as a state machine, and its push to whoever watches.
//!
//! The whole catalog is small (a few kilobytes a feature group), so a change is pushed as a whole and a watcher
//! that missed some lost nothing. Meta never decides ownership: shards do, at apply.

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use granary_catalog::CatalogState;
use granary_consensus::{SnapshotSource, StateMachine};
use granary_proto::internal;
use granary_types::ClusterId;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

/// The catalog as a replicated state machine.
#[derive(Debug)]
pub struct MetaMachine {
    state: Mutex<CatalogState>,
    published: watch::Sender<Arc<internal::Catalog>>,
}

impl MetaMachine {
    /// An empty catalog of `cluster`.
    pub fn new(cluster: ClusterId) -> Self {
        let state = CatalogState::new(cluster);
        let (published, _) = watch::channel(Arc::new(state.to_wire()));
        Self { state: Mutex::new(state), published }
    }

    /// The catalog at every change, the newest last.
    pub fn watch(&self) -> watch::Receiver<Arc<internal::Catalog>> {
        self.published.subscribe()
    }

    fn publish(&self, state: &CatalogState) {
        self.published.send_replace(Arc::new(state.to_wire()));
    }
}

impl StateMachine for MetaMachine {
    fn apply(&self, index: u64, command: &Bytes) -> io::Result<Bytes> {
        let command = internal::MetaCommand::decode(command.clone()).map_err(io::Error::other)?;
        let mut state = self.state.lock();
        let reply = state.apply(index, &command).map_err(io::Error::other)?;
        self.publish(&state);
        Ok(Bytes::from(reply.encode_to_vec()))
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        let catalog = self.state.lock().to_wire();
        Ok(Box::new(CatalogSnapshot { index: catalog.version, bytes: catalog.encode_to_vec() }))
    }

    fn restore(&self, _index: u64, _local: bool, body: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        let catalog = internal::Catalog::decode(Bytes::from(bytes)).map_err(io::Error::other)?;
        let restored = CatalogState::from_wire(&catalog).map_err(io::Error::other)?;
        let mut state = self.state.lock();
        *state = restored;
        self.publish(&state);
        Ok(())
    }
}

struct CatalogSnapshot {
    index: u64,
    bytes: Vec<u8>,
}

impl SnapshotSource for CatalogSnapshot {
    fn index(&self) -> u64 {
        self.index
    }

    fn write_to(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.bytes)
    }
}
