//! Hive's types, which tables of users are declared with, and Arrow's.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};

/// How deep lists may be in each other. Whatever handles a type recurses as deep.
const DEPTH_MAX: usize = 16;

/// The Arrow type of a Hive type such as `bigint`, `decimal(10,2)` or `array<string>`; `None` for one that is not read
/// here.
pub(crate) fn of_hive(text: &str) -> Option<DataType> {
    of_nested(text, DEPTH_MAX)
}

fn of_nested(text: &str, depth: usize) -> Option<DataType> {
    let text = text.trim().to_ascii_lowercase();
    let (name, arguments) = match text.find(['(', '<']) {
        Some(at) => (text[..at].trim(), text[at + 1..].strip_suffix([')', '>'])?),
        None => (text.as_str(), ""),
    };
    Some(match name {
        "boolean" => DataType::Boolean,
        "tinyint" => DataType::Int8,
        "smallint" => DataType::Int16,
        "int" | "integer" => DataType::Int32,
        "bigint" | "long" => DataType::Int64,
        "float" | "real" => DataType::Float32,
        "double" => DataType::Float64,
        "string" | "varchar" | "char" => DataType::Utf8,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "decimal" => {
            let (precision, scale) =
                arguments.split_once(',').unwrap_or((if arguments.is_empty() { "10" } else { arguments }, "0"));
            let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            ((1..=38).contains(&precision) && (0..=38).contains(&scale)).then_some(())?;
            DataType::Decimal128(precision, scale)
        }
        "array" => {
            let element = of_nested(arguments, depth.checked_sub(1)?)?;
            DataType::List(Arc::new(Field::new("element", element, true)))
        }
        _ => return None,
    })
}

/// The Hive type that a column of an Arrow type is declared with.
pub(crate) fn to_hive(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::UInt8 => "tinyint".to_owned(),
        DataType::Int16 | DataType::UInt16 => "smallint".to_owned(),
        DataType::Int32 | DataType::UInt32 => "int".to_owned(),
        DataType::Int64 | DataType::UInt64 => "bigint".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Binary => "binary".to_owned(),
        DataType::List(element) => format!("array<{}>", to_hive(element.data_type())),
        _ => "string".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_come_back() {
        for text in
            ["boolean", "int", "bigint", "double", "string", "date", "timestamp", "decimal(10,2)", "array<bigint>"]
        {
            assert_eq!(to_hive(&of_hive(text).expect(text)), text);
        }
        let lists = |depth: usize| "array<".repeat(depth) + "int" + &">".repeat(depth);
        assert_eq!(to_hive(&of_hive(&lists(DEPTH_MAX)).expect("lists")), lists(DEPTH_MAX));
        for deep in [DEPTH_MAX + 1, 40_000] {
            assert_eq!(of_hive(&lists(deep)), None, "{deep}");
        }
        assert_eq!(of_hive("VARCHAR(20)"), Some(DataType::Utf8));
        assert_eq!(of_hive("INTEGER"), Some(DataType::Int32));
        for wrong in ["", "struct<a:int>", "decimal(x)", "decimal(99,1)", "array<string", "map<string,string>"] {
            assert_eq!(of_hive(wrong), None, "{wrong:?}");
        }
    }
}
