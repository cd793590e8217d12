//! The change log to the compactor: sealed segments from any replica, acknowledgements to the leader.

use std::sync::Arc;

use granary_proto::convert::{status_of, stream_from_wire, stream_to_wire};
use granary_proto::internal::{self, acknowledge_response, change_log_server::ChangeLog};
use granary_types::ShardId;
use tonic::{Request, Response, Status};

use super::{no_replica, not_leader};
use crate::group_commit::WriteError;
use crate::supervisor::Replicas;

/// The most bytes of segments in one answer; one segment is always given.
const ANSWER_BYTES_MAX: u32 = 16 << 20;

/// The service.
#[derive(Debug, Clone)]
pub struct ChangeLogService {
    pub(crate) replicas: Arc<Replicas>,
}

#[tonic::async_trait]
impl ChangeLog for ChangeLogService {
    async fn read_segments(
        &self,
        request: Request<internal::ReadSegmentsRequest>,
    ) -> Result<Response<internal::ReadSegmentsResponse>, Status> {
        let request = request.into_inner();
        let shard = ShardId(request.shard);
        let replica = self.replicas.get(shard).ok_or_else(|| no_replica(&self.replicas, shard))?;
        let max_bytes = request.max_bytes.min(ANSWER_BYTES_MAX) as usize;
        let mut response = replica.store().segments_after(request.after_sequence, max_bytes);
        // After the segments: what is told of trims may be newer than the answer's own trim, never older.
        response.trimmed_groups = replica.store().groups_trimmed_after(request.trimmed_groups_after);
        request.failing_tables.into_iter().for_each(|tables| replica.note_failing_tables(tables.lines));
        response.stream.get_or_insert_with(|| stream_to_wire(replica.stream()));
        Ok(Response::new(response))
    }

    async fn acknowledge(
        &self,
        request: Request<internal::AcknowledgeRequest>,
    ) -> Result<Response<internal::AcknowledgeResponse>, Status> {
        let request = request.into_inner();
        let stream = stream_from_wire(request.stream.as_ref()).map_err(|error| status_of(&error))?;
        let replica = self.replicas.get(stream.shard).ok_or_else(|| no_replica(&self.replicas, stream.shard))?;
        if replica.stream() != stream {
            return Err(Status::failed_precondition(format!("the shard's stream is {}", replica.stream())));
        }
        let result = match replica.trim(request.sequence).await {
            Ok(trimmed) => acknowledge_response::Result::TrimmedSequence(trimmed),
            Err(WriteError::NotLeader(leader)) => acknowledge_response::Result::NotLeader(not_leader(leader)),
            Err(WriteError::Failed(error)) => return Err(status_of(&error)),
        };
        Ok(Response::new(internal::AcknowledgeResponse { result: Some(result) }))
    }
}
