//! Connections to other nodes: one per address, shared by all groups of this process, opened when first used.
//!
//! A connection carries many requests at once. It is kept alive by pings, so that a peer that vanished without a word
//! is noticed in seconds, and it reconnects by itself.

use std::collections::HashMap;
use std::time::Duration;

use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::internal::consensus_client::ConsensusClient;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

/// Settings of the connections to other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    /// How long a connection may take to open, in milliseconds. Short: Raft asks again, and others wait meanwhile.
    pub connect_timeout_ms: u64,
    /// How often an open connection is probed, in milliseconds.
    pub keep_alive_ms: u64,
    /// How long a probe may go unanswered, in milliseconds.
    pub keep_alive_timeout_ms: u64,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self { connect_timeout_ms: 1_000, keep_alive_ms: 5_000, keep_alive_timeout_ms: 5_000 }
    }
}

/// The connections of one node to its peers.
#[derive(Debug, Default)]
pub struct PeerPool {
    settings: PeerSettings,
    /// As many as there are nodes.
    channels: Mutex<HashMap<String, Channel>>,
}

impl PeerPool {
    /// A pool without connections.
    pub fn new(settings: PeerSettings) -> Self {
        Self { settings, channels: Mutex::default() }
    }

    /// The connection to `address` (`host:port`). Opens nothing yet; must be called on a runtime.
    ///
    /// # Errors
    /// When `address` is not a host and a port.
    pub fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        if let Some(channel) = self.channels.lock().get(address) {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_millis(self.settings.connect_timeout_ms))
            .http2_keep_alive_interval(Duration::from_millis(self.settings.keep_alive_ms))
            .keep_alive_timeout(Duration::from_millis(self.settings.keep_alive_timeout_ms))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            // A request with megabytes of entries should not wait for window updates; a snapshot should.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_lazy();
        Ok(self.channels.lock().entry(address.to_owned()).or_insert(channel).clone())
    }

    /// Forgets the connection to a node that is gone for good.
    pub fn forget(&self, address: &str) {
        self.channels.lock().remove(address);
    }

    pub(crate) fn client(&self, address: &str) -> Result<ConsensusClient<Channel>, tonic::transport::Error> {
        Ok(ConsensusClient::new(self.channel(address)?)
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX))
    }
}
