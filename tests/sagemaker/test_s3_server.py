"""The S3 that Granary serves: what boto3 does with it, what it keeps, what it refuses."""

import hashlib
import http.client
import io
import json
import os
import pathlib
import random
import time

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from conftest import create_users, record, wait_until


@pytest.fixture(scope="session")
def s3(server):
    return server.client("s3")


@pytest.fixture
def bucket(s3):
    name = f"bucket-{time.time_ns()}"
    s3.create_bucket(Bucket=name)
    return name


def code(refused):
    return refused.value.response["Error"]["Code"]


def test_buckets_come_and_go(s3):
    name = f"bucket-{time.time_ns()}"
    with pytest.raises(ClientError) as refused:
        s3.head_bucket(Bucket=name)
    assert code(refused) == "404"
    with pytest.raises(ClientError) as refused:
        s3.list_objects_v2(Bucket=name)
    assert code(refused) == "NoSuchBucket"
    s3.create_bucket(Bucket=name)
    s3.head_bucket(Bucket=name)
    assert name in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": []}))
    s3.put_object(Bucket=name, Key="a", Body=b"x")
    with pytest.raises(ClientError) as refused:
        s3.delete_bucket(Bucket=name)
    assert code(refused) == "BucketNotEmpty"
    s3.delete_object(Bucket=name, Key="a")
    s3.delete_bucket(Bucket=name)
    assert name not in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    with pytest.raises(ClientError) as refused:
        s3.create_bucket(Bucket="ab..cd")
    assert code(refused) == "InvalidBucketName"


def test_an_object_comes_back_with_what_was_said_of_it(s3, bucket):
    body = os.urandom(100_000)
    put = s3.put_object(Bucket=bucket, Key="dir/a b+c.bin", Body=body, ContentType="text/x", Metadata={"who": "me"})
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    assert put["ETag"] == etag
    head = s3.head_object(Bucket=bucket, Key="dir/a b+c.bin")
    assert (head["ETag"], head["ContentLength"], head["ContentType"]) == (etag, len(body), "text/x")
    assert head["Metadata"] == {"who": "me"}
    got = s3.get_object(Bucket=bucket, Key="dir/a b+c.bin")
    assert got["Body"].read() == body
    part = s3.get_object(Bucket=bucket, Key="dir/a b+c.bin", Range="bytes=10-19")
    assert part["Body"].read() == body[10:20] and part["ContentRange"] == "bytes 10-19/100000"
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="dir/a b+c.bin", Range="bytes=100000-")
    assert code(refused) == "InvalidRange"
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="dir/a b+c.bin", IfNoneMatch=etag)
    assert code(refused) == "304"
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="dir/a b+c.bin", IfMatch='"other"')
    assert code(refused) == "PreconditionFailed"
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="dir/a b+c.bin", Body=b"new", IfNoneMatch="*")
    assert code(refused) == "PreconditionFailed"
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "dir/a b+c.bin"})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == body
    assert s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"who": "me"}
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="missing")
    assert code(refused) == "NoSuchKey"
    s3.delete_object(Bucket=bucket, Key="missing")


def test_bytes_that_changed_on_the_way_are_refused(s3, bucket):
    for more in ({"ChecksumCRC32": "AAAAAA=="}, {"ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}):
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket=bucket, Key="a", Body=b"content", **more)
        assert code(refused) == "BadDigest"
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="a")


