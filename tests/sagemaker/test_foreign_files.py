"""Parquet files that another program writes under a group's prefix, as SageMaker's Spark connector does (contract 4.5)."""

import datetime
import pathlib

import deltalake
import pyarrow
import pyarrow.parquet
import pytest
from botocore.exceptions import ClientError

from conftest import Server, create_users, record, wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("foreign")
    with open(directory / "server.log", "wb") as log:
        settings = {"compactor.foreign_files_interval": "200ms", "compactor.flush_interval": "500ms"}
        server = Server(directory / "data", log, settings=settings)
        try:
            yield server.start()
        finally:
            server.stop()


def prefix(server, control, name):
    """The directory that the group's ResolvedOutputS3Uri stands for on a local disk."""
    storage = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]["S3StorageConfig"]
    return pathlib.Path(server.data_dir) / "offline" / storage["ResolvedOutputS3Uri"].removeprefix("s3://")


def write_as_spark(directory, user, trips, event_time, deleted=False):
    """Spark's own names, folders and timestamps; the file gets its name when it is whole."""
    time = datetime.datetime.fromisoformat(event_time)
    folder = directory / time.strftime("year=%Y/month=%m/day=%d/hour=%H")
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    table = pyarrow.table({
        "user_id": [user], "trips": pyarrow.array([trips], pyarrow.int64()), "avg_trip_duration": [1.5],
        "last_trip_time": ["t"], "event_time": [event_time], "write_time": [now], "api_invocation_time": [now],
        "is_deleted": [deleted],
    })
    path = folder / f"part-00000-{user}-{trips}.c000.parquet"
    hidden = folder / f".{path.name}.writing"
    pyarrow.parquet.write_table(table, hidden, compression="none", use_deprecated_int96_timestamps=True)
    hidden.rename(path)


def rows(server, name):
    found = server.rows("sql", f'SELECT user_id, trips FROM "{name}" ORDER BY user_id, trips')
    return [(row["user_id"], row["trips"]) for row in found]


def test_files_are_found_and_served(server, name):
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    create_users(control, name)
    directory = prefix(server, control, name)
    before = server.metric("granary_compactor_foreign_files_total")
    # Before anything was put, so before there is a table.
    write_as_spark(directory, "spark", 1, "2024-01-01T08:00:00Z")
    wait_until(lambda: rows(server, name) == [("spark", 1)], 30, "the first file's row")
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="put", trips="2", event_time="2024-01-01T09:00:00Z"))
    write_as_spark(directory, "spark", 3, "2024-01-02T08:00:00Z")
    wait_until(lambda: rows(server, name) == [("put", 2), ("spark", 1), ("spark", 3)], 30, "rows of both")
    for log in directory.rglob("_delta_log"):
        assert deltalake.DeltaTable(str(log.parent)).to_pyarrow_table().num_rows == 3
    # A file is counted once it is committed, so that its row may be seen first.
    counted = lambda: server.metric("granary_compactor_foreign_files_total") == before + 2
    wait_until(counted, 30, "both files are counted")


def test_a_file_that_the_table_names_is_not_changed_over_s3(server, name):
    control, s3 = server.client("sagemaker"), server.client("s3")
    create_users(control, name)
    directory = prefix(server, control, name)
    write_as_spark(directory, "spark", 1, "2024-01-01T08:00:00Z")
    wait_until(lambda: rows(server, name) == [("spark", 1)], 30, "the file's row")
    (path,) = directory.rglob("part-*.parquet")
    bucket, key = str(path.relative_to(pathlib.Path(server.data_dir) / "offline")).split("/", 1)
    before = path.read_bytes()
    for call in (
        lambda: s3.delete_object(Bucket=bucket, Key=key),
        lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"x"),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "AccessDenied"
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == before
    beside = key.replace("/part-", "/other-")
    s3.put_object(Bucket=bucket, Key=beside, Body=b"no parquet")
    s3.delete_object(Bucket=bucket, Key=beside)


def test_joins_place_their_rows_in_time(server, name):
    control = server.client("sagemaker")
    create_users(control, name)
    directory = prefix(server, control, name)
    write_as_spark(directory, "a", 1, "2024-01-01T00:00:00Z")
    write_as_spark(directory, "a", 2, "2024-02-01T00:00:00Z")
    write_as_spark(directory, "a", 9, "2024-03-01T00:00:00Z", deleted=True)
    wait_until(lambda: len(rows(server, name)) == 3, 30, "three rows")
    spine = ("SELECT 'a' AS user, timestamp '2024-01-15T00:00:00' AS at UNION ALL "
             "SELECT 'a', timestamp '2024-02-15T00:00:00' UNION ALL SELECT 'a', timestamp '2024-03-15T00:00:00'")
    found = server.rows("join", "--spine", spine, "--cut-off", "at", "--with", f"{name}:trips", "--key", f"{name}=user")
    assert sorted((row["at"][:7], row.get("trips")) for row in found) == [
        ("2024-01", 1), ("2024-02", 2), ("2024-03", None)]
