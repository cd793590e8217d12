//! The router: takes checked commands from the edge, finds the shard of each record, and asks its replicas.
//!
//! It is stateless: what it knows is the catalog it watches, a guess of each shard's leader and a pool of
//! connections, and any of that may be stale. Ownership is decided by the shard's own log at apply (RG-1); a stale
//! router is redirected. It parses no wire format of a client (that is `granary-api`) and stores nothing.
//!
//! What it keeps: a write gets its id here once and carries it on every retry, so that a retry is applied once
//! (CL-1); a write whose fate is not known ends as `Unknown` and never as failed; expiry is judged here, at the
//! edge of the read, and never in apply. Every queue, retry and fan-out is bounded by [`Settings`], and what does
//! not fit is refused as `Overloaded` before anything happened.

mod changes;
mod columns;
mod deadline;
mod failure;
mod features;
mod groups;
mod lane;
mod list;
mod metrics;
mod nodes;
mod read;
mod record;
mod replicas;
mod session;
mod settings;
mod update;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::CatalogView;
use granary_platform::Platform;
use granary_types::{Epoch, Error, ErrorKind, ShardId, Slot};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use columns::{Column, Present, Texts, Values};
pub use features::{EntityStatus, FeatureColumns, FeaturesCommand, Selection};
pub use granary_catalog::search::{Found, Hit};
pub use list::{ListAnswer, ListCommand, ListPlace, ListedRecord};
pub use read::{BatchAnswer, BatchFailure, BatchGetCommand, BatchKeys, BatchRecord, Consistency, GetCommand};
pub use record::OnlineRecord;
pub use session::Session;
pub use settings::Settings;
pub use update::UpdateCommand;
pub use write::{DeleteCommand, PutCommand, Written};

use lane::Lane;
use metrics::Metrics;
use nodes::Nodes;
use replicas::Leaders;

/// Which of a shard's two write queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Queue {
    Plain,
    Updates,
}

/// Routes commands to shards and to the meta group. Cheap to clone; clones share connections and queues.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
    /// The write queues of each shard, begun when they are first used. Updates have one of their own: a busy record takes
    /// one for each commit, and who only puts must not wait for that.
    lanes: Arc<Mutex<HashMap<(ShardId, Queue), Lane>>>,
}

impl Router {
    /// A router that follows `catalog`. Its metrics go into `registry`.
    pub fn new(
        platform: Platform,
        catalog: watch::Receiver<Arc<CatalogView>>,
        settings: Settings,
        registry: &Registry,
    ) -> Self {
        let shared = Shared {
            nodes: Nodes::new(&platform, &settings),
            leaders: Leaders::default(),
            metrics: Metrics::register(registry),
            admission: Arc::new(Semaphore::new(settings.requests_in_flight_max)),
            platform,
            catalog,
            settings,
        };
        Self { shared: Arc::new(shared), lanes: Arc::default() }
    }

    /// The catalog as this router knows it now.
    pub fn catalog(&self) -> Arc<CatalogView> {
        self.shared.view()
    }

    /// Whether this router knows a cluster with shards, so that it can serve.
    ///
    /// # Errors
    /// `Unavailable`, saying what is missing.
    pub fn ready(&self) -> Result<(), Error> {
        if self.shared.view().shards().is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "the catalog has not been received or has no shards yet"));
        }
        Ok(())
    }

    /// The door to clock and ids this router was given.
    pub fn platform(&self) -> &Platform {
        &self.shared.platform
    }

    fn lane(&self, shard: ShardId, queue: Queue) -> Lane {
        self.lanes.lock().entry((shard, queue)).or_insert_with(|| Lane::start(&self.shared, shard)).clone()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

/// What every request of a router needs.
pub(crate) struct Shared {
    pub(crate) platform: Platform,
    pub(crate) catalog: watch::Receiver<Arc<CatalogView>>,
    pub(crate) settings: Settings,
    pub(crate) nodes: Nodes,
    pub(crate) leaders: Leaders,
    pub(crate) metrics: Metrics,
    admission: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn view(&self) -> Arc<CatalogView> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Waits between two rounds; shorter when the catalog shows another owner of a slot than the one that refused.
    pub(crate) async fn pause(&self, pause: Duration, stale: Option<(Slot, Epoch)>) {
        let Some((slot, epoch)) = stale else { return self.platform.sleep(pause).await };
        let mut catalog = self.catalog.clone();
        let moved = |view: &CatalogView| view.shard_of(slot).is_some_and(|(_, newer)| newer > epoch);
        let waited = granary_catalog::watch::wait_for(&mut catalog, moved, pause).await;
        // Either way the next round looks the owner up again. A catalog that is no longer followed never changes.
        if waited.is_err() && catalog.has_changed().is_err() {
            self.platform.sleep(pause).await;
        }
    }

    /// One request's place among those in flight, or `Overloaded`.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.admission)
            .try_acquire_owned()
            .map_err(|_| Error::new(ErrorKind::Overloaded, "the router has as many requests in flight as it takes"))
    }
}
