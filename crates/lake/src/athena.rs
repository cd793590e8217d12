//! Athena: SQL that is started, asked after, and read (contract 5.4).
//!
//! * [`statement`] tells queries from the statements that change the data catalog;
//! * [`executions`] keeps what ran, so that any process answers for it and a kill leaves no execution running for ever;
//! * [`run`] runs one, and [`values`] writes its result as Athena does;
//! * [`results`] reads a result back in pages.
//!
//! A statement that is wrong is an execution that failed, never an error of the call.

mod executions;
mod operations;
mod parameters;
mod results;
mod run;
mod statement;
pub(crate) mod types;
mod values;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use granary_api::aws::Call;
use granary_platform::{Platform, TaskKind};
use granary_query::QueryService;
use http::Response;

use crate::Settings;
use crate::documents::Documents;
use crate::glue::Glue;
use crate::json::respond;
use crate::place::Places;
use executions::Executions;
pub(crate) use statement::{PARQUET_INPUT, PARQUET_OUTPUT, PARQUET_SERDE};

/// How often executions that are past Athena's memory are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(3_600);

/// Athena over a warehouse. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Athena {
    platform: Platform,
    documents: Documents,
    executions: Executions,
    query: QueryService,
    places: Arc<Places>,
    glue: Glue,
    settings: Settings,
}

impl Athena {
    pub(crate) fn new(
        platform: Platform,
        documents: Documents,
        query: QueryService,
        places: Arc<Places>,
        glue: Glue,
        settings: Settings,
    ) -> Self {
        let executions = Executions::new(platform.clone(), documents.clone(), settings.clone());
        let athena = Self { platform, documents, executions, query, places, glue, settings };
        let keeping = athena.clone();
        athena.platform.spawn(TaskKind::Service, "athena", async move { keeping.keep().await });
        athena
    }

    pub(crate) async fn answer(&self, call: &Call) -> Response<Body> {
        let reply = self.answer_call(call).await;
        if let Err(fault) = &reply {
            tracing::debug!(code = fault.code, message = fault.message, "refused");
        }
        respond(reply)
    }

    /// Shows that this process is alive while it has executions, and forgets old ones, until shutdown. Apart from each
    /// other: a long look through old executions must not make this process look dead.
    async fn keep(&self) {
        tokio::join!(self.keep_alive(), self.keep_tidy());
    }

    async fn keep_alive(&self) {
        loop {
            if self.executions.count_here() > 0 {
                let renewed = self.executions.renew().await;
                let looked = self.executions.stop_ended_elsewhere().await;
                if let Err(error) = renewed.and(looked) {
                    tracing::warn!(%error, "cannot tell that this process is alive");
                }
            }
            if self.ends_within(self.settings.lease_renewal).await {
                return;
            }
        }
    }

    async fn keep_tidy(&self) {
        loop {
            tokio::select! {
                forgotten = self.executions.forget_old() => {
                    if let Err(error) = forgotten {
                        tracing::warn!(%error, "old executions stay");
                    }
                }
                () = self.platform.shutdown_begun() => return,
            }
            if self.ends_within(FORGET_INTERVAL).await {
                return;
            }
        }
    }

    /// Waits; whether the process begins to go down meanwhile.
    async fn ends_within(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.platform.sleep(time) => false,
            () = self.platform.shutdown_begun() => true,
        }
    }
}
