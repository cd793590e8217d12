"""The README's own commands, as they stand there, against a server on another port."""

import json
import os
import re
import shlex
import subprocess
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2

from conftest import ROOT, binary

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


class Reflected:
    """Methods and messages as the server's reflection describes them: what grpcurl goes by."""

    def __init__(self, channel):
        self.channel = channel
        self.pool = descriptor_pool.DescriptorPool()
        self.learned = set()
        self.ask = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

    def learn(self, symbol):
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (answer,) = self.ask(iter([request]), timeout=10)
        assert not answer.HasField("error_response"), answer
        files = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in
                 answer.file_descriptor_response.file_descriptor_proto]
        files = [file for file in files if file.name not in self.learned]
        known = {file.name for file in files}
        self.learned |= known
        while files:
            ready = [file for file in files if not known.intersection(file.dependency)]
            assert ready, "reflection names a file that it does not give"
            for file in ready:
                self.pool.Add(file)
                known.remove(file.name)
                files.remove(file)

    def call(self, name, body):
        service, method = name.split("/")
        self.learn(service)
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = json_format.Parse(body, message_factory.GetMessageClass(described.input_type)())
        unary = self.channel.unary_unary(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(described.output_type).FromString,
        )
        return json_format.MessageToDict(unary(request, timeout=10))


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
