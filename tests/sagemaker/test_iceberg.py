"""Groups of TableFormat Iceberg: what pyiceberg reads is what deltalake reads of the same files, through kills."""

import concurrent.futures
import json
import pathlib
import threading

import deltalake
import pyarrow
import pyarrow.parquet
import pytest
from botocore.exceptions import ClientError
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import EqualTo, GreaterThanOrEqual
from pyiceberg.table import StaticTable
from pyiceberg.types import StringType

from conftest import ROLE, Server, create_users, record, wait_until
from test_crash import KEYS, KILLS, Load


def create(control, name, **offline):
    return create_users(
        control,
        name,
        OfflineStoreConfig={"S3StorageConfig": {"S3Uri": "s3://features/ice"}, "TableFormat": "Iceberg", **offline},
    )


class Books:
    """One table's directory, which both kinds of readers know."""

    def __init__(self, server, group):
        self.above = pathlib.Path(server.data_dir), f"offline-store/{group}-"

    @property
    def directory(self):
        root, part = self.above
        logs = [log for log in root.rglob("_delta_log") if part in str(log)]
        return logs[0].parent.parent if logs else None

    def delta(self, version=None):
        return deltalake.DeltaTable(str(self.directory / "data"), version=version)

    def has_rows(self):
        """Whether the Delta table has more than its first commit, which makes it."""
        try:
            return self.directory is not None and self.delta().version() >= 1
        except deltalake.exceptions.TableNotFoundError:
            return False  # its directory is there, its first commit not yet

    def iceberg(self):
        """As the hint says, which is all that a reader of a bare directory knows."""
        metadata = self.directory / "metadata"
        number = (metadata / "version-hint.text").read_text()
        return StaticTable.from_metadata(str(metadata / f"v{number}.metadata.json"))

    def shown(self):
        """The Delta version that is shown; None as long as nothing is."""
        if not self.directory or not (self.directory / "metadata" / "version-hint.text").exists():
            return None
        return int(self.iceberg().metadata.properties["granary.delta-version"])

    def rows(self):
        return 0 if self.shown() is None else self.iceberg().scan().to_arrow().num_rows

    def caught_up(self):
        return self.shown() is not None and self.shown() == self.delta().version()


def sorted_rows(table):
    """Rows in the order of their events, without regard to how wide a reader makes its strings."""
    rows = table.to_pylist()
    return sorted(rows, key=lambda row: (row["granary_stream"] or "", row["granary_sequence"] or 0, row["user_id"]))


def test_pyiceberg_reads_what_deltalake_reads(server, control, runtime, name):
    create(control, name)
    described = control.describe_feature_group(FeatureGroupName=name)
    assert described["OfflineStoreConfig"]["TableFormat"] == "Iceberg"
    books = Books(server, name)
    for day in range(1, 4):
        for user in range(20):
            values = {
                "user_id": f"u{user}",
                "trips": str(user * day),
                "event_time": f"2024-01-{day:02d}T08:{user:02d}:00.{day}Z",
            }
            if user % 2:
                values["avg_trip_duration"] = str(user / 4)
            runtime.put_record(FeatureGroupName=name, Record=record(**values))
        wait_until(lambda: books.rows() == 20 * day, 60, f"day {day} in the Iceberg table")
    runtime.delete_record(
        FeatureGroupName=name, RecordIdentifierValueAsString="u3", EventTime="2024-02-01T00:00:00Z"
    )
    wait_until(lambda: books.rows() == 61, 60, "the delete in the Iceberg table")
    wait_until(books.caught_up, 60, "the newest version shown")

    table = books.iceberg()
    rows = sorted_rows(table.scan().to_arrow())
    assert rows == sorted_rows(books.delta().to_pyarrow_table())
    assert [row["is_deleted"] for row in rows].count(True) == 1

    # By day, by instant, by value: what is skipped is what does not match.
    second = table.scan(row_filter=EqualTo("event_time", "2024-01-02T08:05:00.2Z"))
    assert [row["user_id"] for row in second.to_arrow().to_pylist()] == ["u5"]
    assert {task.file.partition[0] for task in second.plan_files()} == {"2024-01-02"}
    late = table.scan(row_filter=GreaterThanOrEqual("granary_event_time", "2024-01-03T08:10:00+00:00"))
    assert late.to_arrow().num_rows == 11
    assert all("2024-01-03" in task.file.file_path or "2024-02-01" in task.file.file_path for task in late.plan_files())
    assert table.scan(row_filter=EqualTo("user_id", "u3")).to_arrow().num_rows == 4

    # Time travel: each snapshot is the Delta version that it names.
    snapshots = table.metadata.snapshots
    assert len(snapshots) >= 3
    for snapshot in snapshots:
        version = int(snapshot.summary["granary.delta-version"])
        then = sorted_rows(table.scan(snapshot_id=snapshot.snapshot_id).to_arrow())
        assert then == sorted_rows(books.delta(version).to_pyarrow_table()), f"version {version}"
        assert int(snapshot.summary["total-records"]) == len(then)


