"""The AWS CLI from PyPI, pointed here by AWS_ENDPOINT_URL alone."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import pytest

from conftest import ROLE, wait_until

DEFINITIONS = "FeatureName=user_id,FeatureType=String FeatureName=trips,FeatureType=Integral FeatureName=event_time,FeatureType=String"


@pytest.fixture
def aws(server):
    program = pathlib.Path(sys.executable).parent / "aws"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ENDPOINT_URL": server.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_PAGER": "", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }

    def run(*arguments, fails=False):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=90, env=environment)
        if fails:
            assert done.returncode != 0, done.stdout
            return done.stderr
        assert done.returncode == 0, (arguments, done.stderr)
        return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout

    return run


@pytest.fixture
def group(aws, name):
    aws("sagemaker", "create-feature-group", "--feature-group-name", name, "--record-identifier-feature-name", "user_id",
        "--event-time-feature-name", "event_time", "--feature-definitions", *DEFINITIONS.split(),
        "--online-store-config", "EnableOnlineStore=true",
        "--offline-store-config", "S3StorageConfig={S3Uri=s3://features/history}", "--role-arn", ROLE)
    return name


def put(aws, group, **values):
    record = [{"FeatureName": name, "ValueAsString": value} for name, value in values.items()]
    aws("sagemaker-featurestore-runtime", "put-record", "--feature-group-name", group, "--record", json.dumps(record))


def get(aws, group, key):
    answer = aws("sagemaker-featurestore-runtime", "get-record", "--feature-group-name", group,
                 "--record-identifier-value-as-string", key)
    record = answer.get("Record", []) if answer else []
    return {value["FeatureName"]: value["ValueAsString"] for value in record}


def test_a_group_is_made_described_tagged_found_and_deleted(aws, group):
    described = aws("sagemaker", "describe-feature-group", "--feature-group-name", group)
    assert described["FeatureGroupStatus"] == "Created"
    arn = described["FeatureGroupArn"]
    aws("sagemaker", "add-tags", "--resource-arn", arn, "--tags", "Key=team,Value=rides")
    assert aws("sagemaker", "list-tags", "--resource-arn", arn)["Tags"] == [{"Key": "team", "Value": "rides"}]
    listed = aws("sagemaker", "list-feature-groups", "--name-contains", group)["FeatureGroupSummaries"]
    assert [summary["FeatureGroupName"] for summary in listed] == [group]
    expression = {"Filters": [{"Name": "FeatureGroupName", "Operator": "Equals", "Value": group}]}
    found = aws("sagemaker", "search", "--resource", "FeatureGroup", "--search-expression", json.dumps(expression))
    assert [result["FeatureGroup"]["FeatureGroupName"] for result in found["Results"]] == [group]
    aws("sagemaker", "delete-feature-group", "--feature-group-name", group)
    assert "ResourceNotFound" in aws("sagemaker", "describe-feature-group", "--feature-group-name", group, fails=True)


def test_records_are_put_read_listed_and_deleted(aws, group):
    put(aws, group, user_id="1", trips="7", event_time="2024-01-01T00:00:00Z")
    assert get(aws, group, "1") == {"user_id": "1", "trips": "7", "event_time": "2024-01-01T00:00:00Z"}
    listed = aws("sagemaker-featurestore-runtime", "list-records", "--feature-group-name", group)
    assert listed["RecordIdentifiers"] == ["1"]
    identifiers = [{"FeatureGroupName": group, "RecordIdentifiersValueAsString": ["1", "2"], "FeatureNames": ["trips"]}]
    batch = aws("sagemaker-featurestore-runtime", "batch-get-record", "--identifiers", json.dumps(identifiers))
    assert [record["RecordIdentifierValueAsString"] for record in batch["Records"]] == ["1"]
    aws("sagemaker-featurestore-runtime", "delete-record", "--feature-group-name", group,
        "--record-identifier-value-as-string", "1", "--event-time", "2024-01-02T00:00:00Z")
    assert get(aws, group, "1") == {}


def test_what_is_wrong_is_named_and_changes_nothing(aws, group):
    record = json.dumps([{"FeatureName": "user_id", "ValueAsString": "1"}, {"FeatureName": "trips", "ValueAsString": "many"},
                         {"FeatureName": "event_time", "ValueAsString": "2024-01-01T00:00:00Z"}])
    said = aws("sagemaker-featurestore-runtime", "put-record", "--feature-group-name", group, "--record", record, fails=True)
    assert "ValidationError" in said and "trips" in said
    assert get(aws, group, "1") == {}


def test_history_is_queried_and_its_files_are_copied(server, aws, group, tmp_path):
    put(aws, group, user_id="1", trips="7", event_time="2024-01-01T00:00:00Z")
    described = aws("sagemaker", "describe-feature-group", "--feature-group-name", group)["OfflineStoreConfig"]
    catalog, resolved = described["DataCatalogConfig"], described["S3StorageConfig"]["ResolvedOutputS3Uri"]
    query = aws("athena", "start-query-execution", "--query-string", f'SELECT trips FROM "{catalog["TableName"]}"',
                "--query-execution-context", f"Database={catalog['Database']}",
                "--result-configuration", "OutputLocation=s3://features/results")["QueryExecutionId"]

    def ended():
        execution = aws("athena", "get-query-execution", "--query-execution-id", query)["QueryExecution"]
        return execution if execution["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED") else None

    execution = wait_until(ended, 60, "the query ends")
    assert execution["Status"]["State"] == "SUCCEEDED", execution
    results = tmp_path / "results.csv"
    aws("s3", "cp", "--no-progress", execution["ResultConfiguration"]["OutputLocation"], str(results))
    assert results.read_text().splitlines()[0] == '"trips"'
    urllib.request.urlopen(f"{server.endpoint}/-/offline/wait?feature_group={group}&timeout_ms=60000", timeout=90).close()
    assert ".parquet" in aws("s3", "ls", "--recursive", f"{resolved}/")
    aws("s3", "cp", "--recursive", "--no-progress", f"{resolved}/", str(tmp_path / "data"))
    assert list((tmp_path / "data").rglob("*.parquet"))
