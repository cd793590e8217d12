//! The point-in-time join: for each flight of a snowy month the weather at its airport as known at the scheduled
//! hour, checked against a direct look into the input.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, Float64Array, RecordBatch};
use granary_proto::v1::{JoinedFeatureGroup, PointInTimeJoinRequest};

use super::Demo;
use super::check::equal;
use super::columns::{floats, texts};
use super::input::{Input, Row};
use super::load::Before;
use super::offline::flights_once;
use super::summary::{Summary, thousands};

const FROM: &str = "2013-02-01T00:00:00Z";
const TO: &str = "2013-03-01T00:00:00Z";
/// Features of the weather that are joined.
const JOINED: [&str; 4] = ["temp", "wind_speed", "precip", "visib"];

/// A flight's delay and the weather when it was to leave, as numbers.
type Joined = [Option<f64>; JOINED.len()];

/// Runs the join, checks every row, and shows what weather does to departures.
pub(super) async fn weather_at_departure(demo: &Demo, before: &Before, summary: &mut Summary) -> anyhow::Result<()> {
    let condition = format!("time_hour >= '{FROM}' AND time_hour < '{TO}'");
    let spine = flights_once(before, "origin, time_hour, dep_delay", &condition);
    let request = PointInTimeJoinRequest {
        spine_sql: format!("SELECT flight_id, origin, time_hour, dep_delay FROM {spine}"),
        cut_off_column: "time_hour".to_owned(),
        joins: vec![JoinedFeatureGroup {
            feature_group: "weather".to_owned(),
            spine_key_column: "origin".to_owned(),
            feature_names: JOINED.map(str::to_owned).to_vec(),
            look_back_seconds: 0,
        }],
        // The demo wrote the weather today, so "as known then" goes by event time alone.
        only_written_by_cut_off: false,
    };
    let step = demo.progress.wait("joining weather to flights");
    let started = demo.platform.instant();
    let answer = demo.client.query.clone().point_in_time_join(request).await;
    let batches = demo.client.batches(answer).await?;
    let took = started.elapsed();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    step.done(&format!("{} rows in {:.1} s", thousands(rows), took.as_secs_f64()));
    summary.did("point-in-time join: weather at departure", rows, "flights", took);
    let expected = expected_rows(&demo.flights, &demo.weather);
    summary.check(
        format!("each of {} joined flights has the weather known at its hour", thousands(expected.len())),
        compare(&batches, &expected)?,
    );
    summary.show("February 2013: departures by visibility at the scheduled hour", &by_visibility(&batches)?);
    Ok(())
}

/// The join by definition: of the airport's observations, the last one not after the scheduled hour.
fn expected_rows<'a>(flights: &'a Input, weather: &Input) -> HashMap<&'a str, Joined> {
    let places = JOINED.map(|name| weather.place(name));
    let mut history: HashMap<&str, BTreeMap<&str, &Row>> = HashMap::new();
    for row in &weather.records {
        history.entry(weather.id(row)).or_default().insert(weather.event_time(row), row);
    }
    let origin = flights.place("origin");
    let in_month = flights.records.iter().filter(|row| (FROM..TO).contains(&flights.event_time(row)));
    let joined = in_month.map(|row| {
        let airport = row.text(origin).and_then(|origin| history.get(origin));
        let known = airport.and_then(|history| history.range(..=flights.event_time(row)).next_back());
        let values = places.map(|place| known.and_then(|(_, weather)| weather.text(place)?.parse().ok()));
        (flights.id(row), values)
    });
    joined.collect()
}

fn compare(batches: &[RecordBatch], expected: &HashMap<&str, Joined>) -> anyhow::Result<Result<(), String>> {
    let (mut result, mut rows) = (Ok(()), 0);
    for batch in batches {
        let ids = texts(batch, "flight_id")?;
        let columns = JOINED.map(|name| floats(batch, name));
        let columns = columns.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let got: Vec<Option<f64>> = columns.iter().map(|column| number(column, row)).collect();
            let wanted = expected.get(ids.value(row)).map(|values| values.to_vec());
            result = result.and(equal(ids.value(row), Some(got), wanted));
        }
        rows += batch.num_rows();
    }
    Ok(result.and(equal("joined flights", rows, expected.len())))
}

