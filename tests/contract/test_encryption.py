"""Our writes to a bucket whose policy denies each one that does not ask for its encryption."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparklet.app.doctor import encryption
from sparklet.aws import object_store
from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.errors import ObjectForbiddenError
from sparklet.job.session import write_encryption
from tests.contract.conftest import ON_STACK
from tests.contract.demanding_s3 import DEMANDS, KEY, NAME, DemandingS3
from tests.contract.lossy_proxy import proxied

pytestmark = ON_STACK
PART_BYTES = 5 * 2**20  # S3's least


@pytest.fixture(params=DEMANDS)
def demanding(request: pytest.FixtureRequest, ministack_clients: AwsClients, bucket: str) -> Iterator[tuple[str, str]]:
    """What WriteEncryption must be, and the endpoint; objects that can be copied are there."""
    ministack_clients.s3.create_bucket(Bucket=bucket)
    for name, size_bytes in (("small", 1), ("large", PART_BYTES + 1)):
        S3ObjectStore(ministack_clients).put(f"s3://{bucket}/{name}", b"x" * size_bytes)
    with proxied(DemandingS3(ministack_clients.s3.meta.endpoint_url, DEMANDS[request.param])) as (_, endpoint):
        yield request.param, endpoint


def store_of(given: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3ObjectStore:
    monkeypatch.setenv("SPARKLET_WRITE_ENCRYPTION", given)
    return S3ObjectStore(AwsClients(endpoint_url=endpoint, attempts=1))


def writes(store: S3ObjectStore, bucket: str, folder: Path) -> dict[str, Callable[[], object]]:
    """One of each kind, by the name of the object that it makes."""
    (folder / "small").write_bytes(b"x")
    (folder / "large").write_bytes(b"x" * (8 * 2**20 + 1))
    infos = {info.uri.rpartition("/")[2]: info for info in store.list(f"s3://{bucket}/")}
    to = f"s3://{bucket}/to"
    return {
        "put": lambda: store.put(f"{to}/put", b"x"),
        "created": lambda: store.put(f"{to}/created", b"x", create_only=True),
        "file": lambda: store.upload(folder / "small", f"{to}/file"),
        "parts": lambda: store.upload(folder / "large", f"{to}/parts"),
        "copy": lambda: store.copy_all([(infos["small"], f"{to}/copy")]),
        "copied-parts": lambda: store.copy_all([(infos["large"], f"{to}/copied-parts")]),
    }


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "MAX_ONE_COPY_BYTES", PART_BYTES)
    monkeypatch.setattr(object_store, "COPIED_PART_BYTES", PART_BYTES)


def test_all_our_writes_ask_for_what_the_policy_demands(
    demanding: tuple[str, str], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, endpoint = demanding
    store = store_of(given, endpoint, monkeypatch)
    made = writes(store, bucket, tmp_path)

    for write in made.values():
        write()

    assert {info.uri.rpartition("/")[2] for info in store.list(f"s3://{bucket}/to/")} == made.keys()


@pytest.mark.parametrize("unfit", ["", "another"])
def test_a_denied_write_names_the_parameter(
    demanding: tuple[str, str], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfit: str
) -> None:
    store = store_of(unfit and f"{KEY}2", demanding[1], monkeypatch)

    for write in writes(store, bucket, tmp_path).values():
        with pytest.raises(ObjectForbiddenError, match="WriteEncryption"):
            write()

    assert list(store.list(f"s3://{bucket}/to/")) == []


def test_doctor_names_a_policy_that_denies_the_writes(
    demanding: tuple[str, str], ministack_clients: AwsClients, bucket: str
) -> None:
    given, endpoint = demanding
    clients = AwsClients(endpoint_url=endpoint, attempts=1)
    assert list(encryption(clients, bucket)) == []  # they are denied, by no policy that is seen
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = {"Statement": [{**deny, "Condition": {"Null": {f"s3:{NAME}": "true"}}}]}
    ministack_clients.s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    [finding] = encryption(clients, bucket)

    assert (finding.good, "WriteEncryption=AES256" in finding.remedy) == (False, True)
    assert list(encryption(ministack_clients, bucket)) == []  # which no policy denies
    clients.write_encryption = write_encryption({"SPARKLET_WRITE_ENCRYPTION": given})
    assert list(encryption(clients, bucket)) == []


def test_doctor_writes_nothing(ministack_clients: AwsClients, bucket: str) -> None:
    ministack_clients.s3.create_bucket(Bucket=bucket)

    assert list(encryption(ministack_clients, bucket)) == []

    assert list(S3ObjectStore(ministack_clients).list(f"s3://{bucket}/")) == []