def test_chunked_bodies_are_put_together(server, s3, bucket):
    """As SDKs send them over TLS: chunks, and the checksum behind them."""
    body = b"7\r\nchunk 1\r\n8\r\n chunk 2\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n"
    scope = "AWS4-HMAC-SHA256 Credential=test/20261127/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    headers = {
        "Authorization": scope,
        "content-encoding": "aws-chunked",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "15",
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("PUT", f"/{bucket}/chunked", body=body % b"AAAAAA==", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, b"BadDigest" in answer.read()) == (400, True)
    crc = s3.put_object(Bucket=bucket, Key="plain", Body=b"chunk 1 chunk 2", ChecksumAlgorithm="CRC32")["ChecksumCRC32"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("PUT", f"/{bucket}/chunked", body=body % crc.encode(), headers=headers)
    assert connection.getresponse().status == 200
    assert s3.get_object(Bucket=bucket, Key="chunked")["Body"].read() == b"chunk 1 chunk 2"


def test_large_objects_come_in_parts(s3, bucket):
    body = os.urandom((20 << 20) + 7)
    s3.upload_fileobj(io.BytesIO(body), bucket, "large", Config=TransferConfig(multipart_threshold=8 << 20))
    head = s3.head_object(Bucket=bucket, Key="large")
    assert head["ContentLength"] == len(body) and head["ETag"].endswith('-3"')
    into = io.BytesIO()
    s3.download_fileobj(bucket, "large", into)
    assert into.getvalue() == body
    # One that is given up leaves nothing.
    upload = s3.create_multipart_upload(Bucket=bucket, Key="never")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="never", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="never", UploadId=upload)
    with pytest.raises(ClientError) as refused:
        s3.upload_part(Bucket=bucket, Key="never", UploadId=upload, PartNumber=2, Body=b"x")
    assert code(refused) == "NoSuchUpload"
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["large"]
    # A part that is another than was uploaded.
    upload = s3.create_multipart_upload(Bucket=bucket, Key="never")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="never", UploadId=upload, PartNumber=1, Body=b"x")
    with pytest.raises(ClientError) as refused:
        s3.complete_multipart_upload(
            Bucket=bucket, Key="never", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": '"0"'}]}
        )
    assert code(refused) == "InvalidPart"


def test_lists_are_in_order_and_in_pages(s3, bucket):
    keys = ["a/1", "a/2", "a/b/3", "a0", "b/1", "ü/ä", "z#1", "z%2F", "folder/"]
    for key in random.Random(7).sample(keys, len(keys)):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    everything = sorted(keys, key=lambda key: key.encode())
    for operation in ("list_objects", "list_objects_v2"):
        for size in (1, 2, 1000):
            pages = s3.get_paginator(operation).paginate(Bucket=bucket, PaginationConfig={"PageSize": size})
            assert [entry["Key"] for page in pages for entry in page.get("Contents", [])] == everything, (operation, size)
    top = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [entry["Prefix"] for entry in top["CommonPrefixes"]] == ["a/", "b/", "folder/", "ü/"]
    assert [entry["Key"] for entry in top["Contents"]] == ["a0", "z#1", "z%2F"]
    below = s3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/")
    assert [entry["Key"] for entry in below["Contents"]] == ["a/1", "a/2"]
    assert [entry["Prefix"] for entry in below["CommonPrefixes"]] == ["a/b/"]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, Prefix="a")["Contents"]] == everything[:4]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, StartAfter="a/2")["Contents"]] == everything[2:]
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in [*keys, "missing"]]})
    assert sorted(entry["Key"] for entry in deleted["Deleted"]) == sorted([*keys, "missing"])
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    # On a local disk the directories are still there, and are no prefixes.
    assert "CommonPrefixes" not in s3.list_objects_v2(Bucket=bucket, Delimiter="/")


def test_a_groups_history_is_read_and_not_changed(server, s3):
    control, runtime = server.client("sagemaker"), server.client("sagemaker-featurestore-runtime")
    name = f"history-{time.time_ns()}"
    create_users(control, name)
    runtime.put_record(FeatureGroupName=name, Record=record(user_id="1", event_time="2024-01-31T08:30:00Z"))
    offline = control.describe_feature_group(FeatureGroupName=name)["OfflineStoreConfig"]
    bucket, prefix = offline["S3StorageConfig"]["ResolvedOutputS3Uri"].removeprefix("s3://").split("/", 1)

    def history():
        keys = [entry["Key"] for entry in s3.list_objects(Bucket=bucket, Prefix=prefix).get("Contents", [])]
        return [key for key in keys if key.endswith(".parquet")]

    (key,) = wait_until(history, 60, "the first file of the history")
    assert key.startswith(f"{prefix}/year=2024/month=01/day=31/hour=08/20240131T083000Z_")
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read()[:4] == b"PAR1"
    for call in (
        lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"x"),
        lambda: s3.delete_object(Bucket=bucket, Key=key),
        lambda: s3.put_object(Bucket=bucket, Key=f"{prefix}/_delta_log/00000000000000000099.json", Body=b"{}"),
        lambda: s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": key}),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key=key),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert code(refused) == "AccessDenied"
    errors = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})["Errors"]
    assert [error["Code"] for error in errors] == ["AccessDenied"]
    # Others write beside it, as the Spark connector does.
    s3.put_object(Bucket=bucket, Key=f"{prefix}/year=2024/part-0001.parquet", Body=b"PAR1")
    s3.delete_object(Bucket=bucket, Key=f"{prefix}/year=2024/part-0001.parquet")
    assert history() == [key]


