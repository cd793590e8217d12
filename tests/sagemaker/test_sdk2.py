"""The SageMaker Python SDK before version 3, unmodified, by the environment alone: the example every user starts from.

A group `user-features`; put and get; batch ingestion by several processes; queries by time range and time travel; a training
set from two groups. The SDK's own integration tests are run by `sdk_suites.py`.
"""

import datetime
import io
import os
import time

import boto3
import pandas
import pytest
from sagemaker.feature_store.feature_group import FeatureGroup, FeatureValue, IngestionError
from sagemaker.feature_store.feature_store import FeatureStore
from sagemaker.feature_store.feature_utils import get_feature_group_as_dataframe
from sagemaker.feature_store.inputs import (
    FeatureParameter, Identifier, OnlineStoreConfigUpdate, OnlineStoreStorageTypeEnum, TableFormatEnum, TtlDuration)
from sagemaker.feature_store.feature_definition import FractionalFeatureDefinition
from sagemaker.session import Session

from conftest import ROLE, wait_until

BUCKET = "user-data"
OUTPUT = f"s3://{BUCKET}/results"
START = datetime.datetime(2024, 5, 1, 8, tzinfo=datetime.timezone.utc)


def at(hours):
    return (START + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module")
def session(server, tmp_path_factory):
    """As a user who moved has it: one address, any credentials, telemetry off (it would call AWS at every put)."""
    config = tmp_path_factory.mktemp("sdk") / "config.yaml"
    config.write_text("SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n")
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1", "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
    }.items():
        patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield Session(boto_session=boto3.Session(region_name="us-east-1"), default_bucket=BUCKET)
    patch.undo()


def users(count=6, hours=0, factor=1.0):
    return pandas.DataFrame({
        "user_id": pandas.Series([f"u{i}" for i in range(count)], dtype="string"),
        "avg_trip_duration": [factor * (i + 0.5) for i in range(count)],
        "trips": [10 * i for i in range(count)],
        "last_trip_time": pandas.Series([at(hours)] * count, dtype="string"),
        "event_time": pandas.Series([at(hours)] * count, dtype="string"),
    })


def create(session, name, frame, **more):
    group = FeatureGroup(name=name, sagemaker_session=session)
    group.load_feature_definitions(data_frame=frame)
    group.create(
        **{"s3_uri": f"s3://{BUCKET}/history", "record_identifier_name": "user_id", "event_time_feature_name": "event_time",
           "role_arn": ROLE, "enable_online_store": True, **more})
    wait_until(lambda: group.describe()["FeatureGroupStatus"] == "Created", 30, "the group")
    return group


def values(record):
    return {value["FeatureName"]: value["ValueAsString"] for value in record}


def query(group, sql):
    athena = group.athena_query()
    athena.run(query_string=sql.format(table=f'"{athena.table_name}"'), output_location=OUTPUT)
    athena.wait()
    execution = athena.get_query_execution()["QueryExecution"]
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
    return athena.as_dataframe()


def wait_for_rows(group, count):
    wait_until(lambda: len(query(group, "SELECT * FROM {table}")) == count, 60, f"{count} rows offline")


