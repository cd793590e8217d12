"""SageMaker's runtime, call by call, by boto3 from PyPI (contract sections 1.2, 1.3 and 3): what is right, and what is
wrong with its code, its header, its body, and nothing changed."""

import datetime
import json
import urllib.error
import urllib.request
import uuid

import pytest
from botocore.exceptions import ClientError

from conftest import ROLE, create_users, record, wait_until

T1, T2, T3 = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3))


def create(control, name, storage="InMemory", offline=False, features=(), **online):
    definitions = [
        {"FeatureName": "id", "FeatureType": "String"},
        {"FeatureName": "at", "FeatureType": "String"},
        {"FeatureName": "n", "FeatureType": "Integral"},
        {"FeatureName": "x", "FeatureType": "Fractional"},
        {"FeatureName": "s", "FeatureType": "String"},
        *features,
    ]
    config = {"EnableOnlineStore": True, **({"StorageType": storage} if storage else {}), **online}
    more = {"OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://features/history"}}, "RoleArn": ROLE} if offline else {}
    return control.create_feature_group(
        FeatureGroupName=name, RecordIdentifierFeatureName="id", EventTimeFeatureName="at",
        FeatureDefinitions=definitions, OnlineStoreConfig=config, **more)


def put(runtime, group, _ttl=None, _targets=None, **values):
    more = {"TtlDuration": _ttl} if _ttl else {}
    if _targets:
        more["TargetStores"] = _targets
    return runtime.put_record(FeatureGroupName=group, Record=record(**values), **more)


def update(runtime, group, key, _ttl=None, _targets=None, **values):
    more = {"TtlDuration": _ttl} if _ttl else {}
    if _targets:
        more["TargetStores"] = _targets
    return runtime.update_record(FeatureGroupName=group, RecordIdentifierValueAsString=key, Features=record(**values), **more)


def get(runtime, group, key, **more):
    answer = runtime.get_record(FeatureGroupName=group, RecordIdentifierValueAsString=key, **more)
    return {value["FeatureName"]: value.get("ValueAsString", value.get("ValueAsStringList")) for value in answer.get("Record", [])}


def listed(runtime, group, size=None, **more):
    """Every page of a listing."""
    pages, token = [], None
    while True:
        arguments = {**({"MaxResults": size} if size else {}), **({"NextToken": token} if token else {}), **more}
        answer = runtime.list_records(FeatureGroupName=group, **arguments)
        pages.append(answer["RecordIdentifiers"])
        token = answer.get("NextToken")
        if not token:
            return pages


def refused(call, *arguments, **named):
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    response = caught.value.response
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    code, status = response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]
    assert headers["x-amzn-errortype"] == code
    assert headers["x-amzn-requestid"]
    assert response["Error"]["Message"]
    return code, status


