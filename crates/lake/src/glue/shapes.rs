//! What of a `TableInput` says how its files are read.

use granary_query::trino::UserFormat;
use serde_json::{Map, Value};

/// Where and how a table's files are.
pub(super) struct Storage {
    pub(super) columns: Vec<(String, String)>,
    pub(super) location: String,
    pub(super) partitioned: bool,
    serde: String,
    serde_parameters: Map<String, Value>,
    parameters: Map<String, Value>,
}

fn object(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

impl Storage {
    pub(super) fn of(input: &Map<String, Value>) -> Result<Self, String> {
        let descriptor = object(input.get("StorageDescriptor"));
        let serde = object(descriptor.get("SerdeInfo"));
        let text = |members: &Map<String, Value>, name: &str| {
            members.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let columns = descriptor.get("Columns").and_then(Value::as_array).cloned().unwrap_or_default();
        let columns: Vec<(String, String)> = columns
            .iter()
            .filter_map(Value::as_object)
            .map(|column| (text(column, "Name"), text(column, "Type")))
            .collect();
        let location = text(&descriptor, "Location");
        if columns.is_empty() || location.is_empty() {
            return Err("it has no columns or no location".to_owned());
        }
        Ok(Self {
            columns,
            location,
            partitioned: input.get("PartitionKeys").and_then(Value::as_array).is_some_and(|keys| !keys.is_empty()),
            serde: text(&serde, "SerializationLibrary"),
            serde_parameters: object(serde.get("Parameters")),
            parameters: object(input.get("Parameters")),
        })
    }

    /// The format of the files, by the library that reads and writes them in Hive.
    pub(super) fn format(&self) -> Result<UserFormat, String> {
        let header =
            self.parameters.get("skip.header.line.count").and_then(Value::as_str).is_some_and(|count| count == "1");
        let byte = |name: &str| self.serde_parameters.get(name).and_then(Value::as_str).and_then(one_byte);
        match self.serde.rsplit('.').next().unwrap_or_default() {
            "ParquetHiveSerDe" => Ok(UserFormat::Parquet),
            "JsonSerDe" => Ok(UserFormat::Json),
            "OpenCSVSerde" => Ok(UserFormat::Csv {
                separator: byte("separatorChar").unwrap_or(b','),
                quote: Some(byte("quoteChar").unwrap_or(b'"')),
                escape: Some(byte("escapeChar").unwrap_or(b'\\')),
                null: None,
                header,
            }),
            "LazySimpleSerDe" => {
                let text = |name: &str| self.serde_parameters.get(name).and_then(Value::as_str);
                // Some write the end of a line, some its name.
                if let Some(end) = text("line.delim").filter(|end| !["\n", "\\n"].contains(end)) {
                    return Err(format!("lines that end with {end:?} are not read; those that end with \\n are"));
                }
                Ok(UserFormat::Csv {
                    separator: byte("field.delim").or_else(|| byte("serialization.format")).unwrap_or(1),
                    quote: None,
                    escape: byte("escape.delim"),
                    null: Some(text("serialization.null.format").unwrap_or("\\N").to_owned()),
                    header,
                })
            }
            other => Err(format!("SerDe {other:?} is not read; Parquet, JSON, OpenCSV and LazySimple are")),
        }
    }
}

fn one_byte(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        b"\\t" => Some(b'\t'),
        b"\\001" => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lazy(parameters: Value) -> Result<UserFormat, String> {
        let library = "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe";
        let input = json!({ "StorageDescriptor": {
            "Columns": [{ "Name": "a", "Type": "string" }],
            "Location": "s3://bucket/t/",
            "SerdeInfo": { "SerializationLibrary": library, "Parameters": parameters },
        } });
        Storage::of(&object(Some(&input)))?.format()
    }

    #[test]
    fn lines_and_nulls_of_lazy_simple_are_hives() {
        let csv = |null: &str, escape| UserFormat::Csv {
            separator: b',',
            quote: None,
            escape,
            null: Some(null.to_owned()),
            header: false,
        };
        assert_eq!(lazy(json!({ "field.delim": "," })), Ok(csv("\\N", None)));
        let said =
            json!({ "field.delim": ",", "escape.delim": "\\", "line.delim": "\n", "serialization.null.format": "-" });
        assert_eq!(lazy(said), Ok(csv("-", Some(b'\\'))));
        assert!(lazy(json!({ "line.delim": "|" })).is_err());
    }
}
