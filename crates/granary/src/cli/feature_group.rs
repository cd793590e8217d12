//! `granary feature-group`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use granary_proto::v1::update_feature_group_request::Change;
use granary_proto::v1::{
    CreateFeatureGroupRequest, DeleteFeatureGroupRequest, DescribeFeatureGroupRequest, Feature, FeatureAdditions,
    FeatureGroup, FeatureGroupStatus, FeatureType, Granularity, ListFeatureGroupsRequest, OfflineConfig, OnlineChange,
    OnlineConfig, TtlChange, UpdateFeatureGroupRequest, UpdateTagsRequest,
};
use granary_types::Error;
use serde_json::json;

use super::Context;
use super::args::{CreateArgs, FeatureGroupCommand, GranularityArg, TagArgs, UpdateArgs};
use super::assignment::Assignment;
use super::feature::type_name;
use crate::output;

pub(super) async fn run(context: &Context, command: FeatureGroupCommand) -> anyhow::Result<()> {
    match command {
        FeatureGroupCommand::Create(args) => create(context, args).await,
        FeatureGroupCommand::Describe { name } => describe(context, name).await,
        FeatureGroupCommand::List { contains } => list(context, contains.unwrap_or_default()).await,
        FeatureGroupCommand::Update(args) => update(context, args).await,
        FeatureGroupCommand::Tag(args) => tag(context, args).await,
        FeatureGroupCommand::Delete { name } => delete(context, name).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> anyhow::Result<()> {
    let request = to_request(args)?;
    let answer = context.client.store.clone().create_feature_group(request).await;
    let group = answer.map_err(|status| context.client.error(&status))?.into_inner();
    context.output.answer(|| format!("created feature group {}", group.name), || to_json(&group))
}

async fn describe(context: &Context, name: String) -> anyhow::Result<()> {
    let answer = context.client.store.clone().describe_feature_group(DescribeFeatureGroupRequest { name }).await;
    let group = answer.map_err(|status| context.client.error(&status))?.into_inner();
    context.output.answer(|| to_text(&group), || to_json(&group))
}

async fn list(context: &Context, name_contains: String) -> anyhow::Result<()> {
    let mut groups = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListFeatureGroupsRequest { name_contains: name_contains.clone(), limit: 0, page_token };
        let answer = context.client.store.clone().list_feature_groups(request).await;
        let page = answer.map_err(|status| context.client.error(&status))?.into_inner();
        groups.extend(page.feature_groups);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let rows = || {
        let row = |group: &FeatureGroup| {
            vec![
                group.name.clone(),
                group.features.len().to_string(),
                if group.online.is_some() { "yes" } else { "no" }.to_owned(),
                if group.offline.is_some() { "yes" } else { "no" }.to_owned(),
                created_at(group),
            ]
        };
        groups.iter().map(row).collect::<Vec<_>>()
    };
    context.output.answer(
        || output::table(&["name", "features", "online", "offline", "created"], &rows()),
        || json!({ "feature_groups": groups.iter().map(to_json).collect::<Vec<_>>() }),
    )
}

async fn update(context: &Context, args: UpdateArgs) -> anyhow::Result<()> {
    let answer = context.client.store.clone().update_feature_group(to_update(args)).await;
    let group = answer.map_err(|status| context.client.error(&status))?.into_inner();
    context.output.answer(|| to_text(&group), || to_json(&group))
}

fn to_update(args: UpdateArgs) -> UpdateFeatureGroupRequest {
    let change = if args.features.is_empty() {
        let ttl = TtlChange { ttl: args.ttl.map(super::ttl::TtlArg::to_wire) };
        Change::Online(OnlineChange { ttl: Some(ttl), ..OnlineChange::default() })
    } else {
        Change::Additions(FeatureAdditions { features: args.features.into_iter().map(|feature| feature.0).collect() })
    };
    UpdateFeatureGroupRequest { name: args.name, change: Some(change) }
}

async fn tag(context: &Context, args: TagArgs) -> anyhow::Result<()> {
    let request = UpdateTagsRequest { feature_group: args.name, set: tags_of(&args.set)?, remove: args.remove };
    let answer = context.client.store.clone().update_tags(request).await;
    let group = answer.map_err(|status| context.client.error(&status))?.into_inner();
    let shown = || group.tags.iter().collect::<BTreeMap<_, _>>();
    let rows = || shown().into_iter().map(|(key, value)| vec![key.clone(), value.clone()]).collect::<Vec<_>>();
    context.output.answer(|| output::table(&["tag", "value"], &rows()), || json!({ "tags": shown() }))
}

fn tags_of(tags: &[Assignment]) -> Result<HashMap<String, String>, Error> {
    let tag = |tag: &Assignment| tag.text().map(|text| (tag.name.clone(), text.to_owned())).map_err(Error::invalid);
    tags.iter().map(tag).collect()
}

async fn delete(context: &Context, name: String) -> anyhow::Result<()> {
    let request = DeleteFeatureGroupRequest { name: name.clone() };
    let answer = context.client.store.clone().delete_feature_group(request).await;
    answer.map_err(|status| context.client.error(&status))?;
    context.output.answer(|| format!("deleted feature group {name}"), || json!({ "deleted": name }))
}

fn to_request(args: CreateArgs) -> Result<CreateFeatureGroupRequest, Error> {
    let mut features: Vec<Feature> = args.features.into_iter().map(|feature| feature.0).collect();
    // The two that every group has need no mention when they are the usual Strings.
    for (place, name) in [&args.record_identifier, &args.event_time].into_iter().enumerate() {
        if !features.iter().any(|feature| feature.name == *name) {
            let mut feature = Feature { name: name.clone(), ..Feature::default() };
            feature.set_type(FeatureType::String);
            features.insert(place.min(features.len()), feature);
        }
    }
    let mut offline = OfflineConfig { s3_uri: args.s3_uri.unwrap_or_default(), ..OfflineConfig::default() };
    offline.set_granularity(match args.granularity {
        GranularityArg::Hour => Granularity::Hour,
        GranularityArg::Day => Granularity::Day,
    });
    let online = OnlineConfig { ttl: args.ttl.map(super::ttl::TtlArg::to_wire), ..OnlineConfig::default() };
    Ok(CreateFeatureGroupRequest {
        name: args.name,
        features,
        record_identifier_feature: args.record_identifier,
        event_time_feature: args.event_time,
        online: (!args.no_online).then_some(online),
        offline: (!args.no_offline).then_some(offline),
        description: args.description,
        tags: tags_of(&args.tags)?,
        ..CreateFeatureGroupRequest::default()
    })
}

fn to_text(group: &FeatureGroup) -> String {
    let mut rows = vec![
        vec!["name".to_owned(), group.name.clone()],
        vec!["record identifier".to_owned(), group.record_identifier_feature.clone()],
        vec!["event time".to_owned(), group.event_time_feature.clone()],
        vec!["created".to_owned(), created_at(group)],
        vec!["online store".to_owned(), online_text(group)],
        vec!["offline store".to_owned(), offline_text(group)],
    ];
    if !group.description.is_empty() {
        rows.push(vec!["description".to_owned(), group.description.clone()]);
    }
    let features: Vec<_> =
        group.features.iter().map(|feature| vec![feature.name.clone(), type_name(feature)]).collect();
    let about: String = rows.iter().map(|row| format!("{:<18} {}\n", row[0], row[1])).collect();
    format!("{about}\n{}", output::table(&["feature", "type"], &features))
}

fn online_text(group: &FeatureGroup) -> String {
    let Some(online) = &group.online else { return "no".to_owned() };
    let ttl = online.ttl.as_ref().and_then(|ttl| granary_proto::convert::ttl_from_wire(ttl).ok());
    match ttl {
        Some(ttl) => {
            let shown = crate::config::units::show_duration(Duration::from_secs(ttl.seconds()));
            format!("yes, records live {shown} after their event time")
        }
        None => "yes".to_owned(),
    }
}

fn offline_text(group: &FeatureGroup) -> String {
    let Some(offline) = &group.offline else { return "no".to_owned() };
    let by = if offline.granularity() == Granularity::Day { "day" } else { "hour" };
    format!("yes, by {by}, at {}", offline.resolved_uri)
}

fn created_at(group: &FeatureGroup) -> String {
    let time = granary_types::EventTime::from_nanos(i128::from(group.created_at_ms) * 1_000_000);
    time.map_or_else(|_| String::new(), |time| time.to_string())
}

fn to_json(group: &FeatureGroup) -> serde_json::Value {
    let features = group
        .features
        .iter()
        .map(|feature| json!({ "name": feature.name, "type": type_name(feature), "description": feature.description }));
    let ttl = |online: &OnlineConfig| {
        let ttl = online.ttl.as_ref().and_then(|ttl| granary_proto::convert::ttl_from_wire(ttl).ok());
        ttl.map(granary_types::Ttl::seconds)
    };
    json!({
        "id": group.id,
        "name": group.name,
        "status": if group.status() == FeatureGroupStatus::Deleted { "deleted" } else { "created" },
        "record_identifier_feature": group.record_identifier_feature,
        "event_time_feature": group.event_time_feature,
        "features": features.collect::<Vec<_>>(),
        "online": group.online.as_ref().map(|online| json!({ "ttl_seconds": ttl(online) })),
        "offline": group.offline.as_ref().map(|offline| json!({
            "uri": offline.resolved_uri,
            "granularity": if offline.granularity() == Granularity::Day { "day" } else { "hour" },
        })),
        "description": group.description,
        "tags": group.tags,
        "created_at_ms": group.created_at_ms,
        "schema_version": group.schema_version,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn request(arguments: &[&str]) -> CreateFeatureGroupRequest {
        let all = ["granary", "feature-group", "create", "users", "--record-identifier", "id", "--event-time", "at"];
        let cli = Cli::try_parse_from(all.iter().chain(arguments)).expect("well-formed");
        let Command::FeatureGroup(FeatureGroupCommand::Create(args)) = cli.command else { unreachable!("create") };
        to_request(args).expect("valid")
    }

    #[test]
    fn an_update_makes_one_kind_of_change() {
        let update = |arguments: &[&str]| {
            let all = ["granary", "feature-group", "update", "users"];
            let cli = Cli::try_parse_from(all.iter().chain(arguments)).ok()?;
            let Command::FeatureGroup(FeatureGroupCommand::Update(args)) = cli.command else { unreachable!("update") };
            to_update(args).change
        };
        let Some(Change::Additions(additions)) = update(&["--feature", "x:Fractional", "--feature", "y:String"]) else {
            panic!("features are added");
        };
        assert_eq!(additions.features.len(), 2);
        let ttl = |arguments: &[&str]| match update(arguments) {
            Some(Change::Online(online)) => online.ttl.map(|change| change.ttl.map(|ttl| ttl.value)),
            other => panic!("another change: {other:?}"),
        };
        assert_eq!(ttl(&["--ttl", "7d"]), Some(Some(7)));
        assert_eq!(ttl(&["--no-ttl"]), Some(None));
        assert_eq!(update(&[]), None);
        assert_eq!(update(&["--ttl", "7d", "--no-ttl"]), None);
        assert_eq!(update(&["--ttl", "7d", "--feature", "x:String"]), None);
    }

    #[test]
    fn a_group_has_both_stores_and_its_two_features_unless_told_otherwise() {
        let plain = request(&["--feature", "x:Fractional"]);
        let names: Vec<_> = plain.features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["id", "at", "x"]);
        assert!(plain.online.is_some() && plain.offline.is_some());
        let online_only =
            request(&["--feature", "x:Integral", "--feature", "id:Integral", "--no-offline", "--ttl", "7d"]);
        let names: Vec<_> = online_only.features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["x", "at", "id"]);
        assert!(online_only.offline.is_none());
        assert_eq!(online_only.online.and_then(|online| online.ttl).map(|ttl| ttl.value), Some(7));
        let by_day = request(&["--granularity", "day", "--tag", "team=growth"]);
        assert_eq!(by_day.offline.map(|offline| offline.granularity()), Some(Granularity::Day));
        assert_eq!(by_day.tags["team"], "growth");
    }
}
