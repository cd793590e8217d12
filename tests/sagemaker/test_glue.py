"""Glue's tables, awswrangler over them, and the dataset builder of SDK 2: each unmodified, directed by the environment."""

import time

import pandas as pd
import pytest
from botocore.exceptions import ClientError
from conftest import create_users, record, wait_until
from test_athena import ended, run, start

FEATURE_STORE = "sagemaker_featurestore"


@pytest.fixture(scope="session")
def glue(server):
    return server.client("glue")


@pytest.fixture
def environment(server, monkeypatch):
    """What a user sets, and nothing else."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def code(refused):
    return refused.value.response["Error"]["Code"]


def table_input(name, **more):
    storage = {
        "Columns": [{"Name": "id", "Type": "bigint"}, {"Name": "text", "Type": "string"}],
        "Location": f"s3://tables/{name}/",
        "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
        "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
        "SerdeInfo": {
            "SerializationLibrary": "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
            "Parameters": {"field.delim": ","},
        },
    }
    return {"Name": name, "StorageDescriptor": storage, "TableType": "EXTERNAL_TABLE", **more}


@pytest.fixture(scope="module")
def history(server):
    """A feature group with five events, in the offline store: its name and its table's."""
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    name = f"Glue-{time.time_ns()}"
    create_users(control, name)
    for second in range(5):
        put = record(user_id=f"u{second % 3}", trips=f"{second}", event_time=f"2024-01-31T08:30:0{second}Z")
        runtime.put_record(FeatureGroupName=name, Record=put)
    table = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]["DataCatalogConfig"]["TableName"]
    athena, s3 = server.client("athena"), server.client("s3")
    count = f'SELECT count(*) AS n FROM "{table}"'
    wait_until(lambda: run(athena, s3, count) == '"n"\n"5"\n', 60, "the history")
    return name, table


