"""The eight operations of the first contract, driven by boto3 from PyPI (contract sections 1 to 3)."""

import datetime
import json
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError

from conftest import create_users, record


def error_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def put(runtime, name, **values):
    return runtime.put_record(FeatureGroupName=name, Record=record(**values))


def get(runtime, name, user, **more):
    answer = runtime.get_record(FeatureGroupName=name, RecordIdentifierValueAsString=user, **more)
    return {value["FeatureName"]: value["ValueAsString"] for value in answer.get("Record", [])}


def test_life_of_a_feature_group(control, name):
    arn = create_users(control, name, Description="riders", Tags=[{"Key": "team", "Value": "trips"}])["FeatureGroupArn"]
    assert arn.endswith(f":feature-group/{name}")
    for asked in (name, arn):
        described = control.describe_feature_group(FeatureGroupName=asked)
        assert described["FeatureGroupStatus"] == "Created"
        assert described["FeatureGroupName"] == name
        assert described["RecordIdentifierFeatureName"] == "user_id"
        assert [f["FeatureName"] for f in described["FeatureDefinitions"]][1:3] == ["trips", "avg_trip_duration"]
        assert isinstance(described["CreationTime"], datetime.datetime)
        assert described["Description"] == "riders"
        storage = described["OfflineStoreConfig"]["S3StorageConfig"]
        assert storage["S3Uri"] == "s3://features/history"
        assert storage["ResolvedOutputS3Uri"].startswith("s3://features/history/")
        assert storage["ResolvedOutputS3Uri"].endswith("/data")
    assert error_of(control.create_feature_group, **{
        "FeatureGroupName": name, "RecordIdentifierFeatureName": "a", "EventTimeFeatureName": "a",
        "FeatureDefinitions": [{"FeatureName": "a", "FeatureType": "String"}],
        "OnlineStoreConfig": {"EnableOnlineStore": True},
    })[:2] == ("ResourceInUse", 400)
    listed = control.list_feature_groups(NameContains=name)["FeatureGroupSummaries"]
    assert [summary["FeatureGroupName"] for summary in listed] == [name]
    control.delete_feature_group(FeatureGroupName=name)
    assert error_of(control.describe_feature_group, FeatureGroupName=name)[:2] == ("ResourceNotFound", 400)
    assert error_of(control.delete_feature_group, FeatureGroupName=name)[:2] == ("ResourceNotFound", 400)


def test_group_created_again_has_none_of_the_old_records(control, runtime, name):
    create_users(control, name)
    put(runtime, name, user_id="1", event_time="2024-01-01T00:00:00Z")
    control.delete_feature_group(FeatureGroupName=name)
    create_users(control, name)
    assert get(runtime, name, "1") == {}


def test_list_pages_through_all_groups(control, name):
    names = sorted(f"{name}-{i}" for i in range(5))
    for one in names:
        create_users(control, one, offline=False)
    pages = control.get_paginator("list_feature_groups").paginate(
        NameContains=name, SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2})
    found = [summary["FeatureGroupName"] for page in pages for summary in page["FeatureGroupSummaries"]]
    assert found == names


def test_values_come_back_as_they_were_put(control, runtime, name):
    create_users(control, name)
    values = dict(user_id="007", trips="007", avg_trip_duration="15.20", last_trip_time="",
                  event_time="2024-01-01T00:00:00.120Z")
    put(runtime, name, **values)
    assert get(runtime, name, "007") == values
    assert get(runtime, name, "007", FeatureNames=["trips"]) == {"trips": "007"}
    assert get(runtime, name, "7") == {}


def test_a_put_replaces_the_whole_record(control, runtime, name):
    create_users(control, name)
    put(runtime, name, user_id="1", trips="5", event_time="2024-01-01T00:00:00Z")
    put(runtime, name, user_id="1", avg_trip_duration="2", event_time="2024-01-02T00:00:00Z")
    assert get(runtime, name, "1") == dict(user_id="1", avg_trip_duration="2", event_time="2024-01-02T00:00:00Z")


