//! The input files as records: the texts that are put, by feature, with nulls left out.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use granary_proto::v1::{Feature, FeatureType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

pub(super) const FLIGHTS_FILE: &str = "flights.parquet";
pub(super) const WEATHER_FILE: &str = "weather.parquet";

/// Features of the flights, besides their identifier, which is made of the first four columns.
const FLIGHT_COLUMNS: [(&str, FeatureType); 12] = [
    ("carrier", FeatureType::String),
    ("flight", FeatureType::Integral),
    ("origin", FeatureType::String),
    ("time_hour", FeatureType::String),
    ("dest", FeatureType::String),
    ("tailnum", FeatureType::String),
    ("distance", FeatureType::Integral),
    ("sched_dep_time", FeatureType::Integral),
    ("dep_time", FeatureType::Integral),
    ("dep_delay", FeatureType::Fractional),
    ("arr_delay", FeatureType::Fractional),
    ("air_time", FeatureType::Fractional),
];

const WEATHER_COLUMNS: [(&str, FeatureType); 11] = [
    ("origin", FeatureType::String),
    ("time_hour", FeatureType::String),
    ("temp", FeatureType::Fractional),
    ("dewp", FeatureType::Fractional),
    ("humid", FeatureType::Fractional),
    ("wind_dir", FeatureType::Fractional),
    ("wind_speed", FeatureType::Fractional),
    ("wind_gust", FeatureType::Fractional),
    ("precip", FeatureType::Fractional),
    ("pressure", FeatureType::Fractional),
    ("visib", FeatureType::Fractional),
];

/// One feature group's worth of input.
pub(super) struct Input {
    /// The feature group.
    pub(super) group: &'static str,
    /// The feature that identifies a record.
    pub(super) identifier: &'static str,
    /// The features, in order of definition.
    pub(super) features: Vec<(&'static str, FeatureType)>,
    /// The records in the order of the file.
    pub(super) records: Vec<Row>,
}

/// A record: a text for each feature, `None` where the file has null.
pub(super) struct Row {
    texts: Box<[Option<Box<str>>]>,
}

impl Input {
    /// The place of the feature called `name`.
    pub(super) fn place(&self, name: &str) -> usize {
        self.features.iter().position(|(feature, _)| *feature == name).expect("a feature of this input")
    }

    /// The record's identifier.
    pub(super) fn id<'a>(&self, row: &'a Row) -> &'a str {
        row.text(self.place(self.identifier)).expect("identifiers are never null")
    }

    /// The record's event time.
    pub(super) fn event_time<'a>(&self, row: &'a Row) -> &'a str {
        row.text(self.place("time_hour")).expect("event times are never null")
    }

    /// The newest record of each identifier: what the online store must hold.
    pub(super) fn latest(&self) -> HashMap<&str, &Row> {
        let mut latest: HashMap<&str, &Row> = HashMap::with_capacity(self.records.len());
        for row in &self.records {
            latest
                .entry(self.id(row))
                // Both are texts of the same form in UTC, so their order is that of the instants.
                .and_modify(|newest| {
                    if self.event_time(row) >= self.event_time(newest) {
                        *newest = row;
                    }
                })
                .or_insert(row);
        }
        latest
    }

    /// The features as definitions of a feature group.
    pub(super) fn definitions(&self) -> Vec<Feature> {
        let definition = |&(name, kind): &(&str, FeatureType)| {
            let mut feature = Feature { name: name.to_owned(), ..Feature::default() };
            feature.set_type(kind);
            feature
        };
        self.features.iter().map(definition).collect()
    }
}

impl Row {
    /// The text of the feature at `place`, unless it is null.
    pub(super) fn text(&self, place: usize) -> Option<&str> {
        self.texts[place].as_deref()
    }

    /// The features that are not null: place and text.
    pub(super) fn present(&self) -> impl Iterator<Item = (usize, &str)> {
        self.texts.iter().enumerate().filter_map(|(place, text)| Some((place, text.as_deref()?)))
    }
}