/// A small table: what happened to flights in good and in bad visibility.
fn by_visibility(batches: &[RecordBatch]) -> anyhow::Result<String> {
    const CLASSES: [(&str, f64); 3] =
        [("below 1 mile", 1.0), ("1 to 5 miles", 5.0), ("5 miles and more", f64::INFINITY)];
    let mut totals = [(0_u32, 0_u32, 0.0_f64); CLASSES.len()];
    for batch in batches {
        let (visibility, delays) = (floats(batch, "visib")?, floats(batch, "dep_delay")?);
        for row in 0..batch.num_rows() {
            let Some(miles) = number(&visibility, row) else { continue };
            let class = CLASSES.iter().position(|(_, below)| miles < *below).unwrap_or(CLASSES.len() - 1);
            let (flights, departed, delay_sum) = &mut totals[class];
            *flights += 1;
            if let Some(delay) = number(&delays, row) {
                *departed += 1;
                *delay_sum += delay;
            }
        }
    }
    let rows = CLASSES.iter().zip(totals).map(|((name, _), (flights, departed, delay_sum))| {
        let cancelled = 100.0 * f64::from(flights - departed) / f64::from(flights.max(1));
        let delay = delay_sum / f64::from(departed.max(1));
        vec![(*name).to_owned(), flights.to_string(), format!("{cancelled:.1} %"), format!("{delay:.1} min")]
    });
    Ok(crate::output::table(&["visibility", "flights", "cancelled", "mean delay"], &rows.collect::<Vec<_>>()))
}

fn number(column: &Float64Array, row: usize) -> Option<f64> {
    column.is_valid(row).then(|| column.value(row))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::super::input::{flights_of, rows, weather_of};
    use super::*;

    fn flight(id: &'static str, hour: &'static str) -> Vec<Option<&'static str>> {
        let mut flight = vec![Some(id), Some("UA"), Some("1"), Some("EWR"), Some(hour)];
        flight.resize(13, None);
        flight
    }

    fn weather(hour: &'static str, temp: &'static str) -> Vec<Option<&'static str>> {
        let mut weather = vec![Some("EWR"), Some(hour), Some(temp)];
        weather.resize(11, None);
        weather
    }

    fn answer(ids: &[&str], temps: &[Option<f64>]) -> RecordBatch {
        let empty = || Arc::new(Float64Array::from(vec![None; ids.len()])) as ArrayRef;
        let columns = [
            ("flight_id", Arc::new(StringArray::from(ids.to_vec())) as ArrayRef),
            ("temp", Arc::new(Float64Array::from(temps.to_vec()))),
            ("wind_speed", empty()),
            ("precip", empty()),
            ("visib", empty()),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("a batch")
    }

    #[test]
    fn the_last_observation_not_after_the_hour_counts() {
        let (before, at, after) = (
            flight("before", "2013-02-01T00:00:00Z"),
            flight("at", "2013-02-02T05:00:00Z"),
            flight("after", "2013-02-02T06:00:00Z"),
        );
        let other_month = flight("other", "2013-03-01T00:00:00Z");
        let flights = flights_of(rows(&[&before, &at, &after, &other_month]));
        let (early, late) = (weather("2013-02-02T04:00:00Z", "30.5"), weather("2013-02-02T06:00:00Z", "20"));
        let weather = weather_of(rows(&[&late, &early]));
        let expected = expected_rows(&flights, &weather);
        let temps = ["before", "at", "after"].map(|id| expected[id][0]);
        assert_eq!((expected.len(), temps), (3, [None, Some(30.5), Some(20.0)]));

        let ids = ["after", "at", "before"];
        let compare =
            |ids: &[&str], temps: &[Option<f64>]| compare(&[answer(ids, temps)], &expected).expect("columns are there");
        assert_eq!(compare(&ids, &[Some(20.0), Some(30.5), None]), Ok(()));
        assert!(compare(&ids, &[Some(20.0), Some(20.0), None]).is_err(), "a look into the future");
        assert!(compare(&ids, &[Some(20.0), None, None]).is_err(), "something newer left out");
        assert!(compare(&ids[..2], &[Some(20.0), Some(30.5)]).is_err(), "a row left out");
        assert!(compare(&["x", "at", "before"], &[Some(20.0), Some(30.5), None]).is_err(), "an unknown row");
    }
}
