"""The factory of boto3 clients: their endpoints, retries, pools and errors."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.errors import SettingsError

HEAVY = ("boto3", "botocore", "s3transfer", "urllib3")


def test_importing_the_adapters_loads_no_aws_library() -> None:
    """A worker's cold start imports them while the JVM boots; boto3 comes with the first client."""
    code = (
        "import sys, sparklet.aws.object_store, sparklet.aws.services, sparklet.aws.services, sparklet.aws.dynamodb;"
        "from sparklet.aws.clients import AwsClients; clients = AwsClients();"
        "sparklet.aws.dynamodb.DynamoLedger(clients, 't'); sparklet.aws.object_store.S3ObjectStore(clients);"
        "sparklet.aws.services.SqsTaskQueue(clients, 'q'); sparklet.aws.services.LambdaCompute(clients);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_boto3_is_imported_before_threads_use_it() -> None:
    """Python's deadlock guard for imports once refused urllib3 to one of four threads that uploaded files."""
    code = (
        "import sys; from sparklet.aws.clients import AwsClients; AwsClients().load();"
        "print({'boto3.exceptions', 'botocore.exceptions', 'urllib3.exceptions'} - set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"


def test_threads_share_one_client() -> None:
    clients = AwsClients()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: clients.dynamodb, range(16)))

    assert len(set(map(id, made))) == 1


def test_the_endpoint_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4444")
    clients = AwsClients()

    for client in (clients.s3, clients.dynamodb, clients.sqs, clients.functions, clients.cloudformation):
        assert client.meta.endpoint_url == "http://127.0.0.1:4444"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_buckets_are_in_the_path_where_an_endpoint_is_set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:4444")

    url = AwsClients().s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})

    assert url.startswith("http://127.0.0.1:4444/b/k")


def test_buckets_are_in_the_host_on_aws() -> None:
    url = AwsClients().s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})

    assert url.startswith("https://bucket.s3")


def test_the_pool_fits_the_threads_and_retries_are_bounded() -> None:
    config: Any = AwsClients(threads=5, attempts=3).sqs.meta.config

    assert config.max_pool_connections == 5
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}
    assert config.read_timeout > 20, "shorter than SQS's longest poll"


def test_a_function_is_never_invoked_twice() -> None:
    config: Any = AwsClients(attempts=7).functions.meta.config

    assert config.retries["total_max_attempts"] == 1
    assert config.read_timeout > 900


def test_a_missing_region_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    with pytest.raises(SettingsError, match="Set AWS_REGION"):
        _ = AwsClients().dynamodb


def test_a_missing_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobodys")

    with pytest.raises(SettingsError, match="nobodys"):
        _ = AwsClients().dynamodb
