//! The columns of an Iceberg table: which number each has, and what Parquet files and metadata say of them.
//!
//! Iceberg knows columns by number. Granary's own and SageMaker's have 1 to 10, in the order in which they stand; a feature of
//! ordinal `n` has `11 + 2n`, and its elements, if it is a collection, `12 + 2n`. Ordinals are never reused, so a number
//! means the same in every file and in every schema, and a feature that is added has a larger one than all before it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use granary_types::FeatureGroup;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde_json::{Value, json};

use crate::schema::{EVENT_TIME, arrow_schema};

const FIRST_FEATURE: i32 = 11;

/// A column and its number.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) id: i32,
    pub(crate) field: Arc<Field>,
}

impl Column {
    /// The number of a list's elements.
    fn element_id(&self) -> i32 {
        self.id + 1
    }

    fn json_type(&self) -> Value {
        match self.field.data_type() {
            DataType::List(_) => json!({
                "type": "list", "element-id": self.element_id(), "element": "string", "element-required": false,
            }),
            DataType::Int64 => json!("long"),
            DataType::Int32 => json!("int"),
            DataType::Float64 => json!("double"),
            DataType::Boolean => json!("boolean"),
            DataType::Timestamp(..) => json!("timestamptz"),
            _ => json!("string"),
        }
    }
}

/// The columns of a group's table, in order.
pub(crate) fn columns(group: &FeatureGroup) -> Vec<Column> {
    let schema = arrow_schema(group);
    let features = group.schema.features().iter().map(|feature| FIRST_FEATURE + 2 * i32::from(feature.ordinal.0));
    let ids = features.chain(1..);
    ids.zip(schema.fields()).map(|(id, field)| Column { id, field: field.clone() }).collect()
}

/// The number of the group's event time feature, by which its table is partitioned.
pub(crate) fn event_time_feature_id(group: &FeatureGroup) -> i32 {
    FIRST_FEATURE + 2 * i32::from(group.event_time.0)
}

/// The number of the column that holds the event time as an instant.
pub(crate) fn event_time_id(group: &FeatureGroup) -> i32 {
    let found = columns(group).into_iter().find(|column| column.field.name() == EVENT_TIME);
    found.expect("every table has the column").id
}

/// The greatest number in the columns of a group.
pub(crate) fn last_column_id(group: &FeatureGroup) -> i32 {
    let features = i32::try_from(group.schema.features().len()).expect("a group has a few thousand features");
    FIRST_FEATURE - 1 + 2 * features
}

/// The columns of a group's files with the numbers as Parquet keeps them.
pub(crate) fn numbered_schema(group: &FeatureGroup) -> SchemaRef {
    let number = |id: i32| HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    let fields = columns(group).into_iter().map(|column| {
        let field = column.field.as_ref().clone().with_metadata(number(column.id));
        match column.field.data_type() {
            DataType::List(element) => {
                let element = element.as_ref().clone().with_metadata(number(column.element_id()));
                field.with_data_type(DataType::List(Arc::new(element)))
            }
            _ => field,
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns as a schema of Iceberg's metadata. Its number is that of the group's schema version.
pub(crate) fn schema_json(group: &FeatureGroup) -> Value {
    let fields = columns(group).into_iter().map(
        |column| json!({ "id": column.id, "name": column.field.name(), "required": false, "type": column.json_type() }),
    );
    json!({ "type": "struct", "schema-id": group.schema.version.0, "fields": fields.collect::<Vec<_>>() })
}

/// By which name a reader finds a column in a file that has no numbers (`schema.name-mapping.default`).
pub(crate) fn name_mapping(group: &FeatureGroup) -> String {
    let names = columns(group).into_iter().map(|column| {
        let mut mapped = json!({ "field-id": column.id, "names": [column.field.name()] });
        if let DataType::List(element) = column.field.data_type() {
            mapped["fields"] = json!([{ "field-id": column.element_id(), "names": [element.name()] }]);
        }
        mapped
    });
    Value::from_iter(names).to_string()
}

/// The directory of a day's files, below one of random letters: `{event time feature}_trunc=2024-01-31`.
pub(crate) fn day_directory(group: &FeatureGroup, day: &str) -> String {
    format!("{}_trunc={day}", group.event_time_feature().name)
}

/// The day that a file's path says all of its event times are of, where the event time feature is called `feature`.
pub(crate) fn day_of<'a>(feature: &str, path: &'a str) -> Option<&'a str> {
    let (directory, _) = path.rsplit_once('/')?;
    let directory = directory.rsplit_once('/').map_or(directory, |(_, last)| last);
    let day = directory.strip_prefix(feature)?.strip_prefix("_trunc=")?;
    (day.len() == DAY_LEN).then_some(day)
}

/// So many characters of an event time's text are its day.
pub(crate) const DAY_LEN: usize = 10;

/// The name of the partition field. No feature's name ends in `_`, so the longer one is free where the usual one is not.
pub(crate) fn partition_name(group: &FeatureGroup) -> String {
    let name = format!("{}_trunc", group.event_time_feature().name);
    let taken = group.schema.features().iter().any(|feature| feature.name.eq_ignore_ascii_case(&name));
    if taken { name + "_" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_from_the_path_only_where_it_was_written() {
        assert_eq!(day_of("at", "x7Kq0b2Z/at_trunc=2024-01-31/f.parquet"), Some("2024-01-31"));
        assert_eq!(day_of("at", "at_trunc=2024-01-31/f.parquet"), Some("2024-01-31"));
        for other in ["f.parquet", "year=2024/month=01/f.parquet", "x/id_trunc=2024-01-31/f", "x/at_trunc=2024/f"] {
            assert_eq!(day_of("at", other), None, "{other}");
        }
    }
}
