//! A cluster under load, by its public gRPC API alone.

mod load;
mod read;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use granary_platform::Platform;
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::convert::{kind_code, kind_of_code, kind_of_status};
use granary_proto::v1::feature_store_client::FeatureStoreClient;
use granary_proto::v1::query_client::QueryClient;
use granary_proto::v1::{
    BatchWriteRecordRequest, Consistency, ConsistencyLevel, GetRecordRequest, PutRecordRequest, WaitForOfflineRequest,
    value,
};
use granary_types::Error;
pub use load::Filling;
use tonic::Status;
use tonic::transport::Channel;

use crate::run::{Failure, Operation, Target};
use crate::workload::{Draws, EVENT_TIME, Workload, identifier};

/// What a class of operations does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads what the workload asks for.
    Read,
    /// Puts so many records in one call.
    Write(u64),
    /// Puts an event and reads, eventually consistent, until it is seen.
    SeenOnline,
    /// Puts an event and waits until it is in the offline table.
    SeenOffline,
}

/// How records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// `GetFeatures`: a typed list for each feature.
    #[default]
    Columns,
    /// `BatchGetRecord`: names and texts for each record.
    Records,
}

/// How a cluster is spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In front of the groups' names.
    pub prefix: String,
    /// What reads promise.
    pub consistency: Consistency,
    /// How they ask.
    pub shape: Shape,
    /// The seed of all values.
    pub seed: u64,
    /// What each class does, by its index.
    pub roles: Vec<Role>,
    /// How long an event may take to its offline table.
    pub offline_deadline: Duration,
}

/// The cluster and what is done to it.
#[derive(Debug)]
pub struct Store {
    connections: Vec<Channel>,
    next: AtomicUsize,
    platform: Platform,
    workload: Workload,
    draws: Draws,
    settings: Settings,
    /// The features that each part of a read names; none for all.
    projections: Vec<Vec<String>>,
}

impl Store {
    /// A cluster behind `connections`, which are used in turn; at least one.
    pub fn new(
        connections: Vec<Channel>,
        workload: Workload,
        draws: Draws,
        settings: Settings,
        platform: Platform,
    ) -> Self {
        let projection = |ask: &crate::workload::Ask| match ask.features {
            Some(count) => workload.groups[ask.group].projection(count),
            None => Vec::new(),
        };
        let projections = workload.asks.iter().map(projection).collect();
        Self { connections, next: AtomicUsize::new(0), platform, workload, draws, settings, projections }
    }

    /// The name of a group of the workload.
    pub fn group_name(&self, group: usize) -> String {
        format!("{}-{}", self.settings.prefix, self.workload.groups[group].name)
    }

    /// What identifies an operation's keys, for a checksum over a run.
    pub fn keys(&self, operation: Operation) -> Vec<u64> {
        match self.settings.roles[operation.class] {
            Role::Read => self.draws.read(operation.number).concat(),
            role => self.written(role, operation).into_iter().flat_map(|(group, key)| [group as u64, key]).collect(),
        }
    }

    /// Opens every connection and asks for a group by it, so that no operation pays for that.
    ///
    /// # Errors
    /// What the server says.
    pub async fn reach(&self) -> Result<(), Error> {
        for _ in 0..self.connections.len() {
            self.describe(&self.group_name(0)).await?;
        }
        Ok(())
    }

    fn written(&self, role: Role, operation: Operation) -> Vec<(usize, u64)> {
        // Two classes that write do not write the same keys.
        let number = operation.number ^ ((operation.class as u64) << 56);
        self.draws.write(number, if let Role::Write(records) = role { records } else { 1 })
    }

    fn channel(&self) -> Channel {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections[next % self.connections.len()].clone()
    }

