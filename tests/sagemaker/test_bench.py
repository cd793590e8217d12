"""`granary bench` against the session's server and one of its own: what is counted and said, never how fast it was."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from conftest import binary, wait_until

WORKLOADS = ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W11"]
SMALL = ["--scale", "0.00001", "--warmup", "200ms", "--duration", "1500ms"]


def run(server, *arguments, timeout=120):
    command = [str(binary()), "bench", *arguments, "--endpoint", server.endpoint]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def bench(server, *arguments):
    done = run(server, *arguments, "--output", "json")
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout)


def recorded(histogram):
    return sum(count for _, count in histogram["counts"]) + histogram["above"]


def check(document):
    """What holds of every run, whatever its figures."""
    for result in document["classes"]:
        ended = result["completed"] + sum(result["errors"].values()) + result["timeouts"] + result["shed"]
        assert result["scheduled"] == ended, result
        assert recorded(result["latency"]) == result["completed"]
        assert result["within_bound"] <= result["completed"]
        assert result["goodput"] <= result["rate"]
        assert "missing" not in result["errors"] and "wrong" not in result["errors"], result["errors"]
    assert sum(result["completed"] for result in document["classes"]) > 0
    assert document["machine"]["cores"] > 0
    assert document["command"][1] == "bench" and document["granary"] and document["started_at_ms"] > 0
    assert len(document["schedule_checksum"]) == 16


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_runs_small(server, workload):
    document = bench(server, workload, *SMALL, "--rate", "20", "--write-rate", "100")
    check(document)
    assert document["workload"]["id"] == workload
    phases = ["quiet", "storm", "burst"] if workload == "W7" else ["all"]
    assert [phase["name"] for phase in document["phases"]] == phases
    classes = {result["class"] for result in document["classes"]}
    assert classes >= ({"online", "offline"} if workload == "W11" else {"read"})
    assert document["loop"] | {"kind": "open", "rate": 20.0} == document["loop"]


def test_a_seed_is_a_schedule_with_its_keys(server):
    arguments = ["W6", *SMALL, "--rate", "200"]
    first, again = bench(server, *arguments, "--seed", "7"), bench(server, *arguments, "--seed", "7")
    assert first["schedule_checksum"] == again["schedule_checksum"]
    due = [[result["scheduled"] for result in document["classes"]] for document in (first, again)]
    assert due[0] == due[1]
    assert bench(server, *arguments, "--seed", "8")["schedule_checksum"] != first["schedule_checksum"]
    skewed = bench(server, *arguments, "--seed", "7", "--keys", "zipf:1.2")
    assert skewed["schedule_checksum"] != first["schedule_checksum"]


@pytest.mark.parametrize("shape", ["columns", "records"])
def test_a_closed_loop_keeps_some_under_way(server, shape):
    document = bench(server, "W6", *SMALL, "--in-flight", "4", "--consistency", "eventual", "--shape", shape)
    check(document)
    assert document["loop"] == {"kind": "closed", "in_flight": 4}
    assert document["consistency"] == "eventual" and document["shape"] == shape and recorded(document["lag"]) == 0


def test_processes_share_the_rate_and_are_merged(server):
    arguments = ["W1", *SMALL, "--gaps", "even", "--read-share", "1", "--rate", "60", "--processes", "2"]
    document = bench(server, *arguments)
    check(document)
    [result] = document["classes"]
    # 90 are due in 1.5 s; where the first gap begins is drawn, so each process may have one more or less.
    assert abs(result["scheduled"] - 90) <= 2
    assert document["processes"] == 2 and recorded(document["lag"]) > 0
    assert bench(server, *arguments)["schedule_checksum"] == document["schedule_checksum"]


def test_records_are_loaded_once(server):
    arguments = ["W4", "--prefix", f"once-{time.time_ns() % 10**9}", "--scale", "0.0002", "--load", "only"]
    first, again = bench(server, *arguments), bench(server, *arguments)
    assert [(group["records"], group["put"]) for group in first["loaded"]] == [(200, 200)]
    assert [(group["records"], group["put"]) for group in again["loaded"]] == [(200, 0)]
    name = first["loaded"][0]["feature_group"]
    record = server.granary("get", name, "entity-0000000199")
    assert len(json.dumps(record)) > 200 * len("f0"), "all of its features"
    # More are asked for: only those are put.
    more = bench(server, *arguments, "--scale", "0.0003")
    assert [(group["records"], group["put"]) for group in more["loaded"]] == [(300, 100)]


def test_records_that_are_not_there_are_errors(server):
    arguments = ["W6", "--prefix", f"none-{time.time_ns() % 10**9}", "--load", "skip"]
    done = run(server, *arguments, *SMALL, "--output", "json")
    # No operation completed: nothing was measured, and the document says why.
    assert done.returncode == 1 and "no operation completed" in done.stderr
    [result] = json.loads(done.stdout)["classes"]
    assert result["errors"] == {"missing": result["scheduled"]} and result["scheduled"] > 0


def test_a_table_is_for_people(server):
    done = run(server, "W6", *SMALL, "--output", "table")
    assert done.returncode == 0, done.stderr
    header = next(line for line in done.stdout.splitlines() if line.startswith("CLASS"))
    assert header.split() == ["CLASS", "PHASE", "DUE", "COMPLETED", "ERRORS", "TIMEOUTS", "SHED", "RATE", "GOOD",
                              "P50", "P90", "P99", "P99.9", "MAX"]
    assert "the generator was late by" in done.stdout


def test_the_workloads_are_listed(server):
    listed = bench(server, "--list")["workloads"]
    assert [workload["full"]["id"] for workload in listed] == WORKLOADS
    assert all(max(group["entities"] for group in workload["scaled"]["groups"]) == 10_000 for workload in listed)
    assert "W11" in run(server, "--list").stdout


@pytest.mark.parametrize("arguments, named", [
    (["W9"], "W9"),
    ([], "WORKLOAD"),
    (["W1", "--rate", "0"], "--rate"),
    (["W1", "--rate", "5", "--in-flight", "5"], "--in-flight"),
    (["W7", "--in-flight", "5"], "--in-flight"),
    (["W1", "--keys", "pareto"], "--keys"),
    (["W1", "--duration", "0s"], "--duration"),
    (["W1", "--processes", "4", "--in-flight", "2"], "--processes"),
])
def test_wrong_input_is_named(server, arguments, named):
    done = run(server, *arguments)
    assert done.returncode == 2 and named in done.stderr, done.stderr


def test_a_group_of_another_shape_is_refused_by_name(server):
    prefix = f"other-{time.time_ns() % 10**9}"
    name = f"{prefix}-w6-entities"
    server.granary("feature-group", "create", name, "--record-identifier", "entity", "--event-time", "at",
                   "--feature", "at:Fractional", "--feature", "i0:String")
    done = run(server, "W6", *SMALL, "--prefix", prefix)
    assert done.returncode == 2 and name in done.stderr and "other features" in done.stderr, done.stderr


def test_a_server_that_is_away_is_no_figure():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        command = [str(binary()), "bench", "W6", "--endpoint", endpoint]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "nothing could be measured" in done.stderr and endpoint in done.stderr


def own(directory, *arguments):
    command = [str(binary()), "bench", "W6", "--own", *arguments, "--output", "json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "TMPDIR": str(directory)})


def processes_of(directory):
    """Processes with the directory on their command line."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_a_cluster_of_its_own_comes_and_goes(tmp_path):
    process = own(tmp_path, *SMALL)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    check(json.loads(out))
    assert list(tmp_path.iterdir()) == [] and processes_of(tmp_path) == []


def test_a_cluster_of_its_own_goes_with_ctrl_c():
    with tempfile.TemporaryDirectory() as directory:
        process = own(directory, "--duration", "300s", "--scale", "0.001")
        try:
            wait_until(lambda: processes_of(directory), 60, "granary dev starts")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 1 and "stopped" in err
        assert os.listdir(directory) == [] and processes_of(directory) == []
