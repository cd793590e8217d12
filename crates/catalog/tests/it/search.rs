//! Search over feature groups and features.

use granary_catalog::CatalogView;
use granary_catalog::search::{Found, search};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::{UpdateFeature, UpdateTags};
use granary_proto::v1;
use granary_proto::v1::SearchOperator as Op;
use granary_types::{Error, ErrorKind};

use crate::commands::{Meta, NOW_MS, add_features, create_at, feature, online, with_offline};

const ARNS: &str = "arn:aws:sagemaker:eu-central-1:123456789012:feature-group/";
/// [`NOW_MS`] as a filter has it, without its milliseconds.
const NOW: &str = "2024-05-06T07:08:09";

/// `cards` online only, `payments` with both stores and a feature more, `users` offline only; a second apart.
fn view() -> CatalogView {
    let mut meta = Meta::new();
    for (second, name) in ["cards", "payments", "users"].into_iter().enumerate() {
        let mut request = if name == "cards" { online(name) } else { with_offline(name) };
        if name == "users" {
            request.online = None;
            request.description = "people".to_owned();
        }
        meta.create(create_at(request, NOW_MS + second as u64 * 1_000)).expect("a good request");
    }
    let more = [feature("city", v1::FeatureType::String)];
    meta.apply(add_features("payments", &more, NOW_MS + 10_000)).expect("a new name");
    let words = v1::UpdateFeatureMetadataRequest {
        feature_group: "payments".to_owned(),
        feature: "amount".to_owned(),
        description: Some("a sum".to_owned()),
        set_parameters: [("unit".to_owned(), "EUR".to_owned())].into(),
        remove_parameters: Vec::new(),
    };
    let words = UpdateFeature { request: Some(words), now_ms: NOW_MS + 20_000 };
    meta.apply(Command::UpdateFeature(words)).expect("good words");
    let tags = v1::UpdateTagsRequest {
        feature_group: "users".to_owned(),
        set: [("team".to_owned(), "growth".to_owned())].into(),
        remove: vec!["tier".to_owned()],
    };
    meta.apply(Command::UpdateTags(UpdateTags { request: Some(tags) })).expect("good tags");
    meta.create(create_at(online("gone"), NOW_MS)).expect("a good request");
    meta.apply(crate::commands::delete("gone")).expect("it is there");
    meta.state.view()
}

fn filter(name: &str, operator: Op, value: &str) -> v1::SearchFilter {
    v1::SearchFilter { name: name.to_owned(), operator: operator.into(), value: value.to_owned() }
}

fn all(filters: Vec<v1::SearchFilter>) -> v1::SearchExpression {
    v1::SearchExpression { filters, ..Default::default() }
}

fn request(resource: v1::SearchResource, expression: v1::SearchExpression) -> v1::SearchRequest {
    v1::SearchRequest {
        resource: resource.into(),
        expression: Some(expression),
        sort_by: "CreationTime".to_owned(),
        ascending: true,
        ..Default::default()
    }
}

fn names(found: Found) -> Vec<String> {
    let name = |hit: granary_catalog::search::Hit| match hit.feature {
        None => hit.group.name.clone(),
        Some(ordinal) => {
            format!("{}.{}", hit.group.name, hit.group.schema.by_ordinal(ordinal).expect("it is one").name)
        }
    };
    assert_eq!(found.next_page_token, None, "one page is enough");
    assert_eq!(found.total, found.hits.len());
    found.hits.into_iter().map(name).collect()
}

fn groups(expression: v1::SearchExpression) -> Result<Vec<String>, Error> {
    search(&view(), ARNS, &request(v1::SearchResource::FeatureGroup, expression)).map(names)
}

fn features(expression: v1::SearchExpression) -> Result<Vec<String>, Error> {
    search(&view(), ARNS, &request(v1::SearchResource::Feature, expression)).map(names)
}

