"""Athena: what SQL means, what a result looks like, what is left after a crash."""

import csv
import io
import time
import uuid

import pytest
from botocore.exceptions import ClientError
from conftest import Server, create_users, record, wait_until

OUTPUT = "s3://athena-results/tests/"


@pytest.fixture(scope="session")
def athena(server):
    return server.client("athena")


@pytest.fixture(scope="session")
def s3(server):
    return server.client("s3")


def start(athena, sql, database="sagemaker_featurestore", **more):
    request = {
        "QueryString": sql,
        "QueryExecutionContext": {"Database": database, "Catalog": "AwsDataCatalog"},
        "ResultConfiguration": {"OutputLocation": OUTPUT},
        **more,
    }
    return athena.start_query_execution(**request)["QueryExecutionId"]


def ended(athena, execution_id, seconds=60):
    def look():
        execution = athena.get_query_execution(QueryExecutionId=execution_id)["QueryExecution"]
        return execution if execution["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED") else None

    return wait_until(look, seconds, f"the end of {execution_id}")


def body(s3, location):
    bucket, key = location.removeprefix("s3://").split("/", 1)
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()


def run(athena, s3, sql, **more):
    """The CSV of a query that succeeds."""
    execution = ended(athena, start(athena, sql, **more))
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
    return body(s3, execution["ResultConfiguration"]["OutputLocation"])


def value(athena, s3, expression):
    """What one expression is, as its field in the CSV."""
    return run(athena, s3, f"SELECT {expression} AS x").splitlines()[1]


def failure(athena, sql, **more):
    execution = ended(athena, start(athena, sql, **more))
    assert execution["Status"]["State"] == "FAILED", execution["Status"]
    return execution["Status"]["StateChangeReason"]


@pytest.fixture(scope="module")
def users(server):
    """A feature group with a history: its name and its table's."""
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    name = f"Users-{time.time_ns()}"
    create_users(control, name)
    for user, trips, second in [("a", "1", 1), ("a", "2", 2), ("b", "3", 3), ("c", "4", 4)]:
        event_time = f"2024-01-31T08:30:0{second}Z"
        put = record(user_id=user, trips=trips, avg_trip_duration="1.5", event_time=event_time)
        runtime.put_record(FeatureGroupName=name, Record=put)
    deleted = {"RecordIdentifierValueAsString": "c", "EventTime": "2024-01-31T08:30:09Z"}
    runtime.delete_record(FeatureGroupName=name, **deleted)
    catalog = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]["DataCatalogConfig"]
    assert catalog["Catalog"] == "AwsDataCatalog" and catalog["Database"] == "sagemaker_featurestore"
    athena, s3 = server.client("athena"), server.client("s3")
    count = f'SELECT count(*) AS n FROM "{catalog["TableName"]}"'
    wait_until(lambda: run(athena, s3, count) == '"n"\n"5"\n', 60, "the history")
    return name, catalog["TableName"]


def test_a_query_is_told_as_it_was_asked(athena, s3):
    sql = "  SELECT 1 AS One,\n\t'x' -- as written;\n"
    execution = ended(athena, start(athena, sql))
    assert execution["Query"] == sql
    assert execution["StatementType"] == "DML"
    assert execution["QueryExecutionContext"] == {"Database": "sagemaker_featurestore", "Catalog": "AwsDataCatalog"}
    assert execution["ResultConfiguration"]["OutputLocation"] == f"{OUTPUT}{execution['QueryExecutionId']}.csv"
    assert uuid.UUID(execution["QueryExecutionId"])
    assert execution["Status"]["CompletionDateTime"] >= execution["Status"]["SubmissionDateTime"]
    assert execution["Statistics"]["TotalExecutionTimeInMillis"] >= 0
    assert body(s3, execution["ResultConfiguration"]["OutputLocation"]) == '"One","_col1"\n"1","x"\n'