/// The flights of a year from New York; identified by carrier, number, origin and scheduled hour.
pub(super) fn flights(data: &Path) -> anyhow::Result<Input> {
    let records = read(&data.join(FLIGHTS_FILE), &FLIGHT_COLUMNS, |texts| {
        let [carrier, flight, origin, hour] = [0, 1, 2, 3].map(|place: usize| texts[place].as_deref().unwrap_or("?"));
        let id = format!("{carrier}{flight}-{origin}-{hour}");
        texts.insert(0, Some(id.into()));
    })?;
    Ok(flights_of(records))
}

/// The weather of the year at the three airports, by the hour.
pub(super) fn weather(data: &Path) -> anyhow::Result<Input> {
    let records = read(&data.join(WEATHER_FILE), &WEATHER_COLUMNS, |_| {})?;
    Ok(weather_of(records))
}

pub(super) fn flights_of(records: Vec<Row>) -> Input {
    let features = std::iter::once(("flight_id", FeatureType::String)).chain(FLIGHT_COLUMNS).collect();
    Input { group: "flights", identifier: "flight_id", features, records }
}

pub(super) fn weather_of(records: Vec<Row>) -> Input {
    Input { group: "weather", identifier: "origin", features: WEATHER_COLUMNS.to_vec(), records }
}

/// Reads `columns` of a Parquet file; `complete` may add to each row's texts.
fn read(
    path: &Path,
    columns: &[(&str, FeatureType)],
    complete: impl Fn(&mut Vec<Option<Box<str>>>),
) -> anyhow::Result<Vec<Row>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(8_192).build())
        .with_context(|| format!("read {}", path.display()))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.with_context(|| format!("read {}", path.display()))?;
        let texts = columns.iter().map(|(name, _)| column_texts(&batch, name)).collect::<anyhow::Result<Vec<_>>>()?;
        for index in 0..batch.num_rows() {
            let mut row: Vec<_> = texts.iter().map(|column| column(index)).collect();
            complete(&mut row);
            rows.push(Row { texts: row.into() });
        }
    }
    Ok(rows)
}

/// The texts of a column by row.
#[expect(clippy::type_complexity, reason = "one column, by index")]
fn column_texts(batch: &RecordBatch, name: &str) -> anyhow::Result<Box<dyn Fn(usize) -> Option<Box<str>>>> {
    let column: ArrayRef = batch.column_by_name(name).with_context(|| format!("no column {name}"))?.clone();
    Ok(match column.data_type() {
        DataType::Int64 => Box::new(move |row| {
            column.is_valid(row).then(|| column.as_primitive::<Int64Type>().value(row).to_string().into())
        }),
        DataType::Float64 => Box::new(move |row| {
            column.is_valid(row).then(|| column.as_primitive::<Float64Type>().value(row).to_string().into())
        }),
        DataType::LargeUtf8 => {
            Box::new(move |row| column.is_valid(row).then(|| column.as_string::<i64>().value(row).into()))
        }
        DataType::Utf8 => {
            Box::new(move |row| column.is_valid(row).then(|| column.as_string::<i32>().value(row).into()))
        }
        other => bail!("column {name} has type {other}, which this demo does not read"),
    })
}

/// A few rows by hand, for the tests of what compares.
#[cfg(test)]
pub(super) fn rows(texts: &[&[Option<&str>]]) -> Vec<Row> {
    let row = |texts: &&[Option<&str>]| Row { texts: texts.iter().map(|text| text.map(Into::into)).collect() };
    texts.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read_as_records() {
        let data = super::super::find_data(None).expect("in the repository");
        let weather = weather(&data).expect("readable");
        assert_eq!(weather.records.len(), 26_115);
        assert_eq!(weather.latest().len(), 3);
        let flights = flights(&data).expect("readable");
        assert_eq!(flights.records.len(), 336_776);
        assert_eq!(flights.latest().len(), 336_776, "identifiers are unique");
        assert_eq!(flights.id(&flights.records[0]), "UA1545-EWR-2013-01-01T10:00:00Z");
        let nulls = flights.records.iter().filter(|row| row.text(flights.place("dep_delay")).is_none()).count();
        assert_eq!(nulls, 8_255);
    }
}
