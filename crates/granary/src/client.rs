//! Connections of the client commands and of the demo to a running cluster.

use std::time::Duration;

use anyhow::Context;
use granary_proto::v1::feature_store_client::FeatureStoreClient;
use granary_proto::v1::query_client::QueryClient;
use granary_proto::{MESSAGE_LEN_MAX, internal, v1};
use granary_types::{Error, ErrorKind};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::failure;

/// A router or a query service, with clients for what they serve.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: String,
    /// Feature groups and the online store.
    pub(crate) store: FeatureStoreClient<Channel>,
    /// The offline store.
    pub(crate) query: QueryClient<Channel>,
}

impl Client {
    /// A client that connects at its first call. Every call fails after `timeout`.
    ///
    /// # Errors
    /// `Invalid` for an endpoint that is not a URL.
    pub(crate) fn new(endpoint: &str, timeout: Duration) -> anyhow::Result<Self> {
        let channel = channel(endpoint, timeout)?;
        let store = FeatureStoreClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX);
        let query = QueryClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
        Ok(Self { endpoint: endpoint.to_owned(), store, query })
    }

    /// The error that a status is to the caller.
    pub(crate) fn error(&self, status: &Status) -> Error {
        failure::of_status(&self.endpoint, status)
    }

    /// The batches of a streamed answer.
    ///
    /// # Errors
    /// The error of the call, or bytes that are not Arrow.
    pub(crate) async fn batches(
        &self,
        answer: Result<tonic::Response<tonic::Streaming<v1::ArrowBatch>>, Status>,
    ) -> anyhow::Result<Vec<arrow::array::RecordBatch>> {
        let mut stream = answer.map_err(|status| self.error(&status))?.into_inner();
        let mut batches = Vec::new();
        while let Some(message) = stream.message().await.map_err(|status| self.error(&status))? {
            let reader = arrow::ipc::reader::StreamReader::try_new(message.ipc.as_ref(), None)
                .context("read Arrow from the answer")?;
            let schema = reader.schema();
            let before = batches.len();
            for batch in reader {
                batches.push(batch.context("read Arrow from the answer")?);
            }
            if batches.len() == before {
                // An answer without rows still has columns to show.
                batches.push(arrow::array::RecordBatch::new_empty(schema));
            }
        }
        Ok(batches)
    }

    /// Runs one SELECT.
    ///
    /// # Errors
    /// The error of the call.
    pub(crate) async fn sql(&self, sql: &str) -> anyhow::Result<Vec<arrow::array::RecordBatch>> {
        let answer = self.query.clone().sql(v1::SqlRequest { sql: sql.to_owned() }).await;
        self.batches(answer).await
    }
}

/// A channel to `endpoint`, `http://` supplied where it is missing.
///
/// # Errors
/// `Invalid` for an endpoint that is not a URL.
pub(crate) fn channel(endpoint: &str, timeout: Duration) -> anyhow::Result<Channel> {
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let endpoint = Endpoint::from_shared(url)
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("endpoint {endpoint:?} is not a URL")))?;
    Ok(endpoint.connect_timeout(timeout.min(Duration::from_secs(5))).timeout(timeout).tcp_nodelay(true).connect_lazy())
}

/// A client of a node's services, for `status`.
///
/// # Errors
/// `Invalid` for an endpoint that is not a URL.
pub(crate) fn meta(endpoint: &str, timeout: Duration) -> anyhow::Result<internal::meta_client::MetaClient<Channel>> {
    let channel = channel(endpoint, timeout)?;
    Ok(internal::meta_client::MetaClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX))
}