def test_values_are_written_as_athena_does(athena, s3):
    for expression, expected in [
        ("'a\"b'", '"a""b"'),
        ("''", '""'),
        ("CAST(NULL AS varchar)", ""),
        ("true", '"true"'),
        ("1 = 2", '"false"'),
        ("CAST(1 AS double)", '"1.0"'),
        ("1e10", '"1.0E10"'),
        ("timestamp '2020-11-14 00:00:00'", '"2020-11-14 00:00:00.000"'),
        ("from_unixtime(1.5)", '"1970-01-01 00:00:01.500 UTC"'),
        ("date '2020-02-29'", '"2020-02-29"'),
        ("ARRAY['a', NULL]", '"[a, null]"'),
    ]:
        assert value(athena, s3, expression) == expected, expression


def test_functions_mean_what_they_mean_to_trino(athena, s3):
    for expression, expected in [
        ("from_iso8601_timestamp('2023-01-02T03:04:05.678Z')", "2023-01-02 03:04:05.678 UTC"),
        ("from_iso8601_timestamp('9999-12-31T23:59:59Z')", "9999-12-31 23:59:59.000 UTC"),
        ("from_unixtime('2023-01-02T03:04:05Z')", "2023-01-02 03:04:05.000 UTC"),
        ("to_timestamp('2023-05-06 17:08:09', 'yyyy-mm-dd hh24:mi:ss')", "2023-05-06 17:08:09.000"),
        ("from_unixtime(0) = timestamp '1970-01-01 00:00:00'", "true"),
        ("5 / 2", "2"),
        ("mod(-5, 3)", "-2"),
        ("date_diff('day', date '2024-02-28', date '2024-03-01')", "2"),
        ("date_diff('month', timestamp '2024-01-31 00:00:00', timestamp '2024-02-28 00:00:00')", "0"),
        ("date_add('month', 1, date '2024-01-31')", "2024-02-29"),
        ("date_format(timestamp '2024-01-02 03:04:05', '%Y/%m/%d %H:%i')", "2024/01/02 03:04"),
        ("date_parse('02.01.2024', '%d.%m.%Y')", "2024-01-02 00:00:00.000"),
        ("date_trunc('hour', timestamp '2024-01-02 03:04:05')", "2024-01-02 03:00:00.000"),
        ("year(date '2024-02-29')", "2024"),
        ("day_of_week(date '2024-02-25')", "7"),
        ("to_unixtime(timestamp '1970-01-01 00:00:01')", "1.0"),
        ("concat('a', 'b', 'c')", "abc"),
        ("coalesce(concat('a', CAST(NULL AS varchar)), 'null')", "null"),
        ("if(1 < 2, 'yes', 'no')", "yes"),
        ("json_extract_scalar('{\"a\": [1, {\"b\": \"x\"}]}', '$.a[1].b')", "x"),
        ("regexp_like('abc', '^a.c$')", "true"),
        ("try_cast('x' AS bigint) IS NULL", "true"),
        ("element_at(ARRAY[1, 2, 3], 2)", "2"),
        ("cardinality(ARRAY[1, 2])", "2"),
        ("contains(ARRAY[1, 2], 2)", "true"),
        ("round(2.5)", "3.0"),
        ("CAST('2024-01-02 03:04:05' AS timestamp)", "2024-01-02 03:04:05.000"),
        ("timestamp '2024-01-02 00:00:00' + interval '1' day", "2024-01-03 00:00:00.000"),
    ]:
        assert value(athena, s3, expression) == f'"{expected}"', expression


def test_aggregates_and_orders(athena, s3):
    rows = "(VALUES (1, 'a', 3.0), (1, 'b', 1.0), (2, 'c', NULL)) AS t(k, v, w)"
    text = run(athena, s3, f"SELECT k, max_by(v, w) AS v, count_if(w > 2) AS n FROM {rows} GROUP BY k ORDER BY k")
    # What has nothing to compare by is passed over.
    assert text.splitlines()[1:] == ['"1","a","1"', '"2",,"0"']
    # Nulls are last, whichever the direction.
    for direction in ("ASC", "DESC"):
        assert run(athena, s3, f"SELECT w FROM {rows} ORDER BY w {direction}").splitlines()[-1] == ""
    assert run(athena, s3, f"SELECT approx_distinct(k) AS x FROM {rows}").splitlines()[1] == '"2"'
    assert run(athena, s3, f"SELECT array_agg(v ORDER BY v) AS x FROM {rows}").splitlines()[1] == '"[a, b, c]"'


