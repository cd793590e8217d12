//! One flush: what the tails hold, into all tables, and what may be acknowledged for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use granary_catalog::CatalogView;
use granary_platform::Platform;
use granary_types::invariants::{Invariant, check};
use granary_types::mutants::{Mutant, is_planted};
use granary_types::{FeatureGroupId, StreamId, with_causes};

use crate::Error;
use crate::marks::Marks;
use crate::metrics::Metrics;
use crate::segments::{Ready, Waiting, decode};
use crate::settings::{Settings, Step};
use crate::tables::{Landed, Load, Tables, land};
use crate::tail::Tail;

/// How a flush ended for one stream.
#[derive(Debug)]
pub(crate) enum StreamOutcome {
    /// Every event up to `until` is in a commit that was read back (CL-3).
    Done { until: u64, waiting: Option<Waiting> },
    /// Something it depends on failed, which is logged.
    Failed,
}

/// Decodes, lands, reads back.
pub(crate) async fn flush(
    tails: &[&Tail],
    catalog: &Arc<CatalogView>,
    tables: &mut Tables,
    platform: &Platform,
    settings: &Settings,
    metrics: &Metrics,
) -> HashMap<StreamId, StreamOutcome> {
    let mut outcomes = HashMap::new();
    let mut readies = Vec::new();
    for tail in tails {
        match decode_off_thread(tail, catalog, platform).await {
            Ok(ready) => readies.push(ready),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "read the change log");
                outcomes.insert(tail.stream, StreamOutcome::Failed);
            }
        }
    }
    let (plans, loads) = divide(readies, &tables.marks);
    let landed = land_all(loads, tables, platform, settings, metrics).await;
    settings.reached(Step::ReadBack).await;
    for plan in plans {
        let outcome = plan.judge(&landed);
        outcomes.insert(plan.stream, outcome);
    }
    for (_, Landed { mut table, .. }) in landed {
        if let Err(error) = platform.apart_from_time(table.maintain()).await {
            tracing::warn!(error = with_causes(&error), table = %table.url(), "keep house in the table log");
        }
        tables.keep(table);
    }
    outcomes
}

async fn decode_off_thread(tail: &Tail, catalog: &Arc<CatalogView>, platform: &Platform) -> Result<Ready, Error> {
    let (stream, segments, done, catalog) = (tail.stream, tail.segments(), tail.done(), catalog.clone());
    let decoded = platform.blocking(move || decode(stream, &segments, done, &catalog)).await;
    decoded.map_err(|_| Error::TaskDied)?
}

/// What one stream needs before it may be acknowledged.
#[derive(Debug)]
struct Plan {
    stream: StreamId,
    until: u64,
    waiting: Option<Waiting>,
    /// The tables that hold its events, and its last event in each.
    needs: BTreeMap<FeatureGroupId, u64>,
}

/// From events by stream to rows by table.
fn divide(readies: Vec<Ready>, marks: &Marks) -> (Vec<Plan>, BTreeMap<FeatureGroupId, Load>) {
    let mut loads: BTreeMap<FeatureGroupId, Load> = BTreeMap::new();
    let mut plans = Vec::with_capacity(readies.len());
    for ready in readies {
        let mut needs = BTreeMap::new();
        for (group, table) in ready.tables {
            needs.extend(table.rows.last().map(|row| (group, row.sequence)));
            let new = || Load { group: table.group.clone(), rows: Vec::new(), marks: marks.of(group) };
            let load = loads.entry(group).or_insert_with(new);
            load.rows.extend(table.rows);
        }
        plans.push(Plan { stream: ready.stream, until: ready.until, waiting: ready.waiting, needs });
    }
    (plans, loads)
}

/// Lands a few tables at a time. A table that fails is noted as failing and missing from the answer.
async fn land_all(
    loads: BTreeMap<FeatureGroupId, Load>,
    tables: &mut Tables,
    platform: &Platform,
    settings: &Settings,
    metrics: &Metrics,
) -> HashMap<FeatureGroupId, Landed> {
    let warehouse = tables.warehouse();
    let loads: Vec<_> = loads.into_iter().map(|(group, load)| (group, tables.take(group), load)).collect();
    let landings = loads.into_iter().map(|(group, kept, load)| {
        let warehouse = &warehouse;
        let of = load.group.clone();
        async move { (group, of, land(kept, warehouse, load, platform, settings, metrics).await) }
    });
    let results: Vec<_> = stream::iter(landings).buffer_unordered(settings.tables_in_flight.max(1)).collect().await;
    let mut landed = HashMap::new();
    for (id, group, result) in results {
        match result {
            Ok(table) => {
                tables.failing.clear(id);
                landed.insert(id, table);
            }
            Err(error @ Error::Moved { .. }) => tracing::info!(%error, "begin anew from the offsets"),
            Err(error) => tables.failing.note(&group, &error),
        }
    }
    landed
}

impl Plan {
    /// Whether each table that holds events of the stream was read back to hold them.
    fn judge(&self, landed: &HashMap<FeatureGroupId, Landed>) -> StreamOutcome {
        let reached: HashSet<FeatureGroupId> =
            self.needs.keys().copied().filter(|group| landed.contains_key(group)).collect();
        if is_planted(Mutant::AcknowledgesUncommitted) {
            return StreamOutcome::Done { until: self.until, waiting: self.waiting };
        }
        if reached.len() < self.needs.len() {
            return StreamOutcome::Failed;
        }
        for (group, events) in &self.needs {
            let offset = landed[group].offsets.get(&self.stream).copied().unwrap_or(0);
            let detail =
                || format!("stream {} would be trimmed beyond table {group}: {offset} < {events}", self.stream);
            if !check(Invariant::TrimAfterCommit, offset >= *events, detail) {
                return StreamOutcome::Failed;
            }
        }
        StreamOutcome::Done { until: self.until, waiting: self.waiting }
    }
}
