//! The workload: a feature group of 50 features (20 fractional, 20 integral, 10 text), some 480 bytes a record.

use std::time::{Duration, Instant};

use granary_proto::v1::feature_store_client::FeatureStoreClient;
use granary_proto::v1::query_client::QueryClient;
use granary_proto::v1::{self, ConsistencyLevel};
use tonic::transport::Channel;

use crate::load::closed_loop;
use crate::report::Figure;

/// Fractional features of a record.
pub(crate) const FRACTIONS: usize = 20;
/// Integral features of a record.
pub(crate) const INTEGERS: usize = 20;
/// Text features of a record, next to the identifier and the event time.
pub(crate) const STRINGS: usize = 8;
/// The default level.
pub(crate) const LINEARIZABLE: ConsistencyLevel = ConsistencyLevel::Linearizable;
/// The cheapest level.
pub(crate) const EVENTUAL: ConsistencyLevel = ConsistencyLevel::Eventual;

const GROUP: &str = "bench-wide";
/// What a narrow read asks for.
const FEW: [&str; 5] = ["f1", "f7", "i3", "i11", "s2"];
/// Events of one run never have an event time of another: a run is a second of event time for each call.
const EVENT_TIME_START: u64 = 1_000_000_000;

/// A feature group filled with records.
pub(crate) struct Workload {
    channel: Channel,
    keys: u64,
}

impl Workload {
    /// Creates the group where it is missing and puts every key once.
    pub(crate) async fn prepare(endpoint: &str, keys: u64) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect().await?;
        let mut client = FeatureStoreClient::new(channel.clone());
        match client.create_feature_group(feature_group()).await {
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::AlreadyExists => {}
            Err(status) => return Err(status.into()),
        }
        let workload = Self { channel, keys };
        for first in (0..keys).step_by(500) {
            let entries = (first..(first + 500).min(keys)).map(|key| put_request(key, 0)).collect();
            workload.write_batch(entries).await?;
        }
        Ok(workload)
    }

    /// Single puts of random-looking keys.
    pub(crate) async fn puts(&self, in_flight: usize, duration: Duration) -> anyhow::Result<Figure> {
        let (client, keys) = (FeatureStoreClient::new(self.channel.clone()), self.keys);
        closed_loop("put one record of 50 features", in_flight, duration, 1, move |number| {
            let mut client = client.clone();
            async move {
                client.put_record(put_request(spread(number, keys), number)).await?;
                Ok(())
            }
        })
        .await
    }

    /// Batches of puts.
    pub(crate) async fn batch_writes(
        &self,
        in_flight: usize,
        batch: u64,
        duration: Duration,
    ) -> anyhow::Result<Figure> {
        let (channel, keys) = (self.channel.clone(), self.keys);
        let name = format!("put by batches of {batch} records");
        closed_loop(&name, in_flight, duration, batch, move |number| {
            let workload = Self { channel: channel.clone(), keys };
            async move {
                let first = number * batch;
                let entries = (first..first + batch).map(|n| put_request(spread(n, keys), n)).collect();
                workload.write_batch(entries).await
            }
        })
        .await
    }

    /// Single gets of whole records.
    pub(crate) async fn gets(
        &self,
        in_flight: usize,
        level: ConsistencyLevel,
        duration: Duration,
    ) -> anyhow::Result<Figure> {
        let (client, keys) = (FeatureStoreClient::new(self.channel.clone()), self.keys);
        let name = format!("get one record of 50 features, {}", level_name(level));
        closed_loop(&name, in_flight, duration, 1, move |number| {
            let mut client = client.clone();
            async move {
                let request = v1::GetRecordRequest {
                    feature_group: GROUP.to_owned(),
                    record_identifier: identifier(spread(number, keys)),
                    feature_names: vec![],
                    consistency: Some(v1::Consistency { level: level.into(), ..Default::default() }),
                };
                anyhow::ensure!(client.get_record(request).await?.into_inner().found, "a record is missing");
                Ok(())
            }
        })
        .await
    }

    /// Batch gets of whole records.
    pub(crate) async fn batch_gets(&self, in_flight: usize, batch: u64, duration: Duration) -> anyhow::Result<Figure> {
        let client = FeatureStoreClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let keys = self.keys;
        let name = format!("batch get of {batch} records of 50 features, linearizable, calls");
        closed_loop(&name, in_flight, duration, 1, move |number| {
            let mut client = client.clone();
            async move {
                let wanted = (0..batch).map(|n| identifier(spread(number * batch + n, keys))).collect();
                let request = v1::BatchGetRecordRequest {
                    keys: vec![v1::RecordKeys {
                        feature_group: GROUP.to_owned(),
                        record_identifiers: wanted,
                        feature_names: vec![],
                    }],
                    consistency: None,
                };
                let answer = client.batch_get_record(request).await?.into_inner();
                anyhow::ensure!(answer.errors.is_empty() && answer.unprocessed.is_empty(), "a batch get was partial");
                Ok(())
            }
        })
        .await
    }

    /// Reads by column: whole records, or `FEW` features of them.
    pub(crate) async fn features(
        &self,
        in_flight: usize,
        batch: u64,
        few: bool,
        duration: Duration,
    ) -> anyhow::Result<Figure> {
        let client = FeatureStoreClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let keys = self.keys;
        let of = if few { "5 of 50 features" } else { "50 features" };
        let name = format!("features of {batch} entities by column, {of}, linearizable, calls");
        let names: Vec<String> = if few { FEW.map(str::to_owned).to_vec() } else { Vec::new() };
        closed_loop(&name, in_flight, duration, 1, move |number| {
            let (mut client, feature_names) = (client.clone(), names.clone());
            async move {
                let wanted = (0..batch).map(|n| identifier(spread(number * batch + n, keys))).collect();
                let request = v1::GetFeaturesRequest {
                    keys: vec![v1::EntityKeys { name: String::new(), record_identifiers: wanted }],
                    selections: vec![v1::FeatureSelection {
                        feature_group: GROUP.to_owned(),
                        feature_names,
                        keys: String::new(),
                    }],
                    consistency: None,
                };
                let answer = client.get_features(request).await?.into_inner();
                let found = |status| status == v1::EntityStatus::Found;
                let complete = answer.selections.iter().all(|read| read.statuses().all(found));
                anyhow::ensure!(complete && !answer.selections.is_empty(), "an entity is missing");
                Ok(())
            }
        })
        .await
    }

    /// How fast what waits in the change log reaches committed Parquet files.
    pub(crate) async fn rows_into_parquet(&self) -> anyhow::Result<Figure> {
        let start = Instant::now();
        let before = self.wait_for_offline(1).await?.pending_events;
        let answer = self.wait_for_offline(300_000).await?;
        anyhow::ensure!(answer.caught_up, "the offline store did not catch up within 300 s");
        Ok(Figure::of_rows("rows of 50 features into Parquet (backlog drained)", before, start.elapsed().as_secs_f64()))
    }

    async fn wait_for_offline(&self, timeout_ms: u32) -> anyhow::Result<v1::WaitForOfflineResponse> {
        let request = v1::WaitForOfflineRequest { feature_group: String::new(), timeout_ms };
        Ok(QueryClient::new(self.channel.clone()).wait_for_offline(request).await?.into_inner())
    }

    async fn write_batch(&self, entries: Vec<v1::PutRecordRequest>) -> anyhow::Result<()> {
        let mut client = FeatureStoreClient::new(self.channel.clone());
        let answer = client.batch_write_record(v1::BatchWriteRecordRequest { entries }).await?.into_inner();
        anyhow::ensure!(answer.errors.is_empty(), "a write failed: {:?}", answer.errors.first());
        Ok(())
    }
}