def test_layout_follows_the_contract(server, control, runtime, name):
    create(control, name)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", trips="7", event_time="2024-01-31T08:30:00Z"))
    books = Books(server, name)
    wait_until(lambda: books.rows() == 1, 60, "the row in the Iceberg table")
    files = list((books.directory / "data").rglob("*.parquet"))
    assert len(files) == 1
    prefix, day, _ = files[0].relative_to(books.directory / "data").parts
    assert len(prefix) == 8 and prefix.isalnum()
    assert day == "event_time_trunc=2024-01-31"
    table = books.iceberg()
    resolved = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]["S3StorageConfig"]
    assert table.location() + "/data" == resolved["ResolvedOutputS3Uri"]
    assert table.location().startswith(resolved["S3Uri"])
    assert [str(field.transform) for field in table.spec().fields] == ["truncate[10]"]
    numbered = {field.name: field.metadata[b"PARQUET:field_id"] for field in pyarrow.parquet.read_schema(files[0])}
    assert numbered == {field.name: str(field.field_id).encode() for field in table.schema().fields}
    names = [field.name for field in table.schema().fields]
    assert names[:8] == [
        "user_id", "trips", "avg_trip_duration", "last_trip_time", "event_time",
        "write_time", "api_invocation_time", "is_deleted",
    ]


def test_rows_that_another_program_adds_to_the_table_are_shown(server, control, runtime, name):
    create(control, name)
    books = Books(server, name)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", trips="7", event_time="2024-01-31T08:30:00Z"))
    wait_until(lambda: books.rows() == 1, 60, "the row in the Iceberg table")
    ours = books.delta().to_pyarrow_table()
    theirs = [
        {**dict.fromkeys(ours.schema.names), "user_id": str(user), "event_time": f"2024-03-{user:02d}T00:00:00Z"}
        for user in range(10, 20)
    ]
    # No day, no numbers, no provenance.
    deltalake.write_deltalake(
        str(books.directory / "data"), pyarrow.Table.from_pylist(theirs, schema=ours.schema), mode="append"
    )
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", trips="8", event_time="2024-01-31T08:31:00Z"))
    wait_until(lambda: books.rows() == 12 and books.caught_up(), 60, "both rows and theirs in the Iceberg table")
    table = books.iceberg()
    assert sorted_rows(table.scan().to_arrow()) == sorted_rows(books.delta().to_pyarrow_table())
    assert table.scan(row_filter=EqualTo("event_time", "2024-03-12T00:00:00Z")).to_arrow().num_rows == 1
    assert table.scan(row_filter=EqualTo("event_time", "2024-01-31T08:31:00Z")).to_arrow().num_rows == 1