def test_event_time_decides(control, runtime, name):
    create_users(control, name)
    put(runtime, name, user_id="1", trips="2", event_time="2024-01-02T00:00:00Z")
    put(runtime, name, user_id="1", trips="1", event_time="2024-01-01T00:00:00Z")
    assert get(runtime, name, "1")["trips"] == "2"
    put(runtime, name, user_id="1", trips="3", event_time="2024-01-02T00:00:00Z")
    assert get(runtime, name, "1")["trips"] == "3"
    put(runtime, name, user_id="1", trips="4", event_time="2024-01-02T00:00:00.099999999Z")
    put(runtime, name, user_id="1", trips="5", event_time="2024-01-02T00:00:00.1Z")
    assert get(runtime, name, "1")["trips"] == "5"


def test_fractional_event_times(control, runtime, name):
    control.create_feature_group(
        FeatureGroupName=name, RecordIdentifierFeatureName="id", EventTimeFeatureName="at",
        FeatureDefinitions=[{"FeatureName": "id", "FeatureType": "Integral"}, {"FeatureName": "at", "FeatureType": "Fractional"}],
        OnlineStoreConfig={"EnableOnlineStore": True})
    put(runtime, name, id="1", at="1700000000.5")
    put(runtime, name, id="1", at="1700000000.25")
    assert get(runtime, name, "1")["at"] == "1700000000.5"


def test_soft_and_hard_delete(control, runtime, name):
    create_users(control, name)
    put(runtime, name, user_id="1", trips="1", event_time="2024-01-02T00:00:00Z")
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="1", EventTime="2024-01-01T00:00:00Z")
    assert get(runtime, name, "1")["trips"] == "1", "a stale soft delete is ignored"
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="1", EventTime="2024-01-03T00:00:00Z")
    assert get(runtime, name, "1") == {}
    put(runtime, name, user_id="1", trips="2", event_time="2024-01-02T12:00:00Z")
    assert get(runtime, name, "1") == {}, "the soft delete's event time stands"
    put(runtime, name, user_id="1", trips="3", event_time="2024-01-04T00:00:00Z")
    assert get(runtime, name, "1")["trips"] == "3"
    code, status, _ = error_of(runtime.delete_record, FeatureGroupName=name, RecordIdentifierValueAsString="1",
                               EventTime="2024-01-01T00:00:00Z", DeletionMode="HardDelete")
    assert (code, status) == ("ValidationError", 400)
    assert get(runtime, name, "1")["trips"] == "3"
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="1",
                          EventTime="2024-01-05T00:00:00Z", DeletionMode="HardDelete")
    assert get(runtime, name, "1") == {}
    put(runtime, name, user_id="1", trips="4", event_time="2020-01-01T00:00:00Z")
    assert get(runtime, name, "1")["trips"] == "4", "a hard delete forgets the event time"


def test_batch_get(control, runtime, name):
    other = f"{name}-b"
    create_users(control, name)
    create_users(control, other, offline=False)
    for i in range(20):
        put(runtime, name, user_id=str(i), trips=str(i), event_time="2024-01-01T00:00:00Z")
    put(runtime, other, user_id="x", trips="99", event_time="2024-01-01T00:00:00Z")
    answer = runtime.batch_get_record(Identifiers=[
        {"FeatureGroupName": name, "RecordIdentifiersValueAsString": [str(i) for i in range(25)], "FeatureNames": ["trips"]},
        {"FeatureGroupName": other, "RecordIdentifiersValueAsString": ["x"]},
        {"FeatureGroupName": f"{name}-absent", "RecordIdentifiersValueAsString": ["y"]},
    ])
    found = {(r["FeatureGroupName"], r["RecordIdentifierValueAsString"]): r["Record"] for r in answer["Records"]}
    assert len(found) == 21
    assert found[(name, "13")] == [{"FeatureName": "trips", "ValueAsString": "13"}]
    assert [(e["FeatureGroupName"], e["RecordIdentifierValueAsString"]) for e in answer["Errors"]] == [(f"{name}-absent", "y")]
    assert answer["UnprocessedIdentifiers"] == []