def raw(server, method, path, body=None, headers=None):
    """A request that botocore would not send, and its answer: status, error type, body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(server.endpoint + path, data=data, method=method)
    request.add_header("content-type", "application/json")
    for key, value in (headers or {}).items():
        request.add_header(key, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, None, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.headers["x-amzn-errortype"], json.loads(error.read())


def sql(server, query):
    """The rows of a query after everything acknowledged has reached the offline store, as tuples."""
    return [tuple(json.loads(line).values()) for line in server.output("sql", "--wait", query).splitlines()]


# ---- UpdateRecord -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["InMemory", "Standard_V2"])
def test_update_changes_what_it_names(control, runtime, name, storage):
    create(control, name, storage)
    put(runtime, name, id="1", at=T1, n="007", x="15.20", s="")
    answer = update(runtime, name, "1", x="1e3")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["HTTPHeaders"].get("content-length", "0") == "0"
    assert get(runtime, name, "1") == dict(id="1", at=T1, n="007", x="1e3", s="")
    update(runtime, name, "1", s="new", n="-1")
    assert get(runtime, name, "1") == dict(id="1", at=T1, n="-1", x="1e3", s="new")
    update(runtime, name, "1", at=T2, n="8")
    assert get(runtime, name, "1") == dict(id="1", at=T2, n="8", x="1e3", s="new")
    update(runtime, name, "1", at=T2, id="1", n="9")
    assert get(runtime, name, "1")["n"] == "9", "an equal event time is taken, and so is the identifier itself"


def test_update_adds_a_feature_the_record_did_not_have(control, runtime, name):
    arn = create(control, name)["FeatureGroupArn"]
    put(runtime, name, id="1", at=T1)
    update(runtime, arn, "1", s="x")
    assert get(runtime, name, "1") == dict(id="1", at=T1, s="x")


def test_update_needs_a_live_record(control, runtime, name):
    create(control, name)
    assert refused(update, runtime, name, "1", s="x") == ("ResourceNotFound", 404)
    assert get(runtime, name, "1") == {} and listed(runtime, name, IncludeSoftDeletedRecords=True) == [[]]
    put(runtime, name, id="1", at=T1)
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="1", EventTime=T2)
    assert refused(update, runtime, name, "1", at=T3, s="x") == ("ResourceNotFound", 404)
    put(runtime, name, id="1", at=T3)
    update(runtime, name, "1", s="x")
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="1", EventTime=T3, DeletionMode="HardDelete")
    assert refused(update, runtime, name, "1", at=T3, s="x") == ("ResourceNotFound", 404)
    put(runtime, name, id="2", at=T1, _ttl={"Unit": "Days", "Value": 1})
    assert refused(update, runtime, name, "2", at=T3, s="x") == ("ResourceNotFound", 404), "expired"
    assert get(runtime, name, "2") == {}


def test_update_older_than_the_record_is_a_conflict(control, runtime, name):
    create(control, name)
    put(runtime, name, id="1", at="2024-01-02T00:00:00.1Z", s="kept")
    with pytest.raises(runtime.exceptions.ConflictException):
        update(runtime, name, "1", at="2024-01-02T00:00:00.099999999Z", s="lost")
    assert refused(update, runtime, name, "1", at=T2, s="lost") == ("ConflictException", 409)
    assert get(runtime, name, "1") == dict(id="1", at="2024-01-02T00:00:00.1Z", s="kept")
    update(runtime, name, "1", at="2024-01-02T00:00:00.100Z", s="taken")
    assert get(runtime, name, "1")["s"] == "taken"


WRONG_UPDATES = {
    "unknown feature": dict(features=record(nobody="1")),
    "wrong type": dict(features=record(n="1.5")),
    "not finite": dict(features=record(x="NaN")),
    "date only": dict(features=record(at="2024-01-05")),
    "another identifier": dict(features=record(id="2", s="x")),
    "nothing but the identifier's other name": dict(features=record(ID="1")),
    "a feature twice": dict(features=record(s="x") + record(s="y")),
    "101 features": dict(features=[{"FeatureName": f"f{i}", "ValueAsString": "1"} for i in range(101)]),
    "no features": dict(features=[]),
    "both values": dict(features=[{"FeatureName": "s", "ValueAsString": "x", "ValueAsStringList": ["x"]}]),
    "neither value": dict(features=[{"FeatureName": "s"}]),
    "a list for a scalar": dict(features=[{"FeatureName": "s", "ValueAsStringList": ["x"]}]),
    "offline alone": dict(features=record(s="x"), TargetStores=["OfflineStore"]),
    "a store twice": dict(features=record(s="x"), TargetStores=["OnlineStore", "OnlineStore"]),
    "unknown store": dict(features=record(s="x"), TargetStores=["Nowhere"]),
    "a time to live without event time": dict(features=record(s="x"), TtlDuration={"Unit": "Days", "Value": 1}),
    "no unit": dict(features=record(s="x", at=T3), TtlDuration={"Value": 1}),
    "unknown unit": dict(features=record(s="x", at=T3), TtlDuration={"Unit": "Years", "Value": 1}),
    "zero days": dict(features=record(s="x", at=T3), TtlDuration={"Unit": "Days", "Value": 0}),
    "too long with what is there": dict(features=record(s="x" * 358_390)),
    "empty identifier": dict(features=record(s="x"), RecordIdentifierValueAsString=""),
    "long identifier": dict(features=record(s="x"), RecordIdentifierValueAsString="x" * 2_049),
    "no identifier": dict(features=record(s="x"), RecordIdentifierValueAsString=None),
}


@pytest.mark.parametrize("wrong", WRONG_UPDATES)
def test_wrong_updates_change_nothing(server, control, runtime, name, wrong):
    create(control, name)
    put(runtime, name, id="1", at=T2, n="1", s="kept")
    before = get(runtime, name, "1")
    case = dict(WRONG_UPDATES[wrong])
    body = {"RecordIdentifierValueAsString": "1", "Features": case.pop("features"), **case}
    body = {key: value for key, value in body.items() if value is not None}
    status, code, answer = raw(server, "POST", f"/FeatureGroup/{name}/Record", body)
    assert (status, code, answer["__type"]) == (400, "ValidationError", "ValidationError")
    assert answer["Message"] and answer["message"] == answer["Message"]
    assert get(runtime, name, "1") == before
    assert listed(runtime, name, IncludeSoftDeletedRecords=True) == [["1"]]


def test_update_needs_a_group_of_the_right_kind(control, runtime, name):
    for storage in (None, "Standard"):
        group = f"{name}-{storage}"
        create(control, group, storage)
        put(runtime, group, id="1", at=T1, s="kept")
        assert refused(update, runtime, group, "1", s="x") == ("ValidationError", 400)
        assert get(runtime, group, "1")["s"] == "kept"
    create_users(control, f"{name}-off", online=False)
    assert refused(update, runtime, f"{name}-off", "1", trips="1") == ("ValidationError", 400)
    assert refused(update, runtime, f"{name}-none", "1", s="x") == ("ResourceNotFound", 404)
    create(control, f"{name}-on", "Standard_V2")
    put(runtime, f"{name}-on", id="1", at=T1)
    assert refused(update, runtime, f"{name}-on", "1", _targets=["OnlineStore", "OfflineStore"], s="x") == ("ValidationError", 400)
    assert "s" not in get(runtime, f"{name}-on", "1")


def test_update_keeps_or_replaces_the_time_to_live(control, runtime, name):
    create(control, name)
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    moment = lambda delta: (now + delta).strftime("%Y-%m-%dT%H:%M:%SZ")
    expires = lambda key: runtime.get_record(
        FeatureGroupName=name, RecordIdentifierValueAsString=key, ExpirationTimeResponse="Enabled").get("ExpiresAt")
    hour, day = datetime.timedelta(hours=1), datetime.timedelta(days=1)
    put(runtime, name, id="1", at=moment(-hour), _ttl={"Unit": "Days", "Value": 1})
    update(runtime, name, "1", s="x")
    assert expires("1") == moment(day - hour), "kept"
    update(runtime, name, "1", at=moment(0 * day), s="y")
    assert expires("1") == moment(day), "kept, and counted from the new event time"
    update(runtime, name, "1", at=moment(0 * day), s="z", _ttl={"Unit": "Hours", "Value": 2})
    assert expires("1") == moment(2 * hour)
    put(runtime, name, id="2", at=moment(0 * day))
    update(runtime, name, "2", s="x")
    assert expires("2") is None


def test_updates_reach_the_offline_store_as_whole_records(server, control, runtime, name):
    create(control, name, "Standard_V2", offline=True)
    put(runtime, name, id="1", at=T1, n="1", s="a")
    update(runtime, name, "1", n="2")
    update(runtime, name, "1", at=T2, s="b")
    update(runtime, name, "1", _targets=["OnlineStore"], s="online only")
    assert refused(update, runtime, name, "1", at=T1, s="refused") == ("ConflictException", 409)
    found = sql(server, f'SELECT n, s, at, is_deleted FROM "{name}" ORDER BY granary_sequence')
    assert found == [(1, "a", T1, False), (2, "a", T1, False), (2, "b", T2, False)]


def test_an_update_sent_again_is_applied_once(server, control, runtime, name):
    create(control, name)
    put(runtime, name, id="1", at=T1, s="a")
    body = {"RecordIdentifierValueAsString": "1", "Features": record(at=T2, s="b")}
    headers = {"amz-sdk-invocation-id": str(uuid.uuid4())}
    path = f"/FeatureGroup/{name}/Record"
    assert raw(server, "POST", path, body, headers)[0] == 200
    put(runtime, name, id="1", at=T3, s="c")
    assert raw(server, "POST", path, body, headers)[0] == 200, "recognised though it is older than the record now"
    assert get(runtime, name, "1")["s"] == "c"
    assert raw(server, "POST", path, body)[:2] == (409, "ConflictException")


# ---- BatchWriteRecord -------------------------------------------------------------------------------------------


def entry(group, _more=None, **values):
    return {"FeatureGroupName": group, "Record": record(**values), **(_more or {})}


def test_batch_write(control, runtime, name):
    arn = create(control, name)["FeatureGroupArn"]
    other = f"{name}-b"
    create(control, other)
    answer = runtime.batch_write_record(Entries=[
        *(entry(name, id=str(i), at=T1, n=str(i)) for i in range(23)), entry(other, id="x", at=T1), entry(arn, id="y", at=T1)])
    assert answer["Errors"] == [] and answer["UnprocessedEntries"] == []
    assert sorted(sum(listed(runtime, name), [])) == sorted([*map(str, range(23)), "y"])
    assert get(runtime, name, "17") == dict(id="17", at=T1, n="17")
    assert get(runtime, other, "x") == dict(id="x", at=T1)


def test_batch_write_failed_entries(control, runtime, name):
    create(control, name)
    create_users(control, f"{name}-off", online=False)
    wrong = [
        (entry(name, id="1", at=T1, nobody="x"), "ValidationError"),
        (entry(f"{name}-none", id="1", at=T1), "ResourceNotFound"),
        (entry(name, id="2", at="yesterday"), "ValidationError"),
        (entry(name, id="3"), "ValidationError"),
        (entry(name, {"TargetStores": ["OfflineStore"]}, id="4", at=T1), "ValidationError"),
        (entry(f"{name}-off", {"TtlDuration": {"Unit": "Days", "Value": 1}}, user_id="5", event_time=T1), "ValidationError"),
        (entry(name, id="6", at=T1, s="x" * 358_400), "ValidationError"),
        ({"FeatureGroupName": name, "Record": [{"FeatureName": "id"}]}, "ValidationError"),
    ]
    good = [entry(name, id="good", at=T1), entry(name, id="too", at=T1)]
    answer = runtime.batch_write_record(Entries=[good[0], *(sent for sent, _ in wrong), good[1]])
    assert [(error["Entry"], error["ErrorCode"]) for error in answer["Errors"]] == wrong
    assert all(error["ErrorMessage"] for error in answer["Errors"])
    assert answer["UnprocessedEntries"] == []
    assert sorted(sum(listed(runtime, name, IncludeSoftDeletedRecords=True), [])) == ["good", "too"]


WRONG_BATCHES = {
    "no entries": {},
    "empty": {"Entries": []},
    "26 entries": {"Entries": [entry("g", id=str(i), at=T1) for i in range(26)]},
    "no group": {"Entries": [{"Record": record(id="1", at=T1)}]},
    "bad group name": {"Entries": [entry("g g", id="1", at=T1)]},
    "no record": {"Entries": [{"FeatureGroupName": "g"}]},
    "empty record": {"Entries": [{"FeatureGroupName": "g", "Record": []}]},
    "unknown store": {"Entries": [entry("g", {"TargetStores": ["Shelf"]}, id="1", at=T1)]},
    "bad ttl of the call": {"Entries": [entry("g", id="1", at=T1)], "TtlDuration": {"Unit": "Days", "Value": 0}},
    "bad ttl of an entry": {"Entries": [entry("g", {"TtlDuration": {"Unit": "Day", "Value": 1}}, id="1", at=T1)]},
}


@pytest.mark.parametrize("wrong", WRONG_BATCHES)
def test_wrong_batches_write_nothing(server, control, runtime, name, wrong):
    create(control, name)
    body = json.loads(json.dumps(WRONG_BATCHES[wrong]).replace('"g"', json.dumps(name)))
    # A right entry beside the wrong one: the call is refused as a whole.
    if body.get("Entries") and len(body["Entries"]) == 1:
        body["Entries"].append(entry(name, id="right", at=T1))
    status, code, answer = raw(server, "POST", "/BatchWriteRecord", body)
    assert (status, code, answer["__type"]) == (400, "ValidationError", "ValidationError")
    assert listed(runtime, name, IncludeSoftDeletedRecords=True) == [[]]


def test_batch_write_time_to_live_precedence(control, runtime, name):
    create(control, name, TtlDuration={"Unit": "Weeks", "Value": 1})
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    runtime.batch_write_record(Entries=[
        entry(name, {"TtlDuration": {"Unit": "Hours", "Value": 1}}, id="entry", at=at), entry(name, id="call", at=at)],
        TtlDuration={"Unit": "Days", "Value": 1})
    runtime.batch_write_record(Entries=[entry(name, id="group", at=at)])
    answer = runtime.batch_get_record(ExpirationTimeResponse="Enabled", Identifiers=[
        {"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["entry", "call", "group"]}])
    found = {one["RecordIdentifierValueAsString"]: one["ExpiresAt"] for one in answer["Records"]}
    expected = {"entry": datetime.timedelta(hours=1), "call": datetime.timedelta(days=1), "group": datetime.timedelta(weeks=1)}
    assert found == {key: (now + delta).strftime("%Y-%m-%dT%H:%M:%SZ") for key, delta in expected.items()}


def test_a_batch_sent_again_is_written_once(server, control, runtime, name):
    create(control, name)
    body = {"Entries": [entry(name, id="1", at=T1, s="first"), entry(name, id="2", at=T1, s="first")]}
    headers = {"amz-sdk-invocation-id": str(uuid.uuid4())}
    assert raw(server, "POST", "/BatchWriteRecord", body, headers)[2] == {"Errors": [], "UnprocessedEntries": []}
    put(runtime, name, id="1", at=T1, s="second")
    assert raw(server, "POST", "/BatchWriteRecord", body, headers)[0] == 200
    assert get(runtime, name, "1")["s"] == "second", "the retry did nothing"
    assert get(runtime, name, "2")["s"] == "first"


# ---- ListRecords ------------------------------------------------------------------------------------------------


def test_list_pages(control, runtime, name):
    arn = create(control, name)["FeatureGroupArn"]
    names = sorted(f"user {i:03} é/%" for i in range(130))
    for first in range(0, 130, 25):
        runtime.batch_write_record(Entries=[entry(name, id=one, at=T1) for one in names[first:first + 25]])
    for size in (None, 1, 7, 100):
        pages = listed(runtime, name, size)
        found = sum(pages, [])
        assert len(found) == 130 and sorted(found) == names
        assert all(len(page) == (size or 100) for page in pages[:-1]), "only the last page is short"
    paged = runtime.get_paginator("list_records").paginate(FeatureGroupName=arn, PaginationConfig={"PageSize": 50})
    assert sorted(one for page in paged for one in page["RecordIdentifiers"]) == names


def test_list_leaves_out_what_is_gone(control, runtime, name):
    create(control, name)
    other = f"{name}-b"
    create(control, other)
    put(runtime, other, id="elsewhere", at=T1)
    now = datetime.datetime.now(datetime.timezone.utc)
    stale = (now - datetime.timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for key in ("live", "soft", "hard", "back"):
        put(runtime, name, id=key, at=T1)
    put(runtime, name, id="expired", at=stale, _ttl={"Unit": "Days", "Value": 1})
    put(runtime, name, id="lasting", at=stale, _ttl={"Unit": "Weeks", "Value": 1})
    put(runtime, name, id="stale delete", at=T2)
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="soft", EventTime=T2)
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="hard", EventTime=T2, DeletionMode="HardDelete")
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="back", EventTime=T2)
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="stale delete", EventTime=T1)
    put(runtime, name, id="back", at=T3)
    there = ["back", "lasting", "live", "stale delete"]
    assert sorted(sum(listed(runtime, name, 2), [])) == there
    assert sorted(sum(listed(runtime, name, 2, IncludeSoftDeletedRecords=False), [])) == there
    assert sorted(sum(listed(runtime, name, 2, IncludeSoftDeletedRecords=True), [])) == sorted([*there, "soft"])


def test_list_goes_on_while_records_come_and_go(control, runtime, name):
    create(control, name)
    stays = {f"stays {i}" for i in range(60)}
    entries = [entry(name, id=one, at=T1) for one in sorted(stays)]
    for first in range(0, 60, 25):
        runtime.batch_write_record(Entries=entries[first:first + 25])
    found, token, turn = [], None, 0
    while True:
        answer = runtime.list_records(FeatureGroupName=name, MaxResults=5, **({"NextToken": token} if token else {}))
        found += answer["RecordIdentifiers"]
        token = answer.get("NextToken")
        if not token:
            break
        turn += 1
        runtime.batch_write_record(Entries=[entry(name, id=f"comes {turn} {i}", at=T1) for i in range(10)])
        update(runtime, name, f"stays {turn % 60}", s=str(turn))
        if turn > 1:
            runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString=f"comes {turn - 1} 3",
                                  EventTime=T2, DeletionMode="HardDelete")
        assert turn < 1_000
    assert len(found) == len(set(found))
    assert stays <= set(found)


WRONG_LISTS = {
    "no results": {"MaxResults": 0},
    "too many results": {"MaxResults": 101},
    "empty token": {"NextToken": ""},
    "long token": {"NextToken": "0" * 8_193},
    "made-up token": {"NextToken": "abcd"},
    "no hex": {"NextToken": "token"},
}


@pytest.mark.parametrize("wrong", WRONG_LISTS)
def test_wrong_lists(server, control, name, wrong):
    create(control, name)
    status, code, answer = raw(server, "POST", f"/FeatureGroup/{name}/ListRecords", WRONG_LISTS[wrong])
    assert (status, code, answer["__type"]) == (400, "ValidationError", "ValidationError")


def test_list_refuses_other_groups(control, runtime, name):
    create(control, name)
    create(control, f"{name}-b")
    create_users(control, f"{name}-off", online=False)
    for i in range(3):
        put(runtime, name, id=str(i), at=T1)
    token = runtime.list_records(FeatureGroupName=name, MaxResults=1)["NextToken"]
    assert refused(runtime.list_records, FeatureGroupName=f"{name}-b", NextToken=token) == ("ValidationError", 400)
    assert refused(runtime.list_records, FeatureGroupName=f"{name}-off") == ("ValidationError", 400)
    assert refused(runtime.list_records, FeatureGroupName=f"{name}-none") == ("ResourceNotFound", 404)
    control.delete_feature_group(FeatureGroupName=name)
    create(control, name)
    assert listed(runtime, name) == [[]], "a group created again has none of the old records"
    assert refused(runtime.list_records, FeatureGroupName=name, NextToken=token) == ("ValidationError", 400)


# ---- Time to live -----------------------------------------------------------------------------------------------


def test_a_record_is_gone_from_the_second_it_expires(control, runtime, name):
    create(control, name)
    at = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    expires = at + datetime.timedelta(seconds=3)
    text = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    put(runtime, name, id="1", at=text, s="x", _ttl={"Unit": "Seconds", "Value": 3})
    put(runtime, name, id="2", at=text, _ttl={"Unit": "Minutes", "Value": 5})
    ask = lambda key, **more: runtime.get_record(FeatureGroupName=name, RecordIdentifierValueAsString=key, **more)
    answer = ask("2", ExpirationTimeResponse="Enabled")
    assert answer["ExpiresAt"] == (at + datetime.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "ExpiresAt" not in ask("2")

    def gone():
        begun = datetime.datetime.now(datetime.timezone.utc)
        answer = ask("1", ExpirationTimeResponse="Enabled")
        ended = datetime.datetime.now(datetime.timezone.utc)
        there = bool(answer.get("Record"))
        # On a slow machine it may be gone before it is read for the first time.
        assert not there or answer["ExpiresAt"] == expires.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert there or ended >= expires, "hidden before its time"
        assert not there or begun < expires, "there after its time"
        return not there

    wait_until(gone, 10, "the record expires")
    batch = runtime.batch_get_record(Identifiers=[{"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["1", "2"]}])
    assert [one["RecordIdentifierValueAsString"] for one in batch["Records"]] == ["2"] and batch["Errors"] == []
    assert listed(runtime, name) == [["2"]]
    assert refused(update, runtime, name, "1", s="y") == ("ResourceNotFound", 404)
    put(runtime, name, id="1", at=text, s="back", _ttl={"Unit": "Hours", "Value": 1})
    assert get(runtime, name, "1")["s"] == "back"


def test_time_to_live_of_groups_and_records(control, runtime, name):
    create(control, name, TtlDuration={"Unit": "Minutes", "Value": 90})
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    at = now.strftime("%Y-%m-%dT%H:%M:%S.250Z")
    seconds = {"Seconds": 1, "Minutes": 60, "Hours": 3_600, "Days": 86_400, "Weeks": 604_800}
    for unit in seconds:
        put(runtime, name, id=unit, at=at, _ttl={"Unit": unit, "Value": 100})
    put(runtime, name, id="default", at=at)
    for key, lifetime in {**{unit: 100 * of for unit, of in seconds.items()}, "default": 5_400}.items():
        answer = runtime.get_record(FeatureGroupName=name, RecordIdentifierValueAsString=key, ExpirationTimeResponse="Enabled")
        assert answer["ExpiresAt"] == (now + datetime.timedelta(seconds=lifetime)).strftime("%Y-%m-%dT%H:%M:%S.250Z"), key
    plain = f"{name}-plain"
    create(control, plain)
    put(runtime, plain, id="1", at=at)
    assert "ExpiresAt" not in runtime.get_record(
        FeatureGroupName=plain, RecordIdentifierValueAsString="1", ExpirationTimeResponse="Enabled")


def test_time_to_live_needs_an_online_store(control, runtime, name):
    create_users(control, name, online=False)
    ttl = {"Unit": "Days", "Value": 1}
    assert refused(runtime.put_record, FeatureGroupName=name, Record=record(user_id="1", event_time=T1), TtlDuration=ttl) == ("ValidationError", 400)


# ---- Values, ties, deletes --------------------------------------------------------------------------------------


def test_collections_come_back_as_they_were_put(control, runtime, name):
    create(control, name, features=[
        {"FeatureName": "l", "FeatureType": "String", "CollectionType": "List"},
        {"FeatureName": "k", "FeatureType": "Integral", "CollectionType": "Set"},
        {"FeatureName": "v", "FeatureType": "Fractional", "CollectionType": "Vector",
         "CollectionConfig": {"VectorConfig": {"Dimension": 3}}}])
    lists = {"l": ["b", "a", "b", ""], "k": ["3", "01", "1"], "v": ["0.50", "1e3", "-0"]}
    values = [{"FeatureName": key, "ValueAsStringList": value} for key, value in lists.items()]
    runtime.put_record(FeatureGroupName=name, Record=record(id="1", at=T1) + values)
    before = dict(id="1", at=T1, **lists)
    assert get(runtime, name, "1") == before
    batch = runtime.batch_get_record(Identifiers=[{"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["1"], "FeatureNames": ["v"]}])
    assert batch["Records"][0]["Record"] == [values[2]]
    wrong = {
        "an element of the wrong type": {"FeatureName": "k", "ValueAsStringList": ["1", "x"]},
        "a set with an element twice": {"FeatureName": "k", "ValueAsStringList": ["1", "1"]},
        "too short a vector": {"FeatureName": "v", "ValueAsStringList": ["1", "2"]},
        "too long a vector": {"FeatureName": "v", "ValueAsStringList": ["1", "2", "3", "4"]},
        "a vector that is not finite": {"FeatureName": "v", "ValueAsStringList": ["1", "NaN", "2"]},
        "text for a list": {"FeatureName": "l", "ValueAsString": "b"},
    }
    for what, value in wrong.items():
        sent = record(id="1", at=T2) + [value]
        assert refused(runtime.put_record, FeatureGroupName=name, Record=sent) == ("ValidationError", 400), what
        assert refused(runtime.update_record, FeatureGroupName=name, RecordIdentifierValueAsString="1", Features=[value]) == ("ValidationError", 400), what
        assert get(runtime, name, "1") == before, what
    runtime.update_record(FeatureGroupName=name, RecordIdentifierValueAsString="1",
                          Features=[{"FeatureName": "l", "ValueAsStringList": []}])
    assert get(runtime, name, "1") == {**before, "l": []}


def test_collections_need_an_in_memory_store(control, name):
    for storage in ("Standard", "Standard_V2"):
        with pytest.raises(ClientError) as caught:
            create(control, name, storage, features=[{"FeatureName": "l", "FeatureType": "String", "CollectionType": "List"}])
        assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_texts_come_back_byte_for_byte(control, runtime, name):
    create(control, name)
    texts = ["", " ", "[1, 2, None]", "a\nb\tc\r\n", "\u0000", "é日本🙂", '"\\', "null", "+0", "x" * 100_000]
    for i, text in enumerate(texts):
        put(runtime, name, id=str(i), at=T1, s=text)
        assert get(runtime, name, str(i))["s"] == text
    for i, (n, x) in enumerate([("0", "0"), ("-0", "-0.0"), ("+7", "+1.50"), ("0009", ".5"), ("9223372036854775807", "1e-300"),
                                ("-9223372036854775808", "00012.e1")]):
        put(runtime, name, id=f"n{i}", at=T1, n=n, x=x)
        assert get(runtime, name, f"n{i}") == dict(id=f"n{i}", at=T1, n=n, x=x)


def test_ties_go_to_the_later_write(control, runtime, name):
    create(control, name)
    for i in range(5):
        put(runtime, name, id="1", at="2024-01-01T00:00:00.10Z" if i % 2 else "2024-01-01T00:00:00.1Z", n=str(i))
        assert get(runtime, name, "1")["n"] == str(i)


def test_puts_after_deletes(control, runtime, name):
    create(control, name)
    delete = lambda at, **more: runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="1", EventTime=at, **more)
    delete(T2)
    put(runtime, name, id="1", at=T1)
    assert get(runtime, name, "1") == {}, "a record that was not there can be deleted, and the mark stands"
    put(runtime, name, id="1", at=T2, s="tie")
    assert get(runtime, name, "1")["s"] == "tie"
    delete(T2)
    assert get(runtime, name, "1") == {}, "a delete of equal event time is later"
    put(runtime, name, id="1", at=T3)
    for at in (T1, T2):
        assert refused(delete, at, DeletionMode="HardDelete") == ("ValidationError", 400)
        assert get(runtime, name, "1")["at"] == T3
    delete(T3, DeletionMode="HardDelete")
    put(runtime, name, id="1", at=T1)
    assert get(runtime, name, "1")["at"] == T1
    delete(T2)
    delete(T1, DeletionMode="HardDelete")
    put(runtime, name, id="1", at=T1, s="x")
    assert get(runtime, name, "1")["s"] == "x", "what is deleted already can be forgotten at any event time"


WRONG_DELETES = {
    "no event time": dict(EventTime=None),
    "no identifier": dict(RecordIdentifierValueAsString=None),
    "bad event time": dict(EventTime="never"),
    "unknown mode": dict(DeletionMode="Gone"),
    "unknown store": dict(TargetStores="Shelf"),
    "a store that is not there": dict(TargetStores="OfflineStore"),
    "long identifier": dict(RecordIdentifierValueAsString="x" * 2_049),
}


@pytest.mark.parametrize("wrong", WRONG_DELETES)
def test_wrong_deletes_change_nothing(server, control, runtime, name, wrong):
    create(control, name)
    put(runtime, name, id="1", at=T1)
    query = {"RecordIdentifierValueAsString": "1", "EventTime": T2, **WRONG_DELETES[wrong]}
    query = "&".join(f"{key}={value}" for key, value in query.items() if value is not None)
    status, code, _ = raw(server, "DELETE", f"/FeatureGroup/{name}?{query}")
    assert (status, code) == (400, "ValidationError")
    assert get(runtime, name, "1") == dict(id="1", at=T1)


# ---- Stores, reads, limits --------------------------------------------------------------------------------------


def test_target_stores_everywhere(server, control, runtime, name):
    create(control, name, "Standard_V2", offline=True)
    put(runtime, name, id="off", at=T1, _targets=["OfflineStore"])
    put(runtime, name, id="on", at=T1, _targets=["OnlineStore"])
    put(runtime, name, id="both", at=T1, _targets=["OnlineStore", "OfflineStore"])
    runtime.batch_write_record(Entries=[
        entry(name, {"TargetStores": ["OfflineStore"]}, id="b-off", at=T1), entry(name, {"TargetStores": ["OnlineStore"]}, id="b-on", at=T1)])
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="both", EventTime=T2, TargetStores=["OfflineStore"])
    assert get(runtime, name, "both") != {}, "deleted offline only"
    runtime.delete_record(FeatureGroupName=name, RecordIdentifierValueAsString="on", EventTime=T2, TargetStores=["OnlineStore"])
    assert sorted(sum(listed(runtime, name), [])) == ["b-on", "both"]
    found = sql(server, f'SELECT id, is_deleted FROM "{name}" ORDER BY id, is_deleted')
    assert found == [("b-off", False), ("both", False), ("both", True), ("off", False)]


def test_offline_only_groups_are_not_read(control, runtime, name):
    create_users(control, name, online=False)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", event_time=T1))
    assert refused(runtime.get_record, FeatureGroupName=name, RecordIdentifierValueAsString="1") == ("ValidationError", 400)
    batch = runtime.batch_get_record(Identifiers=[{"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["1"]}])
    assert [error["ErrorCode"] for error in batch["Errors"]] == ["ValidationError"]
    assert refused(runtime.put_record, FeatureGroupName=name, Record=record(user_id="1", event_time=T1), TargetStores=["OnlineStore"]) == ("ValidationError", 400)
    assert refused(runtime.delete_record, FeatureGroupName=name, RecordIdentifierValueAsString="1", EventTime=T2, TargetStores=["OnlineStore"]) == ("ValidationError", 400)


def test_unknown_features_and_groups(control, runtime, name):
    create(control, name)
    put(runtime, name, id="1", at=T1, s="x")
    assert refused(runtime.get_record, FeatureGroupName=name, RecordIdentifierValueAsString="1", FeatureNames=["s", "nobody"]) == ("ValidationError", 400)
    assert get(runtime, name, "1", FeatureNames=["s", "n"]) == {"s": "x"}
    batch = runtime.batch_get_record(Identifiers=[
        {"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["1", "2"], "FeatureNames": ["nobody"]},
        {"FeatureGroupName": f"{name}-none", "RecordIdentifiersValueAsString": ["1"]},
        {"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["1", "2"], "FeatureNames": ["s"]}])
    assert [(e["FeatureGroupName"], e["RecordIdentifierValueAsString"], e["ErrorCode"]) for e in batch["Errors"]] == [
        (name, "1", "ValidationError"), (name, "2", "ValidationError"), (f"{name}-none", "1", "ResourceNotFound")]
    assert [one["Record"] for one in batch["Records"]] == [record(s="x")]
    assert batch["UnprocessedIdentifiers"] == []
    assert refused(runtime.delete_record, FeatureGroupName=f"{name}-none", RecordIdentifierValueAsString="1", EventTime=T1) == ("ValidationError", 400)


def test_batch_get_limits(server, control, runtime, name):
    create(control, name)
    ask = lambda *counts: [{"FeatureGroupName": name, "RecordIdentifiersValueAsString": [str(i) for i in range(count)]} for count in counts]
    put(runtime, name, id="99", at=T1)
    found = runtime.batch_get_record(Identifiers=ask(100))["Records"]
    assert [one["RecordIdentifierValueAsString"] for one in found] == ["99"]
    for wrong in ([], ask(101), ask(60, 41), ask(*[1] * 101), [{"FeatureGroupName": name, "RecordIdentifiersValueAsString": []}]):
        assert raw(server, "POST", "/BatchGetRecord", {"Identifiers": wrong})[:2] == (400, "ValidationError")
    assert raw(server, "POST", "/BatchGetRecord", {"Identifiers": ask(1), "ExpirationTimeResponse": "Maybe"})[:2] == (400, "ValidationError")


def test_quotas_of_identifiers_and_records(control, runtime, name):
    create(control, name)
    longest = 350 * 1_024
    key = "é" * 1_024
    put(runtime, name, id=key, at=T1, s="x" * (longest - len(key.encode()) - len(T1)))
    assert len(get(runtime, name, key)["s"]) == longest - 2_048 - len(T1)
    for wrong in (dict(id=key + "x", at=T1), dict(id=key, at=T1, s="x" * (longest - 2_048 - len(T1) + 1))):
        assert refused(put, runtime, name, **wrong) == ("ValidationError", 400)
    assert sum(listed(runtime, name), []) == [key]


def test_wrong_bodies_and_paths(server, control, name):
    create(control, name)
    for method, path in (("PUT", ""), ("POST", "/Record"), ("POST", "/ListRecords")):
        status, code, _ = raw(server, method, f"/FeatureGroup/{name}{path}", b"{")
        assert (status, code) == (400, "SerializationException")
    for path in ("/BatchGetRecord", "/BatchWriteRecord"):
        assert raw(server, "POST", path, b"[")[:2] == (400, "SerializationException")
    assert raw(server, "POST", "/BatchWriteRecord", {"Entries": "x"})[:2] == (400, "SerializationException")
    for method, path in (("PUT", "/Record"), ("GET", "/ListRecords"), ("POST", ""), ("POST", "/Records")):
        assert raw(server, method, f"/FeatureGroup/{name}{path}", {} if method != "GET" else None)[:2] == (400, "UnknownOperationException")
    for segment in ("a%20b", "-", "x" * 65, "arn%3Aaws%3As3%3A%3A%3Ab"):
        assert raw(server, "POST", f"/FeatureGroup/{segment}/ListRecords", {})[:2] == (400, "ValidationError")


def test_members_that_are_not_known_are_ignored(server, control, runtime, name):
    create(control, name)
    body = {"Record": record(id="1", at=T1), "Colour": "red"}
    assert raw(server, "PUT", f"/FeatureGroup/{name}", body)[0] == 200
    assert raw(server, "POST", f"/FeatureGroup/{name}/ListRecords", {"Colour": "red"})[2] == {"RecordIdentifiers": ["1"]}
    sent = {"FeatureGroupName": name, "Record": record(id="2"), "Colour": "red", "Shade": {"Dark": 1}}
    answer = raw(server, "POST", "/BatchWriteRecord", {"Entries": [sent]})[2]
    assert [error["Entry"] for error in answer["Errors"]] == [sent]
