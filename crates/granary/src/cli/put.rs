//! `granary put`.

use granary_platform::Platform;
use granary_proto::v1::{FeatureValue, PutRecordRequest, TargetStore};
use serde_json::json;

use super::args::{PutArgs, TargetArg};
use super::{Context, hex};

pub(super) async fn run(context: &Context, args: PutArgs) -> anyhow::Result<()> {
    // An id of our own, so that whoever retries after an unknown outcome can say which write he means.
    let write_id = args.write_id.unwrap_or_else(|| Platform::system().fresh_id().to_be_bytes());
    let record =
        args.values.iter().map(|value| FeatureValue { name: value.name.clone(), value: Some(value.to_wire()) });
    let mut request = PutRecordRequest {
        feature_group: args.group,
        record: record.collect(),
        ttl: args.ttl.map(super::ttl::TtlArg::to_wire),
        write_id: write_id.to_vec().into(),
        ..PutRecordRequest::default()
    };
    request.target_stores = target_stores(args.target);
    let answer = context.client.store.clone().put_record(request).await;
    let written = answer.map_err(|status| context.client.error(&status))?.into_inner();
    let session = hex::encode(&written.session);
    context.output.answer(
        || {
            let online = if written.became_online { "is the online value" } else { "did not become the online value" };
            format!("acknowledged: {online} (shard {}, session {session})", written.shard)
        },
        || {
            json!({
                "session": session,
                "shard": written.shard,
                "raft_index": written.raft_index,
                "became_online": written.became_online,
                "write_id": hex::encode(&write_id),
            })
        },
    )
}

/// The stores a write goes to; empty for all that the group has.
pub(super) fn target_stores(target: Option<TargetArg>) -> Vec<i32> {
    let store = target.map(|target| match target {
        TargetArg::Online => TargetStore::Online,
        TargetArg::Offline => TargetStore::Offline,
    });
    store.into_iter().map(i32::from).collect()
}