def files(server):
    root = pathlib.Path(server.data_dir)
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and "node-" not in str(path)}


def test_no_key_leaves_its_bucket(server, s3, bucket):
    """Keys that try, and random ones: each is refused, or is one object that comes back under its own name."""
    made = random.Random(11)
    parts = ["..", ".", "%2e%2e", "\\", "a", "é", "\x01", "#1", "%", "_granary", "~", " ", "a" * 300, "a\nb", "?", "*", ":"]
    keys = ["../../etc/passwd", "a/../../x", "/etc/passwd", "a//b", "..", "a" * 2_000, "_granary/athena/x"]
    keys += ["/".join(made.choice(parts) for _ in range(made.randint(1, 4))) for _ in range(80)]
    kept = {}
    client = server.client("s3")
    for number, key in enumerate(dict.fromkeys(keys)):
        body = f"{number}".encode()
        try:
            client.put_object(Bucket=bucket, Key=key, Body=body)
        except ClientError as refused:
            status = refused.response["ResponseMetadata"]["HTTPStatusCode"]
            assert 400 <= status < 500, (key, refused)
            continue
        kept[key] = body
    assert kept
    for key, body in kept.items():
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == body, key
    root = pathlib.Path(server.data_dir) / "offline"
    outside = [path for path in root.parent.rglob("passwd")] + [path for path in root.glob("x")]
    assert not outside or all(bucket in str(path) for path in outside)
    assert sorted(path.name for path in root.parent.iterdir() if "node-" not in path.name) == ["dev.json", "offline"]


def test_raw_paths_do_not_climb(server, bucket):
    scope = "AWS4-HMAC-SHA256 Credential=test/20261127/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    before = files(server)
    for path in (f"/{bucket}/../../dev.json", f"/{bucket}/%2e%2e/%2e%2e/dev.json", "/../dev.json", "/_granary/x", "/%2e%2e/x"):
        for method in ("GET", "PUT", "DELETE"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request(method, path, body=b"x" if method == "PUT" else None, headers={"Authorization": scope})
            answer = connection.getresponse()
            assert b"nodes" not in answer.read(), path
            connection.close()
    after = {path for path in files(server) if "offline" not in path.parts[:1]}
    assert after == {path for path in before if "offline" not in path.parts[:1]}


def test_what_is_not_served_is_said(s3, bucket):
    for call in (
        lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}),
        lambda: s3.list_object_versions(Bucket=bucket),
        lambda: s3.get_bucket_acl(Bucket=bucket),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert code(refused) == "NotImplemented"


def test_who_the_caller_is(server):
    identity = server.client("sts").get_caller_identity()
    assert identity["Account"] == "000000000000" and identity["Arn"].endswith(":assumed-role/granary/caller")
    assert server.client("iam").get_role(RoleName="me")["Role"]["Arn"] == "arn:aws:iam::000000000000:role/me"
    with pytest.raises(ClientError) as refused:
        server.client("sts").get_session_token()
    assert code(refused) == "InvalidAction"
    with pytest.raises(ClientError) as refused:
        server.client("lakeformation").list_resources()
    assert code(refused) == "UnsupportedOperationException"
