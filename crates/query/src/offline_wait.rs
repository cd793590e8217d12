//! Waiting until what was written is in the offline store.
//!
//! A shard's change log is numbered densely and trimmed only up to what stands in a committed table version (CL-3).
//! So "every event acknowledged before now is in the offline store" is: the last sequence number now, and later a
//! trim at or past it. "Now" is taken behind a linearizable read of the shard: a replica that has answered one has
//! applied every write acknowledged before it (LIN-1), so its change log holds their events. A replica that merely
//! answers may lag.
//!
//! Streams carry the events of all feature groups: waiting for one group is waiting for all.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use granary_catalog::CatalogView;
use granary_link::Links;
use granary_platform::Platform;
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::internal::change_log_client::ChangeLogClient;
use granary_proto::internal::shard_client::ShardClient;
use granary_proto::internal::shard_read_response;
use granary_proto::internal::{ReadLevel, ReadSegmentsRequest, ReadSegmentsResponse, ShardReadRequest};
use granary_proto::v1::{WaitForOfflineRequest, WaitForOfflineResponse};
use granary_types::{Error, ErrorKind, ShardId};
use tokio::sync::watch;
use tonic::{Request, Status};

use crate::Settings;

/// Kept of the caller's deadline, so that "not yet" arrives before it passes.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// Asks the shards' nodes.
#[derive(Debug)]
pub(crate) struct OfflineWait {
    platform: Platform,
    catalog: watch::Receiver<Arc<CatalogView>>,
    links: Links,
    wait_default: Duration,
    poll_interval: Duration,
    call_timeout: Duration,
}

/// What is known of one shard.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The last event acknowledged before the call, once a replica has told.
    target: Option<u64>,
    trimmed: u64,
}

impl Progress {
    fn reached(&self) -> bool {
        self.target.is_some_and(|target| self.trimmed >= target)
    }

    fn pending(&self) -> u64 {
        self.target.unwrap_or(0).saturating_sub(self.trimmed)
    }
}

impl OfflineWait {
    pub(crate) fn new(platform: Platform, catalog: watch::Receiver<Arc<CatalogView>>, settings: &Settings) -> Self {
        let connect_timeout = settings.node_call_timeout;
        Self {
            links: platform.links(granary_link::Settings { connect_timeout, ..granary_link::Settings::default() }),
            platform,
            catalog,
            wait_default: settings.wait_default,
            poll_interval: settings.wait_poll_interval,
            call_timeout: settings.node_call_timeout,
        }
    }

    /// Returns when everything acknowledged before the call is committed, or when the time is up.
    ///
    /// # Errors
    /// `NotFound` for the feature group; `Unavailable` when the time was up before every shard had told where it
    /// stands, so that how much is pending is not known.
    pub(crate) async fn wait(
        &self,
        request: &WaitForOfflineRequest,
        deadline: Option<Duration>,
    ) -> Result<WaitForOfflineResponse, Error> {
        let until = self.platform.instant() + self.time(request, deadline);
        let catalog = Arc::clone(&self.catalog.borrow());
        let group = &request.feature_group;
        if !group.is_empty() && catalog.group(group).is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("feature group {group:?} does not exist")));
        }
        let mut shards: Vec<(ShardId, Progress)> =
            catalog.shards().iter().map(|shard| (shard.id, Progress::default())).collect();
        loop {
            self.look(&mut shards).await;
            let caught_up = shards.iter().all(|(_, progress)| progress.reached());
            if caught_up || self.platform.instant() + self.poll_interval >= until || self.platform.is_shutting_down() {
                let silent = shards.iter().filter(|(_, progress)| progress.target.is_none()).count();
                if silent > 0 {
                    let message = format!("{silent} of {} shards did not tell their last event in time", shards.len());
                    return Err(Error::new(ErrorKind::Unavailable, message));
                }
                let pending_events = shards.iter().map(|(_, progress)| progress.pending()).sum();
                return Ok(WaitForOfflineResponse { caught_up, pending_events });
            }
            self.platform.sleep(self.poll_interval).await;
        }
    }

    fn time(&self, request: &WaitForOfflineRequest, deadline: Option<Duration>) -> Duration {
        let asked = match request.timeout_ms {
            0 => self.wait_default,
            millis => Duration::from_millis(u64::from(millis)),
        };
        asked.min(deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(ANSWER_MARGIN)))
    }

    /// One round of questions to all shards that are not done.
    async fn look(&self, shards: &mut [(ShardId, Progress)]) {
        let catalog = Arc::clone(&self.catalog.borrow());
        let open = shards.iter_mut().filter(|(_, progress)| !progress.reached());
        let rounds: FuturesUnordered<_> =
            open.map(|(shard, progress)| self.ask_shard(&catalog, *shard, progress)).collect();
        rounds.collect::<()>().await;
    }

    /// Asks all replicas of a shard at once and stops listening when one has told enough.
    async fn ask_shard(&self, catalog: &CatalogView, shard: ShardId, progress: &mut Progress) {
        let replicas = catalog.shard(shard).map_or(&[][..], |entry| &entry.replicas);
        let addresses = replicas.iter().filter_map(|replica| catalog.node_address(replica.node));
        let known = progress.target.is_some();
        let mut answers: FuturesUnordered<_> =
            addresses.map(|address| self.ask_replica(address, shard, known)).collect();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => {
                    progress.trimmed = progress.trimmed.max(answer.trimmed_sequence);
                    progress.target = progress.target.or(Some(answer.last_sequence));
                }
                Err(status) => tracing::debug!(%shard, %status, "ask replica for its change log"),
            }
            if progress.reached() {
                return;
            }
        }
    }

    /// A replica's change log: as it is, or, where the target is not known yet, behind a linearizable read.
    async fn ask_replica(&self, address: &str, shard: ShardId, as_it_is: bool) -> Result<ReadSegmentsResponse, Status> {
        let link = self.links.to(address).map_err(|error| Status::unavailable(error.to_string()))?;
        if !as_it_is {
            let barrier =
                ShardReadRequest { shard: shard.0, level: ReadLevel::Linearizable.into(), ..Default::default() };
            let mut client = ShardClient::new(link.clone());
            let answer = client.read(self.bounded(barrier)).await?.into_inner();
            let Some(shard_read_response::Result::Rows(_)) = answer.result else {
                return Err(Status::unavailable("the replica does not lead"));
            };
        }
        let mut client = ChangeLogClient::new(link).max_decoding_message_size(MESSAGE_LEN_MAX);
        // After the last number there can be: where the log stands, without its events.
        let after_sequence = i64::MAX.cast_unsigned();
        let request = ReadSegmentsRequest {
            shard: shard.0,
            after_sequence,
            trimmed_groups_after: after_sequence,
            ..ReadSegmentsRequest::default()
        };
        Ok(client.read_segments(self.bounded(request)).await?.into_inner())
    }

    fn bounded<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout);
        request
    }
}
