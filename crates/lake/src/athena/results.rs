//! Results read back in pages: rows of the result's file from a byte on.

use bytes::{Buf, BytesMut};
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
    let mut pending = Pending::default();
    let (mut rows, mut at) = (Vec::new(), from);
    let full = |rows: &Vec<Value>, at: u64| rows.len() == max || at - from >= PAGE_BYTES_MAX as u64;
    loop {
        let chunk = chunks.next().await.transpose().map_err(|error| store_failed(&error))?;
        let ended = chunk.is_none();
        if !pending.add(&chunk.unwrap_or_default()) && !ended {
            continue;
        }
        while !full(&rows, at) {
            let Some((fields, len)) = pending.record(csv) else { break };
            rows.push(json!({ "Data": fields.iter().map(datum).collect::<Vec<_>>() }));
            at += len as u64;
        }
        if ended || full(&rows, at) {
            break;
        }
    }
    Ok((rows, (at < size).then_some(at)))
}

/// Bytes of a result from the beginning of a record on.
#[derive(Debug, Default)]
struct Pending {
    bytes: BytesMut,
    /// So many of them were looked at and are no whole record.
    looked: usize,
}

impl Pending {
    /// Adds what comes next; whether to look for records now. After a record that was not whole that is at twice its bytes,
    /// so that a long one is looked through a few times only, whatever the size of the chunks it comes in.
    fn add(&mut self, chunk: &[u8]) -> bool {
        self.bytes.extend_from_slice(chunk);
        self.bytes.len() >= self.looked * 2
    }

    /// Takes the first record and tells its length; `None` when it is not whole.
    fn record(&mut self, csv: bool) -> Option<(Vec<Option<String>>, usize)> {
        let found = one(&self.bytes, csv);
        match &found {
            Some((_, len)) => {
                self.bytes.advance(*len);
                self.looked = 0;
            }
            None => self.looked = self.bytes.len(),
        }
        found
    }
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
    fn a_long_record_is_looked_through_a_few_times_only() {
        let text = format!("\"{}\"\n\"b\"\n", "a".repeat(10_000));
        let mut pending = Pending::default();
        let (mut found, mut looks) = (Vec::new(), 0);
        for byte in text.bytes() {
            if pending.add(&[byte]) {
                looks += 1;
                found.extend(pending.record(true));
            }
        }
        assert!(looks < 30, "{looks}");
        // At the end what is left is looked at in any case.
        while let Some(record) = pending.record(true) {
            found.push(record);
        }
        let lens: Vec<usize> = found.iter().map(|(_, len)| *len).collect();
        assert_eq!(lens, [10_003, 4]);
    }

    #[test]
    fn a_token_is_of_one_result() {
        let id = "0190c1a4-0000-7000-8000-000000000000";
        assert_eq!(offset_of(&format!("17-{id}"), id), Some(17));
        for wrong in ["17", "x-0190", &format!("-{id}"), "17-0190c1a4-0000-7000-8000-000000000001"] {
            assert_eq!(offset_of(wrong, id), None, "{wrong}");
        }
    }
}
