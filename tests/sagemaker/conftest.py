"""Starts `granary dev` and gives tests unmodified boto3 clients for it.

The binary is the one that cargo built (GRANARY_BIN overrides it). Every wait is on a condition with a bound.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return pathlib.Path(os.environ.get("GRANARY_BIN", target / "debug" / "granary"))


def free_ports(count):
    """The first of `count` consecutive free ports: `dev` takes one for its API and one for each node.

    None that the system gives to outgoing connections: one of those could hold a port when its server starts again.
    """
    try:
        outgoing = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        outgoing = 32_768
    end = outgoing if outgoing > 20_000 else 65_000
    while True:
        port = random.randrange(10_000, end - count)
        with contextlib.ExitStack() as stack:
            try:
                for offset in range(count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"gave up after {seconds} s: {what}"
        time.sleep(0.05)  # the poll interval of a bounded wait


class Server:
    """One `granary dev` process on a data directory that outlives it."""

    def __init__(self, data_dir, log, settings=None, environment=None):
        self.data_dir = pathlib.Path(data_dir)
        self.port = free_ports(4)
        self.log = log
        self.settings = [f"--set={key}={value}" for key, value in (settings or {}).items()]
        self.environment = {**os.environ, **(environment or {})}
        self.process = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [str(binary()), "dev", "--data-dir", str(self.data_dir), "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            command + self.settings, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env=self.environment
        )
        wait_until(self.ready, 120, f"{self.endpoint}/readyz")
        return self

    def ready(self):
        assert self.process.poll() is None, f"granary dev ended with {self.process.returncode}"
        try:
            with urllib.request.urlopen(f"{self.endpoint}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def granary(self, *arguments):
        """A client command; its output as JSON."""
        return json.loads(self.output(*arguments))

    def rows(self, *arguments):
        """A client command that writes rows; a dictionary each, without what is null."""
        return [json.loads(line) for line in self.output(*arguments).splitlines()]

    def output(self, *arguments):
        command = [str(binary()), *arguments, "--endpoint", self.endpoint, "--output", "json", *self.settings]
        # Longer than the half a minute that it waits by itself, and shorter than what it is given here.
        command += ["--timeout", "80s"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=self.environment)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def metric(self, name):
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"{self.endpoint}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[{{ ]", line)]
        assert values, f"no metric {name}"
        return sum(values)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def client(self, service, retries=3):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": retries, "mode": "standard"}, read_timeout=30),
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("granary")
    with open(directory / "server.log", "wb") as log:
        server = Server(directory / "data", log)
        try:
            yield server.start()
        finally:
            if server.process and server.process.poll() is None:
                server.stop()
            print(f"server log: {directory / 'server.log'}")


@pytest.fixture(scope="session")
def control(server):
    return server.client("sagemaker")


@pytest.fixture(scope="session")
def runtime(server):
    return server.client("sagemaker-featurestore-runtime")


@pytest.fixture
def name(request):
    return re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")[:50] + f"-{time.time_ns() % 10**9}"


ROLE = "arn:aws:iam::123456789012:role/feature-store"


def create_users(control, name, offline=True, online=True, **more):
    request = {
        "FeatureGroupName": name,
        "RecordIdentifierFeatureName": "user_id",
        "EventTimeFeatureName": "event_time",
        "FeatureDefinitions": [
            {"FeatureName": "user_id", "FeatureType": "String"},
            {"FeatureName": "trips", "FeatureType": "Integral"},
            {"FeatureName": "avg_trip_duration", "FeatureType": "Fractional"},
            {"FeatureName": "last_trip_time", "FeatureType": "String"},
            {"FeatureName": "event_time", "FeatureType": "String"},
        ],
        **more,
    }
    if online:
        request.setdefault("OnlineStoreConfig", {"EnableOnlineStore": True})
    if offline:
        request.setdefault("OfflineStoreConfig", {"S3StorageConfig": {"S3Uri": "s3://features/history"}})
        request["RoleArn"] = ROLE
    return control.create_feature_group(**request)


def record(**values):
    return [{"FeatureName": name, "ValueAsString": value} for name, value in values.items()]
