"""What `sdk_suites.py` changes around the SDKs' own tests: pauses, and the endpoint of STS."""

import time

import boto3
import pytest

LONG, SHORT = 30, 3
EXACT = (35, 40)  # seconds that these tests wait for a time to live to pass

_sleep, _client = time.sleep, boto3.session.Session.client


def sleep(seconds):
    """Pauses that wait for AWS to catch up need not last as long here."""
    _sleep(SHORT if seconds >= LONG and seconds not in EXACT else seconds)


def client(self, service_name, *arguments, **options):
    """The SDKs build STS clients for a fixed address at AWS, which no setting reaches (contract 1.4)."""
    if service_name == "sts":
        options.pop("endpoint_url", None)
    return _client(self, service_name, *arguments, **options)


time.sleep = sleep
boto3.session.Session.client = client


@pytest.fixture(scope="session")
def role():
    """From the SDK's own conftest, which imports much that these tests do not need; tests that bring one keep theirs."""
    return "arn:aws:iam::000000000000:role/granary"
