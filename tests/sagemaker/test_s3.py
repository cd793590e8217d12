"""The offline store on a server that speaks S3 over HTTP: moto's, from PyPI, in a process of its own.

It is no Amazon, and it keeps its objects in memory; what counts is that requests, signatures, errors and conditional
puts go over the wire. Every event arrives once, through a kill and through an outage; wrong settings are told at once.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import boto3
import deltalake
import pytest
from botocore.exceptions import ClientError

from conftest import Server, binary, create_users, free_ports, record, wait_until
from test_crash import Load

BUCKET = "lake"
KEYS = {"LAKE_KEY": "AKIATEST", "LAKE_SECRET": "secret"}


class ObjectStore:
    """moto's S3 server, with one bucket."""

    def __init__(self, log):
        self.port = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self.answers, 60, "moto's server")
        self.s3 = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1",
                               aws_access_key_id=KEYS["LAKE_KEY"], aws_secret_access_key=KEYS["LAKE_SECRET"])
        self.s3.create_bucket(Bucket=BUCKET)

    def answers(self):
        assert self.process.poll() is None, "moto's server ended"
        try:
            return urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def refuse(self, refuse):
        """Whether requests are refused, as with wrong credentials: those of keys that its IAM does not know."""
        allowed = b"0" if refuse else b"1e9"
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", data=allowed, headers=plain)
        urllib.request.urlopen(request, timeout=10).close()

    def settings(self, **more):
        return {
            "object_store.url": f"s3://{BUCKET}/granary",
            "object_store.s3_endpoint": self.endpoint,
            "object_store.s3_region": "us-east-1",
            "object_store.s3_allow_http": "true",
            "object_store.s3_access_key_id": "env:LAKE_KEY",
            "object_store.s3_secret_access_key": "env:LAKE_SECRET",
            "compactor.flush_interval": "500ms",
            **more,
        }

    def events(self, location):
        """What another engine reads there through the same door, or nothing while there is no table."""
        options = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
                   "AWS_ACCESS_KEY_ID": KEYS["LAKE_KEY"], "AWS_SECRET_ACCESS_KEY": KEYS["LAKE_SECRET"]}
        try:
            table = deltalake.DeltaTable(location, storage_options=options)
        except deltalake.exceptions.TableNotFoundError:
            return []
        return [(row["user_id"], str(row["trips"])) for row in
                table.to_pyarrow_table(columns=["user_id", "trips"]).to_pylist()]

    def delete(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        for key in [entry["Key"] for page in pages for entry in page.get("Contents", [])]:
            self.s3.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open(tmp_path_factory.mktemp("moto") / "server.log", "wb") as log:
        store = ObjectStore(log)
        try:
            yield store
        finally:
            store.process.kill()
            store.process.wait()


@pytest.fixture(scope="module")
def lake(store, tmp_path_factory):
    """`granary dev` whose offline store is that bucket."""
    directory = tmp_path_factory.mktemp("lake")
    with open(directory / "server.log", "wb") as log:
        server = Server(directory / "data", log, store.settings(), KEYS)
        try:
            yield server.start()
        finally:
            if server.process and server.process.poll() is None:
                server.stop()


def create(lake, name):
    """A feature group whose history goes into the bucket; where exactly."""
    control = lake.client("sagemaker")
    create_users(control, name, OfflineStoreConfig={"S3StorageConfig": {"S3Uri": f"s3://{BUCKET}/history"}})
    described = control.describe_feature_group(FeatureGroupName=name)
    return described["OfflineStoreConfig"]["S3StorageConfig"]["ResolvedOutputS3Uri"]


def put(lake, name, users):
    runtime = lake.client("sagemaker-featurestore-runtime")
    for user in users:
        values = record(user_id=user, trips="1", event_time="2026-01-01T00:00:00Z")
        runtime.put_record(FeatureGroupName=name, Record=values)
    return {(user, "1") for user in users}


def failing(lake):
    return lake.granary("status")["failing_offline_tables"]


def test_the_server_refuses_a_second_conditional_put(store):
    store.s3.put_object(Bucket=BUCKET, Key="probe", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        store.s3.put_object(Bucket=BUCKET, Key="probe", Body=b"2", IfNoneMatch="*")
    assert refused.value.response["Error"]["Code"] == "PreconditionFailed"


def test_every_event_arrives_once_through_a_kill(store, lake):
    location = create(lake, "s3-users")
    assert location.startswith(f"s3://{BUCKET}/history/")
    load, stop = Load(lake, "s3-users"), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(load.run, worker, 0, stop) for worker in range(4)]
        wait_until(lambda: load.count >= 100 and store.events(location), 60, "puts, and a first commit")
        lake.kill()
        stop.set()
        for worker in workers:
            worker.result()
    lake.start()
    acknowledged = set(load.acknowledged)
    wait_until(lambda: acknowledged <= set(store.events(location)), 60, "every acknowledged event in the bucket")
    rows = store.events(location)
    assert len(rows) == len(set(rows)), "an event stands twice"
    assert set(rows) <= acknowledged | load.unknown, "the table holds what nobody put"


def test_an_outage_is_told_and_loses_nothing(store, lake):
    location = create(lake, "s3-outage")
    before = put(lake, "s3-outage", ["a", "b"])
    wait_until(lambda: before <= set(store.events(location)), 30, "the first events")
    store.refuse(True)
    during = put(lake, "s3-outage", ["c", "d"])
    mine = lambda: [line for line in failing(lake) if line.startswith("s3-outage: ")]
    (told,) = wait_until(mine, 30, "a failing table in the status")
    assert store.endpoint in told and "403 Forbidden" in told, told
    assert lake.metric("granary_compactor_failing_tables_count") >= 1
    assert lake.metric("granary_compactor_lag_events_count") > 0
    store.refuse(False)
    wait_until(lambda: before | during <= set(store.events(location)), 60, "what was put during the outage")
    assert len(store.events(location)) == 4, "each once"
    wait_until(lambda: not failing(lake), 30, "nothing fails any more")


def test_a_deleted_table_is_not_begun_anew_until_an_operator_says_so(store, lake):
    location = create(lake, "s3-deleted")
    before = put(lake, "s3-deleted", ["a", "b"])
    wait_until(lambda: before <= set(store.events(location)), 30, "the first events")
    # The lag ends with the commit; history counts as lost only where the shards have heard of it.
    wait = f"{lake.endpoint}/-/offline/wait?feature_group=s3-deleted&timeout_ms=60000"
    with urllib.request.urlopen(wait, timeout=90) as answer:
        assert json.load(answer)["caught_up"], "their acknowledgement"
    store.delete(location.removeprefix(f"s3://{BUCKET}/"))
    after = put(lake, "s3-deleted", ["c", "d"])
    told = wait_until(lambda: [line for line in failing(lake) if "lacks history" in line], 30, "lost history in the status")
    assert told[0].startswith("s3-deleted: ")
    assert lake.metric("granary_compactor_lost_history_tables_count") == 1
    assert store.events(location) == [], "nothing was begun anew"

    shown = lake.granary("offline", "give-up", "s3-deleted")
    assert shown["lost"] and not shown["given_up"]
    assert store.events(location) == [], "to show is not to do"
    assert lake.granary("offline", "give-up", "s3-deleted", "--yes")["given_up"]
    wait_until(lambda: set(store.events(location)) == after, 60, "the rest")
    wait_until(lambda: not failing(lake), 30, "nothing fails any more")
    assert lake.granary("offline", "give-up", "s3-deleted")["lost"] == []


WRONG = {
    "bucket": ({"object_store.url": "s3://no-such-bucket/granary"}, "NoSuchBucket"),
    "endpoint": ({"object_store.s3_endpoint": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
    "plain HTTP": ({"object_store.s3_allow_http": "false"}, "http"),
    "secret": ({"object_store.s3_secret_access_key": "env:NOT_SET"}, "NOT_SET"),
    "scheme": ({"object_store.url": "ftp://lake/granary"}, "ftp"),
}


def test_wrong_settings_are_told_at_once(store):
    def start(change):
        settings = store.settings(**{"metrics.listen": "127.0.0.1:0", "cluster.seeds": "127.0.0.1:1", **change})
        command = [str(binary()), "compactor", *[f"--set={key}={value}" for key, value in settings.items()]]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **KEYS})

    with concurrent.futures.ThreadPoolExecutor(len(WRONG)) as pool:
        runs = {what: pool.submit(start, change) for what, (change, _) in WRONG.items()}
    for what, (_, says) in WRONG.items():
        ended = runs[what].result()
        assert ended.returncode != 0, what
        assert says in ended.stderr, (what, ended.stderr)

    store.refuse(True)
    refused = start({})
    store.refuse(False)
    assert refused.returncode != 0 and "InvalidAccessKeyId" in refused.stderr, refused.stderr