def test_a_feature_group_is_a_table(control, glue, history):
    name, table = history
    offline = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]
    found = glue.get_table(DatabaseName=FEATURE_STORE, Name=table)["Table"]
    assert found["DatabaseName"] == FEATURE_STORE and found["TableType"] == "EXTERNAL_TABLE"
    assert found["StorageDescriptor"]["Location"] == offline["S3StorageConfig"]["ResolvedOutputS3Uri"]
    assert [(column["Name"], column["Type"]) for column in found["StorageDescriptor"]["Columns"]] == [
        ("user_id", "string"),
        ("trips", "bigint"),
        ("avg_trip_duration", "double"),
        ("last_trip_time", "string"),
        ("event_time", "string"),
        ("write_time", "timestamp"),
        ("api_invocation_time", "timestamp"),
        ("is_deleted", "boolean"),
    ]
    assert glue.get_partitions(DatabaseName=FEATURE_STORE, TableName=table)["Partitions"] == []
    assert table in [entry["Name"] for entry in glue.get_tables(DatabaseName=FEATURE_STORE)["TableList"]]
    for call in (
        lambda: glue.delete_table(DatabaseName=FEATURE_STORE, Name=table),
        lambda: glue.update_table(DatabaseName=FEATURE_STORE, TableInput={"Name": table}),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert code(refused) == "InvalidInputException"
    with pytest.raises(ClientError) as refused:
        glue.create_table(DatabaseName=FEATURE_STORE, TableInput=table_input(table))
    assert code(refused) == "AlreadyExistsException"


def test_a_group_that_wants_no_table_has_none(server, control, glue):
    name = f"no-table-{time.time_ns()}"
    config = {"S3StorageConfig": {"S3Uri": "s3://features/history"}, "DisableGlueTableCreation": True}
    create_users(control, name, OfflineStoreConfig=config)
    names = [entry["Name"] for entry in glue.get_tables(DatabaseName=FEATURE_STORE)["TableList"]]
    assert not [found for found in names if found.startswith(name.replace("-", "_"))]


def test_databases_and_tables_come_and_go(server, glue):
    athena, s3 = server.client("athena"), server.client("s3")
    database = f"db_{time.time_ns()}"
    glue.create_database(DatabaseInput={"Name": database.upper(), "Description": "mine"})
    assert glue.get_database(Name=database)["Database"]["Description"] == "mine"
    assert database in [entry["Name"] for entry in glue.get_databases()["DatabaseList"]]
    with pytest.raises(ClientError) as refused:
        glue.create_database(DatabaseInput={"Name": database})
    assert code(refused) == "AlreadyExistsException"
    names = [f"t{number}" for number in range(5)]
    for name in names:
        glue.create_table(DatabaseName=database, TableInput=table_input(name))
    pages = glue.get_paginator("get_tables").paginate(DatabaseName=database, PaginationConfig={"PageSize": 2})
    assert [entry["Name"] for page in pages for entry in page["TableList"]] == names
    matching = glue.get_tables(DatabaseName=database, Expression="t[13]")["TableList"]
    assert [entry["Name"] for entry in matching] == ["t1", "t3"]
    s3.put_object(Bucket="tables", Key="t0/part", Body=b"7,seven\n,\n")
    assert run(athena, s3, f'SELECT * FROM {database}.T0 ORDER BY id') == '"id","text"\n"7","seven"\n,""\n'
    changed = table_input("t0", Parameters={"skip.header.line.count": "1"})
    glue.update_table(DatabaseName=database, TableInput=changed, VersionId="0")
    assert glue.get_table(DatabaseName=database, Name="t0")["Table"]["VersionId"] == "1"
    assert run(athena, s3, f'SELECT * FROM {database}.t0') == '"id","text"\n,""\n'
    with pytest.raises(ClientError) as refused:
        glue.update_table(DatabaseName=database, TableInput=changed, VersionId="0")
    assert code(refused) == "ConcurrentModificationException"
    errors = glue.batch_delete_table(DatabaseName=database, TablesToDelete=["t1", "missing"])["Errors"]
    assert [error["TableName"] for error in errors] == ["missing"]
    with pytest.raises(ClientError) as refused:
        glue.get_table(DatabaseName=database, Name="t1")
    assert code(refused) == "EntityNotFoundException"
    glue.delete_database(Name=database)
    for call in (
        lambda: glue.get_database(Name=database),
        lambda: glue.get_table(DatabaseName=database, Name="t0"),
        lambda: glue.get_tables(DatabaseName="nowhere"),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert code(refused) == "EntityNotFoundException"
    with pytest.raises(ClientError) as refused:
        glue.create_table(DatabaseName=FEATURE_STORE, TableInput=table_input("../../x"))
    assert code(refused) == "InvalidInputException"


@pytest.mark.parametrize("approach", [{"ctas_approach": False}, {"ctas_approach": True}, {"unload_approach": True, "ctas_approach": False}])
def test_awswrangler_reads_the_history(environment, history, approach):
    wr = pytest.importorskip("awswrangler")
    _, table = history
    output = f"s3://wrangler/out-{time.time_ns()}/"
    sql = f'SELECT user_id, trips, event_time, write_time, is_deleted FROM "{table}" ORDER BY trips'
    frame = wr.athena.read_sql_query(sql, database=FEATURE_STORE, s3_output=output, **approach)
    assert frame["trips"].tolist() == [0, 1, 2, 3, 4]
    assert frame["user_id"].tolist() == ["u0", "u1", "u2", "u0", "u1"]
    assert frame["is_deleted"].tolist() == [False] * 5
    assert pd.api.types.is_datetime64_any_dtype(frame["write_time"])
    # What was made on the way is gone.
    assert not [entry for entry in wr.catalog.tables(database=FEATURE_STORE)["Table"] if entry.startswith("temp_table")]


def test_awswrangler_writes_a_table(environment, server):
    wr = pytest.importorskip("awswrangler")
    database = f"wr_{time.time_ns()}"
    wr.catalog.create_database(database)
    frame = pd.DataFrame({"id": [1, 2], "name": ["a", "b"], "at": pd.to_datetime(["2024-01-01", "2024-01-02"])})
    wr.s3.to_parquet(frame, path=f"s3://wrangler/{database}/", dataset=True, database=database, table="people")
    assert wr.catalog.table(database=database, table="people")["Column Name"].tolist() == ["id", "name", "at"]
    output = f"s3://wrangler/out-{database}/"
    found = wr.athena.read_sql_query("SELECT * FROM people ORDER BY id", database=database, s3_output=output, ctas_approach=False)
    assert found["name"].tolist() == ["a", "b"] and found["at"].tolist() == frame["at"].tolist()
    assert wr.catalog.delete_table_if_exists(database=database, table="people")
    wr.catalog.delete_database(database)


def test_tables_made_of_queries(server):
    athena, s3 = server.client("athena"), server.client("s3")
    name = f"ctas_{time.time_ns()}"
    create = f"CREATE TABLE {name} WITH (format = 'PARQUET') AS SELECT x AS id, 'text' AS t FROM UNNEST(sequence(1, 3)) AS a(x)"
    execution = ended(athena, start(athena, create))
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
    assert run(athena, s3, f"SELECT count(*) AS n, max(id) AS m FROM {name}") == '"n","m"\n"3","3"\n'
    assert ended(athena, start(athena, create))["Status"]["StateChangeReason"].startswith("TABLE_ALREADY_EXISTS")


def sdk_session(environment, server):
    sagemaker = pytest.importorskip("sagemaker")
    boto3 = pytest.importorskip("boto3")
    session = boto3.Session(region_name="us-east-1")
    return sagemaker.Session(
        boto_session=session,
        sagemaker_client=session.client("sagemaker"),
        sagemaker_featurestore_runtime_client=session.client("sagemaker-featurestore-runtime"),
        default_bucket="sdk-default",
    )


def test_sdk_2_queries_a_group(environment, server, history):
    pytest.importorskip("sagemaker.feature_store.feature_group")
    from sagemaker.feature_store.feature_group import FeatureGroup

    name, table = history
    query = FeatureGroup(name=name, sagemaker_session=sdk_session(environment, server)).athena_query()
    query.run(query_string=f'SELECT * FROM "{query.table_name}" ORDER BY trips', output_location="s3://sdk/out")
    query.wait()
    frame = query.as_dataframe()
    assert frame["trips"].tolist() == [0, 1, 2, 3, 4]
    assert frame.columns.tolist()[-3:] == ["write_time", "api_invocation_time", "is_deleted"]


def test_sdk_2_builds_a_data_set(environment, server, history):
    pytest.importorskip("sagemaker.feature_store.feature_store")
    from sagemaker.feature_store.feature_group import FeatureGroup
    from sagemaker.feature_store.feature_store import FeatureStore

    name, _ = history
    session = sdk_session(environment, server)
    group = FeatureGroup(name=name, sagemaker_session=session)
    store = FeatureStore(session)
    builder = store.create_dataset(base=group, output_path="s3://sdk/sets")
    frame, sql = builder.with_number_of_recent_records_by_record_identifier(1).to_dataframe()
    assert sorted(zip(frame["user_id"], frame["trips"])) == [("u0", 3), ("u1", 4), ("u2", 2)]
    assert "WITH fg_base AS" in sql
    # A DataFrame as the base, joined with the group.
    base = pd.DataFrame({"id": ["u0", "u2"], "at": ["2024-02-01T00:00:00Z", "2024-02-01T00:00:00Z"], "label": [1.5, 2.5]})
    builder = store.create_dataset(
        base=base,
        output_path="s3://sdk/sets",
        record_identifier_feature_name="id",
        event_time_identifier_feature_name="at",
    ).with_feature_group(group, "id", ["trips"]).point_in_time_accurate_join()
    frame, _ = builder.to_dataframe()
    assert set(frame["label"]) == {1.5, 2.5}
    trips = [column for column in frame.columns if column.startswith("trips")]
    assert sorted(frame[trips[0]]) == [0, 2, 3]
    # As of a time before the first write there is nothing.
    from datetime import datetime, timezone

    builder = store.create_dataset(base=group, output_path="s3://sdk/sets").as_of(datetime(2020, 1, 1))
    frame, _ = builder.to_dataframe()
    assert len(frame) == 0
    # By the time of the events.
    builder = store.create_dataset(base=group, output_path="s3://sdk/sets").with_event_time_range(
        datetime(2024, 1, 31, 8, 30, 2, tzinfo=timezone.utc), datetime(2024, 1, 31, 8, 30, 3, tzinfo=timezone.utc)
    )
    frame, _ = builder.to_dataframe()
    assert sorted(frame["trips"]) == [2, 3]
