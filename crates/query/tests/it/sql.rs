//! SQL over feature groups.

use std::time::Duration;

use granary_proto::v1::SqlRequest;
use granary_query::Settings;
use tonic::Code;

use crate::world::{World, put};

fn customers() -> Vec<crate::world::Event> {
    vec![
        put(&[("id", "a"), ("age", "20"), ("event_time", "2024-01-01T00:00:00Z")]),
        put(&[("id", "b"), ("age", "40"), ("event_time", "2024-01-01T01:00:00Z")]),
        put(&[("id", "a"), ("age", "21"), ("event_time", "2024-01-02T00:00:00Z")]),
    ]
}

#[tokio::test]
async fn counts_and_aggregates_the_newest_version() {
    let mut world = World::new().await;
    let count = "SELECT count(*) FROM customers";
    assert_eq!(world.sql(count).await.expect("an empty table"), [["0"]]);
    world.append("customers", customers()).await;
    assert_eq!(world.sql(count).await.expect("a count"), [["3"]]);
    world.append("customers", vec![put(&[("id", "c"), ("event_time", "2024-01-03T00:00:00Z")])]).await;
    assert_eq!(world.sql(count).await.expect("a count"), [["4"]]);
    let grouped = "SELECT id, max(age), count(*) FROM customers GROUP BY id ORDER BY id";
    assert_eq!(world.sql(grouped).await.expect("groups"), [["a", "21", "2"], ["b", "40", "1"], ["c", "-", "1"]]);
}

#[tokio::test]
async fn runs_the_query_that_the_sagemaker_documentation_gives() {
    let mut world = World::new().await;
    world.append("customers", customers()).await;
    let latest = "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY event_time desc, \
                  Api_Invocation_Time DESC, write_time DESC) AS row_num \
                  FROM sagemaker_featurestore.customers_1700000000) WHERE row_num = 1 and NOT is_deleted";
    let newest = world.sql(&format!("SELECT id, age FROM ({latest}) ORDER BY id")).await.expect("rows");
    assert_eq!(newest, [["a", "21"], ["b", "40"]]);
    let named = r#"SELECT count(*) FROM "AwsDataCatalog"."sagemaker_featurestore"."customers_1700000000""#;
    assert_eq!(world.sql(named).await.expect("a count"), [["3"]]);
}

#[tokio::test]
async fn names_are_found_in_any_case() {
    let mut world = World::new().await;
    let order = put(&[("OrderId", "7"), ("Amount", "1.5"), ("event_time", "2024-01-01T00:00:00Z")]);
    world.append("Orders", vec![order]).await;
    for sql in [
        r#"SELECT "OrderId", "Amount" FROM "Orders""#,
        "SELECT OrderId, Amount FROM Orders",
        "SELECT o.orderid, sum(o.AMOUNT) AS Amount FROM orders o GROUP BY ORDERID HAVING sum(amount) > 1",
    ] {
        assert_eq!(world.sql(sql).await.expect(sql), [["7", "1.5"]], "{sql}");
    }
}

#[tokio::test]
async fn shows_the_tables_there_are() {
    let mut world = World::new().await;
    let tables = "SELECT table_name FROM information_schema.tables \
                  WHERE table_catalog = 'granary' AND table_schema = 'feature_groups' ORDER BY 1";
    assert_eq!(world.sql(tables).await.expect("tables"), [["Orders"], ["customers"]]);
}

