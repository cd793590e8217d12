//! Columns of answers, whatever width or encoding the query engine chose for them.

use anyhow::Context;
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

/// The column `name` as texts.
pub(super) fn texts(batch: &RecordBatch, name: &str) -> anyhow::Result<StringArray> {
    Ok(column(batch, name, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// The column `name` as doubles.
pub(super) fn floats(batch: &RecordBatch, name: &str) -> anyhow::Result<Float64Array> {
    Ok(column(batch, name, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

/// The column `name` as 64-bit integers.
pub(super) fn integers(batch: &RecordBatch, name: &str) -> anyhow::Result<Int64Array> {
    Ok(column(batch, name, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn column(batch: &RecordBatch, name: &str, kind: &DataType) -> anyhow::Result<ArrayRef> {
    let column = batch.column_by_name(name).with_context(|| {
        let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        format!("the answer has no column {name}, only {}", names.join(", "))
    })?;
    cast(column, kind).with_context(|| format!("read column {name} as {kind}"))
}