#[test]
fn every_operator_means_what_it_says_of_groups() {
    let later = "2024-05-06T07:08:10.123Z";
    for (name, operator, value, expected) in [
        ("FeatureGroupName", Op::Equals, "cards", &["cards"][..]),
        ("FeatureGroupName", Op::Unspecified, "cards", &["cards"]),
        ("FeatureGroupName", Op::NotEquals, "cards", &["payments", "users"]),
        ("FeatureGroupName", Op::Contains, "r", &["cards", "users"]),
        ("FeatureGroupName", Op::In, "users, cards,none", &["cards", "users"]),
        ("FeatureGroupArn", Op::Equals, "arn:aws:sagemaker:eu-central-1:123456789012:feature-group/users", &["users"]),
        ("RecordIdentifierFeatureName", Op::Equals, "id", &["cards", "payments", "users"]),
        ("EventTimeFeatureName", Op::NotEquals, "at", &[]),
        ("Description", Op::Contains, "peo", &["users"]),
        ("RoleArn", Op::Exists, "", &[]),
        ("RoleArn", Op::NotEquals, "x", &["cards", "payments", "users"]),
        ("FeatureGroupStatus", Op::Equals, "Created", &["cards", "payments", "users"]),
        ("LastUpdateStatus.Status", Op::Equals, "Successful", &["payments"]),
        ("OfflineStoreStatus.Status", Op::Exists, "", &["payments", "users"]),
        ("OnlineStoreConfig.EnableOnlineStore", Op::Equals, "true", &["cards", "payments"]),
        ("OnlineStoreConfig.EnableOnlineStore", Op::Equals, "false", &["users"]),
        ("OfflineStoreConfig.S3StorageConfig.S3Uri", Op::Exists, "", &["payments", "users"]),
        ("OfflineStoreConfig.S3StorageConfig.S3Uri", Op::NotExists, "", &["cards"]),
        ("OfflineStoreConfig.DataCatalogConfig.TableName", Op::Contains, "users_", &["users"]),
        ("OnlineStoreConfig.TtlDuration.Value", Op::GreaterThan, "0", &[]),
        ("Tags.team", Op::Equals, "risk", &["cards", "payments"]),
        ("Tags.tier", Op::NotExists, "", &["users"]),
        ("AllTags", Op::Equals, "growth", &["users"]),
        ("AllTags", Op::Contains, "tie", &["cards", "payments"]),
        ("FeatureDefinitions.FeatureName", Op::Equals, "city", &["payments"]),
        ("CreationTime", Op::GreaterThan, later, &["users"]),
        ("CreationTime", Op::GreaterThanOrEqualTo, later, &["payments", "users"]),
        ("CreationTime", Op::LessThan, later, &["cards"]),
        ("CreationTime", Op::LessThanOrEqualTo, later, &["cards", "payments"]),
        ("CreationTime", Op::Equals, later, &["payments"]),
        ("CreationTime", Op::GreaterThan, NOW, &["cards", "payments", "users"]),
        ("LastModifiedTime", Op::GreaterThan, "2024-05-06T07:08:15", &["payments"]),
    ] {
        let found = groups(all(vec![filter(name, operator, value)]));
        assert_eq!(
            found.as_deref(),
            Ok(&expected.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..]),
            "{name} {operator:?} {value}"
        );
    }
}

#[test]
fn features_are_found_by_their_own_words() {
    for (name, operator, value, expected) in [
        ("FeatureName", Op::Equals, "city", &["payments.city"][..]),
        ("FeatureGroupName", Op::Equals, "cards", &["cards.id", "cards.at", "cards.amount"]),
        ("FeatureType", Op::Equals, "Integral", &["cards.amount", "payments.amount", "users.amount"]),
        ("Description", Op::Exists, "", &["payments.amount"]),
        ("Parameters.unit", Op::Equals, "EUR", &["payments.amount"]),
        ("AllParameters", Op::Contains, "uni", &["payments.amount"]),
        ("LastModifiedTime", Op::GreaterThan, "2024-05-06T07:08:29", &["payments.amount"]),
        ("CreationTime", Op::GreaterThan, "2024-05-06T07:08:15", &["payments.city"]),
    ] {
        let found = features(all(vec![filter(name, operator, value)])).expect(name);
        assert_eq!(found, expected, "{name} {operator:?} {value}");
    }
}

#[test]
fn expressions_nest() {
    let is = |name: &str| filter("FeatureGroupName", Op::Equals, name);
    let either = v1::SearchExpression { any: true, ..all(vec![is("cards"), is("users")]) };
    assert_eq!(groups(either.clone()).expect("either"), ["cards", "users"]);
    assert_eq!(groups(all(vec![is("cards"), is("users")])).expect("both"), [""; 0]);
    let with_offline = all(vec![filter("OfflineStoreConfig.S3StorageConfig.S3Uri", Op::Exists, "")]);
    let both = v1::SearchExpression { expressions: vec![either, with_offline], ..Default::default() };
    assert_eq!(groups(both).expect("nested"), ["users"]);
    assert_eq!(groups(v1::SearchExpression { any: true, ..Default::default() }).expect("no filter").len(), 3);
}

/// Both filters must hold for one tag, one definition, one parameter.
#[test]
fn nested_filters_hold_for_one_element() {
    let nested = |list: &str, filters: Vec<v1::SearchFilter>| v1::SearchExpression {
        nested_filters: vec![v1::NestedSearchFilter { list: list.to_owned(), filters }],
        ..Default::default()
    };
    let tag = |key: &str, value: &str| {
        nested("Tags", vec![filter("Tags.Key", Op::Equals, key), filter("Value", Op::Equals, value)])
    };
    assert_eq!(groups(tag("team", "risk")).expect("one tag"), ["cards", "payments"]);
    assert_eq!(groups(tag("tier", "risk")).expect("two tags"), [""; 0]);
    let definition = |kind: &str| {
        let name = filter("FeatureDefinitions.FeatureName", Op::Equals, "city");
        nested("FeatureDefinitions", vec![name, filter("FeatureDefinitions.FeatureType", Op::Equals, kind)])
    };
    assert_eq!(groups(definition("String")).expect("one definition"), ["payments"]);
    assert_eq!(groups(definition("Integral")).expect("two definitions"), [""; 0]);
    let parameter = nested("Parameters", vec![filter("Parameters.Key", Op::Contains, "nit")]);
    assert_eq!(features(parameter.clone()).expect("one parameter"), ["payments.amount"]);
    assert_eq!(groups(parameter).expect_err("groups have none").kind, ErrorKind::Invalid);
    assert_eq!(groups(nested("Tags", vec![])).expect_err("no filter").kind, ErrorKind::Invalid);
    assert_eq!(
        groups(nested("Tags", vec![filter("Tags.team", Op::Exists, "")])).expect_err("no part").kind,
        ErrorKind::Invalid
    );
}

