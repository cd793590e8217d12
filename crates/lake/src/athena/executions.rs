//! Executions as they are kept: three documents, each written once.
//!
//! | document | says | written |
//! |---|---|---|
//! | `executions/<id>/begun` | the request, and which process has it | before the call returns |
//! | `executions/<id>/started` | when it came to its turn | when it does |
//! | `executions/<id>/ended` | how it ended, and its columns | where none is: the first end is the end |
//! | `tokens/<hash of the token>` | the id that a request token got | where none is |
//! | `processes/<process>` | that a process was alive | every few seconds while it has executions |
//!
//! Ids are UUIDs of version 7, which sort by time. A process that was killed leaves executions without an end; whoever
//! asks for one of them sees that its process has not shown itself, and ends it as failed. A process that was only slow finds
//! that end and takes its result away.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use granary_platform::Platform;
use object_store::path::Path;
use object_store::{ObjectStoreExt, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::documents::Documents;

/// What an execution was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) query: String,
    pub(super) kind: String,
    pub(super) database: String,
    pub(super) catalog: Option<String>,
    pub(super) database_given: bool,
    pub(super) work_group: String,
    pub(super) parameters: Vec<String>,
    /// Where its result is or will be.
    pub(super) output: String,
    pub(super) submitted_ms: u64,
    /// The process that has it.
    pub(super) process: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) started_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum EndState {
    #[serde(rename = "SUCCEEDED")]
    Succeeded,
    #[serde(rename = "FAILED")]
    Failed,
    #[serde(rename = "CANCELLED")]
    Cancelled,
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) precision: i32,
    pub(super) scale: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) state: EndState,
    pub(super) reason: Option<String>,
    /// Whether it is the statement's fault.
    pub(super) users_fault: bool,
    pub(super) started_ms: Option<u64>,
    pub(super) planned_ms: Option<u64>,
    pub(super) ended_ms: u64,
    pub(super) columns: Vec<Column>,
    pub(super) rows: u64,
    pub(super) manifest: Option<String>,
}

impl Ended {
    pub(super) fn new(state: EndState, reason: impl Into<Option<String>>, ended_ms: u64) -> Self {
        Self {
            state,
            reason: reason.into(),
            users_fault: false,
            started_ms: None,
            planned_ms: None,
            ended_ms,
            columns: Vec::new(),
            rows: 0,
            manifest: None,
        }
    }
}

/// The id that a request token got, and for which request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenUse {
    pub(super) id: String,
    pub(super) request: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    renewed_ms: u64,
}

/// An execution as it is now.
#[derive(Debug, Clone)]
pub(super) struct Execution {
    pub(super) id: String,
    pub(super) begun: Begun,
    pub(super) started: Option<Started>,
    pub(super) ended: Option<Ended>,
}

impl Execution {
    pub(super) fn state(&self) -> &'static str {
        match (&self.ended, &self.started) {
            (Some(ended), _) => match ended.state {
                EndState::Succeeded => "SUCCEEDED",
                EndState::Failed => "FAILED",
                EndState::Cancelled => "CANCELLED",
            },
            (None, Some(_)) => "RUNNING",
            (None, None) => "QUEUED",
        }
    }
}

/// The executions of all processes.
#[derive(Debug, Clone)]
pub(super) struct Executions {
    platform: Platform,
    documents: Documents,
    settings: Settings,
    /// This process, drawn at its start.
    process: Arc<str>,
    /// Those of this process that have not ended, with what ends them.
    here: Arc<Mutex<HashMap<String, CancellationToken>>>,
}

impl Executions {
    pub(super) fn new(platform: Platform, documents: Documents, settings: Settings) -> Self {
        let process = format!("{:032x}", platform.fresh_id()).into();
        Self { platform, documents, settings, process, here: Arc::default() }
    }

    pub(super) fn process(&self) -> &str {
        &self.process
    }

    fn directory(&self) -> Path {
        self.documents.path(&["athena", "executions"])
    }

    fn document(&self, id: &str, name: &str) -> Path {
        self.documents.path(&["athena", "executions", id, name])
    }

