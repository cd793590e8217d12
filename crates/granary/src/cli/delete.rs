//! `granary delete`.

use granary_platform::Platform;
use granary_proto::v1::{DeleteRecordRequest, DeletionMode};
use serde_json::json;

use super::args::DeleteArgs;
use super::{Context, hex, put};

pub(super) async fn run(context: &Context, args: DeleteArgs) -> anyhow::Result<()> {
    let mut request = DeleteRecordRequest {
        feature_group: args.group,
        record_identifier: args.record,
        event_time: args.event_time,
        target_stores: put::target_stores(args.target),
        write_id: Platform::system().fresh_id().to_be_bytes().to_vec().into(),
        ..DeleteRecordRequest::default()
    };
    request.set_mode(if args.hard { DeletionMode::Hard } else { DeletionMode::Soft });
    let answer = context.client.store.clone().delete_record(request).await;
    let written = answer.map_err(|status| context.client.error(&status))?.into_inner();
    let session = hex::encode(&written.session);
    context.output.answer(
        || {
            let effect = if written.became_online { "deleted" } else { "acknowledged; the record is newer and stays" };
            format!("{effect} (shard {}, session {session})", written.shard)
        },
        || json!({ "session": session, "shard": written.shard, "deleted": written.became_online }),
    )
}
