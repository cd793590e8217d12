//! `granary sql`, and how rows of Arrow are written.

use std::time::Duration;

use anyhow::Context as _;
use arrow::array::RecordBatch;
use granary_proto::v1::WaitForOfflineRequest;
use granary_types::{Error, ErrorKind};

use super::Context;
use super::args::SqlArgs;
use crate::output::Output;

pub(super) async fn run(context: &Context, args: SqlArgs, timeout: Duration) -> anyhow::Result<()> {
    if args.wait {
        let request = WaitForOfflineRequest {
            feature_group: String::new(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let answer = context.client.query.clone().wait_for_offline(request).await;
        let waited = answer.map_err(|status| context.client.error(&status))?.into_inner();
        if !waited.caught_up {
            let message = format!("the offline store has not caught up: {} events to go", waited.pending_events);
            return Err(Error::new(ErrorKind::Unavailable, message).into());
        }
    }
    let batches = context.client.sql(&args.sql).await?;
    write(context.output, &batches)
}

/// Writes a table, or one JSON object a row.
pub(super) fn write(output: Output, batches: &[RecordBatch]) -> anyhow::Result<()> {
    if output.is_json() {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write_batches(&batches.iter().collect::<Vec<_>>()).context("write rows as JSON")?;
        writer.finish().context("write rows as JSON")?;
        let lines = String::from_utf8(writer.into_inner()).context("write rows as JSON")?;
        return if lines.is_empty() { Ok(()) } else { output.line(&lines) };
    }
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let table = arrow::util::pretty::pretty_format_batches(batches).context("format rows")?;
    output.line(&format!("{table}\n{rows} row{}", if rows == 1 { "" } else { "s" }))
}
