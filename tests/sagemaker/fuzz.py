"""A fuzzer of the wire: requests that are nearly right, wrong in every way, or no HTTP at all, against a running server.

    python tests/sagemaker/fuzz.py [--seed N] [--requests N] [--endpoint http://127.0.0.1:7460]

Without an endpoint it starts `granary dev`. One seed makes one sequence of requests. What must hold:

* the process lives, is ready, and has not panicked anywhere;
* no answer is an internal failure (500), and each answer is whole;
* a batch of requests of which none was accepted leaves everything as it was: groups, tags, records, change log.
"""

import argparse
import contextlib
import copy
import http.client
import json
import pathlib
import random
import socket
import sys
import tempfile
import urllib.parse

BATCH = 50
GROUP = "fuzz-sentinel"
ROLE = "arn:aws:iam::123456789012:role/feature-store"
TIME = "2024-01-01T00:00:00Z"

DEFINITIONS = [
    {"FeatureName": "id", "FeatureType": "String"},
    {"FeatureName": "n", "FeatureType": "Integral"},
    {"FeatureName": "t", "FeatureType": "String"},
]
CREATE = {
    "FeatureGroupName": GROUP, "RecordIdentifierFeatureName": "id", "EventTimeFeatureName": "t",
    "FeatureDefinitions": DEFINITIONS, "OnlineStoreConfig": {"EnableOnlineStore": True, "TtlDuration": {"Unit": "Weeks", "Value": 9999}},
    "OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://fuzz/history"}, "TableFormat": "Glue"}, "RoleArn": ROLE,
    "ThroughputConfig": {"ThroughputMode": "OnDemand"}, "Description": "d", "Tags": [{"Key": "k", "Value": "v"}],
}
ARN = f"arn:aws:sagemaker:us-east-1:000000000000:feature-group/{GROUP}"
CONTROL = {
    "CreateFeatureGroup": {**CREATE, "FeatureGroupName": "fuzz-other"},
    "DescribeFeatureGroup": {"FeatureGroupName": GROUP, "NextToken": "x"},
    "UpdateFeatureGroup": {"FeatureGroupName": GROUP, "FeatureAdditions": [{"FeatureName": "n", "FeatureType": "String"}]},
    "DeleteFeatureGroup": {"FeatureGroupName": "fuzz-nobody"},
    "ListFeatureGroups": {"NameContains": "fuzz", "SortBy": "Name", "SortOrder": "Ascending", "MaxResults": 10, "CreationTimeAfter": 1.5},
    "DescribeFeatureMetadata": {"FeatureGroupName": GROUP, "FeatureName": "n"},
    "UpdateFeatureMetadata": {"FeatureGroupName": GROUP, "FeatureName": "nobody", "Description": "d",
                              "ParameterAdditions": [{"Key": "a", "Value": "b"}], "ParameterRemovals": ["c"]},
    "AddTags": {"ResourceArn": ARN + "x", "Tags": [{"Key": "a", "Value": "b"}]},
    "ListTags": {"ResourceArn": ARN, "MaxResults": 50},
    "DeleteTags": {"ResourceArn": ARN + "x", "TagKeys": ["a"]},
    "Search": {"Resource": "FeatureGroup", "MaxResults": 5, "SortBy": "CreationTime", "SearchExpression": {
        "Operator": "And", "Filters": [{"Name": "FeatureGroupName", "Operator": "Contains", "Value": "f"}],
        "SubExpressions": [{"Filters": [{"Name": "Tags.k", "Operator": "Equals", "Value": "v"}]}]}},
}
ATHENA = {
    "StartQueryExecution": {"QueryString": "SELECT 1", "QueryExecutionContext": {"Database": "sagemaker_featurestore"},
                            "ResultConfiguration": {"OutputLocation": "s3://fuzz/results"}},
    "GetQueryExecution": {"QueryExecutionId": "00000000-0000-0000-0000-000000000000"},
    "GetQueryResults": {"QueryExecutionId": "00000000-0000-0000-0000-000000000000", "MaxResults": 3},
    "StopQueryExecution": {"QueryExecutionId": "00000000-0000-0000-0000-000000000000"},
    "ListQueryExecutions": {"MaxResults": 3},
}
GLUE = {
    "GetDatabase": {"Name": "sagemaker_featurestore"},
    "GetTables": {"DatabaseName": "sagemaker_featurestore", "MaxResults": 3},
    "GetTable": {"DatabaseName": "sagemaker_featurestore", "Name": "nobody"},
    "GetPartitions": {"DatabaseName": "sagemaker_featurestore", "TableName": "nobody"},
}
RECORD = [{"FeatureName": "id", "ValueAsString": "1"}, {"FeatureName": "n", "ValueAsString": "x"}, {"FeatureName": "t", "ValueAsString": TIME}]
RUNTIME = [
    ("PUT", f"/FeatureGroup/{GROUP}", {"Record": RECORD, "TargetStores": ["OnlineStore"], "TtlDuration": {"Unit": "Days", "Value": 3}}),
    ("GET", f"/FeatureGroup/{GROUP}?RecordIdentifierValueAsString=1&FeatureName=n&ExpirationTimeResponse=Enabled", None),
    ("DELETE", f"/FeatureGroup/{GROUP}?RecordIdentifierValueAsString=1&EventTime=never&DeletionMode=HardDelete", None),
    ("POST", "/BatchGetRecord", {"Identifiers": [{"FeatureGroupName": GROUP, "RecordIdentifiersValueAsString": ["1"], "FeatureNames": ["n"]}]}),
    ("POST", "/BatchWriteRecord", {"Entries": [{"FeatureGroupName": GROUP, "Record": RECORD}], "TtlDuration": {"Unit": "Days", "Value": 3}}),
    ("POST", f"/FeatureGroup/{GROUP}/ListRecords", {"MaxResults": 5, "NextToken": "x", "IncludeSoftDeletedRecords": True}),
    ("POST", f"/FeatureGroup/{GROUP}/Record", {"RecordIdentifierValueAsString": "1", "Features": [{"FeatureName": "n", "ValueAsString": "x"}]}),
]
S3 = [
    ("GET", "/fuzz-bucket?list-type=2&prefix=a&max-keys=3&delimiter=%2F", None),
    ("GET", "/fuzz-bucket/../../etc/passwd", None),
    ("HEAD", "/fuzz-bucket/key", None),
    ("POST", "/fuzz-bucket?delete", "<Delete><Object><Key>a</Key></Object></Delete>"),
    ("GET", "/?x-id=ListBuckets", None),
]
ODD = [None, True, False, 0, -1, 1e308, 10**30, "", " ", "\0", "é", "\ud83d\ude00", "a" * 70, "a" * 300_000, "../..", "%2e%2e", "{}", [], {}, [[]],
       [None], {"": ""}, "9999-12-31T23:59:59.999999999Z", "0000-01-01T00:00:00Z", "2024-13-01T00:00:00Z", "NaN", "-0", "1e999", "0x10",
       "arn:aws:sagemaker:::feature-group/", "s3://", "'; DROP TABLE x; --", "$ref", "null"]