def test_a_group_is_a_table_with_sagemakers_columns(athena, s3, users):
    _, table = users
    lines = list(csv.reader(io.StringIO(run(athena, s3, f'SELECT * FROM "{table}";'))))
    columns = "user_id trips avg_trip_duration last_trip_time event_time write_time api_invocation_time is_deleted"
    assert lines[0] == columns.split()
    assert len(lines) == 6
    # Found in any case, quoted or not, with its database and without, as documentation writes it (contract 4.6).
    latest = f"""
        SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY User_Id ORDER BY EVENT_TIME desc,
            Api_Invocation_Time DESC, write_time DESC) AS row_num
        FROM "sagemaker_featurestore"."{table.upper()}") WHERE row_num = 1 and NOT is_deleted ORDER BY "USER_ID";"""
    latest = list(csv.reader(io.StringIO(run(athena, s3, latest))))
    assert [row[:2] for row in latest[1:]] == [["a", "2"], ["b", "3"]]
    count = f"SELECT count(*) AS n FROM AwsDataCatalog.sagemaker_featurestore.{table} WHERE is_deleted=False"
    assert run(athena, s3, count) == '"n"\n"4"\n'
    until = f"SELECT max(trips) AS m FROM {table} WHERE from_iso8601_timestamp(event_time) <= timestamp '2024-01-31 08:30:02'"
    assert run(athena, s3, until) == '"m"\n"2"\n'


def test_pages_of_a_result(athena):
    execution = ended(athena, start(athena, "SELECT x, CAST(NULL AS varchar) AS n FROM UNNEST(sequence(1, 5)) AS t(x)"))
    execution_id = execution["QueryExecutionId"]
    paginator = athena.get_paginator("get_query_results")
    pages = list(paginator.paginate(QueryExecutionId=execution_id, PaginationConfig={"PageSize": 2}))
    assert [len(page["ResultSet"]["Rows"]) for page in pages] == [2, 2, 2]
    rows = [row["Data"] for page in pages for row in page["ResultSet"]["Rows"]]
    assert rows[0] == [{"VarCharValue": "x"}, {"VarCharValue": "n"}]
    assert sorted(row[0]["VarCharValue"] for row in rows[1:]) == ["1", "2", "3", "4", "5"]
    assert all(row[1] == {} for row in rows[1:])
    info = pages[0]["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    assert [(column["Name"], column["Type"]) for column in info] == [("x", "bigint"), ("n", "varchar")]
    with pytest.raises(ClientError) as refused:
        athena.get_query_results(QueryExecutionId=execution_id, NextToken="nonsense")
    assert refused.value.response["Error"]["Code"] == "InvalidRequestException"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELEKT 1", "SYNTAX_ERROR"),
        ("SELECT * FROM nowhere", "TABLE_NOT_FOUND"),
        ("SELECT missing FROM (SELECT 1 AS x)", "COLUMN_NOT_FOUND"),
        ("SELECT * FROM (SELECT 1 AS a) x CROSS JOIN (SELECT 1 AS a) y ON x.a = y.a", "found: ON"),
        ("SELECT 1; SELECT 2", "Only one sql statement is allowed"),
        ("SELECT 1 / (x - 1) FROM (VALUES (1)) AS t(x)", "DIVISION_BY_ZERO"),
        ("INSERT INTO t VALUES (1)", "NOT_SUPPORTED"),
        ("SELECT from_iso8601_timestamp('yesterday')", "INVALID_FUNCTION_ARGUMENT"),
        ("CREATE EXTERNAL TABLE t (a struct<b:int>)", "LOCATION"),
    ],
)
def test_a_wrong_statement_is_an_execution_that_failed(athena, sql, reason):
    execution = ended(athena, start(athena, sql))
    assert execution["Status"]["State"] == "FAILED"
    assert reason in execution["Status"]["StateChangeReason"]
    assert execution["Status"]["AthenaError"]["ErrorCategory"] == 2
    with pytest.raises(ClientError) as refused:
        athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])
    assert "FAILED" in refused.value.response["Error"]["Message"]


