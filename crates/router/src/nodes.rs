//! Connections to nodes: one link per address, connected when first used, shared by all requests.

use granary_link::{Link, Links};
use granary_platform::Platform;
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::internal::meta_client::MetaClient;
use granary_proto::internal::shard_client::ShardClient;
use granary_types::{Error, ErrorKind};

use crate::Settings;

/// The nodes by address (`host:port`).
#[derive(Debug)]
pub(crate) struct Nodes(Links);

impl Nodes {
    pub(crate) fn new(platform: &Platform, settings: &Settings) -> Self {
        let connect_timeout = settings.connect_timeout;
        Self(platform.links(granary_link::Settings { connect_timeout, ..granary_link::Settings::default() }))
    }

    /// The data plane of the node at `address`.
    pub(crate) fn shard(&self, address: &str) -> Result<ShardClient<Link>, Error> {
        let client = ShardClient::new(self.link(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX))
    }

    /// The control plane of the node at `address`.
    pub(crate) fn meta(&self, address: &str) -> Result<MetaClient<Link>, Error> {
        let client = MetaClient::new(self.link(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX))
    }

    fn link(&self, address: &str) -> Result<Link, Error> {
        let wrong = |error| format!("the catalog names a node {error}");
        self.0.to(address).map_err(|error| Error::new(ErrorKind::Internal, wrong(error)))
    }
}
