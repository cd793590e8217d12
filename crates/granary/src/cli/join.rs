//! `granary join`: a point-in-time join.

use granary_proto::v1::{JoinedFeatureGroup, PointInTimeJoinRequest};
use granary_types::Error;

use super::args::JoinArgs;
use super::{Context, sql};

pub(super) async fn run(context: &Context, args: JoinArgs) -> anyhow::Result<()> {
    let request = PointInTimeJoinRequest {
        joins: joins(&args)?,
        spine_sql: args.spine,
        cut_off_column: args.cut_off,
        only_written_by_cut_off: args.known_then,
    };
    let answer = context.client.query.clone().point_in_time_join(request).await;
    let batches = context.client.batches(answer).await?;
    sql::write(context.output, &batches)
}

fn joins(args: &JoinArgs) -> Result<Vec<JoinedFeatureGroup>, Error> {
    let mut joins: Vec<_> = args.with.iter().map(|with| parse_with(with)).collect();
    for join in &mut joins {
        join.look_back_seconds = args.look_back.map_or(0, |look_back| look_back.as_secs());
    }
    for key in &args.keys {
        let column = key.text().map_err(Error::invalid)?;
        let join = joins.iter_mut().find(|join| join.feature_group == key.name);
        let join = join.ok_or_else(|| Error::invalid(format!("--key {}: no --with names this group", key.name)))?;
        join.spine_key_column = column.to_owned();
    }
    Ok(joins)
}

/// `GROUP[:FEATURE,…]`.
fn parse_with(with: &str) -> JoinedFeatureGroup {
    let (group, features) = with.split_once(':').unwrap_or((with, ""));
    JoinedFeatureGroup {
        feature_group: group.to_owned(),
        feature_names: features.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        ..JoinedFeatureGroup::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_features_are_read() {
        let join = parse_with("weather:temp,visib");
        assert_eq!((join.feature_group.as_str(), join.feature_names.len()), ("weather", 2));
        assert!(parse_with("weather").feature_names.is_empty());
    }
}