class Fuzz:
    """Requests by one random generator."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def template(self):
        """A request as a client would send it: method, path, headers, body."""
        kind = self.random.choice(["control"] * 4 + ["runtime"] * 4 + ["athena", "glue", "s3", "sts"])
        if kind in ("control", "athena", "glue"):
            prefix, operations = {"control": ("SageMaker", CONTROL), "athena": ("AmazonAthena", ATHENA), "glue": ("AWSGlue", GLUE)}[kind]
            operation = self.random.choice(sorted(operations))
            headers = {"X-Amz-Target": f"{prefix}.{operation}", "Content-Type": "application/x-amz-json-1.1"}
            return "POST", "/", headers, json.loads(json.dumps(operations[operation]))
        if kind == "sts":
            headers = {"Content-Type": "application/x-www-form-urlencoded", **signed_for("sts")}
            return "POST", "/", headers, "Action=GetCallerIdentity&Version=2011-06-15"
        method, path, body = self.random.choice(RUNTIME if kind == "runtime" else S3)
        headers = {} if kind == "runtime" else signed_for("s3")
        return method, path, headers, json.loads(json.dumps(body))

    def request(self):
        """A template with one to four things wrong."""
        method, path, headers, body = self.template()
        for _ in range(self.random.randint(1, 4)):
            change = self.random.choice([self.bend_body, self.bend_body, self.bend_body, self.bend_path, self.bend_headers, self.bend_method])
            method, path, headers, body = change(method, path, headers, body)
        data = body if isinstance(body, bytes) else b"" if body is None else \
            body.encode("utf-8", "surrogatepass") if isinstance(body, str) else self.bend_bytes(json.dumps(body).encode())
        return method, path, headers, data

    def bend_body(self, method, path, headers, body):
        places = list(walk(body))
        if not places:
            return method, path, headers, self.random.choice([b"", b"[]", b"null", b"{", b'{"a":1', b"\xff\xfe", b"[" * 5_000, b'{"a":' * 3_000])
        holder, key = self.random.choice(places)
        change = self.random.randrange(5)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.extend([holder[key]] * self.random.choice([1, 30, 120, 3_000]))
        elif change == 2 and isinstance(holder, dict):
            holder[self.random.choice(["Unknown", "", "featureGroupName", "__type"])] = holder.pop(key)
        elif change == 3:
            nested = holder[key]
            for _ in range(self.random.choice([1, 5, 200])):
                nested = self.random.choice([lambda inner: [inner], lambda inner: {"Filters": inner}, lambda inner: {"SubExpressions": [inner]}])(nested)
            holder[key] = nested
        else:
            # A copy: later changes would otherwise bend what other requests are made of, or put it into itself.
            holder[key] = copy.deepcopy(self.random.choice(ODD))
        return method, path, headers, body

    def bend_path(self, method, path, headers, body):
        odd = self.random.choice(["%", "%2", "%zz", "%00", "%2F", "//", "/../", "?", "&", "=", "#", ";", "+", "a" * 9_000, "%ff", "?FeatureName=n" * 200])
        place = self.random.randrange(len(path) + 1)
        return method, path[:place] + odd + path[place:], headers, body

    def bend_headers(self, method, path, headers, body):
        name = self.random.choice(["X-Amz-Target", "Content-Type", "Authorization", "amz-sdk-invocation-id", "x-amz-date", "x-amzn-requestid",
                                   "x-amz-content-sha256", "Content-Encoding", "x-amz-decoded-content-length", "Range", "x-amz-trailer", "te"])
        value = self.random.choice(["", "x", "SageMaker.", ".", "AWS4-HMAC-SHA256 Credential=////, SignedHeaders=, Signature=", "aws-chunked",
                                    "application/grpc", "bytes=9-1", "bytes=-99999999999999999999", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "\xe9" * 9,
                                    "9" * 400])
        return method, path, {**headers, name: value}, body

    def bend_method(self, method, path, headers, body):
        return self.random.choice(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS", "BREW"]), path, headers, body

    def bend_bytes(self, data):
        """Now and then the bytes themselves."""
        if not data or self.random.random() > 0.2:
            return data
        place = self.random.randrange(len(data))
        return self.random.choice([data[:place], data[:place] + b"\xff" + data[place + 1:], data + data, b"\xef\xbb\xbf" + data])


def signed_for(service):
    scope = f"AK/20260101/us-east-1/{service}/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}"}


def walk(value):
    """Every place in nested lists and dictionaries."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from walk(value[key])


