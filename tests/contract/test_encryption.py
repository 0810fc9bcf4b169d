"""Writes to a bucket whose policy denies every write without the bucket's encryption."""

import json
from collections.abc import Iterator

import pytest

from sparklet.app.doctor import check_encryption
from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.job.session import write_encryption
from tests.contract.conftest import ON_STACK
from tests.contract.demanding_s3 import DEMANDS, NAME, DemandingS3
from tests.contract.lossy_proxy import proxied

pytestmark = ON_STACK
PART_BYTES = 5 * 2**20  # the smallest part that S3 accepts


@pytest.fixture(params=DEMANDS)
def demanding(request: pytest.FixtureRequest, ministack_clients: AwsClients, bucket: str) -> Iterator[tuple[str, str]]:
    """The value that WriteEncryption must have, and the endpoint of a bucket with objects that can be copied."""
    ministack_clients.s3.create_bucket(Bucket=bucket)
    for name, size_bytes in (("small", 1), ("large", PART_BYTES + 1)):
        S3ObjectStore(ministack_clients).put(f"s3://{bucket}/{name}", b"x" * size_bytes)
    with proxied(DemandingS3(ministack_clients.s3.meta.endpoint_url, DEMANDS[request.param])) as (_, endpoint):
        yield request.param, endpoint


def test_doctor_names_a_policy_that_denies_the_writes(
    demanding: tuple[str, str], ministack_clients: AwsClients, bucket: str
) -> None:
    demanded, endpoint = demanding
    clients = AwsClients(endpoint_url=endpoint, attempts=1)
    assert list(check_encryption(clients, bucket)) == []  # the writes are denied, but the bucket shows no policy
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = {"Statement": [{**deny, "Condition": {"Null": {f"s3:{NAME}": "true"}}}]}
    ministack_clients.s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    [finding] = check_encryption(clients, bucket)

    assert (finding.good, "WriteEncryption=AES256" in finding.remedy) == (False, True)
    assert list(check_encryption(ministack_clients, bucket)) == []  # a policy, but the stand-in itself denies no write
    clients.write_encryption = write_encryption({"SPARKLET_WRITE_ENCRYPTION": demanded})
    assert list(check_encryption(clients, bucket)) == []


def test_doctor_writes_nothing(ministack_clients: AwsClients, bucket: str) -> None:
    ministack_clients.s3.create_bucket(Bucket=bucket)

    assert list(check_encryption(ministack_clients, bucket)) == []

    assert list(S3ObjectStore(ministack_clients).list(f"s3://{bucket}/")) == []
