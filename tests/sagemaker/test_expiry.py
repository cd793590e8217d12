"""Records with a time to live: gone to the second for whoever reads, removed from the online store a little later, and
marked as deleted in the history as of the moment they expired (contract 3.7 and 4.3)."""

import datetime
import time

import pytest

from conftest import Server, create_users, record, wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("expiry")
    with open(directory / "server.log", "wb") as log:
        settings = {"node.expiry_interval": "300ms", "node.expiry_grace": "0s", "compactor.flush_interval": "500ms"}
        server = Server(directory / "data", log, settings=settings)
        try:
            yield server.start()
        finally:
            if server.process.poll() is None:
                server.stop()


def moment(seconds):
    """An event time so many seconds from now, and the same as it comes back."""
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def put(runtime, group, user, at, ttl=None, **more):
    ttl = {"TtlDuration": {"Unit": "Seconds", "Value": ttl}} if ttl else {}
    runtime.put_record(FeatureGroupName=group, Record=record(user_id=user, event_time=at, **more), **ttl)


def get(runtime, group, user):
    return runtime.get_record(FeatureGroupName=group, RecordIdentifierValueAsString=user).get("Record")


def history(server, group):
    found = server.rows("sql", f'SELECT user_id, event_time, is_deleted FROM "{group}" ORDER BY user_id, event_time')
    return [(row["user_id"], row["event_time"], row["is_deleted"]) for row in found]


def later(text, seconds):
    return (datetime.datetime.fromisoformat(text) + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_expired_record_is_marked_as_deleted_when_it_expired(server, name):
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    create_users(control, name)
    at = moment(-100)
    put(runtime, name, "soon", at, ttl=103, trips="1")
    put(runtime, name, "never", at, trips="2")
    put(runtime, name, "later", at, ttl=100_000, trips="3")
    there = get(runtime, name, "soon")
    assert there or moment(0) >= later(at, 103), "gone before its time"
    wait_until(lambda: not get(runtime, name, "soon"), 30, "the record expires")
    marker = ("soon", later(at, 103), True)
    expected = [("later", at, False), ("never", at, False), ("soon", at, False), marker]
    wait_until(lambda: history(server, name) == expected, 60, "the marker of the expired record, and no other")
    assert get(runtime, name, "never") and get(runtime, name, "later")
    # It was there until it expired, and not afterwards.
    spine = f"SELECT 'soon' AS user_id, at FROM (VALUES ('{later(at, 102)}'), ('{later(at, 103)}')) AS t(at)"
    joined = server.rows("join", "--spine", spine, "--cut-off", "at", "--with", f"{name}:trips")
    assert [row.get("trips") for row in joined] == [1, None], joined
    # The online store has forgotten it: what is older than it was counts again.
    put(runtime, name, "soon", later(at, -50), trips="4")
    assert get(runtime, name, "soon")


def test_a_record_that_gets_more_time_stays(server, name):
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    # They must get it before they expire: where a few seconds are too few for the puts, with more.
    for seconds in (3, 12, 48):
        group = f"{name}-{seconds}"
        time_to_live = {"Unit": "Seconds", "Value": 1_000}
        create_users(control, group, OnlineStoreConfig={"EnableOnlineStore": True, "TtlDuration": time_to_live})
        at = moment(seconds - 1_000)
        for user in ("renewed", "replaced", "left"):
            put(runtime, group, user, at)
        put(runtime, group, "renewed", at, ttl=10_000)
        put(runtime, group, "replaced", moment(0))
        if moment(0) < later(at, 1_000):
            break
    else:
        pytest.fail("five puts took 48 s")
    wait_until(lambda: len(history(server, group)) >= 6, seconds + 60, "five puts and one marker")
    found = history(server, group)
    assert len(found) == 6 and ("left", later(at, 1_000), True) in found, found
    assert get(runtime, group, "renewed") and get(runtime, group, "replaced")


def test_expiry_goes_on_after_a_kill(server, name):
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    create_users(control, name)
    # Expired on arrival, and so never visible; the kill comes somewhere in the middle of their removal.
    users = [f"user {n:03}" for n in range(300)]
    for user in users:
        put(runtime, name, user, "2024-01-01T00:00:00Z", ttl=60)
        assert not get(runtime, name, user)
    server.kill()
    server.start()
    puts = [(user, "2024-01-01T00:00:00Z", False) for user in users]
    markers = [(user, "2024-01-01T00:01:00Z", True) for user in users]
    began = time.monotonic()
    wait_until(lambda: history(server, name) == sorted(puts + markers), 90, "each record and its marker, once")
    print(f"all markers after {time.monotonic() - began:.1f} s")
