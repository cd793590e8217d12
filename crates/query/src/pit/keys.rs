//! Keys: record identifiers of spine and history, made comparable and numbered.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};

use super::Error;

/// The distinct keys of a spine, numbered from 0 in the order in which they came.
///
/// Identifiers are compared in the type of the history's column. A spine key that does not read as a value of it
/// names no record. Doubles name no record of another type: a key like `7.0` is a mistake upstream, mostly a
/// column of integers with gaps, and rounding would find the wrong record.
#[derive(Debug)]
pub(super) struct Keys {
    kind: DataType,
    converter: RowConverter,
    ids: HashMap<Box<[u8]>, u32>,
    bytes: usize,
}

impl Keys {
    /// No keys yet, for a history whose identifier is of type `identifier`.
    pub(super) fn new(identifier: &DataType) -> Result<Self, Error> {
        let kind = match identifier {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
            DataType::Int64 | DataType::Float64 => identifier.clone(),
            other => return Err(Error::Damaged { reason: format!("record identifiers are of type {other}") }),
        };
        let converter = RowConverter::new(vec![SortField::new(kind.clone())])?;
        Ok(Self { kind, converter, ids: HashMap::new(), bytes: 0 })
    }

    /// How many distinct keys there are.
    pub(super) fn count(&self) -> usize {
        self.ids.len()
    }

    /// About what the keys hold in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Numbers the spine's keys; `None` for null and for what can be no identifier.
    pub(super) fn number(&mut self, column: &str, keys: &ArrayRef) -> Result<Vec<Option<u32>>, Error> {
        if !self.comparable(keys.data_type()) {
            return Err(Error::KeyType {
                column: column.to_owned(),
                data_type: keys.data_type().to_string(),
                wanted: self.kind.to_string(),
            });
        }
        let keys = cast(keys, &self.kind)?;
        let rows = self.converter.convert_columns(std::slice::from_ref(&keys))?;
        let mut numbers = Vec::with_capacity(keys.len());
        for (index, row) in rows.iter().enumerate() {
            if keys.is_null(index) {
                numbers.push(None);
                continue;
            }
            let known = self.ids.get(row.data()).copied();
            numbers.push(Some(match known {
                Some(id) => id,
                None => self.add(row.data())?,
            }));
        }
        Ok(numbers)
    }

    /// The numbers of the history's keys; null for those the spine does not name.
    pub(super) fn find(&self, identifiers: &ArrayRef) -> Result<UInt32Array, Error> {
        let identifiers = cast(identifiers, &self.kind)?;
        let rows = self.converter.convert_columns(std::slice::from_ref(&identifiers))?;
        let numbers = rows
            .iter()
            .enumerate()
            .map(|(index, row)| if identifiers.is_null(index) { None } else { self.ids.get(row.data()).copied() });
        Ok(numbers.collect())
    }

    fn add(&mut self, key: &[u8]) -> Result<u32, Error> {
        let id = u32::try_from(self.ids.len()).map_err(|_| Error::TooManyEvents)?;
        // The key, its slice's pointer and length, its number, and a hash table that is half full.
        self.bytes += key.len() + 48;
        self.ids.insert(key.into(), id);
        Ok(id)
    }

    fn comparable(&self, spine: &DataType) -> bool {
        match spine {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
            DataType::Dictionary(_, values) => self.comparable(values),
            DataType::Float32 | DataType::Float64 => self.kind == DataType::Float64,
            other => other.is_integer(),
        }
    }
}
