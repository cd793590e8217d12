"""The README's own commands, as they stand there, against a server on another port."""

import json
import os
import re
import shlex
import subprocess
import sys

import grpc

from conftest import ROOT, binary
from reflected import Reflected

README = (ROOT / "README.md").read_text()
ADDRESS = "127.0.0.1:7460"


def blocks(heading, language):
    """The code blocks of one language under a heading."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)
    assert section, f"README.md has no heading {heading!r}"
    found = re.findall(rf"^```{language}\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no {language} under {heading!r}"
    return found


def shell(script, server):
    """Runs a script whose `granary` is the binary under test and whose cluster is `server`."""
    script = f'granary() {{ "{binary()}" "$@"; }}\n{script}'
    environment = {**os.environ, "GRANARY_ENDPOINT": server.endpoint}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=90, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_snippet_of_the_readme(server):
    start, commands = blocks("First put and get", "sh")
    assert start == "cargo run -- dev\n", "the server of this test is what the README starts"
    printed = shell(commands, server)
    assert printed.count("Basel") == 2, f"by get and by SQL: {printed}"

    (program,) = blocks("By boto3", "python")
    assert ADDRESS in program
    program = program.replace(ADDRESS, f"127.0.0.1:{server.port}")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'ValueAsString': '4.80'" in done.stdout

    (calls,) = blocks("By gRPC", "sh")
    words = shlex.split(calls.replace("\\\n", " "))
    starts = [place for place, word in enumerate(words) if word == "grpcurl"] + [len(words)]
    calls = [words[begin:end] for begin, end in zip(starts, starts[1:])]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        reflected = Reflected(channel)
        answers = []
        for program, plain, data, body, address, method in calls:
            assert (program, plain, data, address) == ("grpcurl", "-plaintext", "-d", ADDRESS)
            answers.append((method, reflected.call(method, body)))
        methods = [method for method, _ in answers]
        assert methods == ["granary.v1.FeatureStore/GetRecord", "granary.v1.FeatureStore/PutRecord"]
        assert "Basel" in json.dumps(answers[0][1])
        again = reflected.call(methods[0], json.dumps({"feature_group": "users", "record_identifier": "43"}))
        assert "7.25" in json.dumps(again)