#[test]
fn pages_join_to_the_whole_in_every_order() {
    let view = view();
    for (resource, total) in [(v1::SearchResource::FeatureGroup, 3), (v1::SearchResource::Feature, 10)] {
        for sort_by in ["", "CreationTime", "FeatureGroupName", "Description", "LastModifiedTime"] {
            for ascending in [false, true] {
                let mut request = v1::SearchRequest {
                    resource: resource.into(),
                    sort_by: sort_by.to_owned(),
                    ascending,
                    ..Default::default()
                };
                let whole = search(&view, ARNS, &request).expect("all of it");
                assert_eq!((whole.hits.len(), whole.total, whole.next_page_token), (total, total, None));
                let mut joined = Vec::new();
                request.limit = 2;
                loop {
                    let page = search(&view, ARNS, &request).expect("a page");
                    assert_eq!(page.total, total);
                    joined.extend(page.hits);
                    let Some(token) = page.next_page_token else { break };
                    request.page_token = token;
                }
                assert_eq!(joined, whole.hits, "{sort_by} {ascending}");
            }
        }
    }
    let by_description = v1::SearchRequest {
        resource: v1::SearchResource::FeatureGroup.into(),
        sort_by: "Description".to_owned(),
        ..Default::default()
    };
    let order: Vec<_> = search(&view, ARNS, &by_description)
        .expect("sorted")
        .hits
        .into_iter()
        .map(|hit| hit.group.name.clone())
        .collect();
    assert_eq!(order, ["users", "cards", "payments"], "descending, equals by name");
}

#[test]
fn what_is_wrong_with_a_search_is_named() {
    let deep =
        (0..6).fold(all(vec![]), |inner, _| v1::SearchExpression { expressions: vec![inner], ..Default::default() });
    let many = all(vec![filter("FeatureGroupName", Op::Equals, "x"); 21]);
    let wide = v1::SearchExpression {
        expressions: vec![
            v1::SearchExpression {
                expressions: vec![all(vec![filter("FeatureGroupName", Op::Equals, "x"); 20]); 20],
                ..Default::default()
            };
            2
        ],
        ..Default::default()
    };
    for (expression, says) in [
        (all(vec![filter("Colour", Op::Equals, "x")]), "Colour"),
        (all(vec![filter("Tags.", Op::Equals, "x")]), "Tags."),
        (all(vec![filter("Parameters.unit", Op::Equals, "x")]), "Parameters.unit"),
        (all(vec![filter("FeatureGroupName", Op::GreaterThan, "x")]), "GREATER_THAN"),
        (all(vec![filter("CreationTime", Op::Contains, NOW)]), "CONTAINS"),
        (all(vec![filter("CreationTime", Op::In, NOW)]), "IN"),
        (all(vec![filter("CreationTime", Op::LessThan, "yesterday")]), "yesterday"),
        (all(vec![filter("OnlineStoreConfig.TtlDuration.Value", Op::Equals, "1.5")]), "1.5"),
        (all(vec![filter("FeatureGroupName", Op::Equals, "")]), "FeatureGroupName"),
        (all(vec![filter("FeatureGroupName", Op::Equals, &"x".repeat(1_025))]), "1024"),
        (all(vec![v1::SearchFilter { operator: 77, ..filter("FeatureGroupName", Op::Equals, "x") }]), "77"),
        (deep, "deep"),
        (many, "20"),
        (wide, "400"),
    ] {
        let error = groups(expression.clone()).expect_err(says);
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains(says), "{says}: {error}");
    }
    let good = request(v1::SearchResource::FeatureGroup, all(vec![]));
    for bad in [
        v1::SearchRequest { resource: 0, ..good.clone() },
        v1::SearchRequest { limit: 101, ..good.clone() },
        v1::SearchRequest { sort_by: "AllTags".to_owned(), ..good.clone() },
        v1::SearchRequest { sort_by: "FeatureName".to_owned(), ..good.clone() },
        v1::SearchRequest { page_token: "made up".to_owned(), ..good.clone() },
        v1::SearchRequest { page_token: "cards/0/n1".to_owned(), ..good.clone() },
        v1::SearchRequest { page_token: "cards/-/".to_owned(), ..good },
    ] {
        assert_eq!(search(&view(), ARNS, &bad).expect_err("wrong").kind, ErrorKind::Invalid, "{bad:?}");
    }
}
