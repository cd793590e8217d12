//! Replicas about themselves: what their state was, and whether it is whole.

use std::sync::Arc;

use granary_proto::convert::status_of;
use granary_proto::internal::{self, replica_server::Replica as ReplicaRpc};
use granary_shard::Sample;
use granary_types::{Error, ErrorKind, ShardId};
use tonic::{Request, Response, Status};

use super::no_replica;
use crate::replica::Replica;
use crate::supervisor::Replicas;

/// The service.
#[derive(Debug, Clone)]
pub struct ReplicaService {
    pub(crate) replicas: Arc<Replicas>,
}

impl ReplicaService {
    fn replica(&self, shard: u32) -> Result<Arc<Replica>, Status> {
        let shard = ShardId(shard);
        self.replicas.get(shard).ok_or_else(|| no_replica(&self.replicas, shard))
    }
}

#[tonic::async_trait]
impl ReplicaRpc for ReplicaService {
    async fn state_samples(
        &self,
        request: Request<internal::StateSamplesRequest>,
    ) -> Result<Response<internal::StateSamplesResponse>, Status> {
        let replica = self.replica(request.into_inner().shard)?;
        let samples = replica.store().samples().iter().map(sample_to_wire).collect();
        Ok(Response::new(internal::StateSamplesResponse { replica: replica.group().spec().replica.0, samples }))
    }

    async fn scrub(
        &self,
        request: Request<internal::ScrubRequest>,
    ) -> Result<Response<internal::ScrubResponse>, Status> {
        let replica = self.replica(request.into_inner().shard)?;
        let (shard, platform) = (replica.shard(), replica.platform().clone());
        let scrubbed = platform.blocking(move || replica.store().scrub()).await;
        match scrubbed {
            Ok(Ok((index, cells))) => {
                tracing::info!(%shard, index, cells, "scrubbed: every row is whole");
                Ok(Response::new(internal::ScrubResponse { index, cells }))
            }
            Ok(Err(error)) => Err(status_of(&Error::new(error.kind(), format!("scrub shard {shard}: {error}")))),
            Err(error) => Err(status_of(&Error::new(ErrorKind::Internal, format!("scrub shard {shard}: {error}")))),
        }
    }
}

fn sample_to_wire(sample: &Sample) -> internal::StateSample {
    let bytes = |number: u128| number.to_be_bytes().to_vec().into();
    internal::StateSample {
        index: sample.index,
        state_hash: bytes(sample.state_hash),
        change_log_digest: sample.change_log_digest.map(bytes).unwrap_or_default(),
        next_sequence: sample.next_sequence,
        last_stamp: sample.last_stamp,
        recent_writes: sample.recent_writes,
    }
}

/// `None` when it is not a sample.
pub(crate) fn sample_from_wire(sample: &internal::StateSample) -> Option<Sample> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u128::from_be_bytes);
    let change_log_digest = match sample.change_log_digest.as_ref() {
        [] => None,
        digest => Some(number(digest)?),
    };
    Some(Sample {
        index: sample.index,
        state_hash: number(&sample.state_hash)?,
        change_log_digest,
        next_sequence: sample.next_sequence,
        last_stamp: sample.last_stamp,
        recent_writes: sample.recent_writes,
    })
}
