//! Connections to other nodes: one per address, shared by all groups of this process, opened when first used.
//!
//! A connection carries many requests at once. It is kept alive by pings, so that a peer that vanished without a word
//! is noticed in seconds, and it reconnects by itself.

use std::sync::Arc;

use granary_link::{BadAddress, Link, Links, Settings, Tcp};
use granary_platform::Platform;
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::internal::consensus_client::ConsensusClient;

/// The connections of one node to its peers.
#[derive(Debug)]
pub struct PeerPool(Links);

impl Default for PeerPool {
    fn default() -> Self {
        Self(Links::new(Arc::new(Tcp), Settings::default()))
    }
}

impl PeerPool {
    /// A pool without connections.
    pub fn new(platform: &Platform) -> Self {
        Self(platform.links(Settings::default()))
    }

    /// The connection to `address` (`host:port`). Opens nothing yet; must be called on a runtime.
    ///
    /// # Errors
    /// When `address` is not a host and a port.
    pub fn channel(&self, address: &str) -> Result<Link, BadAddress> {
        self.0.to(address)
    }

    /// Forgets the connection to a node that is gone for good.
    pub fn forget(&self, address: &str) {
        self.0.forget(address);
    }

    pub(crate) fn client(&self, address: &str) -> Result<ConsensusClient<Link>, BadAddress> {
        Ok(ConsensusClient::new(self.channel(address)?)
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX))
    }
}
