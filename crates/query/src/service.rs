//! The gRPC face: what every call has in common.
//!
//! A call takes one of a bounded number of permits or is refused as overloaded; runs on the query runtime; stops
//! when its deadline passes, when its caller goes away, or when the process shuts down, also where it computes and waits
//! for nothing; and is counted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::CatalogView;
use granary_offline_store::Warehouse;
use granary_platform::{Platform, TaskKind};
use granary_proto::convert::status_of;
use granary_proto::v1::query_server::Query;
use granary_proto::v1::{PointInTimeJoinRequest, SqlRequest, WaitForOfflineRequest, WaitForOfflineResponse};
use granary_types::ErrorKind;
use prometheus::IntGauge;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::answer::{Abandoned, Answer, Message};
use crate::metrics::Metrics;
use crate::offline_wait::OfflineWait;
use crate::sql::{Engine, Session, Stop};
use crate::{Error, Settings, point_in_time};

/// Rows of a joined batch before it is cut into messages by size.
const JOINED_BATCH_ROWS: usize = 8_192;

/// Queries over the offline store: `granary.v1.Query`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct QueryService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    platform: Platform,
    catalog: watch::Receiver<Arc<CatalogView>>,
    engine: Engine,
    offline_wait: OfflineWait,
    permits: Arc<Semaphore>,
    metrics: Metrics,
    settings: Settings,
}

