//! Waits for the offline store and compares what SQL says with the input.

use std::collections::BTreeMap;

use anyhow::Context;
use arrow::array::{Array, RecordBatch};
use granary_proto::v1::WaitForOfflineRequest;

use super::Demo;
use super::check::{close, equal};
use super::columns::{floats, integers, texts};
use super::load::{Acknowledged, Before, Rows};
use super::summary::{Summary, thousands};

/// Under normal circumstances seconds; long enough for a machine that does something else too.
const CATCH_UP_TIMEOUT_MS: u32 = 240_000;

/// What is compared for each airport.
#[derive(Debug, Default, Clone, Copy)]
struct Airport {
    flights: i64,
    departed: i64,
    delay_sum: f64,
    distance_sum: i64,
}

/// Waits until everything acknowledged is committed to Parquet.
pub(super) async fn wait(demo: &Demo, summary: &mut Summary) -> anyhow::Result<()> {
    let step = demo.progress.wait("waiting for the offline store");
    let started = demo.platform.instant();
    for input in [&demo.weather, &demo.flights] {
        caught_up(demo, input.group).await?;
    }
    let took = started.elapsed();
    step.done(&format!("caught up in {:.1} s", took.as_secs_f64()));
    summary.did("waited for the offline store after the last read", 0, "", took);
    Ok(())
}

/// Waits for one feature group.
///
/// # Errors
/// When it takes too long.
pub(super) async fn caught_up(demo: &Demo, group: &str) -> anyhow::Result<()> {
    let request = WaitForOfflineRequest { feature_group: group.to_owned(), timeout_ms: CATCH_UP_TIMEOUT_MS };
    let answer = demo.client.query.clone().wait_for_offline(request).await;
    let answer = answer.map_err(|status| demo.client.error(&status))?.into_inner();
    if !answer.caught_up {
        anyhow::bail!("the offline store did not catch up: {} events of {group} to go", answer.pending_events);
    }
    Ok(())
}

/// The rows of a feature group's history.
pub(super) async fn rows_of(demo: &Demo, group: &str) -> anyhow::Result<Rows> {
    let sql = format!("SELECT count(*) AS n, count(CASE WHEN is_deleted THEN 1 END) AS deleted FROM {group}");
    let batches = demo.client.sql(&sql).await?;
    let batch = batches.iter().find(|batch| batch.num_rows() == 1).context("counting gives one row")?;
    let number = |name| anyhow::Ok(usize::try_from(integers(batch, name)?.value(0))?);
    let deleted = number("deleted")?;
    Ok(Rows { put: number("n")? - deleted, deleted })
}

/// Each history has grown by exactly what was acknowledged.
pub(super) async fn counts(
    demo: &Demo,
    before: &Before,
    acknowledged: &Acknowledged,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    for (group, deleted) in [("weather", 0), ("flights", 1)] {
        let rows = rows_of(demo, group).await?;
        let expected = Rows { put: before[group].put + acknowledged[group], deleted: before[group].deleted + deleted };
        let what = format!("SQL counts {} versions of {group} and {deleted} deleted", thousands(acknowledged[group]));
        summary.check(what, equal(group, rows, expected));
    }
    Ok(())
}

/// Counts, delays and distances by airport are those of the input.
pub(super) async fn mean_delays(demo: &Demo, before: &Before, summary: &mut Summary) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT origin, count(*) AS flights, count(dep_delay) AS departed, avg(dep_delay) AS mean_delay, \
         sum(distance) AS miles FROM {} GROUP BY origin ORDER BY origin",
        flights_once(before, "origin, dep_delay, distance", "true"),
    );
    let started = demo.platform.instant();
    let batches = demo.client.sql(&sql).await?;
    let took = started.elapsed();
    let expected = airports_of_input(demo);
    let count = expected.values().map(|airport| airport.flights).sum::<i64>();
    summary.did("SQL: mean departure delay by airport", usize::try_from(count)?, "rows read", took);
    summary.check("counts, mean delays and distances by airport are those of the input", same(&batches, &expected)?);
    let table = arrow::util::pretty::pretty_format_batches(&batches).context("format rows")?;
    summary.show("Departure delay by airport (minutes), from the offline store", &table.to_string());
    Ok(())
}

/// A FROM clause of every flight once. On a fresh cluster each has one version; after earlier runs several.
pub(super) fn flights_once(before: &Before, columns: &str, condition: &str) -> String {
    let distinct = if before["flights"] == Rows::default() { "" } else { "DISTINCT " };
    format!("(SELECT {distinct}flight_id, {columns} FROM flights WHERE NOT is_deleted AND {condition}) AS flights")
}

fn airports_of_input(demo: &Demo) -> BTreeMap<String, Airport> {
    let flights = &demo.flights;
    let [origin, delay, distance] = ["origin", "dep_delay", "distance"].map(|name| flights.place(name));
    let mut airports: BTreeMap<String, Airport> = BTreeMap::new();
    for row in &flights.records {
        let airport = airports.entry(row.text(origin).unwrap_or_default().to_owned()).or_default();
        airport.flights += 1;
        airport.distance_sum += row.text(distance).and_then(|text| text.parse().ok()).unwrap_or(0);
        if let Some(delay) = row.text(delay).and_then(|text| text.parse::<f64>().ok()) {
            airport.departed += 1;
            airport.delay_sum += delay;
        }
    }
    airports
}

fn same(batches: &[RecordBatch], expected: &BTreeMap<String, Airport>) -> anyhow::Result<Result<(), String>> {
    let (mut result, mut rows) = (Ok(()), 0);
    for batch in batches {
        let (origins, delays) = (texts(batch, "origin")?, floats(batch, "mean_delay")?);
        let [flights, departed, miles] = ["flights", "departed", "miles"].map(|name| integers(batch, name));
        let (flights, departed, miles) = (flights?, departed?, miles?);
        for row in 0..batch.num_rows() {
            let airport = expected.get(origins.value(row)).copied().unwrap_or_default();
            let counts = [flights.value(row), departed.value(row), miles.value(row)];
            result = result.and(equal(
                origins.value(row),
                counts,
                [airport.flights, airport.departed, airport.distance_sum],
            ));
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
            let mean = (airport.departed > 0).then(|| airport.delay_sum / airport.departed as f64);
            let got = delays.is_valid(row).then(|| delays.value(row));
            result = result.and(close(origins.value(row), got, mean));
        }
        rows += batch.num_rows();
    }
    Ok(result.and(equal("airports", rows, expected.len())))
}