class Target:
    """The server under test."""

    def __init__(self, endpoint):
        address = urllib.parse.urlsplit(endpoint)
        self.host, self.port = address.hostname, address.port

    def send(self, method, path, headers, body):
        """The answer's status and body; `None` where the server closed without one, which HTTP allows."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.putrequest(method, path.replace(" ", "%20"), skip_accept_encoding=True)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (http.client.BadStatusLine, ConnectionError, ValueError):
            return None, b""
        finally:
            connection.close()

    def raw(self, data):
        """Bytes that need not be HTTP."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=5) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass

    def call(self, operation, **request):
        headers = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        status, body = self.send("POST", "/", headers, json.dumps(request).encode())
        return status, json.loads(body or b"{}")

    def state(self):
        """All that a request could have changed, as far as clients can see it."""
        groups = self.call("ListFeatureGroups", NameContains="fuzz", MaxResults=100)[1].get("FeatureGroupSummaries", [])
        described = [self.call("DescribeFeatureGroup", FeatureGroupName=group["FeatureGroupName"])[1] for group in groups]
        tags = self.call("ListTags", ResourceArn=ARN)[1]
        records = [self.send("GET", f"/FeatureGroup/{GROUP}?RecordIdentifierValueAsString={record}", {}, b"") for record in ("1", "2", "")]
        features = [self.call("DescribeFeatureMetadata", FeatureGroupName=GROUP, FeatureName=name)[1] for name in ("id", "n", "t")]
        return json.dumps([groups, described, tags, features], sort_keys=True) + repr(records)


