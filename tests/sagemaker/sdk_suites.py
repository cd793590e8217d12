"""Runs the SageMaker SDKs' own feature store integration tests against `granary dev`.

The tests are AWS's and not part of this repository: a checkout of https://github.com/aws/sagemaker-python-sdk is named
on the command line, of branch master-v2 for the SDK before version 3, of master for version 3. Each SDK wants a virtual
environment of its own:

    pip install "sagemaker<3" "pandas<3" pytest boto3 awslogs stopit  # then: sdk_suites.py v2 CHECKOUT
    pip install sagemaker-mlops "pandas<3" pytest boto3                # then: sdk_suites.py v3 CHECKOUT

Only the tests' files are taken from there; what follows on the command line goes to pytest. Three things are changed
from outside, all in `sdk_plugin.py`: pauses of 30 s and more that wait for AWS are shortened, the STS endpoint that the SDKs
hard-code is left out so that the environment's counts, and telemetry is off.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import conftest

HERE = pathlib.Path(__file__).resolve().parent
FILES = {
    "v2": ["tests/__init__.py", "tests/integ/__init__.py", "tests/integ/timeout.py", "tests/integ/retry.py",
           "tests/integ/test_feature_store.py"],
    "v3": [
        "sagemaker-mlops/tests/integ/test_feature_store.py",
        "sagemaker-mlops/tests/integ/test_feature_store_batch_write_record.py",
        "sagemaker-mlops/tests/integ/test_feature_store_list_records.py",
        "sagemaker-mlops/tests/integ/test_feature_store_iceberg_properties.py",
        "sagemaker-mlops/tests/integ/test_feature_store_lakeformation.py",
    ],
}


def copy_tests(version, checkout, to):
    for name in FILES[version]:
        source, target = pathlib.Path(checkout) / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("integ/__init__.py"):
            # The SDK's own imports packages that these tests do not need.
            target.touch()
        else:
            shutil.copy(source, target)


def environment(server, directory):
    config = directory / "config.yaml"
    config.write_text("SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-2",
        "AWS_REGION": "us-east-2",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(directory)]),
        "PYICEBERG_CATALOG__GLUE__S3__ENDPOINT": server.endpoint,
    }


def main(version, checkout, *arguments):
    with tempfile.TemporaryDirectory(prefix="granary-sdk-") as name:
        directory = pathlib.Path(name)
        copy_tests(version, checkout, directory)
        settings = {"sagemaker.region": "us-east-2", "compactor.flush_interval": "500ms"}
        with open(directory / "server.log", "wb") as log:
            server = conftest.Server(directory / "data", log, settings).start()
            try:
                command = [sys.executable, "-m", "pytest", "-p", "sdk_plugin", "-p", "no:cacheprovider", "-q"]
                files = [name for name in FILES[version] if "/test_" in name]
                done = subprocess.run([*command, *arguments, *files], cwd=directory, env=environment(server, directory))
            finally:
                server.stop()
        return done.returncode


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in FILES:
        sys.exit(f"usage: {sys.argv[0]} v2|v3 CHECKOUT [PYTEST ARGUMENT...]")
    sys.exit(main(*sys.argv[1:]))
