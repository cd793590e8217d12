"""What gRPC offers beside puts and gets: control plane, updates, listings, search; and how it refuses."""

import base64
import json

import grpc
import pytest

from reflected import Reflected

T1, T2 = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"
INVALID, NOT_FOUND, ABORTED = (
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED)


@pytest.fixture
def call(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        reflected = Reflected(channel)
        yield lambda method, **body: reflected.call(f"granary.v1.FeatureStore/{method}", json.dumps(body))


@pytest.fixture
def group(call, name):
    kinds = {"id": "STRING", "at": "STRING", "n": "INTEGRAL", "s": "STRING"}
    call("CreateFeatureGroup", name=name, record_identifier_feature="id", event_time_feature="at", online={}, offline={},
         features=[{"name": feature, "type": f"FEATURE_TYPE_{kind}"} for feature, kind in kinds.items()])
    return name


def features(**values):
    return [{"name": name, "value": {"integral": value} if isinstance(value, int) else {"text": value}}
            for name, value in values.items()]


def record(answer):
    plain = lambda value: next(iter(value.values()))
    return {value["name"]: plain(value["value"]) for value in answer["record"]}


def refused(call, method, **body):
    with pytest.raises(grpc.RpcError) as caught:
        call(method, **body)
    assert caught.value.details()
    return caught.value.code()


def test_an_update_changes_what_it_names(call, group):
    update = dict(feature_group=group, record_identifier="1")
    assert refused(call, "UpdateRecord", **update, features=features(n=2)) == NOT_FOUND
    call("PutRecord", feature_group=group, record=features(id="1", at=T2, n=1, s="kept"))
    call("UpdateRecord", **update, features=features(n=2))
    found = call("GetRecord", **update)
    assert record(found) == {"id": "1", "at": T2, "n": "2", "s": "kept"}
    assert refused(call, "UpdateRecord", **update, features=features(n=3, at=T1)) == ABORTED
    for wrong in ([], features(unknown="x"), features(n="many"), features(id="2"), features(id="1")):
        assert refused(call, "UpdateRecord", **update, features=wrong) == INVALID, wrong
    assert refused(call, "UpdateRecord", **{**update, "feature_group": "nobody"}, features=features(n=2)) == NOT_FOUND
    assert record(call("GetRecord", **update)) == record(found)


def test_listings_give_each_record_once(call, group):
    identifiers = [f"{n:03}" for n in range(45)]
    for identifier in identifiers:
        call("PutRecord", feature_group=group, record=features(id=identifier, at=T1, s="x" * 10))
    call("DeleteRecord", feature_group=group, record_identifier="007", event_time=T2, mode="DELETION_MODE_SOFT")
    pages, token = [], ""
    while True:
        page = call("ListRecords", feature_group=group, limit=10, page_token=token)
        pages.append(page.get("recordIdentifiers", []))
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert all(len(page) <= 10 for page in pages)
    assert sorted(sum(pages, [])) == [identifier for identifier in identifiers if identifier != "007"]
    everything = call("ListRecords", feature_group=group, limit=100, include_soft_deleted=True)
    assert sorted(everything["recordIdentifiers"]) == identifiers
    assert refused(call, "ListRecords", feature_group=group, page_token=base64.b64encode(b"made up").decode()) == INVALID
    assert refused(call, "ListRecords", feature_group=group, limit=1_000_000) == INVALID
    assert refused(call, "ListRecords", feature_group="nobody") == NOT_FOUND


def present(column, entity):
    bits = base64.b64decode(column.get("present", ""))
    return not bits or bool(bits[entity // 8] >> entity % 8 & 1)


def test_features_come_by_column(call, group):
    for user in range(40):
        values = dict(id=f"u{user}", at=T1, n=user, s=f"text {user}")
        if user % 3 == 0:
            del values["s"]
        call("PutRecord", feature_group=group, record=features(**values))
    call("DeleteRecord", feature_group=group, record_identifier="u7", event_time=T2)
    asked = [f"u{user}" for user in range(45)]
    (read,) = call("GetFeatures", keys=[{"name": "user", "record_identifiers": asked}],
                   selections=[{"feature_group": group, "feature_names": ["s", "n"], "keys": "user"}])["selections"]
    there = [user < 40 and user != 7 for user in range(45)]
    assert read["statuses"] == [f"ENTITY_STATUS_{'FOUND' if found else 'NOT_FOUND'}" for found in there]
    assert [column["name"] for column in read["columns"]] == ["s", "n"]
    texts, numbers = read["columns"]
    lengths = texts["texts"]["lengths"]
    ends = [sum(lengths[:place]) for place in range(46)]
    found = [texts["texts"]["data"][begin:end] for begin, end in zip(ends, ends[1:])]
    for user in range(45):
        has_text = there[user] and user % 3 != 0
        assert (present(texts, user), found[user]) == (has_text, f"text {user}" if has_text else "")
        assert present(numbers, user) == there[user]
        assert numbers["integers"]["values"][user] == str(user if there[user] else 0)
        assert (read["eventSeconds"][user] != "0") == there[user]
    for wrong in (dict(feature_names=["x"]), dict(feature_names=["n", "n"]), dict(keys="nobody")):
        selection = {"feature_group": group, "keys": "user", **wrong}
        keys = [{"name": "user", "record_identifiers": asked}]
        assert refused(call, "GetFeatures", keys=keys, selections=[selection]) == INVALID, wrong


def test_a_scan_of_long_records_comes_in_pages_and_goes_on_from_any(call, group):
    # 24 times 300 KB: more than a gRPC message takes.
    for n in range(24):
        call("PutRecord", feature_group=group, record=features(id=f"{n:02}", at=T1, s=f"{n % 10}" * 300_000))
    pages = call("ScanRecords", feature_group=group, feature_names=["id", "s"])
    assert all(sum(len(record(found)["s"]) for found in page.get("records", [])) < 1 << 21 for page in pages)
    assert len(pages) > 5 and "nextPageToken" not in pages[-1]
    scanned = [found for page in pages for found in page.get("records", [])]
    assert sorted(found["recordIdentifier"] for found in scanned) == [f"{n:02}" for n in range(24)]
    assert all(record(found)["s"][0] == found["recordIdentifier"][1] for found in scanned)
    rest = call("ScanRecords", feature_group=group, feature_names=["id"], page_token=pages[1]["nextPageToken"])
    seen = [found["recordIdentifier"] for page in pages[:2] for found in page.get("records", [])]
    left = [found["recordIdentifier"] for page in rest for found in page.get("records", [])]
    assert sorted(seen + left) == [f"{n:02}" for n in range(24)]
    assert refused(call, "ScanRecords", feature_group=group, feature_names=["unknown"]) == INVALID
    assert refused(call, "ScanRecords", feature_group="nobody") == NOT_FOUND


def test_a_group_is_changed_and_found_by_what_is_said_of_it(call, group):
    added = {"features": [{"name": "more", "type": "FEATURE_TYPE_FRACTIONAL"}]}
    changed = call("UpdateFeatureGroup", name=group, additions=added)
    assert [feature["name"] for feature in changed["features"]] == ["id", "at", "n", "s", "more"]
    changed = call("UpdateFeatureGroup", name=group, online={"ttl": {"ttl": {"unit": "TTL_UNIT_DAYS", "value": 3}}})
    assert changed["online"]["ttl"] == {"unit": "TTL_UNIT_DAYS", "value": 3}
    assert refused(call, "UpdateFeatureGroup", name=group, additions=added) == INVALID
    assert refused(call, "UpdateFeatureGroup", name=group) == INVALID
    assert refused(call, "UpdateFeatureGroup", name="nobody", additions=added) == NOT_FOUND

    metadata = dict(feature_group=group, feature="more")
    call("UpdateFeatureMetadata", **metadata, description="said", set_parameters={"source": group})
    assert refused(call, "UpdateFeatureMetadata", feature_group=group, feature="nothing", description="x") == NOT_FOUND
    tagged = call("UpdateTags", feature_group=group, set={"team": group, "tier": "1"})
    assert tagged["tags"] == {"team": group, "tier": "1"}
    tagged = call("UpdateTags", feature_group=group, set={"tier": "2"}, remove=["team"])
    assert tagged["tags"] == {"tier": "2"}
    assert refused(call, "UpdateTags", feature_group=group, set={f"k{n}": "v" for n in range(51)}) == INVALID

    by_name = {"filters": [{"name": "FeatureGroupName", "value": group}]}
    found = call("Search", resource="SEARCH_RESOURCE_FEATURE_GROUP", expression=by_name)
    assert [hit["featureGroup"]["name"] for hit in found["hits"]] == [group] and found["total"] == "1"
    by_parameter = {"filters": [{"name": "AllParameters", "operator": "SEARCH_OPERATOR_CONTAINS", "value": group}]}
    found = call("Search", resource="SEARCH_RESOURCE_FEATURE", expression=by_parameter)
    assert [hit["feature"] for hit in found["hits"]] == [4]

    first = call("Search", resource="SEARCH_RESOURCE_FEATURE", expression=by_name, limit=2, sort_by="FeatureName", ascending=True)
    assert len(first["hits"]) == 2
    again = dict(resource="SEARCH_RESOURCE_FEATURE", expression=by_name, limit=2, page_token=first["nextPageToken"])
    second = call("Search", **again, sort_by="FeatureName", ascending=True)
    assert not {hit["feature"] for hit in first["hits"]} & {hit["feature"] for hit in second["hits"]}
    assert refused(call, "Search", **again, sort_by="FeatureName", ascending=False) == INVALID, "a token of another order"
    for wrong in ({"filters": [{"name": "Nothing", "value": "x"}]}, {"expressions": [{"expressions": [{}] * 20}] * 20}):
        assert refused(call, "Search", resource="SEARCH_RESOURCE_FEATURE_GROUP", expression=wrong) == INVALID


@pytest.mark.parametrize("more", [
    {"throughput": {"mode": "OnDemand", "read_units": 1}}, {"throughput": {"mode": "Provisioned", "read_units": 1}},
    {"throughput": {"mode": "Sometimes"}}, {"tags": {f"k{n}": "v" for n in range(51)}},
    {"offline": {"table_format": "Iceberg"}, "event_time_feature": "f"},
], ids=["on demand with units", "provisioned without", "unknown mode", "too many tags", "iceberg by numbers"])
def test_a_group_that_breaks_a_rule_is_not_made(call, name, more):
    features = [{"name": "id", "type": "FEATURE_TYPE_STRING"}, {"name": "at", "type": "FEATURE_TYPE_STRING"},
                {"name": "f", "type": "FEATURE_TYPE_FRACTIONAL"}]
    wanted = dict(name=name, record_identifier_feature="id", event_time_feature="at", features=features, online={})
    assert refused(call, "CreateFeatureGroup", **{**wanted, **more}) == INVALID
    assert refused(call, "DescribeFeatureGroup", name=name) == NOT_FOUND