def test_kills_under_load_leave_both_books_equal(tmp_path):
    group = "ice-users"
    with open(tmp_path / "server.log", "wb") as log:
        server = Server(tmp_path / "data", log).start()
        create(server.client("sagemaker"), group)
        load, books = Load(server, group), Books(server, group)
        for round_number in range(KILLS):
            stop = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                workers = [pool.submit(load.run, worker, round_number, stop) for worker in range(4)]
                before, goal = books.shown() or 0, load.count + 10 * KEYS
                wait_until(lambda: load.count >= goal and (books.shown() or 0) > before, 120, "puts, and books written")
                server.kill()
                stop.set()
                for worker in workers:
                    worker.result()
            if books.shown() is not None:
                # Dead or alive, what is shown is some version of the table, whole.
                version = books.shown()
                shown = sorted_rows(books.iceberg().scan().to_arrow())
                assert shown == sorted_rows(books.delta(version).to_pyarrow_table())
            server.start()

        def everything():
            if not books.caught_up():
                return None
            rows = books.iceberg().scan(selected_fields=("user_id", "trips")).to_arrow().to_pylist()
            written = [(row["user_id"], str(row["trips"])) for row in rows]
            return written if set(load.acknowledged) <= set(written) else None

        written = wait_until(everything, 60, "every acknowledged event in the Iceberg table")
        assert len(written) == len(set(written)), "an event stands twice in the Iceberg table"
        assert set(written) <= set(load.acknowledged) | load.unknown
        # By version: a write whose outcome is unknown may be committed, and then shown, at any later moment.
        table = books.iceberg()
        version = int(table.metadata.properties["granary.delta-version"])
        assert sorted_rows(table.scan().to_arrow()) == sorted_rows(books.delta(version).to_pyarrow_table())
        assert server.stop() == 0


def by_catalog(server, control, name):
    """The group's table as pyiceberg's Glue catalog gives it, once it is published."""
    entry = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]["DataCatalogConfig"]
    glue = server.client("glue")

    def published():
        found = glue.get_table(DatabaseName=entry["Database"], Name=entry["TableName"])["Table"]
        return found["Parameters"].get("table_type") == "ICEBERG"

    wait_until(published, 60, "the Iceberg table in Glue")
    keys = {"access-key-id": "test", "secret-access-key": "test", "region": "us-east-1", "endpoint": server.endpoint}
    prefixed = {f"{service}.{key}": value for service in ("glue", "s3") for key, value in keys.items()}
    catalog = load_catalog("glue", type="glue", **prefixed)
    return catalog.load_table((entry["Database"], entry["TableName"]))


def users_properties(table):
    properties = table.refresh().properties
    return {key: value for key, value in properties.items() if not key.startswith(("granary.", "schema."))}


def test_properties_are_set_by_pyiceberg_and_stay(tmp_path, name):
    with open(tmp_path / "server.log", "wb") as log:
        server = Server(tmp_path / "data", log, {"compactor.flush_interval": "200ms"}).start()
        try:
            control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
            create(control, name)
            table, same = by_catalog(server, control, name), by_catalog(server, control, name)
            with table.transaction() as change:
                change.set_properties({"write.metadata.previous-versions-max": "5", "read.split.target-size": "7"})
            assert users_properties(table) == users_properties(same)
            # Rows go on coming, and what came since the client read the table is no conflict.
            for user in range(3):
                put = record(user_id=f"u{user}", event_time="2024-01-31T08:30:00Z")
                runtime.put_record(FeatureGroupName=name, Record=put)
                with table.transaction() as change:
                    change.remove_properties("read.split.target-size")
                    change.set_properties({"write.metadata.previous-versions-max": str(user)})
                with table.transaction() as change:
                    change.set_properties({"read.split.target-size": "8"})
            wanted = {"write.metadata.previous-versions-max": "2", "read.split.target-size": "8"}
            assert users_properties(table) == wanted
            server.kill()
            server.start()
            books = Books(server, name)
            wait_until(lambda: books.rows() == 3 and books.caught_up(), 60, "the rows in the Iceberg table")
            assert users_properties(by_catalog(server, control, name)) == wanted
            assert books.delta().metadata().configuration["granary.iceberg.read.split.target-size"] == "8"
        finally:
            assert server.stop() == 0


