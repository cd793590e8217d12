//! A client that remembers what was acknowledged, and checks that it is still there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use granary_chaos::workload::create_group;
use granary_chaos::{PATIENCE, eventually};
use granary_proto::v1::feature_store_client::FeatureStoreClient;
use granary_proto::v1::query_client::QueryClient;
use granary_proto::v1::{self, value::Kind};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

const KEYS_PER_WRITER: u64 = 25;

/// What was acknowledged: each write by user and number, and what may or may not have been written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged {
    writes: BTreeMap<String, Vec<u64>>,
    unknown: BTreeMap<String, Vec<u64>>,
}

/// A client of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    pub(crate) async fn connect(endpoint: &str) -> Self {
        let endpoint = Channel::from_shared(endpoint.to_owned()).expect("an endpoint");
        Self { channel: endpoint.connect_lazy() }
    }

    pub(crate) async fn create_group(&self, name: &str) {
        let features = [
            ("user", v1::FeatureType::String),
            ("number", v1::FeatureType::Integral),
            ("at", v1::FeatureType::Fractional),
        ];
        create_group(self.channel.clone(), name, features).await.expect("created");
    }

    async fn put(&self, group: &str, user: &str, number: u64) -> Result<(), tonic::Status> {
        let value = |name: &str, kind: Kind| v1::FeatureValue {
            name: name.to_owned(),
            value: Some(v1::Value { kind: Some(kind) }),
        };
        let request = v1::PutRecordRequest {
            feature_group: group.to_owned(),
            record: vec![
                value("user", Kind::Text(user.to_owned())),
                value("number", Kind::Text(number.to_string())),
                value("at", Kind::Text(number.to_string())),
            ],
            ..Default::default()
        };
        FeatureStoreClient::new(self.channel.clone()).put_record(request).await.map(|_| ())
    }

    /// A record, asked for again while nobody leads its shard: an election may outlast what a router waits.
    async fn get(&self, group: &str, user: &str) -> v1::GetRecordResponse {
        let mut answer = None;
        let asked = eventually(PATIENCE, "a read is answered", async || {
            let request = v1::GetRecordRequest {
                feature_group: group.to_owned(),
                record_identifier: user.to_owned(),
                ..Default::default()
            };
            match FeatureStoreClient::new(self.channel.clone()).get_record(request).await {
                Ok(found) => answer = Some(found.into_inner()),
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {}
                Err(status) => panic!("get {user}: {status}"),
            }
            answer.is_some()
        });
        asked.await.expect("reads go on");
        answer.expect("answered")
    }

    /// Every user's record is at least as new as its last acknowledged write, and nothing that nobody wrote.
    pub(crate) async fn expect_all_readable(&self, group: &str, acknowledged: &Acknowledged) {
        for (user, numbers) in &acknowledged.writes {
            let answer = self.get(group, user).await;
            let number = answer.record.iter().find(|value| value.name == "number").and_then(|v| v.value.clone());
            let Some(v1::Value { kind: Some(Kind::Text(text)) }) = number else {
                panic!("{user} is missing: {answer:?}");
            };
            let (number, newest) = (text.parse::<u64>().expect("a number"), *numbers.last().expect("one write"));
            // The load may have written on since the snapshot of what was acknowledged.
            assert!(number >= newest, "{user} reads {number}, but {newest} was acknowledged");
        }
    }

    /// Every acknowledged write is in the offline table exactly once; of the unknown ones each at most once.
    pub(crate) async fn expect_each_once_offline(&self, group: &str, acknowledged: &Acknowledged) {
        let mut query = QueryClient::new(self.channel.clone());
        let request = v1::WaitForOfflineRequest { feature_group: String::new(), timeout_ms: 60_000 };
        assert!(query.wait_for_offline(request).await.expect("waits").into_inner().caught_up, "offline is behind");
        let sql = format!("SELECT \"user\", number, count(*) AS n FROM \"{group}\" GROUP BY \"user\", number");
        let mut answers = query.sql(v1::SqlRequest { sql }).await.expect("a query").into_inner();
        let mut found: BTreeMap<(String, u64), i64> = BTreeMap::new();
        while let Some(message) = answers.message().await.expect("an answer") {
            read_counts(&message.ipc, &mut found);
        }
        for (user, numbers) in &acknowledged.writes {
            for number in numbers {
                let count = found.remove(&(user.clone(), *number));
                assert_eq!(count, Some(1), "{user} {number} stands {count:?} times in the offline table");
            }
        }
        for ((user, number), count) in found {
            let known = acknowledged.unknown.get(&user).is_some_and(|numbers| numbers.contains(&number));
            assert!(known && count == 1, "{user} {number} stands {count} times and nobody knows of it");
        }
    }
}

fn read_counts(ipc: &[u8], found: &mut BTreeMap<(String, u64), i64>) {
    use arrow::array::AsArray;
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Int64Type};
    for batch in arrow::ipc::reader::StreamReader::try_new(ipc, None).expect("Arrow IPC") {
        let batch = batch.expect("a batch");
        let users = cast(batch.column(0), &DataType::Utf8).expect("text");
        let numbers = batch.column(1).as_primitive::<Int64Type>();
        let counts = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let key = (users.as_string::<i32>().value(row).to_owned(), numbers.value(row).cast_unsigned());
            *found.entry(key).or_default() += counts.value(row);
        }
    }
}

/// Writers that go on until stopped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    count: AtomicU64,
    acknowledged: Mutex<Acknowledged>,
}

impl Load {
    /// Starts so many writers, each with users of its own and one put under way.
    pub(crate) fn start(client: Client, group: &'static str, writers: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = |writer: usize| {
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            tokio::spawn(async move {
                let mut number = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    number += 1;
                    let user = format!("{writer}-{}", number % KEYS_PER_WRITER);
                    let put = client.put(group, &user, number).await;
                    let mut acknowledged = shared.acknowledged.lock();
                    if put.is_ok() {
                        acknowledged.writes.entry(user).or_default().push(number);
                        shared.count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        acknowledged.unknown.entry(user).or_default().push(number);
                    }
                }
            })
        };
        let writers = (0..writers).map(writer).collect();
        Self { shared, writers }
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// What was acknowledged so far.
    pub(crate) fn snapshot(&self) -> Acknowledged {
        self.shared.acknowledged.lock().clone()
    }

    /// Waits until so many writes are acknowledged.
    pub(crate) async fn reaches(&self, count: u64, what: &str) {
        eventually(PATIENCE, &format!("{count} writes, {what}"), async || self.acknowledged() >= count)
            .await
            .expect("writes go on");
    }

    /// Stops the writers and returns what was acknowledged.
    pub(crate) async fn stop(self) -> Acknowledged {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer ends");
        }
        self.shared.acknowledged.lock().clone()
    }
}