#[tokio::test]
async fn only_queries_are_allowed_and_errors_say_what_is_wrong() {
    let mut world = World::new().await;
    for (sql, says) in [
        ("SELEC 1", "Expected"),
        ("SELECT nothing FROM customers", "nothing"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT * FROM live", "no offline store"),
        ("SELECT 1/0", "zero"),
        ("SELECT 1; SELECT 2", "single SQL statement"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("CREATE TABLE t (x INT)", "DDL"),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "DDL"),
        ("SELECT * INTO t FROM customers", ""),
        ("DROP TABLE customers", "DDL"),
        ("INSERT INTO customers (id) VALUES ('x')", "DML"),
        ("DELETE FROM customers", "DML"),
        ("COPY customers TO '/tmp/granary-must-not-exist.csv'", "DML"),
        ("SET datafusion.execution.batch_size = 1", "Statement"),
        ("", "No SQL"),
    ] {
        let refused = world.sql(sql).await.expect_err(sql);
        assert_eq!(refused.code(), Code::InvalidArgument, "{sql}: {refused}");
        assert!(refused.message().contains(says), "{sql}: {refused}");
    }
    assert!(!std::path::Path::new("/tmp/granary-must-not-exist.csv").exists());
}

#[tokio::test]
async fn one_query_too_many_is_refused() {
    let settings =
        Settings { queries_max: 1, messages_waiting_max: 1, message_bytes_max: 10_000, ..Settings::default() };
    let mut world = World::with(settings, Default::default()).await;
    // Far more than the connection buffers, so that the first query is at work as long as nobody reads it.
    let endless = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
    let first = world.client.sql(SqlRequest { sql: endless.to_owned() }).await.expect("a permit");
    let refused = world.sql("SELECT 1").await.expect_err("no permit is left");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    // A caller that went away gives its permit back.
    while let Err(status) = world.sql("SELECT 1").await {
        assert_eq!(status.code(), Code::ResourceExhausted);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn memory_is_bounded() {
    let settings = Settings { memory_bytes_max: 1 << 20, spill_bytes_max: 1 << 10, ..Settings::default() };
    let mut world = World::with(settings, Default::default()).await;
    let sql = "SELECT count(*) FROM (SELECT value FROM generate_series(1, 2000000) GROUP BY value)";
    let refused = world.sql(sql).await.expect_err("more than a megabyte");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn a_query_ends_when_its_time_is_up() {
    let settings = Settings { query_time_max: Duration::from_millis(300), ..Settings::default() };
    let mut world = World::with(settings, Default::default()).await;
    let endless = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                   WHERE a.value * b.value < 0";
    let status = world.sql(endless).await.expect_err("no answer in time");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

/// Each computes for hours, reads next to nothing, and gives no row meanwhile: by making rows of rows, by pairs of equal
/// keys, and by pairs none of which fits.
const ENDLESS: [&str; 3] = [
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
    "SELECT count(*) FROM (SELECT value AS v, value * 0 AS k FROM generate_series(1, 1000000)) a \
     JOIN (SELECT value AS v, value * 0 AS k FROM generate_series(1, 1000000)) b ON a.k = b.k AND a.v * b.v < 0",
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value * b.value < 0",
];

#[tokio::test]
async fn queries_that_compute_end_with_their_callers() {
    let mut world = World::with(Settings::default(), Default::default()).await;
    for sql in ENDLESS {
        // More than there are threads for them.
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(world.client.sql(SqlRequest { sql: sql.to_owned() }).await.expect("begun"));
        }
        until_running(&world, 3.0).await;
        assert_eq!(world.running(), 3.0, "{sql}");
        drop(calls);
        until_running(&world, 0.0).await;
        assert_eq!(world.sql("SELECT 1").await.expect("a thread is free"), [["1"]]);
    }
}

/// Waits until at most `count` queries are at work: one counts until a moment after its answer.
async fn until_running(world: &World, count: f64) {
    let fewer = async {
        while world.running() > count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), fewer).await.expect("queries that end");
}

#[tokio::test]
async fn queries_that_compute_let_others_have_the_threads() {
    let mut world = World::with(Settings::default(), Default::default()).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(world.client.sql(SqlRequest { sql: ENDLESS[0].to_owned() }).await.expect("begun"));
    }
    for _ in 0..10 {
        assert_eq!(world.sql("SELECT count(*) FROM customers").await.expect("an answer"), [["0"]]);
    }
    until_running(&world, 3.0).await;
    assert_eq!(world.running(), 3.0, "they are still at it");
    drop(calls);
}
