//! `granary get`.

use granary_proto::v1::GetRecordRequest;
use granary_types::{Error, ErrorKind};
use serde_json::json;

use super::args::GetArgs;
use super::{Context, record};

pub(super) async fn run(context: &Context, args: GetArgs) -> anyhow::Result<()> {
    let request = GetRecordRequest {
        feature_group: args.group.clone(),
        record_identifier: args.record.clone(),
        feature_names: args.features,
        consistency: Some(args.consistency.to_wire()),
    };
    let answer = context.client.store.clone().get_record(request).await;
    let answer = answer.map_err(|status| context.client.error(&status))?.into_inner();
    if !answer.found {
        let message = format!("no record {:?} in feature group {:?}", args.record, args.group);
        return Err(Error::new(ErrorKind::NotFound, message).into());
    }
    context.output.answer(
        || {
            let mut text = record::to_text(&answer.record);
            if !answer.expires_at.is_empty() {
                text.push_str(&format!("(expires at {})\n", answer.expires_at));
            }
            text
        },
        || {
            let mut json = json!({ "record": record::to_json(&answer.record) });
            if !answer.expires_at.is_empty() {
                json["expires_at"] = json!(answer.expires_at);
            }
            json
        },
    )
}
