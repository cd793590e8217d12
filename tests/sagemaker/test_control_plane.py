"""The control plane driven by boto3 (contract section 2): updates, metadata, tags, search, and schema additions while
puts run."""

import concurrent.futures
import datetime
import json
import subprocess
import threading

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from conftest import Server, binary, create_users, free_ports, record, wait_until
from test_boto3 import error_of, get


def add_feature(control, name, feature, kind="String"):
    return control.update_feature_group(
        FeatureGroupName=name, FeatureAdditions=[{"FeatureName": feature, "FeatureType": kind}])


class Puts:
    """Writers that use every feature they have seen described, and remember what was acknowledged."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        self.lock = threading.Lock()
        self.written = {}
        self.errors = []

    def run(self, worker, stop):
        control, runtime = self.server.client("sagemaker"), self.server.client("sagemaker-featurestore-runtime")
        number = 0
        while not stop.is_set():
            number += 1
            user = f"{worker}-{number}"
            described = control.describe_feature_group(FeatureGroupName=self.name)
            added = [f["FeatureName"] for f in described["FeatureDefinitions"] if f["FeatureName"].startswith("added_")]
            values = dict(user_id=user, trips=str(number), event_time="2024-01-01T00:00:00Z", **{name: user for name in added})
            try:
                runtime.put_record(FeatureGroupName=self.name, Record=record(**values))
            except ClientError as error:
                self.errors.append((values, error))
                return
            with self.lock:
                self.written[user] = values


def test_features_are_added_while_puts_run(server, control, runtime, name):
    create_users(control, name)
    puts, stop = Puts(server, name), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(puts.run, worker, stop) for worker in range(3)]
        try:
            for number in range(4):
                goal = len(puts.written) + 30
                wait_until(lambda: len(puts.written) >= goal or puts.errors, 60, "30 more puts")
                add_feature(control, name, f"added_{number}")
            goal = len(puts.written) + 30
            wait_until(lambda: len(puts.written) >= goal or puts.errors, 60, "30 puts with all features")
        finally:
            stop.set()
        for worker in workers:
            worker.result()
    assert not puts.errors
    widths = {len(values) for values in puts.written.values()}
    assert widths == {3, 4, 5, 6, 7}, "records of every schema version were put"
    for user, values in puts.written.items():
        assert get(runtime, name, user) == values

    query = f'SELECT user_id, added_0, added_1, added_2, added_3 FROM "{name}"'
    wait_until(lambda: len(server.rows("sql", query)) >= len(puts.written), 60, "every put offline")
    rows = server.rows("sql", query)
    assert len(rows) == len(puts.written), "each put once"
    for row in rows:
        written = puts.written[row["user_id"]]
        assert row == {key: value for key, value in written.items() if key == "user_id" or key.startswith("added_")}


def test_an_update_shows_in_the_description(control, runtime, name):
    arn = create_users(control, name)["FeatureGroupArn"]
    created = control.describe_feature_group(FeatureGroupName=name)
    assert "LastUpdateStatus" not in created
    assert add_feature(control, arn, "city")["FeatureGroupArn"] == arn
    updated = control.describe_feature_group(FeatureGroupName=name)
    assert updated["LastUpdateStatus"] == {"Status": "Successful"}
    assert updated["FeatureDefinitions"] == created["FeatureDefinitions"] + [{"FeatureName": "city", "FeatureType": "String"}]
    assert updated["LastModifiedTime"] > created["LastModifiedTime"]
    assert updated["CreationTime"] == created["CreationTime"]
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", city="Rome", event_time="2024-01-01T00:00:00Z"))
    assert get(runtime, name, "1", FeatureNames=["city"]) == {"city": "Rome"}
    for feature, kind in (("city", "String"), ("CITY", "String"), ("trips", "String")):
        assert error_of(control.update_feature_group, FeatureGroupName=name, FeatureAdditions=[
            {"FeatureName": feature, "FeatureType": kind}])[:2] == ("ValidationException", 400)
    assert control.describe_feature_group(FeatureGroupName=name)["LastModifiedTime"] == updated["LastModifiedTime"]


def test_the_default_time_to_live_is_set_and_removed(control, runtime, name):
    create_users(control, name, offline=False)
    past = "2020-01-01T00:00:00Z"
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="before", event_time=past))
    ttl = {"Unit": "Days", "Value": 3}
    control.update_feature_group(FeatureGroupName=name, OnlineStoreConfig={"TtlDuration": ttl})
    assert control.describe_feature_group(FeatureGroupName=name)["OnlineStoreConfig"]["TtlDuration"] == ttl
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="with", event_time=past))
    control.update_feature_group(FeatureGroupName=name, OnlineStoreConfig={"TtlDuration": {}})
    assert "TtlDuration" not in control.describe_feature_group(FeatureGroupName=name)["OnlineStoreConfig"]
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="after", event_time=past))
    found = {user: bool(get(runtime, name, user)) for user in ("before", "with", "after")}
    assert found == {"before": True, "with": False, "after": True}


def test_storage_and_throughput(control, name):
    create_users(control, name, offline=False)
    described = lambda: control.describe_feature_group(FeatureGroupName=name)
    control.update_feature_group(FeatureGroupName=name, OnlineStoreConfig={"StorageType": "Standard_V2"})
    assert described()["OnlineStoreConfig"]["StorageType"] == "Standard_V2"
    for wrong in ("Standard", "InMemory"):
        assert error_of(control.update_feature_group, FeatureGroupName=name,
                        OnlineStoreConfig={"StorageType": wrong})[:2] == ("ValidationException", 400)
    units = {"ThroughputMode": "Provisioned", "ProvisionedReadCapacityUnits": 7, "ProvisionedWriteCapacityUnits": 3}
    control.update_feature_group(FeatureGroupName=name, ThroughputConfig=units)
    assert described()["ThroughputConfig"] == units
    control.update_feature_group(FeatureGroupName=name, ThroughputConfig={"ThroughputMode": "OnDemand"})
    assert described()["ThroughputConfig"] == {"ThroughputMode": "OnDemand"}


def test_feature_metadata(control, name):
    create_users(control, name)
    of_trips = dict(FeatureGroupName=name, FeatureName="trips")
    plain = control.describe_feature_metadata(**of_trips)
    assert plain["FeatureType"] == "Integral"
    assert plain["CreationTime"] == plain["LastModifiedTime"]
    assert not plain.keys() & {"Description", "Parameters"}
    control.update_feature_metadata(**of_trips, Description="how many", ParameterAdditions=[
        {"Key": "unit", "Value": "trips"}, {"Key": "owner", "Value": "a"}])
    control.update_feature_metadata(**of_trips, ParameterAdditions=[{"Key": "owner", "Value": "b"}], ParameterRemovals=["unit"])
    told = control.describe_feature_metadata(FeatureGroupName=plain["FeatureGroupArn"], FeatureName="trips")
    assert told["Description"] == "how many"
    assert told["Parameters"] == [{"Key": "owner", "Value": "b"}]
    assert told["LastModifiedTime"] > told["CreationTime"]
    control.update_feature_metadata(**of_trips, Description="")
    assert "Description" not in control.describe_feature_metadata(**of_trips)
    assert error_of(control.describe_feature_metadata, FeatureGroupName=name, FeatureName="none")[:2] == ("ResourceNotFound", 400)
    with pytest.raises(control.exceptions.ResourceNotFound):
        control.update_feature_metadata(FeatureGroupName=name, FeatureName="none", Description="x")


def test_tags(control, name):
    arn = create_users(control, name, Tags=[{"Key": "team", "Value": "a"}])["FeatureGroupArn"]
    assert control.list_tags(ResourceArn=arn, MaxResults=50)["Tags"] == [{"Key": "team", "Value": "a"}]
    added = control.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "b"}, {"Key": "env", "Value": ""}])
    assert added["Tags"] == [{"Key": "env", "Value": ""}, {"Key": "team", "Value": "b"}]
    control.delete_tags(ResourceArn=arn, TagKeys=["env", "never"])
    pages = control.get_paginator("list_tags").paginate(ResourceArn=arn)
    assert [tag for page in pages for tag in page["Tags"]] == [{"Key": "team", "Value": "b"}]
    code, status, message = error_of(control.add_tags, ResourceArn=f"{arn}-none", Tags=[{"Key": "a", "Value": "b"}])
    assert (code, status) == ("ValidationException", 400)
    assert f"{name}-none" in message


def test_search(control, name):
    for number in range(3):
        create_users(control, f"{name}-{number}", offline=number > 0, Tags=[{"Key": "run", "Value": name}])
    control.update_feature_metadata(FeatureGroupName=f"{name}-1", FeatureName="trips", Description=f"of {name}",
                                    ParameterAdditions=[{"Key": "unit", "Value": "trips"}])
    ours = {"Name": "Tags.run", "Operator": "Equals", "Value": name}

    def groups(*filters, **more):
        pages = control.get_paginator("search").paginate(
            Resource="FeatureGroup", SearchExpression={"Filters": [ours, *filters], **more},
            SortBy="FeatureGroupName", SortOrder="Ascending", PaginationConfig={"PageSize": 2})
        return [result["FeatureGroup"]["FeatureGroupName"][-1] for page in pages for result in page["Results"]]

    assert groups() == ["0", "1", "2"]
    assert groups({"Name": "OfflineStoreConfig.S3StorageConfig.S3Uri", "Operator": "Exists"}) == ["1", "2"]
    assert groups({"Name": "FeatureGroupName", "Operator": "Contains", "Value": "-2"}) == ["2"]
    assert groups(SubExpressions=[{"Operator": "Or", "Filters": [
        {"Name": "FeatureGroupName", "Operator": "Equals", "Value": f"{name}-0"},
        {"Name": "FeatureGroupName", "Operator": "Equals", "Value": f"{name}-2"}]}]) == ["0", "2"]
    tomorrow = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
    assert groups({"Name": "CreationTime", "Operator": "GreaterThan", "Value": tomorrow}) == []
    assert groups({"Name": "CreationTime", "Operator": "LessThan", "Value": tomorrow}) == ["0", "1", "2"]

    found = control.search(Resource="FeatureMetadata", SearchExpression={"Filters": [
        {"Name": "Parameters.unit", "Operator": "Equals", "Value": "trips"},
        {"Name": "FeatureGroupName", "Operator": "Contains", "Value": name}]})
    metadata = control.describe_feature_metadata(FeatureGroupName=f"{name}-1", FeatureName="trips")
    metadata.pop("ResponseMetadata")
    assert found["Results"] == [{"FeatureMetadata": metadata}]
    assert found["TotalHits"] == {"Value": 1, "Relation": "EqualTo"}
    contains = {"Name": "FeatureGroupName", "Operator": "Contains", "Value": "x"}
    code, status, message = error_of(control.search, Resource="FeatureGroup", SearchExpression={"Filters": [contains] * 2})
    assert (code, status, message) == ("ValidationException", 400, "'CONTAINS' operator usage limit of 1 exceeded.")


def test_a_default_cannot_be_removed_by_none(control, name):
    """botocore refuses None before it sends; an empty TtlDuration is what removes the default."""
    create_users(control, name, offline=False)
    with pytest.raises(ParamValidationError):
        control.update_feature_group(FeatureGroupName=name, OnlineStoreConfig={"TtlDuration": None})


def test_a_second_router_is_told_of_an_update(server, control, name, tmp_path):
    """By push: the second router polls nothing, and takes the new feature within moments."""
    # Beside the API's port only where those were free.
    seeds = ",".join(json.loads((server.data_dir / "dev.json").read_text())["nodes"])
    with open(tmp_path / "router.log", "wb") as log:
        second = Server(tmp_path / "unused", log)
        second.port = free_ports(1)
        second.process = subprocess.Popen(
            [str(binary()), "router", "--seeds", seeds, "--listen", f"127.0.0.1:{second.port}"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_until(second.ready, 60, "the second router is ready")
            elsewhere = second.client("sagemaker-featurestore-runtime")
            create_users(control, name)
            for number in range(5):
                add_feature(control, name, f"added_{number}")
                values = dict(user_id="1", event_time="2024-01-01T00:00:00Z", **{f"added_{number}": "x"})

                def taken():
                    try:
                        elsewhere.put_record(FeatureGroupName=name, Record=record(**values))
                        return True
                    except ClientError as error:
                        assert error.response["Error"]["Code"] == "ValidationError", error
                        return False

                # Well below the 30 s after which a silent catalog stream is given up: without pushes one update may
                # come in time by chance, but not the next.
                wait_until(taken, 15, f"the second router knows added_{number}")
            assert get(elsewhere, name, "1") == values
        finally:
            if second.process.poll() is None:
                second.stop()