    fn client(&self) -> FeatureStoreClient<Channel> {
        FeatureStoreClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX)
    }

    fn put_request(&self, group: usize, key: u64, version: u64, event_time_nanos: u64) -> PutRecordRequest {
        PutRecordRequest {
            feature_group: self.group_name(group),
            record: self.workload.groups[group].record(self.settings.seed, key, version, event_time_nanos),
            ..PutRecordRequest::default()
        }
    }

    async fn write(&self, role: Role, operation: Operation) -> Result<(), Failure> {
        // Versions of a run are from 1 on; what was loaded is version 0. Event times are those of the clock, so that
        // each write becomes the online value.
        let (version, now) = (operation.number + 1, self.platform.now_nanos());
        let written = self.written(role, operation);
        let mut entries = written.into_iter().map(|(group, key)| self.put_request(group, key, version, now));
        if let Role::Write(1) = role {
            let entry = entries.next().expect("a write has a record");
            drop(entries);
            return self.client().put_record(entry).await.map(drop).map_err(|status| failure(&status));
        }
        let request = BatchWriteRecordRequest { entries: entries.collect() };
        let answer = self.client().batch_write_record(request).await.map_err(|status| failure(&status))?;
        answer.into_inner().errors.first().map_or(Ok(()), |error| Err(failure_of_code(&error.code)))
    }

    /// Puts an event with an event time that no other has; returns its group, identifier and event time.
    async fn put_event(&self, role: Role, operation: Operation) -> Result<(String, String, String), Failure> {
        let (group, key) = self.written(role, operation)[0];
        let request = self.put_request(group, key, operation.number + 1, self.platform.now_nanos());
        let event_time = event_time(&request.record).expect("every record has one").to_owned();
        let name = request.feature_group.clone();
        self.client().put_record(request).await.map_err(|status| failure(&status))?;
        Ok((name, identifier(key), event_time))
    }

    async fn seen_online(&self, role: Role, operation: Operation) -> Result<(), Failure> {
        let (group, record, put_at) = self.put_event(role, operation).await?;
        let consistency = Consistency { level: ConsistencyLevel::Eventual.into(), ..Consistency::default() };
        loop {
            let request = GetRecordRequest {
                feature_group: group.clone(),
                record_identifier: record.clone(),
                feature_names: vec![EVENT_TIME.to_owned()],
                consistency: Some(consistency.clone()),
            };
            let answer = self.client().get_record(request).await.map_err(|status| failure(&status))?.into_inner();
            // A later event of the same record shows that this one has been there. Times of one width sort as texts.
            if event_time(&answer.record).is_some_and(|seen| seen >= put_at.as_str()) {
                return Ok(());
            }
        }
    }

    async fn seen_offline(&self, role: Role, operation: Operation) -> Result<(), Failure> {
        let (feature_group, _, _) = self.put_event(role, operation).await?;
        let timeout_ms = u32::try_from(self.settings.offline_deadline.as_millis()).unwrap_or(u32::MAX);
        let request = WaitForOfflineRequest { feature_group, timeout_ms };
        let answer = QueryClient::new(self.channel()).wait_for_offline(request).await;
        let answer = answer.map_err(|status| failure(&status))?.into_inner();
        if answer.caught_up { Ok(()) } else { Err(Failure("not_offline")) }
    }
}

impl Target for Store {
    async fn call(&self, operation: Operation) -> Result<(), Failure> {
        match self.settings.roles[operation.class] {
            Role::Read => self.read(operation.number).await,
            role @ Role::Write(_) => self.write(role, operation).await,
            role @ Role::SeenOnline => self.seen_online(role, operation).await,
            role @ Role::SeenOffline => self.seen_offline(role, operation).await,
        }
    }
}

fn event_time(record: &[granary_proto::v1::FeatureValue]) -> Option<&str> {
    let value = record.iter().find(|value| value.name == EVENT_TIME)?.value.as_ref()?;
    match value.kind.as_ref()? {
        value::Kind::Text(text) => Some(text),
        _ => None,
    }
}

fn failure(status: &Status) -> Failure {
    Failure(kind_code(kind_of_status(status)))
}

fn failure_of_code(code: &str) -> Failure {
    Failure(kind_code(kind_of_code(code)))
}