def run(target, seed, requests, alive=lambda: True):
    """Sends the requests; how many were accepted, or may have been.

    Raises AssertionError when something does not hold.
    """
    fuzz = Fuzz(seed)
    status, answer = target.call("CreateFeatureGroup", **CREATE)
    assert status == 200 or answer.get("__type") == "ResourceInUse", answer
    put = json.dumps({"Record": [RECORD[0], RECORD[2]]}).encode()
    assert target.send("PUT", f"/FeatureGroup/{GROUP}", {}, put)[0] == 200
    accepted, before = 0, target.state()
    for first in range(0, requests, BATCH):
        taken = []
        for number in range(first, min(first + BATCH, requests)):
            request = fuzz.request()
            status, body = target.send(*request)
            told = f"seed {seed} request {number}: {request!r:.2000}"
            assert status != 500, f"{told}\nanswered {status} {body!r:.500}"
            # What is answered with 503 may have been applied all the same.
            if status is not None and (200 <= status < 300 or status == 503):
                taken.append(request)
            assert alive(), f"the server ended\n{told}"
        target.raw(fuzz.random.randbytes(200) if fuzz.random.random() < 0.5 else b"PUT / HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
        after = target.state()
        reads = all(is_read(request) for request in taken)
        assert after == before or not reads, f"seed {seed} requests {first}..: refused requests changed something\n{before}\n{after}"
        accepted, before = accepted + len(taken), after
    return accepted


def is_read(request):
    """By the whole request: what is told of one may end before the header that names its operation."""
    told = repr(request)
    return not any(word in told for word in ("Create", "Update", "Delete", "AddTags", "'PUT'", "'DELETE'", "BatchWrite", "/Record'", "Start"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--endpoint")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.requests} requests", flush=True)
    if options.endpoint:
        accepted = run(Target(options.endpoint), options.seed, options.requests)
    else:
        import conftest
        with tempfile.TemporaryDirectory() as name:
            log = pathlib.Path(name) / "server.log"
            with open(log, "wb") as out:
                server = conftest.Server(pathlib.Path(name) / "data", out).start()
                try:
                    accepted = run(Target(server.endpoint), options.seed, options.requests, lambda: server.process.poll() is None)
                finally:
                    server.stop()
            assert "panicked" not in log.read_text(), log.read_text()[-5_000:]
    print(f"held; {accepted} requests were accepted")


if __name__ == "__main__":
    sys.exit(main())