def test_wrong_requests_are_refused(athena):
    for request in [
        {"QueryString": "SELECT 1", "ResultConfiguration": {}},
        {"QueryString": "SELECT 1", "ResultConfiguration": {"OutputLocation": "/local/path"}},
        {"QueryString": "SELECT 1", "ResultConfiguration": {"OutputLocation": "s3://../x"}},
        {"QueryString": "x" * 262_145, "ResultConfiguration": {"OutputLocation": OUTPUT}},
        {"QueryString": "SELECT 1", "ResultConfiguration": {"OutputLocation": OUTPUT}, "WorkGroup": "a b"},
    ]:
        with pytest.raises(ClientError) as refused:
            athena.start_query_execution(**request)
        assert refused.value.response["Error"]["Code"] == "InvalidRequestException"
    with pytest.raises(ClientError) as refused:
        athena.get_query_execution(QueryExecutionId="../../secret")
    assert refused.value.response["Error"]["Code"] == "InvalidRequestException"


def test_a_request_token_starts_one_query(athena):
    token = str(uuid.uuid4())
    first = start(athena, "SELECT 1", ClientRequestToken=token)
    assert start(athena, "SELECT 1", ClientRequestToken=token) == first
    with pytest.raises(ClientError) as refused:
        start(athena, "SELECT 2", ClientRequestToken=token)
    assert "Idempotent" in refused.value.response["Error"]["Message"]


def test_parameters_take_the_places_of_question_marks(athena, s3):
    text = run(athena, s3, "SELECT ? AS a, '?' AS b", ExecutionParameters=["'it''s'"])
    assert text == '"a","b"\n"it\'s","?"\n'
    assert "parameters" in failure(athena, "SELECT ?, ?", ExecutionParameters=["1"])


#: Runs for minutes unless it is stopped, and gives no row.
ENDLESS = (
    "SELECT count(*) FROM UNNEST(sequence(1, 100000)) AS a(x) CROSS JOIN UNNEST(sequence(1, 100000)) AS b(y) "
    "CROSS JOIN UNNEST(sequence(1, 1000)) AS c(z) WHERE (x * y + z) % 1000003 = -1"
)


def running(athena, sql):
    execution_id = start(athena, sql)

    def look():
        status = athena.get_query_execution(QueryExecutionId=execution_id)["QueryExecution"]["Status"]
        assert status["State"] in ("QUEUED", "RUNNING"), status
        return status["State"] == "RUNNING"

    wait_until(look, 60, "the query to run")
    return execution_id


def test_a_query_that_is_stopped_was_cancelled(athena, s3):
    execution_id = running(athena, ENDLESS)
    with pytest.raises(ClientError) as refused:
        athena.get_query_results(QueryExecutionId=execution_id)
    assert "RUNNING" in refused.value.response["Error"]["Message"]
    athena.stop_query_execution(QueryExecutionId=execution_id)
    execution = ended(athena, execution_id)
    assert execution["Status"]["State"] == "CANCELLED"
    with pytest.raises(ClientError):
        body(s3, execution["ResultConfiguration"]["OutputLocation"])
    # Stopping it again is no fault.
    athena.stop_query_execution(QueryExecutionId=execution_id)