def test_target_stores(control, runtime, name):
    create_users(control, name)
    runtime.put_record(FeatureGroupName=name, TargetStores=["OfflineStore"],
                       Record=record(user_id="1", event_time="2024-01-01T00:00:00Z"))
    assert get(runtime, name, "1") == {}
    runtime.put_record(FeatureGroupName=name, TargetStores=["OnlineStore"],
                       Record=record(user_id="1", event_time="2024-01-01T00:00:00Z"))
    assert get(runtime, name, "1") != {}
    online_only = f"{name}-o"
    create_users(control, online_only, offline=False)
    code, status, _ = error_of(runtime.put_record, FeatureGroupName=online_only, TargetStores=["OfflineStore"],
                               Record=record(user_id="1", event_time="2024-01-01T00:00:00Z"))
    assert (code, status) == ("ValidationError", 400)
    offline_only = f"{name}-f"
    create_users(control, offline_only, online=False)
    put(runtime, offline_only, user_id="1", event_time="2024-01-01T00:00:00Z")
    assert error_of(runtime.get_record, FeatureGroupName=offline_only, RecordIdentifierValueAsString="1")[1] == 400


def test_time_to_live(control, runtime, name):
    create_users(control, name, offline=False, OnlineStoreConfig={
        "EnableOnlineStore": True, "TtlDuration": {"Unit": "Days", "Value": 1}})
    now = datetime.datetime.now(datetime.timezone.utc)
    fresh, stale = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (now, now - datetime.timedelta(days=2)))
    put(runtime, name, user_id="stale", event_time=stale)
    put(runtime, name, user_id="fresh", event_time=fresh)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="longer", event_time=stale),
                       TtlDuration={"Unit": "Weeks", "Value": 1})
    assert get(runtime, name, "stale") == {}
    assert get(runtime, name, "fresh") != {}
    assert get(runtime, name, "longer") != {}
    answer = runtime.get_record(FeatureGroupName=name, RecordIdentifierValueAsString="fresh", ExpirationTimeResponse="Enabled")
    expected = (now + datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
    assert answer["ExpiresAt"].startswith(expected)


def test_arn_in_the_path(control, runtime, name):
    arn = create_users(control, name)["FeatureGroupArn"]
    put(runtime, arn, user_id="1", trips="1", event_time="2024-01-01T00:00:00Z")
    assert get(runtime, arn, "1")["trips"] == "1"


def test_awkward_identifiers(control, runtime, name):
    create_users(control, name)
    for user in ["a b", "ü/ß?&=#", "x" * 2048, "%2F", "日本", "+"]:
        put(runtime, name, user_id=user, event_time="2024-01-01T00:00:00Z")
        assert get(runtime, name, user)["user_id"] == user
    assert error_of(put, runtime=runtime, name=name, user_id="x" * 2049, event_time="2024-01-01T00:00:00Z")[:2] == ("ValidationError", 400)


WRONG_RECORDS = {
    "no event time": dict(user_id="1"),
    "no identifier": dict(event_time="2024-01-01T00:00:00Z"),
    "unknown feature": dict(user_id="1", event_time="2024-01-01T00:00:00Z", height="2"),
    "integral takes no fraction": dict(user_id="1", event_time="2024-01-01T00:00:00Z", trips="1.5"),
    "integral of 65 bits": dict(user_id="1", event_time="2024-01-01T00:00:00Z", trips="9223372036854775808"),
    "fractional takes no word": dict(user_id="1", event_time="2024-01-01T00:00:00Z", avg_trip_duration="much"),
    "date only": dict(user_id="1", event_time="2024-01-01"),
    "no Z": dict(user_id="1", event_time="2024-01-01T00:00:00"),
    "epoch": dict(user_id="1", event_time="1700000000"),
    "too long": dict(user_id="1", event_time="2024-01-01T00:00:00Z", last_trip_time="x" * 358_401),
}


@pytest.mark.parametrize("wrong", WRONG_RECORDS)
def test_wrong_records_change_nothing(control, runtime, name, wrong):
    create_users(control, name)
    put(runtime, name, user_id="1", trips="1", event_time="2023-01-01T00:00:00Z")
    before = get(runtime, name, "1")
    code, status, message = error_of(put, runtime=runtime, name=name, **WRONG_RECORDS[wrong])
    assert (code, status) == ("ValidationError", 400)
    assert message
    assert get(runtime, name, "1") == before


def test_unknown_groups(runtime):
    code, status, message = error_of(put, runtime=runtime, name="nobody", user_id="1", event_time="2024-01-01T00:00:00Z")
    assert (code, status) == ("ValidationError", 400)
    assert "can't find a FeatureGroup" in message
    assert error_of(runtime.get_record, FeatureGroupName="nobody", RecordIdentifierValueAsString="1")[:2] == ("ResourceNotFound", 404)


WRONG_GROUPS = {
    "name ends with a hyphen": dict(FeatureGroupName="bad-"),
    "name with a space": dict(FeatureGroupName="bad name"),
    "name too long": dict(FeatureGroupName="x" * 65),
    "identifier not defined": dict(RecordIdentifierFeatureName="nobody"),
    "event time not defined": dict(EventTimeFeatureName="never"),
    "integral event time": dict(EventTimeFeatureName="n"),
    "reserved feature": dict(FeatureDefinitions=[{"FeatureName": "a", "FeatureType": "String"}, {"FeatureName": "is_deleted", "FeatureType": "String"}]),
    "twice the same feature": dict(FeatureDefinitions=[{"FeatureName": "a", "FeatureType": "String"}] * 2),
    "unknown type": dict(FeatureDefinitions=[{"FeatureName": "a", "FeatureType": "Text"}]),
    "no store": dict(OnlineStoreConfig={"EnableOnlineStore": False}),
    "offline without role": dict(OfflineStoreConfig={"S3StorageConfig": {"S3Uri": "s3://bucket/prefix"}}),
    "bad role": dict(OfflineStoreConfig={"S3StorageConfig": {"S3Uri": "s3://bucket/prefix"}}, RoleArn="arn:aws:iam::1:role/too-short"),
    "bad uri": dict(OfflineStoreConfig={"S3StorageConfig": {"S3Uri": "ftp://bucket"}}, RoleArn="arn:aws:iam::123456789012:role/feature-store"),
    "unknown storage": dict(OnlineStoreConfig={"EnableOnlineStore": True, "StorageType": "Tape"}),
}


@pytest.mark.parametrize("wrong", WRONG_GROUPS)
def test_wrong_groups_are_not_created(control, name, wrong):
    request = {
        "FeatureGroupName": name, "RecordIdentifierFeatureName": "a", "EventTimeFeatureName": "a",
        "FeatureDefinitions": [{"FeatureName": "a", "FeatureType": "String"}, {"FeatureName": "n", "FeatureType": "Integral"}],
        "OnlineStoreConfig": {"EnableOnlineStore": True},
    }
    request.update(WRONG_GROUPS[wrong])
    code, status, message = error_of(control.create_feature_group, **request)
    assert (code, status) == ("ValidationException", 400)
    assert message
    assert control.list_feature_groups(NameContains=name)["FeatureGroupSummaries"] == []


def test_a_script_waits_for_offline_rows_by_http(server, control, runtime, name):
    create_users(control, name)
    put(runtime, name, user_id="1", event_time="2024-01-01T00:00:00Z")
    wait = f"{server.endpoint}/-/offline/wait?feature_group="
    with urllib.request.urlopen(f"{wait}{name}&timeout_ms=60000", timeout=90) as answer:
        assert json.load(answer) == {"caught_up": True, "pending_events": 0}
    assert server.rows("sql", f'SELECT user_id FROM "{name}"') == [{"user_id": "1"}]
    for query, status in (("nobody", 404), (f"{name}&timeout_ms=soon", 400), (f"{name}&unknown=1", 400)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(wait + query, timeout=30)
        assert caught.value.code == status
