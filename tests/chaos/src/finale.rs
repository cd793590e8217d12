//! After the faults: wait until the cluster is whole, look at every record at every level, at every replica and at every
//! row of the offline table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use granary_history::Recorder;
use granary_history::model::{Key, Level, Mark, ReadCall, ReplicaState, TableOffset, TableRow, What};
use granary_proto::v1::feature_store_client::FeatureStoreClient;
use granary_proto::v1::query_client::QueryClient;
use granary_proto::v1::{SqlRequest, WaitForOfflineRequest};
use tonic::transport::Channel;

use crate::cluster::{Cluster, NodeStatus};
use crate::workload::{self, GROUP, KEYS};
use crate::{PATIENCE, eventually};

/// How often each record is read at a level that any replica serves: they take turns.
const READS_OF_ANY_REPLICA: usize = 3;

/// Notes the end of the run. No client may be at work.
///
/// # Errors
/// When the cluster does not become whole, or does not answer.
pub async fn end(cluster: &Cluster, channel: &Channel, recorder: &Recorder, clients: u64) -> anyhow::Result<()> {
    cluster.ready().await?;
    for (node, status) in cluster.replicas_agree().await?.iter().enumerate() {
        note_states(recorder, node, status);
    }
    recorder.note(What::Mark(Mark::Final));
    read_all(channel, recorder, clients).await?;
    let query = Channel::from_shared(cluster.query())?.connect_lazy();
    read_offline(QueryClient::new(query), recorder).await?;
    note_offsets(&cluster.offline_dir(), recorder)
}

/// Notes the state hashes that a node tells, where they can be compared.
pub fn note_states(recorder: &Recorder, node: usize, status: &NodeStatus) {
    for replica in status.replicas.iter().filter(|replica| replica.shard != 0 && !replica.state_hash.is_empty()) {
        recorder.note(What::ReplicaState(ReplicaState {
            node: format!("node-{node}"),
            shard: replica.shard,
            replica: replica.replica,
            // Of one moment with the hash, as the index that the replica has applied by now is not.
            applied_index: replica.state_hash_index,
            state_hash: replica.state_hash.clone(),
        }));
    }
}

async fn read_all(channel: &Channel, recorder: &Recorder, clients: u64) -> anyhow::Result<()> {
    let mut store = FeatureStoreClient::new(channel.clone());
    let mut recording = recorder.client(None);
    let keys = (0..KEYS).map(|key| format!("key-{key}"));
    for key in keys.chain((0..clients).map(|client| format!("reset-{client}"))) {
        let levels = [
            (Level::Linearizable, 1),
            (Level::Session, READS_OF_ANY_REPLICA),
            (Level::BoundedStaleness { max_staleness_ms: 1_000 }, READS_OF_ANY_REPLICA),
            (Level::Eventual, READS_OF_ANY_REPLICA),
        ];
        for (level, times) in levels {
            for _ in 0..times {
                let what = format!("{key} is read at {level:?}");
                eventually(PATIENCE, &what, async || {
                    let call = ReadCall { group: GROUP.to_owned(), keys: vec![key.clone()], batch: false, level };
                    workload::read(&mut store, &mut recording, call, &BTreeMap::new()).await
                })
                .await?;
            }
        }
    }
    Ok(())
}

async fn read_offline(mut query: QueryClient<Channel>, recorder: &Recorder) -> anyhow::Result<()> {
    let timeout_ms = u32::try_from(PATIENCE.as_millis())?;
    let request = WaitForOfflineRequest { feature_group: String::new(), timeout_ms };
    let waited = query.wait_for_offline(request).await.context("wait for the offline store")?.into_inner();
    ensure!(waited.caught_up, "the offline store is behind by {} events", waited.pending_events);
    recorder.note(What::Mark(Mark::OfflineComplete));
    let sql = format!(
        "SELECT id, value, CAST(at AS BIGINT), granary_write_id, granary_stream, granary_sequence, kept FROM \"{GROUP}\""
    );
    let mut answers = query.sql(SqlRequest { sql }).await.context("read the offline table")?.into_inner();
    while let Some(message) = answers.message().await.context("read the offline table")? {
        for batch in arrow::ipc::reader::StreamReader::try_new(message.ipc.as_ref(), None)? {
            note_rows(&batch?, recorder)?;
        }
    }
    Ok(())
}

fn note_rows(batch: &RecordBatch, recorder: &Recorder) -> anyhow::Result<()> {
    let text = |column: usize| cast(batch.column(column), &DataType::Utf8);
    let number = |column: usize| cast(batch.column(column), &DataType::Int64);
    let (keys, values, times) = (text(0)?, text(1)?, number(2)?);
    let (ids, streams, sequences, kept) = (text(3)?, text(4)?, number(5)?, text(6)?);
    for row in 0..batch.num_rows() {
        let text = |column: &dyn Array| column.as_string::<i32>().value(row).to_owned();
        let number = |column: &dyn Array| column.as_primitive::<Int64Type>().value(row);
        recorder.note(What::TableRow(TableRow {
            key: Key::new(GROUP, text(&keys)),
            write_id: text(&ids),
            value: values.is_valid(row).then(|| text(&values)),
            kept: kept.is_valid(row).then(|| text(&kept)),
            event_time: number(&times),
            stream: text(&streams),
            sequence: number(&sequences).cast_unsigned(),
        }));
    }
    Ok(())
}

/// Reads the offsets from the table's own commits: the last transaction of each stream. Not through the product's code.
fn note_offsets(store: &Path, recorder: &Recorder) -> anyhow::Result<()> {
    let mut logs = BTreeSet::new();
    delta_logs(store, &mut logs)?;
    ensure!(logs.len() == 1, "one table is expected under {}, found {}", store.display(), logs.len());
    let mut offsets: BTreeMap<String, u64> = BTreeMap::new();
    for log in logs {
        let mut commits: Vec<PathBuf> =
            std::fs::read_dir(&log)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        commits.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        commits.sort();
        for commit in commits {
            for line in std::fs::read_to_string(&commit)?.lines() {
                let action: serde_json::Value = serde_json::from_str(line)?;
                let transaction = &action["txn"];
                if let (Some(stream), Some(last)) = (transaction["appId"].as_str(), transaction["version"].as_u64()) {
                    offsets.insert(stream.to_owned(), last);
                }
            }
        }
    }
    for (stream, sequence) in offsets {
        recorder.note(What::TableOffset(TableOffset { group: GROUP.to_owned(), stream, sequence }));
    }
    Ok(())
}

fn delta_logs(dir: &Path, found: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "_delta_log") {
            found.insert(path);
        } else if path.is_dir() {
            delta_logs(&path, found)?;
        }
    }
    Ok(())
}