def test_lists_and_batches_of_executions(athena):
    group = f"group-{time.time_ns()}"
    ids = [start(athena, f"SELECT {number}", WorkGroup=group) for number in range(3)]
    paginator = athena.get_paginator("list_query_executions")
    pages = paginator.paginate(WorkGroup=group, PaginationConfig={"PageSize": 2})
    assert [found for page in pages for found in page["QueryExecutionIds"]] == sorted(ids, reverse=True)
    missing = str(uuid.uuid4())
    batch = athena.batch_get_query_execution(QueryExecutionIds=[*ids, missing])
    assert [execution["QueryExecutionId"] for execution in batch["QueryExecutions"]] == ids
    assert [entry["QueryExecutionId"] for entry in batch["UnprocessedQueryExecutionIds"]] == [missing]


def test_a_data_frame_builders_table(athena, s3):
    """As the dataset builder of SDK 2 makes one of a DataFrame: a CSV, and a table over it (contract 5.3)."""
    name = f"dataframe_{time.time_ns()}"
    text = "7,2024-01-01T00:00:00Z,1.5,True\n8,`with, comma`,,False\n"
    s3.put_object(Bucket="frames", Key=f"{name}/frame.csv", Body=text.encode())
    create = (
        f"CREATE EXTERNAL TABLE {name} (id INT, ev STRING, x DOUBLE, flag BOOLEAN) "
        "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' "
        'WITH SERDEPROPERTIES ("separatorChar" = ",", "quoteChar" = "`", "escapeChar" = "\\\\") '
        f"LOCATION 's3://frames/{name}';"
    )
    execution = ended(athena, start(athena, create))
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
    assert execution["StatementType"] == "DDL"
    found = run(athena, s3, f"SELECT * FROM {name} ORDER BY id")
    assert found == (
        '"id","ev","x","flag"\n"7","2024-01-01T00:00:00Z","1.5","true"\n"8","with, comma",,"false"\n'
    )
    execution = ended(athena, start(athena, f"SHOW TABLES '{name[:14]}*'"))
    rows = athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])["ResultSet"]["Rows"]
    assert {"Data": [{"VarCharValue": name}]} in rows
    # 32 bits are not enough for this one.
    s3.put_object(Bucket="frames", Key=f"{name}/wide.csv", Body=b"3000000000,a,1,true\n")
    assert failure(athena, f"SELECT sum(id) FROM {name}")
    assert ended(athena, start(athena, f"DROP TABLE {name}"))["Status"]["State"] == "SUCCEEDED"
    assert "TABLE_NOT_FOUND" in failure(athena, f"SELECT * FROM {name}")
    assert "TABLE_NOT_FOUND" in failure(athena, f"DROP TABLE {name}")
    assert ended(athena, start(athena, f"DROP TABLE IF EXISTS {name}"))["Status"]["State"] == "SUCCEEDED"


def test_a_killed_query_has_failed_after_the_restart(tmp_path):
    with open(tmp_path / "server.log", "wb") as log:
        server = Server(tmp_path / "data", log)
        try:
            server.start()
            athena, s3 = server.client("athena"), server.client("s3")
            done = ended(athena, start(athena, "SELECT 1"))["QueryExecutionId"]
            # Much of its result is written by the time it is killed.
            wide = "SELECT a.x, b.y, 'text' FROM UNNEST(sequence(1, 30000)) AS a(x) CROSS JOIN UNNEST(sequence(1, 30000)) AS b(y)"
            killed = [running(athena, wide), running(athena, ENDLESS)]
            server.kill()
            server.start()
            for execution_id in killed:
                execution = ended(athena, execution_id)
                assert execution["Status"]["State"] == "FAILED"
                assert "process" in execution["Status"]["StateChangeReason"]
                with pytest.raises(ClientError):
                    body(s3, execution["ResultConfiguration"]["OutputLocation"])
            listed = s3.list_objects_v2(Bucket="athena-results")["Contents"]
            assert [entry["Key"] for entry in listed] == [f"tests/{done}.csv"]
            assert ended(athena, done)["Status"]["State"] == "SUCCEEDED"
            assert athena.get_query_results(QueryExecutionId=done)["ResultSet"]["Rows"][1] == {"Data": [{"VarCharValue": "1"}]}
        finally:
            if server.process and server.process.poll() is None:
                server.stop()
