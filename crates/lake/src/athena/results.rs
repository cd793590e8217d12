//! Results read back in pages: rows of the result's file from a byte on.

use bytes::BytesMut;
use futures::StreamExt;
use object_store::{GetOptions, GetRange};
use serde_json::{Value, json};

use super::executions::{Column, EndState, Execution};
use super::operations::store_failed;
use super::{Athena, values};
use crate::json::{Fault, Reply};
use crate::place::Uri;

/// The most rows of a page, as on AWS.
const ROWS_MAX: usize = 1_000;
/// About the most bytes of a page: a page of long texts has fewer rows.
const PAGE_BYTES_MAX: usize = 8 << 20;

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new("InvalidRequestException", message)
}

/// A page of an execution's result. The first one of a query begins with the names of the columns.
pub(super) async fn page(athena: &Athena, execution: &Execution, token: Option<&str>, max: Option<usize>) -> Reply {
    let state = execution.state();
    let Some(ended) = execution.ended.as_ref().filter(|ended| ended.state == EndState::Succeeded) else {
        let finished = execution.ended.is_some();
        return Err(invalid(if finished {
            format!("Query did not finish successfully. Final query state: {state}")
        } else {
            format!("Query has not yet finished. Current state: {state}")
        }));
    };
    let max = max.unwrap_or(ROWS_MAX);
    if !(1..=ROWS_MAX).contains(&max) {
        return Err(invalid(format!("MaxResults must be 1 to {ROWS_MAX}")));
    }
    let from = match token {
        None => 0,
        Some(token) => offset_of(token, &execution.id).ok_or_else(|| invalid("NextToken is not one of this result"))?,
    };
    let (rows, next) = rows(athena, execution, from, max).await?;
    Ok(json!({
        "UpdateCount": ended.rows_changed(),
        "ResultSet": {
            "Rows": rows,
            "ResultSetMetadata": { "ColumnInfo": ended.columns.iter().map(column_info).collect::<Vec<_>>() },
        },
        "NextToken": next.map(|at| format!("{at}-{}", execution.id)),
    }))
}

impl super::executions::Ended {
    /// Rows that a statement wrote into a table.
    fn rows_changed(&self) -> u64 {
        if self.manifest.is_some() { self.rows } else { 0 }
    }
}

fn offset_of(token: &str, id: &str) -> Option<u64> {
    let (offset, of) = token.split_once('-')?;
    (of == id).then(|| offset.parse().ok())?
}

/// Rows from a byte of the result's file on, and where the next page begins.
async fn rows(
    athena: &Athena,
    execution: &Execution,
    from: u64,
    max: usize,
) -> Result<(Vec<Value>, Option<u64>), Fault> {
    let output = &execution.begun.output;
    let csv = output.ends_with(".csv");
    if !csv && !output.ends_with(".txt") {
        // What was written is a table's or files of its own.
        return Ok((Vec::new(), None));
    }
    let gone = || invalid("Could not find results");
    let uri = Uri::parse(output).map_err(|_| gone())?;
    let path = athena.places.object(&uri.bucket, &uri.key).map_err(|_| gone())?;
    let options = GetOptions { range: (from > 0).then_some(GetRange::Offset(from)), ..GetOptions::default() };
    let found = match athena.documents.store().get_opts(&path, options).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Err(gone()),
        Err(error) => return Err(store_failed(&error)),
    };
    let size = found.meta.size;
    let mut chunks = found.into_stream();
    let mut pending = BytesMut::new();
    let (mut rows, mut at) = (Vec::new(), from);
    loop {
        let mut used = 0;
        while rows.len() < max && at - from < PAGE_BYTES_MAX as u64 {
            let Some((fields, len)) = one(&pending[used..], csv) else { break };
            rows.push(json!({ "Data": fields.iter().map(datum).collect::<Vec<_>>() }));
            used += len;
            at += len as u64;
        }
        if rows.len() == max || at - from >= PAGE_BYTES_MAX as u64 {
            break;
        }
        let _ = pending.split_to(used);
        match chunks.next().await {
            Some(chunk) => pending.extend_from_slice(&chunk.map_err(|error| store_failed(&error))?),
            None => break,
        }
    }
    Ok((rows, (at < size).then_some(at)))
}

/// A record of a query's result, or a line of another statement's, whose fields are divided by tabs.
fn one(text: &[u8], csv: bool) -> Option<(Vec<Option<String>>, usize)> {
    if csv {
        return values::record(text);
    }
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&text[..end]);
    Some((line.split('\t').map(|field| Some(field.to_owned())).collect(), end + 1))
}

fn datum(field: &Option<String>) -> Value {
    match field {
        Some(value) => json!({ "VarCharValue": value }),
        None => json!({}),
    }
}

fn column_info(column: &Column) -> Value {
    json!({
        "CatalogName": "hive",
        "SchemaName": "",
        "TableName": "",
        "Name": column.name,
        "Label": column.name,
        "Type": column.kind,
        "Precision": column.precision,
        "Scale": column.scale,
        "Nullable": "UNKNOWN",
        "CaseSensitive": column.kind == "varchar",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_result() {
        let id = "0190c1a4-0000-7000-8000-000000000000";
        assert_eq!(offset_of(&format!("17-{id}"), id), Some(17));
        for wrong in ["17", "x-0190", &format!("-{id}"), "17-0190c1a4-0000-7000-8000-000000000001"] {
            assert_eq!(offset_of(wrong, id), None, "{wrong}");
        }
    }
}
