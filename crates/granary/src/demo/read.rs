//! Reads records back from the online store, one by one and in batches, and deletes one.

use std::collections::HashMap;

use granary_proto::v1::{
    BatchGetRecordRequest, BatchGetRecordResponse, DeleteRecordRequest, DeletionMode, GetRecordRequest,
    GetRecordResponse, RecordKeys,
};
use tonic::Status;

use super::Demo;
use super::check::{equal, same_record};
use super::input::{Input, Row};
use super::patience::answered;
use super::summary::{Summary, thousands};
use crate::progress::Step;

/// Single reads, spread over the year.
const SINGLE_READS: usize = 500;
/// Batched reads, and records in each.
const BATCHES: usize = 50;
const BATCH_RECORDS: usize = 100;

/// Reads single records, linearizable, and compares all their values.
pub(super) async fn singles(demo: &Demo, summary: &mut Summary) -> anyhow::Result<()> {
    let step = demo.progress.count("reading single records", SINGLE_READS, "records");
    let started = demo.platform.instant();
    let result = compare_singles(demo, spread(&demo.flights, SINGLE_READS), &step).await?;
    step.done(&format!("{SINGLE_READS} records"));
    summary.did("read single flights, one after the other", SINGLE_READS, "records", started.elapsed());
    summary.check(format!("{SINGLE_READS} single flights read back as they were put"), result);

    let weather = &demo.weather;
    let mut newest = Ok(());
    for (id, row) in weather.latest() {
        let got = get(demo, weather, id).await?;
        newest = newest.and(same_record(weather, row, &got.record));
    }
    summary.check("the weather of each airport is the newest of the year, by event time", newest);
    let missing = get(demo, &demo.flights, "no such flight").await?;
    summary.check("a flight that was never put is not found", equal("found", missing.found, false));
    Ok(())
}

async fn compare_singles<'a>(
    demo: &Demo,
    rows: impl Iterator<Item = &'a Row>,
    step: &Step,
) -> anyhow::Result<Result<(), String>> {
    let mut result = Ok(());
    for row in rows {
        let got = get(demo, &demo.flights, demo.flights.id(row)).await?;
        result = result.and(same_record(&demo.flights, row, &got.record));
        step.add(1);
    }
    Ok(result)
}

/// Reads flights and weather together in batches and compares all their values.
pub(super) async fn batches(demo: &Demo, summary: &mut Summary) -> anyhow::Result<()> {
    let flights: Vec<&Row> = spread(&demo.flights, BATCHES * BATCH_RECORDS).collect();
    let latest_weather = demo.weather.latest();
    let mut airports: Vec<String> = latest_weather.keys().map(|&id| id.to_owned()).collect();
    airports.sort();
    let step = demo.progress.count("reading in batches", flights.len(), "records");
    let started = demo.platform.instant();
    let (mut result, mut count) = (Ok(()), 0);
    for rows in flights.chunks(BATCH_RECORDS) {
        let keys = |input: &Input, ids: Vec<String>| RecordKeys {
            feature_group: input.group.to_owned(),
            record_identifiers: ids,
            feature_names: Vec::new(),
        };
        let flight_ids = rows.iter().map(|row| demo.flights.id(row).to_owned()).collect();
        let request = BatchGetRecordRequest {
            keys: vec![keys(&demo.flights, flight_ids), keys(&demo.weather, airports.clone())],
            consistency: None,
        };
        let answer = batch_get(demo, &request).await?;
        let mut expected: HashMap<(&str, &str), (&Input, &Row)> = HashMap::new();
        expected.extend(rows.iter().map(|&row| (("flights", demo.flights.id(row)), (&demo.flights, row))));
        expected.extend(latest_weather.iter().map(|(&id, &row)| (("weather", id), (&demo.weather, row))));
        result = result.and(equal("records of a batch", answer.records.len(), expected.len()));
        for record in &answer.records {
            let found = expected.get(&(record.feature_group.as_str(), record.record_identifier.as_str()));
            result = result.and(match found {
                Some((input, row)) => same_record(input, row, &record.record),
                None => Err(format!("{} was not asked for", record.record_identifier)),
            });
        }
        count += answer.records.len();
        step.add(rows.len());
    }
    step.done(&format!("{} records in {BATCHES} batches", thousands(count)));
    summary.did(format!("read flights and weather, {BATCHES} batches"), count, "records", started.elapsed());
    summary.check(format!("{} records read in batches are as they were put", thousands(count)), result);
    Ok(())
}

/// Deletes the first flight and shows that it is gone.
pub(super) async fn delete_one(demo: &Demo, summary: &mut Summary) -> anyhow::Result<()> {
    let flights = &demo.flights;
    let row = &flights.records[0];
    let mut request = DeleteRecordRequest {
        feature_group: flights.group.to_owned(),
        record_identifier: flights.id(row).to_owned(),
        event_time: flights.event_time(row).to_owned(),
        write_id: demo.platform.fresh_id().to_be_bytes().to_vec().into(),
        ..DeleteRecordRequest::default()
    };
    request.set_mode(DeletionMode::Soft);
    // A retry says the same write id.
    answered(demo, || {
        let (mut store, request) = (demo.client.store.clone(), request.clone());
        async move { store.delete_record(request).await }
    })
    .await?;
    let gone = get(demo, flights, flights.id(row)).await?;
    summary.check("a deleted flight is gone", equal("found", gone.found, false));
    demo.progress.say(&format!("deleted flight {}", flights.id(row)));
    Ok(())
}

async fn get(demo: &Demo, input: &Input, id: &str) -> anyhow::Result<GetRecordResponse> {
    let request = GetRecordRequest {
        feature_group: input.group.to_owned(),
        record_identifier: id.to_owned(),
        ..GetRecordRequest::default()
    };
    answered(demo, || {
        let (mut store, request) = (demo.client.store.clone(), request.clone());
        async move { store.get_record(request).await }
    })
    .await
}

/// Reads a batch as a whole: where some of it could not be read for the moment, it is asked for again.
async fn batch_get(demo: &Demo, request: &BatchGetRecordRequest) -> anyhow::Result<BatchGetRecordResponse> {
    answered(demo, || {
        let (mut store, request) = (demo.client.store.clone(), request.clone());
        async move {
            let answer = store.batch_get_record(request).await?;
            match answer.get_ref().unprocessed.is_empty() {
                true => Ok(answer),
                false => Err(Status::unavailable("some of the batch could not be read")),
            }
        }
    })
    .await
}

/// `count` records, evenly spread over the input.
fn spread(input: &Input, count: usize) -> impl Iterator<Item = &Row> {
    let step = (input.records.len() / count).max(1);
    input.records.iter().step_by(step).take(count)
}
