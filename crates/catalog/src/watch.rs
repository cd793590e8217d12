//! Keeps a view of the catalog up to date from any node of the cluster.
//!
//! [`CatalogClient`] follows the catalog on one node at a time: a seed, or a node that the catalog itself names. It
//! takes only versions newer than what it has, so the view never goes back, whatever a restarted or lagging node
//! sends. It gives no guarantee of freshness, and none is needed: ownership is decided by shards at apply.
//!
//! Bounds: one connection, one message in memory, and waits between [`Settings::backoff_min`] and
//! [`Settings::backoff_max`]. When a node has sent nothing new for [`Settings::silence_max`] the client moves on to
//! the next, since a node that is cut off from the meta group looks just like one to which nothing happens.

use std::sync::Arc;
use std::time::Duration;

use granary_platform::{Platform, TaskKind};
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::internal::meta_client::MetaClient;
use granary_proto::internal::{Catalog, WatchCatalogRequest};
use granary_types::{Error, ErrorKind};
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};
use tonic::Streaming;

use crate::CatalogView;

/// How long the client waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// For a connection and the first answer on it; for the first catalog of all, too.
    pub answer_timeout: Duration,
    /// For something new from one node before asking another.
    pub silence_max: Duration,
    /// Before asking the next node after a failure.
    pub backoff_min: Duration,
    /// Doubled from `backoff_min` with every round in which all nodes failed, up to this.
    pub backoff_max: Duration,
    /// Between probes of an idle connection; one that goes unanswered for `answer_timeout` breaks it.
    pub keep_alive: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            answer_timeout: Duration::from_secs(5),
            silence_max: Duration::from_secs(30),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            keep_alive: Duration::from_secs(5),
        }
    }
}

/// Follows the catalog until the platform shuts down or nobody listens any more.
#[derive(Debug)]
pub struct CatalogClient {
    platform: Platform,
    settings: Settings,
    seeds: Vec<String>,
    view: watch::Sender<Arc<CatalogView>>,
}

/// How following one node ended.
enum Ending {
    /// It had nothing new to say.
    Silent,
    /// The connection failed or the node ended it.
    Broken { why: String, progressed: bool },
}

/// Follows the catalog with the default settings: [`CatalogClient::spawn`].
pub fn follow(platform: &Platform, seeds: Vec<String>) -> watch::Receiver<Arc<CatalogView>> {
    CatalogClient::spawn(platform, seeds)
}

/// Waits until the view satisfies `predicate`, and returns it.
///
/// # Errors
/// `Unavailable` when it did not within `limit`, or when the client ended.
pub async fn wait_for(
    view: &mut watch::Receiver<Arc<CatalogView>>,
    mut predicate: impl FnMut(&CatalogView) -> bool,
    limit: Duration,
) -> Result<Arc<CatalogView>, Error> {
    let ended = || Error::new(ErrorKind::Unavailable, "the catalog is no longer followed");
    if let Ok(found) = timeout(limit, view.wait_for(|view| predicate(view))).await {
        return found.map(|view| Arc::clone(&view)).map_err(|_| ended());
    }
    let (version, waited_ms) = (view.borrow().version, limit.as_millis());
    let message = format!("the catalog is not as awaited version={version} waited_ms={waited_ms}");
    Err(Error::new(ErrorKind::Unavailable, message))
}

impl CatalogClient {
    /// Follows the catalog on `seeds` (`host:port`, or with a scheme) with the default settings. The receiver holds
    /// an empty view of version 0 until the first catalog came.
    pub fn spawn(platform: &Platform, seeds: Vec<String>) -> watch::Receiver<Arc<CatalogView>> {
        Self::spawn_with(platform, seeds, Settings::default())
    }

    /// As [`spawn`](Self::spawn), with settings.
    pub fn spawn_with(
        platform: &Platform,
        seeds: Vec<String>,
        settings: Settings,
    ) -> watch::Receiver<Arc<CatalogView>> {
        let (sender, receiver) = watch::channel(Arc::new(CatalogView::empty()));
        let client = Self { platform: platform.clone(), settings, seeds, view: sender };
        platform.spawn(TaskKind::Request, "catalog client", async move { client.run().await });
        receiver
    }

    async fn run(self) {
        tokio::select! {
            () = self.platform.shutdown_begun() => {}
            () = self.view.closed() => {}
            () = self.follow_all() => {}
        }
    }

