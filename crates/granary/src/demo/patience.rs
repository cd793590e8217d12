//! Trying again: a demo survives an election, whatever call it falls into.

use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use granary_types::{Error, ErrorKind};
use tokio::time::Instant;
use tonic::{Response, Status};

use super::Demo;

/// Longer than an election with everything it entails.
const RETRY_FOR: Duration = Duration::from_secs(60);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long one call goes on being tried.
pub(super) struct Patience {
    give_up_at: Instant,
    backoff: Duration,
}

impl Patience {
    pub(super) fn new(demo: &Demo) -> Self {
        Self { give_up_at: demo.platform.instant() + RETRY_FOR, backoff: BACKOFF_MIN }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `error`, where another try is of no use or there were enough.
    pub(super) async fn wait_after(&mut self, demo: &Demo, error: Error) -> anyhow::Result<()> {
        if !may_retry(error.kind) || demo.platform.instant() >= self.give_up_at {
            bail!(error);
        }
        tracing::debug!(%error, "try again");
        demo.platform.sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

/// Whether a call that failed so may succeed when it is made again.
pub(super) fn may_retry(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown)
}

/// Makes a call, which may be made more than once, until it is answered.
///
/// # Errors
/// The call's error, where another try is of no use or there were enough.
pub(super) async fn answered<T, F>(demo: &Demo, mut call: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut patience = Patience::new(demo);
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => patience.wait_after(demo, demo.client.error(&status)).await?,
        }
    }
}