/// A call at work: counted, and holding its permit, until it is dropped.
#[derive(Debug)]
struct Running {
    gauge: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Running {
    fn new(gauge: &IntGauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone(), _permit: permit }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// How a call ended.
#[derive(Debug)]
enum End {
    Answered,
    Abandoned,
}

impl QueryService {
    /// A service over the feature groups of `catalog` and their tables in `warehouse`.
    ///
    /// # Errors
    /// [`Error::Query`] when the directory for temporary files cannot be used, [`Error::Metrics`] when `registry`
    /// has a query service already.
    pub fn new(
        platform: Platform,
        catalog: watch::Receiver<Arc<CatalogView>>,
        warehouse: Arc<Warehouse>,
        settings: Settings,
        registry: &prometheus::Registry,
    ) -> Result<Self, Error> {
        let inner = Inner {
            engine: Engine::new(platform.clone(), warehouse, &settings)?,
            offline_wait: OfflineWait::new(platform.clone(), catalog.clone(), &settings),
            permits: Arc::new(Semaphore::new(settings.queries_max)),
            metrics: Metrics::register(registry)?,
            platform,
            catalog,
            settings,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn admit(&self, method: &'static str) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            self.metrics.calls.with_label_values(&[method, "overloaded"]).inc();
            let message = format!("{} queries are at work already", self.settings.queries_max);
            status_of(&granary_types::Error::new(ErrorKind::Overloaded, message))
        })
    }

    /// Starts a call that streams its answer and returns the answer's reading end.
    ///
    /// The work runs on the query runtime; what may end it early is watched from here, where threads are not taken
    /// by queries. Work that is ended stops when it next waits for something or begins a step ([`Stop`]), and keeps its
    /// permit until then.
    fn start<F, W>(self: &Arc<Self>, method: &'static str, metadata: &MetadataMap, work: W) -> Result<Answers, Status>
    where
        F: Future<Output = Result<End, Error>> + Send + 'static,
        W: FnOnce(Arc<Self>, Stop, Answer) -> F + Send + 'static,
    {
        let permit = self.admit(method)?;
        let time = self.settings.query_time_max.min(deadline(metadata).unwrap_or(Duration::MAX));
        let (sender, receiver) = mpsc::channel(self.settings.messages_waiting_max.max(1));
        let (done, ended) = oneshot::channel();
        let stop = Stop::default();
        let work = work(Arc::clone(self), stop.clone(), Answer::new(sender.clone(), self.settings.message_bytes_max));
        let running = Running::new(&self.metrics.running, permit);
        let work = async move {
            let _running = running;
            // Nobody listens any more when the call was ended early.
            let _ = done.send(work.await);
        };
        let work = {
            let runtime = self.settings.runtime.clone().unwrap_or_else(Handle::current);
            let _entered = runtime.enter();
            self.platform.spawn(TaskKind::Request, "query", work)
        };
        let inner = Arc::clone(self);
        let watch = async move {
            let began = inner.platform.instant();
            let ended = tokio::select! {
                ended = ended => ended.unwrap_or(Err(Error::Died)),
                () = sender.closed() => Ok(End::Abandoned),
                () = inner.platform.sleep(time) => Err(Error::DeadlinePassed),
                () = inner.platform.shutdown_begun() => Err(Error::ShuttingDown),
            };
            stop.stop();
            work.abort();
            inner.metrics.seconds.with_label_values(&[method]).observe(began.elapsed().as_secs_f64());
            inner.metrics.calls.with_label_values(&[method, outcome(&ended)]).inc();
            if let Err(error) = ended {
                let error = granary_types::Error::from(error);
                tracing::debug!(method, %error, "query failed");
                // Whether anybody still reads it makes no difference here.
                let _ = sender.send(Err(status_of(&error))).await;
            }
        };
        self.platform.spawn(TaskKind::Request, "query watch", watch);
        Ok(ReceiverStream::new(receiver))
    }

    fn session(&self, stop: Stop) -> (Session, Arc<CatalogView>) {
        let catalog = Arc::clone(&self.catalog.borrow());
        (self.engine.session(Arc::clone(&catalog), stop), catalog)
    }

    async fn sql(self: Arc<Self>, sql: String, stop: Stop, mut answer: Answer) -> Result<End, Error> {
        let (session, _) = self.session(stop);
        let mut rows = session.plan(&sql).await?.execute_stream().await?;
        while let Some(batch) = rows.next().await {
            if answer.send(&batch?).await?.is_err() {
                return Ok(End::Abandoned);
            }
        }
        let finished = answer.finish(rows.schema()).await?;
        Ok(self.count("sql", &answer, finished))
    }

    async fn point_in_time_join(
        self: Arc<Self>,
        request: PointInTimeJoinRequest,
        stop: Stop,
        mut answer: Answer,
    ) -> Result<End, Error> {
        let (session, catalog) = self.session(stop);
        let memory = self.engine.reserve_memory("point-in-time join");
        let join = point_in_time::join(&session, &catalog, &request, self.settings.joins_max, &memory).await?;
        self.metrics.joined_events.with_label_values(&["point_in_time_join"]).inc_by(join.event_count() as u64);
        for batch in join.batches(JOINED_BATCH_ROWS) {
            if answer.send(&batch?).await?.is_err() {
                return Ok(End::Abandoned);
            }
        }
        let finished = answer.finish(join.schema()).await?;
        Ok(self.count("point_in_time_join", &answer, finished))
    }

    fn count(&self, method: &'static str, answer: &Answer, finished: Result<(), Abandoned>) -> End {
        self.metrics.rows.with_label_values(&[method]).inc_by(answer.rows);
        self.metrics.bytes.with_label_values(&[method]).inc_by(answer.bytes);
        if finished.is_ok() { End::Answered } else { End::Abandoned }
    }
}

type Answers = ReceiverStream<Message>;

#[tonic::async_trait]
impl Query for QueryService {
    type SqlStream = Answers;
    type PointInTimeJoinStream = Answers;

    async fn sql(&self, request: Request<SqlRequest>) -> Result<Response<Answers>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.inner
            .start("sql", &metadata, move |inner, stop, answer| inner.sql(request.sql, stop, answer))
            .map(Response::new)
    }

    async fn point_in_time_join(&self, request: Request<PointInTimeJoinRequest>) -> Result<Response<Answers>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = move |inner: Arc<Inner>, stop, answer| inner.point_in_time_join(request, stop, answer);
        self.inner.start("point_in_time_join", &metadata, work).map(Response::new)
    }

    async fn wait_for_offline(
        &self,
        request: Request<WaitForOfflineRequest>,
    ) -> Result<Response<WaitForOfflineResponse>, Status> {
        const METHOD: &str = "wait_for_offline";
        let (metadata, _, request) = request.into_parts();
        let permit = self.inner.admit(METHOD)?;
        let _running = Running::new(&self.inner.metrics.running, permit);
        let began = self.inner.platform.instant();
        let response = self.inner.offline_wait.wait(&request, deadline(&metadata)).await;
        let outcome = match &response {
            Ok(response) if response.caught_up => "ok",
            Ok(_) => "deadline",
            Err(_) => "error",
        };
        self.inner.metrics.seconds.with_label_values(&[METHOD]).observe(began.elapsed().as_secs_f64());
        self.inner.metrics.calls.with_label_values(&[METHOD, outcome]).inc();
        response.map(Response::new).map_err(|error| status_of(&error))
    }
}

fn outcome(ended: &Result<End, Error>) -> &'static str {
    match ended {
        Ok(End::Answered) => "ok",
        Ok(End::Abandoned) => "abandoned",
        Err(Error::DeadlinePassed) => "deadline",
        Err(_) => "error",
    }
}

/// How long the caller waits, by the `grpc-timeout` of its call: up to eight digits and a unit.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value = u64::from(digits.parse::<u32>().ok()?);
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_deadline_of_a_call() {
        let of = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", tonic::metadata::MetadataValue::from_static(text));
            deadline(&metadata)
        };
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("2H"), Some(Duration::from_secs(7_200)));
        for wrong in ["", "m", "5x", "-1S", "99999999999S"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(deadline(&MetadataMap::new()), None);
    }
}
