"""SigV4 as botocore signs it, against a server that has access keys (contract 1.1)."""

import datetime

import boto3
import botocore.auth
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from conftest import Server, create_users, record

KEY, SECRET = "AKIDGRANARY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
OTHER = "SECOND_KEY", "another/secret+with=signs"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("guarded")
    keys = directory / "access-keys"
    keys.write_text(f"# rotated\n{KEY} {SECRET}\n{' '.join(OTHER)}\n")
    with open(directory / "server.log", "wb") as log:
        server = Server(directory / "data", log, settings={"sagemaker.access_keys": f"file:{keys}"})
        try:
            yield server.start()
        finally:
            server.stop()
    assert SECRET not in (directory / "server.log").read_text()


def client(server, service, key=KEY, secret=SECRET, token=None, **config):
    return boto3.client(
        service, endpoint_url=server.endpoint, region_name="eu-west-3", aws_access_key_id=key,
        aws_secret_access_key=secret, aws_session_token=token, config=Config(retries={"max_attempts": 1}, **config))


def refused(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_what_is_signed_comes_in(guarded, name):
    control, runtime = client(guarded, "sagemaker"), client(guarded, "sagemaker-featurestore-runtime")
    arn = create_users(control, name)["FeatureGroupArn"]
    # Characters that are encoded once on the wire and twice in what is signed, in path and query.
    for user in ("7", "a b/c+d%2F", "é:~*'()!", "=&?#", "//"):
        values = record(user_id=user, event_time="2024-01-01T00:00:00Z")
        runtime.put_record(FeatureGroupName=arn, Record=values)
        got = runtime.get_record(
            FeatureGroupName=arn, RecordIdentifierValueAsString=user, FeatureNames=["user_id", "event_time"])
        assert got["Record"][0]["ValueAsString"] == user
    runtime.delete_record(
        FeatureGroupName=name, RecordIdentifierValueAsString="=&?#", EventTime="2024-01-02T00:00:00.5Z",
        TargetStores=["OnlineStore", "OfflineStore"], DeletionMode="SoftDelete")
    identifiers = [{"FeatureGroupName": name, "RecordIdentifiersValueAsString": ["7", "=&?#"]}]
    assert len(runtime.batch_get_record(Identifiers=identifiers)["Records"]) == 1
    with_token = client(guarded, "sagemaker", token="a/session+token==")
    assert with_token.describe_feature_group(FeatureGroupName=arn)["FeatureGroupName"] == name
    second = client(guarded, "sagemaker", *OTHER)
    assert second.describe_feature_group(FeatureGroupName=name)["FeatureGroupArn"] == arn


def test_what_is_not_stays_out_and_changes_nothing(guarded, name):
    control, runtime = client(guarded, "sagemaker"), client(guarded, "sagemaker-featurestore-runtime")
    create_users(control, name)
    values = record(user_id="1", event_time="2024-01-01T00:00:00Z")
    for wrong, code in (
        (dict(secret="wrong"), "InvalidSignatureException"),
        (dict(key="NOBODY"), "UnrecognizedClientException"),
        (dict(secret=OTHER[1]), "InvalidSignatureException"),
    ):
        intruder = client(guarded, "sagemaker-featurestore-runtime", **wrong)
        assert refused(intruder.put_record, FeatureGroupName=name, Record=values) == (code, 403)
        intruder = client(guarded, "sagemaker", **wrong)
        assert refused(intruder.delete_feature_group, FeatureGroupName=name) == (code, 403)
    unsigned = boto3.client(
        "sagemaker-featurestore-runtime", endpoint_url=guarded.endpoint, region_name="us-east-1",
        aws_access_key_id="any", aws_secret_access_key="any",
        config=Config(signature_version=botocore.UNSIGNED, retries={"max_attempts": 1}))
    assert refused(unsigned.put_record, FeatureGroupName=name, Record=values) == (
        "MissingAuthenticationTokenException", 403)
    assert "Record" not in runtime.get_record(FeatureGroupName=name, RecordIdentifierValueAsString="1")
    assert control.describe_feature_group(FeatureGroupName=name)["FeatureGroupStatus"] == "Created"


@pytest.mark.parametrize("minutes, comes_in", [(-6, False), (-4, True), (4, True), (6, False)])
def test_clocks_may_be_five_minutes_apart(guarded, monkeypatch, minutes, comes_in):
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
    control = client(guarded, "sagemaker")
    if comes_in:
        control.list_feature_groups()
    else:
        assert refused(control.list_feature_groups) == ("InvalidSignatureException", 403)


def test_without_keys_any_signature_will_do(server):
    client(server, "sagemaker", key="any", secret="any").list_feature_groups()