    /// A fresh id.
    pub(super) fn fresh_id(&self) -> String {
        let random = self.platform.fresh_id().to_be_bytes();
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&random[..10]);
        uuid::Builder::from_unix_timestamp_millis(self.platform.now_millis(), &bytes).into_uuid().to_string()
    }

    /// The use of a request token: the one that is there already, or `own`.
    pub(super) async fn token(&self, hash: &str, own: &TokenUse) -> Result<TokenUse> {
        let path = self.documents.path(&["athena", "tokens", hash]);
        if self.documents.create(&path, own).await? {
            return Ok(own.clone());
        }
        Ok(self.documents.get(&path).await?.unwrap_or_else(|| own.clone()))
    }

    /// Keeps a new execution; whether it is new. From then on it is one of this process.
    pub(super) async fn begin(&self, id: &str, begun: &Begun) -> Result<Option<CancellationToken>> {
        // Before anybody can see it, so that it never looks like one of a process that died.
        let stop = CancellationToken::new();
        match self.here.lock().entry(id.to_owned()) {
            Entry::Occupied(_) => return Ok(None),
            Entry::Vacant(vacant) => vacant.insert(stop.clone()),
        };
        let kept = async {
            self.renew().await?;
            self.documents.create(&self.document(id, "begun"), begun).await
        };
        match kept.await {
            Ok(true) => Ok(Some(stop)),
            other => {
                self.here.lock().remove(id);
                other.map(|_| None)
            }
        }
    }

    pub(super) async fn start(&self, id: &str, started: &Started) -> Result<()> {
        self.documents.put(&self.document(id, "started"), started).await
    }

    /// Ends an execution, unless it has ended; whether this is its end.
    pub(super) async fn end(&self, id: &str, ended: &Ended) -> Result<bool> {
        self.documents.create(&self.document(id, "ended"), ended).await
    }

    /// This process has no more to do with it.
    pub(super) fn done(&self, id: &str) {
        self.here.lock().remove(id);
    }

    pub(super) fn count_here(&self) -> usize {
        self.here.lock().len()
    }

    /// Stops the work of an execution, if this process does it.
    pub(super) fn stop_here(&self, id: &str) {
        if let Some(stop) = self.here.lock().get(id) {
            stop.cancel();
        }
    }

    /// An execution as it is. One whose process is dead has ended.
    pub(super) async fn get(&self, id: &str) -> Result<Option<Execution>> {
        let Some(begun) = self.documents.get::<Begun>(&self.document(id, "begun")).await? else { return Ok(None) };
        let mut ended = self.documents.get::<Ended>(&self.document(id, "ended")).await?;
        let started = self.documents.get::<Started>(&self.document(id, "started")).await?;
        if ended.is_none() && !self.is_alive(id, &begun).await? {
            let reason = "the process that ran the query ended before the query did";
            let mut end = Ended::new(EndState::Failed, reason.to_owned(), self.platform.now_millis());
            end.started_ms = started.as_ref().map(|started| started.started_ms);
            self.end(id, &end).await?;
            // Another end may have been there first.
            ended = self.documents.get::<Ended>(&self.document(id, "ended")).await?;
        }
        Ok(Some(Execution { id: id.to_owned(), begun, started, ended }))
    }

    /// The work group of an execution. One request, unlike [`Self::get`].
    pub(super) async fn work_group(&self, id: &str) -> Result<Option<String>> {
        let begun = self.documents.get::<Begun>(&self.document(id, "begun")).await?;
        Ok(begun.map(|begun| begun.work_group))
    }

    async fn is_alive(&self, id: &str, begun: &Begun) -> Result<bool> {
        if begun.process == *self.process {
            // Ended between the two looks is not dead.
            return Ok(self.here.lock().contains_key(id) || self.has_ended(id).await?);
        }
        if self.settings.alone {
            return Ok(false);
        }
        let lease = self.documents.get::<Lease>(&self.documents.path(&["athena", "processes", &begun.process])).await?;
        let lease_ms = u64::try_from(self.settings.lease_time.as_millis()).unwrap_or(u64::MAX);
        let now = self.platform.now_millis();
        Ok(lease.is_some_and(|lease| now.saturating_sub(lease.renewed_ms) < lease_ms) || self.has_ended(id).await?)
    }

    pub(super) async fn has_ended(&self, id: &str) -> Result<bool> {
        match self.documents.store().head(&self.document(id, "ended")).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Shows that this process is alive.
    pub(super) async fn renew(&self) -> Result<()> {
        let lease = Lease { renewed_ms: self.platform.now_millis() };
        self.documents.put(&self.documents.path(&["athena", "processes", &self.process]), &lease).await
    }

    /// Ids of this process's that somebody else has ended.
    pub(super) async fn stop_ended_elsewhere(&self) -> Result<()> {
        let ids: Vec<String> = self.here.lock().keys().cloned().collect();
        for id in ids {
            if self.has_ended(&id).await? {
                self.stop_here(&id);
            }
        }
        Ok(())
    }

    /// Every id, newest first.
    pub(super) async fn ids(&self) -> Result<Vec<String>> {
        let mut ids = self.documents.directories(&self.directory()).await?;
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// Forgets what is older than Athena remembers.
    pub(super) async fn forget_old(&self) -> Result<()> {
        let history = u64::try_from(self.settings.history.as_millis()).unwrap_or(u64::MAX);
        let oldest = self.platform.now_millis().saturating_sub(history);
        let is_old = |id: &str| millis_of(id).is_some_and(|millis| millis < oldest);
        for id in self.ids().await?.into_iter().filter(|id| is_old(id)) {
            self.documents.delete_all(&self.directory().join(id)).await?;
        }
        for directory in ["tokens", "processes"] {
            for meta in self.documents.list(&self.documents.path(&["athena", directory])).await? {
                if u64::try_from(meta.last_modified.timestamp_millis()).is_ok_and(|millis| millis < oldest) {
                    self.documents.delete(&meta.location).await?;
                }
            }
        }
        Ok(())
    }
}

/// The time in an id.
fn millis_of(id: &str) -> Option<u64> {
    let (seconds, nanos) = uuid::Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    Some(seconds * 1_000 + u64::from(nanos) / 1_000_000)
}

/// Whether a text can be an execution's id, so that it is safe as part of a path.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;

    fn executions(store: &Arc<InMemory>, alone: bool) -> Executions {
        let documents = Documents::new(Arc::clone(store) as _, Path::from("_granary"));
        let settings = Settings { alone, lease_time: Duration::from_secs(3_600), ..Settings::default() };
        Executions::new(Platform::system(), documents, settings)
    }

    fn begun(executions: &Executions) -> Begun {
        Begun {
            query: "SELECT 1".to_owned(),
            kind: "DML".to_owned(),
            database: "default".to_owned(),
            catalog: None,
            database_given: false,
            work_group: "primary".to_owned(),
            parameters: Vec::new(),
            output: "s3://b/x.csv".to_owned(),
            submitted_ms: 1,
            process: executions.process().to_owned(),
        }
    }

    #[tokio::test]
    async fn an_execution_of_a_dead_process_has_failed() {
        let store = Arc::new(InMemory::new());
        let first = executions(&store, true);
        let id = first.fresh_id();
        assert!(is_id(&id) && millis_of(&id).is_some());
        assert!(first.begin(&id, &begun(&first)).await.expect("kept").is_some());
        assert_eq!(first.get(&id).await.expect("read").expect("there").state(), "QUEUED");
        let restarted = executions(&store, true);
        let found = restarted.get(&id).await.expect("read").expect("there");
        assert_eq!(found.state(), "FAILED");
        assert!(found.ended.expect("ended").reason.expect("a reason").contains("process"));
        // The slow process finds that end.
        assert!(!first.end(&id, &Ended::new(EndState::Succeeded, None, 2)).await.expect("read"));
    }

    #[tokio::test]
    async fn a_living_process_keeps_its_executions() {
        let store = Arc::new(InMemory::new());
        let (one, other) = (executions(&store, false), executions(&store, false));
        let id = one.fresh_id();
        one.begin(&id, &begun(&one)).await.expect("kept");
        assert_eq!(other.get(&id).await.expect("read").expect("there").state(), "QUEUED");
        one.start(&id, &Started { started_ms: 2 }).await.expect("kept");
        assert_eq!(other.get(&id).await.expect("read").expect("there").state(), "RUNNING");
        // Stopped from elsewhere, its own process learns of it.
        assert!(other.end(&id, &Ended::new(EndState::Cancelled, None, 3)).await.expect("kept"));
        one.stop_ended_elsewhere().await.expect("read");
        assert!(one.here.lock()[&id].is_cancelled());
        assert_eq!(one.ids().await.expect("read"), [id]);
    }

    #[tokio::test]
    async fn one_token_has_one_id() {
        let store = Arc::new(InMemory::new());
        let executions = executions(&store, false);
        let of = |id: &str| TokenUse { id: id.to_owned(), request: "r".to_owned() };
        assert_eq!(executions.token("t", &of("a")).await.expect("kept"), of("a"));
        assert_eq!(executions.token("t", &of("b")).await.expect("kept"), of("a"));
    }
}