@pytest.fixture
def fast(monkeypatch):
    """The SDK looks every five seconds whether a query has ended."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.2)))


def test_put_get_and_life_of_a_group(session, name):
    group = create(session, name, users(), tags=[{"Key": "team", "Value": "trips"}], description="riders")
    assert group.list_tags() == [{"Key": "team", "Value": "trips"}]
    group.put_record([
        FeatureValue(feature_name=feature, value_as_string=text)
        for feature, text in (("user_id", "7"), ("avg_trip_duration", "12.50"), ("trips", "007"), ("event_time", at(0)))])
    assert values(group.get_record("7")) == {
        "user_id": "7", "avg_trip_duration": "12.50", "trips": "007", "event_time": at(0)}
    assert values(group.get_record("7", feature_names=["trips"])) == {"trips": "007"}
    group.delete_record("7", at(1))
    assert group.get_record("7") is None
    group.update([FractionalFeatureDefinition(feature_name="rating")])
    wait_until(lambda: group.describe()["LastUpdateStatus"]["Status"] == "Successful", 30, "the update")
    group.update(online_store_config=OnlineStoreConfigUpdate(ttl_duration=TtlDuration(unit="Days", value=3)))
    assert group.describe()["OnlineStoreConfig"]["TtlDuration"] == {"Unit": "Days", "Value": 3}
    group.update_feature_metadata("rating", description="stars", parameter_additions=[FeatureParameter("unit", "star")])
    assert group.describe_feature_metadata("rating")["Parameters"] == [{"Key": "unit", "Value": "star"}]
    store = FeatureStore(session)
    found = store.search(resource="FeatureGroup", filters=[])["Results"]
    assert name in [result["FeatureGroup"]["FeatureGroupName"] for result in found]
    listed = store.list_feature_groups(name_contains=name)["FeatureGroupSummaries"]
    assert [summary["FeatureGroupName"] for summary in listed] == [name]
    group.delete()
    assert store.list_feature_groups(name_contains=name)["FeatureGroupSummaries"] == []


def test_ingestion_by_processes_and_failed_rows(session, name):
    frame = users(200)
    group = create(session, name, frame)
    manager = group.ingest(data_frame=frame, max_workers=2, max_processes=2, wait=True)
    assert manager.failed_rows == []
    store = FeatureStore(session)
    identifiers = [Identifier(feature_group_name=name, record_identifiers_value_as_string=[f"u{i}" for i in range(100)])]
    assert len(store.batch_get_record(identifiers)["Records"]) == 100
    frame.loc[3, "event_time"] = "yesterday"
    with pytest.raises(IngestionError) as caught:
        group.ingest(data_frame=frame, max_workers=1, max_processes=1, wait=True)
    assert caught.value.failed_rows == [3]


def test_queries_by_time_range_and_time_travel(session, name, fast):
    group = create(session, name, users())
    group.ingest(data_frame=users(), max_workers=1, wait=True)
    group.ingest(data_frame=users(3, hours=5, factor=2.0), max_workers=1, wait=True)
    group.delete_record("u0", at(6))
    wait_for_rows(group, 10)
    rows = query(group, "SELECT * FROM {table}")
    assert list(rows.columns) == [
        "user_id", "avg_trip_duration", "trips", "last_trip_time", "event_time", "write_time", "api_invocation_time",
        "is_deleted"]
    ranged = query(group, f"SELECT user_id FROM {{table}} WHERE event_time > '{at(1)}' AND event_time <= '{at(5)}'")
    assert sorted(ranged["user_id"]) == ["u0", "u1", "u2"]
    newest = query(group, (
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_time desc, Api_Invocation_Time "
        "DESC, write_time DESC) AS row_num FROM sagemaker_featurestore.{table}) WHERE row_num = 1 and NOT is_deleted;"))
    assert sorted(newest["user_id"]) == ["u1", "u2", "u3", "u4", "u5"]
    assert newest.set_index("user_id").loc["u1", "avg_trip_duration"] == 3.0
    then = query(group, (
        "SELECT user_id, avg_trip_duration FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_time "
        f"desc) AS row_num FROM {{table}} WHERE event_time <= '{at(1)}') WHERE row_num = 1 AND NOT is_deleted"))
    assert then.set_index("user_id").loc["u1", "avg_trip_duration"] == 1.5 and len(then) == 6
    group.put_record([
        FeatureValue(feature_name=feature, value_as_string=text)
        for feature, text in (("user_id", "last"), ("avg_trip_duration", "1"), ("trips", "1"), ("event_time", at(7)))])
    wait_for_rows(group, 11)
    latest = get_feature_group_as_dataframe(
        feature_group_name=name, athena_bucket=OUTPUT, event_time_feature_name="event_time", latest_ingestion=True,
        verbose=False, session=session)
    assert list(latest["user_id"]) == ["last"]


def test_a_bad_query_fails_with_a_reason(session, name, fast):
    group = create(session, name, users())
    athena = group.athena_query()
    athena.run(query_string="SELECT nonsense FROM nowhere", output_location=OUTPUT)
    athena.wait()
    status = athena.get_query_execution()["QueryExecution"]["Status"]
    assert status["State"] == "FAILED" and "nowhere" in status["StateChangeReason"]


def test_a_training_set_from_two_groups(session, name, fast):
    base = create(session, f"{name[:40]}-base", users())
    other = pandas.DataFrame({
        "user_id": pandas.Series([f"u{i}" for i in range(6)], dtype="string"),
        "age": [20 + i for i in range(6)],
        "event_time": pandas.Series([at(-1)] * 6, dtype="string"),
    })
    ages = create(session, f"{name[:40]}-ages", other)
    base.ingest(data_frame=users(), max_workers=1, wait=True)
    base.ingest(data_frame=users(hours=4), max_workers=1, wait=True)
    ages.ingest(data_frame=other, max_workers=1, wait=True)
    base.delete_record("u5", at(5))
    wait_for_rows(base, 13)
    wait_for_rows(ages, 6)
    store = FeatureStore(session)

    frame, sql = store.create_dataset(base=base, output_path=OUTPUT).with_feature_group(
        ages, target_feature_name_in_base="user_id").to_dataframe()
    assert "row_number()" in sql
    assert len(frame) == 10 and "u5" not in set(frame["user_id"])
    assert {"user_id", "avg_trip_duration", "user_id.1", "age.1"} <= set(frame.columns)
    recent, _ = store.create_dataset(base=base, output_path=OUTPUT).with_feature_group(
        ages, "user_id").point_in_time_accurate_join().with_number_of_recent_records_by_record_identifier(
        1).to_dataframe()
    assert sorted(recent["user_id"]) == ["u0", "u1", "u2", "u3", "u4"] and set(recent["event_time"]) == {at(4)}
    ranged, _ = store.create_dataset(base=base, output_path=OUTPUT).with_event_time_range(
        START - datetime.timedelta(hours=1), START + datetime.timedelta(hours=1)).include_deleted_records().to_dataframe()
    assert len(ranged) == 6
    # By write time, and without a zone: the SDK puts the text of what it gets into the query.
    past, _ = store.create_dataset(base=base, output_path=OUTPUT).as_of(
        START.replace(tzinfo=None) - datetime.timedelta(days=1)).to_dataframe()
    assert len(past) == 0
    spine = pandas.DataFrame({"user_id": ["u1", "u2"], "label": [1, 0], "event_time": [at(2), at(3)]})
    joined, _ = store.create_dataset(
        base=spine, output_path=OUTPUT, record_identifier_feature_name="user_id",
        event_time_identifier_feature_name="event_time").with_feature_group(
        ages, "user_id").point_in_time_accurate_join().to_dataframe()
    assert sorted(zip(joined["user_id"], joined["label"], joined["age.1"])) == [("u1", 1, 21), ("u2", 0, 22)]
    location, sql = store.create_dataset(base=base, output_path=OUTPUT).to_csv_file()
    bucket, key = location.removeprefix("s3://").split("/", 1)
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert len(pandas.read_csv(io.BytesIO(body))) == 10


def test_formats_and_storage_types(session, name):
    iceberg = create(session, f"{name[:40]}-ice", users(), table_format=TableFormatEnum.ICEBERG)
    assert iceberg.describe()["OfflineStoreConfig"]["TableFormat"] == "Iceberg"
    memory = create(session, f"{name[:40]}-mem", users(), s3_uri=False,
                    online_store_storage_type=OnlineStoreStorageTypeEnum.IN_MEMORY)
    assert memory.describe()["OnlineStoreConfig"]["StorageType"] == "InMemory"
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")