    /// Follows one node after the other. Starts anywhere, so that many routers spread over the nodes. Ends only when
    /// there is no node to ask and never will be.
    async fn follow_all(&self) {
        let mut turn = self.random_below(self.seeds.len());
        let mut failures = 0_usize;
        loop {
            let nodes = self.candidates();
            if nodes.is_empty() {
                tracing::error!("the catalog cannot be followed: no seed is configured");
                return;
            }
            let node = &nodes[turn % nodes.len()];
            turn = turn.wrapping_add(1);
            match self.follow_one(node).await {
                Ending::Silent => failures = 0,
                Ending::Broken { why, progressed } => {
                    tracing::debug!(%node, why, "catalog stream ended");
                    failures = if progressed { 1 } else { failures + 1 };
                    self.platform.sleep(self.backoff(failures / nodes.len())).await;
                }
            }
        }
    }

    /// Seeds and the nodes of the catalog as URIs, each once.
    fn candidates(&self) -> Vec<String> {
        let view = Arc::clone(&self.view.borrow());
        let learned = view.nodes().iter().map(|node| &node.address);
        let mut uris = Vec::with_capacity(self.seeds.len() + view.nodes().len());
        for address in self.seeds.iter().chain(learned) {
            let uri = if address.contains("://") { address.clone() } else { format!("http://{address}") };
            if !uris.contains(&uri) {
                uris.push(uri);
            }
        }
        uris
    }

    async fn follow_one(&self, node: &str) -> Ending {
        let mut progressed = false;
        match self.take_all(node, &mut progressed).await {
            Ok(()) => Ending::Silent,
            Err(why) => Ending::Broken { why, progressed },
        }
    }

    /// Takes what a node sends until it has been silent for too long. `progressed` tells whether it sent anything new.
    async fn take_all(&self, node: &str, progressed: &mut bool) -> Result<(), String> {
        let limit = self.settings.answer_timeout;
        let opening = Box::pin(self.open(node));
        let mut catalogs = timeout(limit, opening).await.map_err(|_| "no answer".to_owned())??;
        loop {
            // Without any catalog, waiting long helps nobody: another node may have one.
            let known = self.view.borrow().version > 0;
            let patience = if known { self.settings.silence_max } else { self.settings.answer_timeout };
            let deadline = self.platform.instant() + patience;
            loop {
                let Ok(message) = timeout_at(deadline, catalogs.message()).await else { return Ok(()) };
                let catalog = message.map_err(|status| status.to_string())?.ok_or("the node ended the stream")?;
                if self.take(&catalog)? {
                    *progressed = true;
                    break;
                }
            }
        }
    }

    async fn open(&self, node: &str) -> Result<Streaming<Catalog>, String> {
        // A link of its own, so that one that broke is not kept for the next node's turn.
        let links = self.platform.links(granary_link::Settings {
            connect_timeout: self.settings.answer_timeout,
            keep_alive: self.settings.keep_alive,
            keep_alive_timeout: self.settings.answer_timeout,
        });
        let link = links.to(node).map_err(|error| error.to_string())?;
        let mut meta = MetaClient::new(link).max_decoding_message_size(MESSAGE_LEN_MAX);
        let after_version = self.view.borrow().version;
        let answer = meta.watch_catalog(WatchCatalogRequest { after_version }).await;
        Ok(answer.map_err(|status| status.to_string())?.into_inner())
    }

    /// Publishes a catalog if it is newer than the present one, and tells whether it was.
    fn take(&self, catalog: &Catalog) -> Result<bool, String> {
        let present = Arc::clone(&self.view.borrow());
        if catalog.version <= present.version {
            return Ok(false);
        }
        let next = CatalogView::from_wire(catalog).map_err(|error| {
            tracing::error!(%error, version = catalog.version, "a catalog cannot be read");
            error.to_string()
        })?;
        if present.version > 0 && next.cluster != present.cluster {
            return Err(format!("the node is of another cluster cluster={:032x}", next.cluster.0));
        }
        self.view.send_replace(Arc::new(next));
        Ok(true)
    }

    /// Half of the bound to all of it, at random: nodes that come back are not asked by everybody at once.
    fn backoff(&self, rounds: usize) -> Duration {
        let doublings = u32::try_from(rounds.min(16)).expect("at most 16");
        let bound = self.settings.backoff_min.saturating_mul(1 << doublings).min(self.settings.backoff_max);
        let half = bound / 2;
        let spread = usize::try_from(half.as_micros()).unwrap_or(usize::MAX);
        half + Duration::from_micros(self.random_below(spread + 1) as u64)
    }

    /// At random in `0..limit`; 0 for a limit of 0.
    fn random_below(&self, limit: usize) -> usize {
        let limit = limit.max(1) as u128;
        usize::try_from(self.platform.fresh_id() % limit).expect("below a usize")
    }
}
