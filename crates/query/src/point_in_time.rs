//! A point-in-time join as it is asked for: the spine by SQL, the histories from the offline tables, the kernel over
//! both.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{ident, lit};
use futures::StreamExt;
use granary_catalog::CatalogView;
use granary_proto::v1::{JoinedFeatureGroup, PointInTimeJoinRequest};
use granary_types::{ErrorKind, EventTime, FeatureGroup};

use crate::Error;
use crate::pit::{HistoryBuilder, Join, JoinSpec, JoinedFeature, Spine, placing_columns, provenance};
use crate::sql::Session;

mod naming;

/// One group of the request, found and checked.
struct Side {
    group: Arc<FeatureGroup>,
    spec: JoinSpec,
}

/// Makes the join. What it holds in memory is on `memory`'s account, and nothing else bounds it: ask for less, or of
/// a larger process.
///
/// # Errors
/// `NotFound` for a feature group, `Invalid` for anything else the request says, `Overloaded` when the memory of all
/// queries is spent.
pub(crate) async fn join(
    session: &Session,
    catalog: &CatalogView,
    request: &PointInTimeJoinRequest,
    joins_max: usize,
    memory: &MemoryReservation,
) -> Result<Join, Error> {
    if request.joins.is_empty() || request.joins.len() > joins_max {
        let message = format!("a join takes 1 to {joins_max} feature groups, got {}", request.joins.len());
        return Err(granary_types::Error::invalid(message).into());
    }
    let mut sides = request.joins.iter().map(|join| side(catalog, join, request)).collect::<Result<Vec<_>, _>>()?;
    let spine = spine(session, request, memory).await?;
    naming::settle(spine.schema(), &mut sides);
    let mut histories = Vec::with_capacity(sides.len());
    for side in sides {
        histories.push(history(session, &spine, side, memory).await?);
    }
    Ok(Join::new(Arc::new(spine), histories)?)
}

fn side(
    catalog: &CatalogView,
    join: &JoinedFeatureGroup,
    request: &PointInTimeJoinRequest,
) -> Result<Side, granary_types::Error> {
    let name = &join.feature_group;
    let group = catalog.group(name).ok_or_else(|| {
        granary_types::Error::new(ErrorKind::NotFound, format!("feature group {name:?} does not exist"))
    })?;
    let identifier = group.record_identifier_feature().name.clone();
    let feature = |name: &String| -> Result<JoinedFeature, granary_types::Error> {
        let feature = group.schema.by_name(name).ok_or_else(|| {
            granary_types::Error::invalid(format!("feature group {:?} has no feature {name:?}", group.name))
        })?;
        Ok(JoinedFeature { feature: feature.name.clone(), output: feature.name.clone() })
    };
    let features: Vec<JoinedFeature> = if join.feature_names.is_empty() {
        let names = group.schema.features().iter().map(|feature| &feature.name);
        names.filter(|name| **name != identifier).map(feature).collect::<Result<_, _>>()?
    } else {
        join.feature_names.iter().map(feature).collect::<Result<_, _>>()?
    };
    let key_column = if join.spine_key_column.is_empty() { &identifier } else { &join.spine_key_column };
    let spec = JoinSpec {
        key_column: key_column.clone(),
        identifier,
        event_time: Some(group.event_time_feature().name.clone()),
        features,
        look_back_seconds: (join.look_back_seconds > 0).then_some(join.look_back_seconds),
        only_written_by_cut_off: request.only_written_by_cut_off,
    };
    Ok(Side { group: Arc::clone(group), spec })
}

async fn spine(
    session: &Session,
    request: &PointInTimeJoinRequest,
    memory: &MemoryReservation,
) -> Result<Spine, Error> {
    let mut rows = session.plan(&request.spine_sql).await?.execute_stream().await?;
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        // Its columns, and a cut-off of 24 bytes for each row.
        memory.try_grow(held_bytes(&batch) + batch.num_rows() * 24)?;
        batches.push(batch);
    }
    Ok(Spine::new(rows.schema(), batches, &request.cut_off_column)?)
}

/// What a batch adds to the process. Batches of a sort are slices of one large batch, which must count once.
fn held_bytes(batch: &RecordBatch) -> usize {
    let of = |column: &Arc<dyn Array>| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(of).sum()
}

async fn history(
    session: &Session,
    spine: &Spine,
    side: Side,
    memory: &MemoryReservation,
) -> Result<crate::pit::History, Error> {
    let table = session.table(&side.group).await?;
    let mut history = HistoryBuilder::new(spine, side.spec.clone(), &table.schema())?;
    let keys = spine.batches().iter().map(RecordBatch::num_rows).sum::<usize>() * 8;
    let mut held = history.memory_bytes() + keys;
    memory.try_grow(held)?;
    // A spine without any cut-off sees nothing.
    if let Some(range) = spine.cut_off_range() {
        let query = events_in_sight(session.read(Arc::clone(&table))?, &table, &side.spec, range)?;
        let mut events = query.execute_stream().await?;
        while let Some(batch) = events.next().await {
            history.push(&batch?)?;
            let now = history.memory_bytes() + keys;
            memory.try_grow(now.saturating_sub(held))?;
            held = held.max(now);
        }
    }
    Ok(history.finish()?)
}

/// The columns the join needs, of the events that any row of the spine may see.
///
/// Only a filter that spares work: it lets through all that counts and may let through more. Event times are
/// compared in microseconds rounded down, which never turns their order around.
fn events_in_sight(
    query: DataFrame,
    table: &Arc<dyn TableProvider>,
    spec: &JoinSpec,
    (first, last): (EventTime, EventTime),
) -> Result<DataFrame, Error> {
    let schema = table.schema();
    let zone = match schema.field_with_name(provenance::EVENT_TIME)?.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let micros = |value: i64| lit(ScalarValue::TimestampMicrosecond(Some(value), zone.clone()));
    let mut in_sight = ident(provenance::EVENT_TIME).lt_eq(micros(last.micros()));
    if let Some(seconds) = spec.look_back_seconds {
        let oldest = first.nanos() - i128::from(seconds) * 1_000_000_000;
        if let Ok(oldest) = i64::try_from(oldest.div_euclid(1_000)) {
            let recent = ident(provenance::EVENT_TIME).gt_eq(micros(oldest));
            // A reset of any age hides what was stamped before it.
            in_sight = in_sight.and(recent.or(ident(provenance::OPERATION).eq(lit("reset"))));
        }
    }
    // Rows of other programs have no such column and are placed by others.
    in_sight = in_sight.or(ident(provenance::EVENT_TIME).is_null());
    let features = spec.features.iter().map(|feature| feature.feature.as_str());
    let placing = placing_columns(spec.event_time.as_deref());
    let mut names: Vec<&str> = [spec.identifier.as_str()].into_iter().chain(placing).chain(features).collect();
    names.sort_unstable();
    names.dedup();
    let columns: Vec<Expr> = names.into_iter().map(ident).collect();
    Ok(query.filter(in_sight)?.select(columns)?)
}