fn level_name(level: ConsistencyLevel) -> &'static str {
    if level == ConsistencyLevel::Eventual { "eventual" } else { "linearizable" }
}

/// Walks over all keys in an order that looks random and is the same in every run.
fn spread(number: u64, keys: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys
}

fn identifier(key: u64) -> String {
    format!("entity-{key:08}")
}

fn feature_group() -> v1::CreateFeatureGroupRequest {
    let feature = |name: String, kind: v1::FeatureType| v1::Feature { name, r#type: kind.into(), ..Default::default() };
    let mut features = vec![
        feature("entity".to_owned(), v1::FeatureType::String),
        feature("at".to_owned(), v1::FeatureType::Fractional),
    ];
    features.extend((0..FRACTIONS).map(|n| feature(format!("f{n}"), v1::FeatureType::Fractional)));
    features.extend((0..INTEGERS).map(|n| feature(format!("i{n}"), v1::FeatureType::Integral)));
    features.extend((0..STRINGS).map(|n| feature(format!("s{n}"), v1::FeatureType::String)));
    v1::CreateFeatureGroupRequest {
        name: GROUP.to_owned(),
        features,
        record_identifier_feature: "entity".to_owned(),
        event_time_feature: "at".to_owned(),
        online: Some(v1::OnlineConfig::default()),
        offline: Some(v1::OfflineConfig::default()),
        ..Default::default()
    }
}

fn put_request(key: u64, number: u64) -> v1::PutRecordRequest {
    let value =
        |name: String, kind: v1::value::Kind| v1::FeatureValue { name, value: Some(v1::Value { kind: Some(kind) }) };
    let mut record = vec![
        value("entity".to_owned(), v1::value::Kind::Text(identifier(key))),
        // All of a run within one hour of event time: small files are not what is measured.
        value("at".to_owned(), v1::value::Kind::Text(format!("{}.{number:09}", EVENT_TIME_START))),
    ];
    let mixed = key.wrapping_mul(0x9E37_79B9).wrapping_add(number);
    record.extend((0..FRACTIONS as u64).map(|n| {
        value(format!("f{n}"), v1::value::Kind::Fractional((mixed.wrapping_mul(n + 1) % 1_000_003) as f64 * 0.001))
    }));
    record.extend((0..INTEGERS as u64).map(|n| {
        value(format!("i{n}"), v1::value::Kind::Integral(i64::try_from(mixed.wrapping_mul(n + 3) % 1_000).unwrap_or(0)))
    }));
    record.extend(
        (0..STRINGS as u64).map(|n| {
            value(format!("s{n}"), v1::value::Kind::Text(format!("v{:07}", mixed.wrapping_mul(n + 5) % 5_000)))
        }),
    );
    v1::PutRecordRequest { feature_group: GROUP.to_owned(), record, ..Default::default() }
}