def test_through_iceberg_only_properties_change(server, control, runtime, name):
    create(control, name)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", trips="7", event_time="2024-01-31T08:30:00Z"))
    books = Books(server, name)
    wait_until(lambda: books.rows() == 1 and books.caught_up(), 60, "the row in the Iceberg table")
    table = by_catalog(server, control, name)
    with pytest.raises(Exception, match="only properties can be changed through Iceberg"), table.update_schema() as change:
        change.add_column("more", StringType())
    with pytest.raises(Exception, match="only properties can be changed through Iceberg"):
        table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "mine").commit()
    bucket, above = table.location().removeprefix("s3://").split("/", 1)
    with pytest.raises(ClientError, match="AccessDenied"):
        server.client("s3").put_object(Bucket=bucket, Key=f"{above}/metadata/snap-1-0-x.avro", Body=b"a commit of rows")
    again = by_catalog(server, control, name)
    assert again.schema() == table.schema() and list(again.refs()) == ["main"]
    assert again.metadata.snapshots == table.metadata.snapshots
    glue, entry = server.client("glue"), control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]
    entry = entry["DataCatalogConfig"]
    newest = glue.get_table(DatabaseName=entry["Database"], Name=entry["TableName"])["Table"]["Parameters"]
    newest = newest["metadata_location"]
    proposed = newest.rsplit("/", 1)[0] + "/00001-0f6ad1a9-5a3e-4f5e-8b7e-0a6a4c3f2d1b.metadata.json"
    for parameters, word in (
        ({}, "follows its feature group"),
        ({"metadata_location": proposed}, "follows its feature group"),
        ({"metadata_location": newest, "previous_metadata_location": newest}, "not called"),
        ({"metadata_location": proposed, "previous_metadata_location": newest}, "not there"),
    ):
        wanted = {"Name": entry["TableName"], "Parameters": parameters}
        with pytest.raises(ClientError) as refused:
            glue.update_table(DatabaseName=entry["Database"], TableInput=wanted)
        error = refused.value.response["Error"]
        assert error["Code"] == "InvalidInputException" and word in error["Message"], error


def test_of_two_clients_that_set_one_property_the_later_reads_again(server, control, name):
    create(control, name)
    by_catalog(server, control, name)
    with_a_gate = threading.Barrier(4)

    def set_it(client):
        table = by_catalog(server, control, name)
        change = table.transaction()
        change.set_properties({"read.split.target-size": str(client)})
        with_a_gate.wait(60)
        try:
            change.commit_transaction()
        except CommitFailedException:
            return None
        return str(client)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = [value for value in pool.map(set_it, range(4)) if value]
    assert done, "one of them is the first"
    assert users_properties(by_catalog(server, control, name))["read.split.target-size"] in done


@pytest.mark.parametrize(
    ("kind", "offline", "word"),
    [("Fractional", {}, "String"), ("String", {"DisableGlueTableCreation": True}, "DisableGlueTableCreation")],
)
def test_iceberg_rules_are_checked(control, name, kind, offline, word):
    with pytest.raises(ClientError) as refused:
        control.create_feature_group(
            FeatureGroupName=name,
            RecordIdentifierFeatureName="id",
            EventTimeFeatureName="at",
            FeatureDefinitions=[
                {"FeatureName": "id", "FeatureType": "String"},
                {"FeatureName": "at", "FeatureType": kind},
            ],
            OfflineStoreConfig={"S3StorageConfig": {"S3Uri": "s3://features/ice"}, "TableFormat": "Iceberg", **offline},
            RoleArn=ROLE,
        )
    error = refused.value.response["Error"]
    assert (error["Code"], refused.value.response["ResponseMetadata"]["HTTPStatusCode"]) == ("ValidationException", 400)
    assert word in error["Message"], json.dumps(error)
    listed = control.list_feature_groups(NameContains=name)["FeatureGroupSummaries"]
    assert listed == []


def test_other_groups_have_no_iceberg_metadata(server, control, runtime, name):
    create_users(control, name)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", event_time="2024-01-31T08:30:00Z"))
    books = Books(server, name)
    wait_until(books.has_rows, 60, "the row in the Delta table")
    files = list((books.directory / "data").rglob("*.parquet"))
    assert "/year=2024/month=01/day=31/hour=08/" in str(files[0])
    assert all(b"PARQUET:field_id" not in (field.metadata or {}) for field in pyarrow.parquet.read_schema(files[0]))
    assert not (books.directory / "metadata").exists()
