//! Connections to nodes: one channel per address, connected when first used, shared by all requests.

use std::collections::HashMap;
use std::time::Duration;

use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::internal::meta_client::MetaClient;
use granary_proto::internal::shard_client::ShardClient;
use granary_types::{Error, ErrorKind};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::Settings;

/// More addresses than any cluster has at a time; when so many were seen, the pool begins anew.
const CHANNEL_COUNT_MAX: usize = 1_024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for a few large batches under way without waiting for window updates.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The channels by address (`host:port`).
#[derive(Debug)]
pub(crate) struct Nodes {
    channels: Mutex<HashMap<String, Channel>>,
    connect_timeout: Duration,
}

impl Nodes {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { channels: Mutex::default(), connect_timeout: settings.connect_timeout }
    }

    /// The data plane of the node at `address`.
    pub(crate) fn shard(&self, address: &str) -> Result<ShardClient<Channel>, Error> {
        let client = ShardClient::new(self.channel(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX))
    }

    /// The control plane of the node at `address`.
    pub(crate) fn meta(&self, address: &str) -> Result<MetaClient<Channel>, Error> {
        let client = MetaClient::new(self.channel(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX))
    }

    fn channel(&self, address: &str) -> Result<Channel, Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= CHANNEL_COUNT_MAX {
            channels.clear();
        }
        let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(uri).map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                format!("the catalog names a node address that is none: {address:?} ({error})"),
            )
        })?;
        let channel = endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
