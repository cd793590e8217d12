"""Queries that compute for hours keep nobody from putting and getting, and end when their callers go."""

import subprocess

from conftest import binary, create_users, record, wait_until

# No row ever comes, and no table is read: neither joined rows, nor pairs that fit.
ENDLESS = [
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value * b.value < 0",
]


def test_puts_and_gets_go_on(server, control, runtime, name):
    create_users(control, name)
    command = [str(binary()), "sql", "--endpoint", server.endpoint, "--timeout", "10m"]
    # More than a small machine has threads for queries.
    callers = [subprocess.Popen([*command, ENDLESS[turn % 2]], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
               for turn in range(6)]
    try:
        wait_until(lambda: server.metric("granary_query_running") == len(callers), 90, "every query at work")
        for number in range(50):
            values = record(user_id=f"{number}", trips=f"{number}", event_time="2026-01-01T00:00:00Z")
            runtime.put_record(FeatureGroupName=name, Record=values)
            got = runtime.get_record(FeatureGroupName=name, RecordIdentifierValueAsString=f"{number}")
            assert {value["FeatureName"]: value["ValueAsString"] for value in got["Record"]}["trips"] == f"{number}"
        assert server.metric("granary_query_running") == len(callers), "they are still at it"
    finally:
        for caller in callers:
            caller.kill()
            caller.communicate()
    wait_until(lambda: server.metric("granary_query_running") == 0, 60, "every query has ended with its caller")
