//! Point-in-time joins through the service: spine by SQL, histories from Delta tables.

use granary_offline_store::Operation;
use granary_proto::v1::{JoinedFeatureGroup, PointInTimeJoinRequest};
use granary_query::Settings;
use tonic::Code;

use crate::world::{Event, World, joined, put, texts};

fn customer(id: &str, age: &str, time: &str) -> Event {
    put(&[("id", id), ("age", age), ("event_time", time)])
}

async fn world() -> World {
    let mut world = World::new().await;
    let first = vec![
        customer("a", "20", "2024-01-01T00:00:00Z"),
        customer("a", "21", "2024-02-01T00:00:00.000000001Z"),
        customer("b", "40", "2024-01-15T00:00:00Z"),
    ];
    world.append("customers", first).await;
    let gone = customer("b", "0", "2024-01-20T00:00:00Z");
    let late = customer("a", "19", "2023-12-01T00:00:00Z");
    world
        .append(
            "customers",
            vec![
                Event { operation: Operation::Delete, ..gone },
                // Written months after it happened.
                Event { stamp: 1_720_000_000_000_000_000, ..late },
            ],
        )
        .await;
    world
}

fn request(spine: &str, joins: Vec<JoinedFeatureGroup>) -> PointInTimeJoinRequest {
    PointInTimeJoinRequest {
        spine_sql: spine.to_owned(),
        cut_off_column: "at".to_owned(),
        joins,
        only_written_by_cut_off: false,
    }
}

const SPINE: &str = "SELECT * FROM (VALUES \
    (1, 'a', timestamp '2024-01-10T00:00:00'), \
    (2, 'a', timestamp '2024-02-01T00:00:00'), \
    (3, 'a', timestamp '2024-02-01T00:00:00.000000001'), \
    (4, 'b', timestamp '2024-01-16T00:00:00'), \
    (5, 'b', timestamp '2024-01-20T00:00:00'), \
    (6, 'c', timestamp '2024-01-20T00:00:00'), \
    (7, NULL, timestamp '2024-01-20T00:00:00'), \
    (8, 'a', NULL), \
    (9, 'a', timestamp '2023-12-15T00:00:00')) AS t(label, id, at)";

