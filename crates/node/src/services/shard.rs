//! Writes and reads of the shards that have a replica on this node.

use std::sync::Arc;

use granary_consensus::PeerPool;
use granary_proto::convert::status_of;
use granary_proto::internal::{
    self, read_index_response, shard_list_response, shard_read_response, shard_server::Shard, shard_write_response,
};
use granary_types::{Error, NodeId, ShardId};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{no_replica, not_leader, read_index_at};
use crate::Metrics;
use crate::group_commit::WriteError;
use crate::replica::{KEYS_INLINE_MAX, Replica};
use crate::supervisor::Replicas;
use crate::updates::check_from_router;

/// The most keys of one call.
const KEYS_MAX: usize = 10_000;
/// The most writes of one call.
const WRITES_MAX: usize = 10_000;
/// The most records of one call.
const LISTED_MAX: u32 = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub struct ShardService {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) peers: Arc<PeerPool>,
    pub(crate) catalog: watch::Receiver<Arc<granary_catalog::CatalogView>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl ShardService {
    fn replica(&self, shard: u32) -> Result<Arc<Replica>, Status> {
        let shard = ShardId(shard);
        self.replicas.get(shard).ok_or_else(|| no_replica(&self.replicas, shard))
    }

    fn reading_replica(&self, shard: u32) -> Result<Arc<Replica>, WriteError> {
        self.replica(shard)
            .map_err(|status| WriteError::Failed(Error::new(granary_types::ErrorKind::Unavailable, status.message())))
    }

    async fn leader_read_index(&self, shard: ShardId, node: NodeId) -> Result<u64, WriteError> {
        let address = self.catalog.borrow().node_address(node).map(str::to_owned);
        match address {
            Some(address) => read_index_at(&self.peers, &address, shard).await,
            None => Err(WriteError::NotLeader(None)),
        }
    }

    /// At the leader, of a state that is not older than the call.
    async fn list_records(
        &self,
        request: internal::ShardListRequest,
    ) -> Result<shard_list_response::Result, WriteError> {
        let replica = self.reading_replica(request.shard)?;
        let linearizable = internal::ShardReadRequest::default();
        let index = replica.index_for_read(&linearizable, async |_| Err(WriteError::NotLeader(None))).await?;
        replica.caught_up(index).await?;
        let platform = replica.platform().clone();
        platform.blocking(move || replica.list(&request)).await.unwrap_or_else(|error| {
            Err(WriteError::Failed(Error::new(granary_types::ErrorKind::Internal, format!("list records: {error}"))))
        })
    }

    async fn read_rows(&self, request: internal::ShardReadRequest) -> Result<internal::ShardRows, WriteError> {
        let replica = self.reading_replica(request.shard)?;
        let shard = replica.shard();
        let index = replica.index_for_read(&request, async |node| self.leader_read_index(shard, node).await).await?;
        replica.caught_up(index).await?;
        let level = request.level().as_str_name();
        self.metrics.reads.with_label_values(&[&shard.to_string(), level]).inc_by(request.keys.len() as u64);
        if request.keys.len() <= KEYS_INLINE_MAX {
            return replica.read(&request);
        }
        let platform = replica.platform().clone();
        platform.blocking(move || replica.read(&request)).await.unwrap_or_else(|error| {
            Err(WriteError::Failed(Error::new(granary_types::ErrorKind::Internal, format!("read rows: {error}"))))
        })
    }
}

#[tonic::async_trait]
impl Shard for ShardService {
    async fn write(
        &self,
        request: Request<internal::ShardWriteRequest>,
    ) -> Result<Response<internal::ShardWriteResponse>, Status> {
        let request = request.into_inner();
        if request.writes.is_empty() || request.writes.len() > WRITES_MAX {
            return Err(Status::invalid_argument(format!("a call takes 1 to {WRITES_MAX} writes")));
        }
        for write in &request.writes {
            // What cannot be read back must never enter the Raft log.
            granary_proto::convert::write_from_wire(write.clone()).map_err(|error| status_of(&error))?;
            check_from_router(write).map_err(|error| status_of(&error))?;
        }
        let replica = self.replica(request.shard)?;
        let result = match replica.write(request.writes).await {
            Ok(written) => shard_write_response::Result::Written(internal::ShardWritten {
                raft_index: written.index,
                outcomes: written.outcomes,
            }),
            Err(WriteError::NotLeader(leader)) => shard_write_response::Result::NotLeader(not_leader(leader)),
            Err(WriteError::Failed(error)) => return Err(status_of(&error)),
        };
        Ok(Response::new(internal::ShardWriteResponse { result: Some(result) }))
    }

    async fn read(
        &self,
        request: Request<internal::ShardReadRequest>,
    ) -> Result<Response<internal::ShardReadResponse>, Status> {
        let request = request.into_inner();
        if request.keys.len() > KEYS_MAX {
            return Err(Status::invalid_argument(format!("a call takes at most {KEYS_MAX} keys")));
        }
        let result = match self.read_rows(request).await {
            Ok(rows) => shard_read_response::Result::Rows(rows),
            Err(WriteError::NotLeader(leader)) => shard_read_response::Result::NotLeader(not_leader(leader)),
            Err(WriteError::Failed(error)) => return Err(status_of(&error)),
        };
        Ok(Response::new(internal::ShardReadResponse { result: Some(result) }))
    }

    async fn list(
        &self,
        request: Request<internal::ShardListRequest>,
    ) -> Result<Response<internal::ShardListResponse>, Status> {
        let request = request.into_inner();
        if request.records_max == 0 || request.records_max > LISTED_MAX {
            return Err(Status::invalid_argument(format!("a call lists 1 to {LISTED_MAX} records")));
        }
        let result = match self.list_records(request).await {
            Ok(result) => result,
            Err(WriteError::NotLeader(leader)) => shard_list_response::Result::NotLeader(not_leader(leader)),
            Err(WriteError::Failed(error)) => return Err(status_of(&error)),
        };
        Ok(Response::new(internal::ShardListResponse { result: Some(result) }))
    }

    async fn read_index(
        &self,
        request: Request<internal::ReadIndexRequest>,
    ) -> Result<Response<internal::ReadIndexResponse>, Status> {
        let replica = self.replica(request.into_inner().shard)?;
        let linearizable = internal::ShardReadRequest::default();
        let index = replica.index_for_read(&linearizable, async |_| Err(WriteError::NotLeader(None))).await;
        let result = match index {
            Ok(index) => read_index_response::Result::ReadIndex(index),
            Err(WriteError::NotLeader(leader)) => read_index_response::Result::NotLeader(not_leader(leader)),
            Err(WriteError::Failed(error)) => return Err(status_of(&error)),
        };
        Ok(Response::new(internal::ReadIndexResponse { result: Some(result) }))
    }
}
