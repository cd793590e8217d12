//! The gRPC face: what every call has in common.
//!
//! A call takes one of a bounded number of permits or is refused as overloaded; runs on the query runtime; stops
//! when its deadline passes, when its caller goes away, or when the process shuts down, also where it computes and waits
//! for nothing; and is counted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
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
use crate::trino::{TrinoQuery, TrinoRows};
use crate::{Error, Settings, point_in_time, trino};

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

/// One of the queries that may be at work, held until it is dropped.
#[derive(Debug)]
pub struct Permit(OwnedSemaphorePermit);

/// What admitted work is run with.
struct Launch<M> {
    method: &'static str,
    permit: OwnedSemaphorePermit,
    time: Duration,
    stop: Stop,
    sender: mpsc::Sender<M>,
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

    /// Waits until one more query may be at work. Whoever calls bounds how many wait.
    ///
    /// # Errors
    /// `Unavailable` when the process is going down.
    pub async fn admitted(&self) -> Result<Permit, granary_types::Error> {
        let permits = Arc::clone(&self.inner.permits);
        tokio::select! {
            permit = permits.acquire_owned() => permit.map(Permit).map_err(|_| Error::ShuttingDown.into()),
            () = self.inner.platform.shutdown_begun() => Err(Error::ShuttingDown.into()),
        }
    }

    /// Runs a query in Trino's SQL. It ends when what is returned is dropped, and after the longest time a query may
    /// take.
    ///
    /// # Errors
    /// What it says is wrong, or names what is not there; what ended it before its first row.
    pub async fn trino(&self, permit: Permit, query: TrinoQuery) -> Result<TrinoRows, Error> {
        let (sender, mut batches) = mpsc::channel(self.inner.settings.messages_waiting_max.max(1));
        let (tell, told) = oneshot::channel();
        let stop = Stop::default();
        let work = Arc::clone(&self.inner).trino(query, stop.clone(), tell, sender.clone());
        let time = self.inner.settings.query_time_max;
        self.inner.launch(Launch { method: "trino", permit: permit.0, time, stop, sender }, work, Err);
        match told.await {
            Ok(schema) => Ok(TrinoRows { batches, schema }),
            // It ended before it knew its columns: what comes is the reason.
            Err(_) => Err(batches.recv().await.and_then(Result::err).unwrap_or(Error::Died)),
        }
    }

    /// Starts a task on the threads of queries, for work that goes with one.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.inner.settings.runtime.clone().unwrap_or_else(Handle::current);
        let _entered = runtime.enter();
        self.inner.platform.spawn(TaskKind::Request, name, work);
    }

    /// How many queries may be at work.
    pub fn queries_max(&self) -> usize {
        self.inner.settings.queries_max
    }

    /// The feature groups as they are now.
    pub fn catalog(&self) -> Arc<CatalogView> {
        Arc::clone(&self.inner.catalog.borrow())
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
    /// The work runs on the query runtime; what may end it early is watched from where threads are not taken by
    /// queries. Work that is ended stops when it next waits for something or begins a step ([`Stop`]), and keeps its
    /// permit until then.
    fn start<F, W>(self: &Arc<Self>, method: &'static str, metadata: &MetadataMap, work: W) -> Result<Answers, Status>
    where
        F: Future<Output = Result<End, Error>> + Send + 'static,
        W: FnOnce(Arc<Self>, Stop, Answer) -> F + Send + 'static,
    {
        let permit = self.admit(method)?;
        let time = self.settings.query_time_max.min(deadline(metadata).unwrap_or(Duration::MAX));
        let (sender, receiver) = mpsc::channel(self.settings.messages_waiting_max.max(1));
        let stop = Stop::default();
        let work = work(Arc::clone(self), stop.clone(), Answer::new(sender.clone(), self.settings.message_bytes_max));
        let failed = |error| Err(status_of(&granary_types::Error::from(error)));
        self.launch(Launch { method, permit, time, stop, sender }, work, failed);
        Ok(ReceiverStream::new(receiver))
    }

    /// Runs admitted work on the query runtime, and watches from here what may end it early. The last message of one
    /// that failed is what `failed` makes of the error.
    fn launch<F, M>(self: &Arc<Self>, launch: Launch<M>, work: F, failed: fn(Error) -> M)
    where
        F: Future<Output = Result<End, Error>> + Send + 'static,
        M: Send + 'static,
    {
        let Launch { method, permit, time, stop, sender } = launch;
        let (done, ended) = oneshot::channel();
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
                tracing::debug!(method, %error, "query failed");
                // Whether anybody still reads it makes no difference here.
                let _ = sender.send(failed(error)).await;
            }
        };
        self.platform.spawn(TaskKind::Request, "query watch", watch);
    }

    /// Plans a query in Trino's SQL, tells its columns, and sends its rows.
    async fn trino(
        self: Arc<Self>,
        query: TrinoQuery,
        stop: Stop,
        columns: oneshot::Sender<SchemaRef>,
        rows: mpsc::Sender<Result<RecordBatch, Error>>,
    ) -> Result<End, Error> {
        let catalog = Arc::clone(&self.catalog.borrow());
        let context = self.engine.trino_session(catalog, stop, &query.database, query.tables);
        let (mut batches, schema) = trino::run(&context, &query.sql).await?;
        let count = self.metrics.rows.with_label_values(&["trino"]);
        // Whoever asked may be gone, which the first row tells.
        let _ = columns.send(schema);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            count.inc_by(batch.num_rows() as u64);
            if rows.send(Ok(batch)).await.is_err() {
                return Ok(End::Abandoned);
            }
        }
        Ok(End::Answered)
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