async fn ages(world: &mut World, request: PointInTimeJoinRequest) -> Vec<String> {
    let answer = world.join(request).await.expect("a join");
    let names: Vec<_> = answer[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["label", "id", "at", "age", "event_time"]);
    let rows = texts(&answer);
    let labels: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(labels, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    rows.into_iter().map(|row| row[3].clone()).collect()
}

#[tokio::test]
async fn finds_the_newest_record_as_of_each_row() {
    let mut world = world().await;
    let found = ages(&mut world, request(SPINE, vec![joined("customers", "")])).await;
    assert_eq!(found, ["20", "20", "21", "40", "-", "-", "-", "-", "19"]);
}

#[tokio::test]
async fn leaves_out_what_was_not_yet_written() {
    let mut world = world().await;
    let known =
        PointInTimeJoinRequest { only_written_by_cut_off: true, ..request(SPINE, vec![joined("customers", "")]) };
    // Puts were written a second after they happened, the late one in July.
    assert_eq!(ages(&mut world, known).await, ["20", "20", "20", "40", "40", "-", "-", "-", "-"]);
}

#[tokio::test]
async fn looks_back_from_each_rows_cut_off() {
    let mut world = world().await;
    let join = JoinedFeatureGroup { look_back_seconds: 10 * 86_400, ..joined("customers", "") };
    assert_eq!(ages(&mut world, request(SPINE, vec![join])).await, ["20", "-", "21", "40", "-", "-", "-", "-", "-"]);
}

#[tokio::test]
async fn a_reset_older_than_the_look_back_still_hides_what_came_before_it() {
    let mut world = World::new().await;
    let put = customer("a", "20", "2024-01-10T00:00:00Z");
    let reset = customer("a", "0", "2023-01-01T00:00:00Z");
    let stamp = put.stamp + 1;
    world.append("customers", vec![put, Event { operation: Operation::Reset, stamp, ..reset }]).await;
    let spine = "SELECT 'a' AS id, timestamp '2024-01-11T00:00:00' AS at";
    for look_back_seconds in [0, 86_400] {
        let join = JoinedFeatureGroup { look_back_seconds, ..joined("customers", "") };
        let rows = texts(&world.join(request(spine, vec![join])).await.expect("a join"));
        assert_eq!(rows[0][2], "-", "look_back_seconds={look_back_seconds}");
    }
}

#[tokio::test]
async fn joins_several_groups_and_keeps_their_features_apart() {
    let mut world = world().await;
    let order = put(&[("OrderId", "7"), ("Amount", "1.5"), ("age", "new"), ("event_time", "2024-01-01T00:00:00Z")]);
    world.append("Orders", vec![order]).await;
    let spine = "SELECT 'a' AS buyer, 'b' AS seller, '7' AS order_id, 1705363200 AS at";
    let features = |names: &[&str], join: JoinedFeatureGroup| JoinedFeatureGroup {
        feature_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..join
    };
    let joins = vec![
        features(&["age"], joined("customers", "buyer")),
        features(&["age"], joined("customers", "seller")),
        features(&["Amount", "age"], joined("Orders", "order_id")),
    ];
    let answer = world.join(request(spine, joins)).await.expect("a join");
    let names: Vec<_> = answer[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    let joined_names = ["customers__buyer__age", "customers__seller__age", "Amount", "Orders__age"];
    assert_eq!(names[4..], joined_names);
    assert_eq!(texts(&answer)[0][4..], ["20", "40", "1.5", "new"]);
}

#[tokio::test]
async fn a_spine_may_come_from_feature_groups_and_a_history_may_be_empty() {
    let mut world = world().await;
    let spine =
        r#"SELECT id, 7 AS "OrderId", granary_event_time AS at FROM customers WHERE NOT is_deleted ORDER BY at"#;
    let answer = world.join(request(spine, vec![joined("customers", "id"), joined("Orders", "")])).await;
    let rows = texts(&answer.expect("a join"));
    let ages: Vec<_> = rows.iter().map(|row| row[3].as_str()).collect();
    // The last event lies a nanosecond after the microsecond that its timestamp column can say.
    assert_eq!(ages, ["19", "20", "40", "20"]);
    assert!(rows.iter().all(|row| row[5] == "-"), "Orders has no rows");
}

#[tokio::test]
async fn a_spine_without_rows_has_an_answer_with_columns() {
    let mut world = world().await;
    let spine = format!("SELECT * FROM ({SPINE}) WHERE label > 100");
    let answer = world.join(request(&spine, vec![joined("customers", "")])).await.expect("a join");
    assert_eq!((answer.len(), answer[0].num_rows(), answer[0].num_columns()), (1, 0, 5));
}

#[tokio::test]
async fn refuses_what_cannot_be_joined() {
    let mut world = world().await;
    let spine = "SELECT 'a' AS id, 1.5 AS number, true AS flag, 'soon' AS word, 0 AS at";
    let with_cut_off = |column: &str| PointInTimeJoinRequest {
        cut_off_column: column.to_owned(),
        ..request(spine, vec![joined("customers", "")])
    };
    let with_features = |names: &[&str]| JoinedFeatureGroup {
        feature_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..joined("customers", "")
    };
    for (request, code, says) in [
        (request(spine, vec![]), Code::InvalidArgument, "1 to 64"),
        (request("SELECT", vec![joined("customers", "")]), Code::InvalidArgument, ""),
        (request(spine, vec![joined("nobody", "")]), Code::NotFound, "nobody"),
        (request(spine, vec![joined("live", "")]), Code::InvalidArgument, "no offline store"),
        (request(spine, vec![joined("customers", "missing")]), Code::InvalidArgument, "missing"),
        (request(spine, vec![joined("Orders", "number")]), Code::InvalidArgument, "number"),
        (request(spine, vec![with_features(&["shoe_size"])]), Code::InvalidArgument, "shoe_size"),
        (request(spine, vec![with_features(&["age", "age"])]), Code::InvalidArgument, "customers__age"),
        (with_cut_off("missing"), Code::InvalidArgument, "missing"),
        (with_cut_off("flag"), Code::InvalidArgument, "Boolean"),
        (with_cut_off("word"), Code::InvalidArgument, "soon"),
    ] {
        let refused = world.join(request).await.expect_err(says);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
}

#[tokio::test]
async fn what_a_join_holds_counts_as_memory() {
    let settings = Settings { memory_bytes_max: 4 << 20, ..Settings::default() };
    let mut world = World::with(settings, Default::default()).await;
    let spine = "SELECT 'a' AS id, value AS at FROM generate_series(1, 1000000)";
    let refused = world.join(request(spine, vec![joined("customers", "")])).await.expect_err("more than it may hold");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}
