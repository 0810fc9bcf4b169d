"""What every object store promises about versions, many objects at once, and objects that cannot be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.errors import ObjectForbiddenError, ObjectNotFoundError
from sparklet.model import Access, split_uri
from sparklet.ports import ObjectStore
from tests.stand_ins.memory import MemoryObjectStore


def version_ids(store: ObjectStore, uri: str) -> Sequence[str]:
    """The ids of an object's versions and delete markers, newest first."""
    if isinstance(store, MemoryObjectStore):
        return store.versions(uri)
    assert isinstance(store, S3ObjectStore)
    bucket, key = split_uri(uri)
    answer: Any = store._clients.s3.list_object_versions(Bucket=bucket, Prefix=key)
    versions = (*answer["Versions"], *answer.get("DeleteMarkers", ()))
    return [each["VersionId"] for each in sorted(versions, key=lambda each: not each["IsLatest"])]


def test_a_version_is_read_whatever_is_current(versioned: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/a b"
    versioned.put(uri, b"old")
    versioned.put(uri, b"newer")
    newer, old = version_ids(versioned, uri)

    assert versioned.get(uri, version_id=old) == b"old"
    assert versioned.get(uri, 1, 2, versioned.head(uri, old).etag, old) == b"ld"
    headed = versioned.head(uri, old)
    assert (headed.version_id, headed.size_bytes) == (old, 3)
    assert versioned.head(uri, newer).size_bytes == 5
    assert versioned.head(uri).version_id == ""
    versioned.download(uri, tmp_path / "copy", versioned.head(uri, old).etag, old)
    assert (tmp_path / "copy").read_bytes() == b"old"
    versioned.delete_all([uri], uri)
    assert versioned.get(uri, version_id=old) == b"old"
    with pytest.raises(ObjectNotFoundError):
        versioned.get(uri)


def test_missing_versions_and_delete_markers_cannot_be_read(versioned: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a"
    versioned.put(uri, b"1")
    versioned.delete_all([uri], uri)
    marker = version_ids(versioned, uri)[0]

    for version_id in ("11111111-2222-3333-4444-555555555555", marker):
        with pytest.raises(ObjectNotFoundError, match=f"has no version {version_id}"):
            versioned.head(uri, version_id)
        with pytest.raises(ObjectNotFoundError, match=f"has no version {version_id}"):
            versioned.get(uri, version_id=version_id)


def test_many_heads_come_in_order_with_none_for_the_missing(store: ObjectStore, bucket: str) -> None:
    uris = [f"s3://{bucket}/{n}" for n in range(40)]
    for uri in uris[::2]:
        store.put(uri, uri.encode())

    found = list(store.head_all([(uri, "") for uri in uris]))

    assert [info and info.uri for info in found] == [uri if n % 2 == 0 else None for n, uri in enumerate(uris)]
    assert list(store.head_all([])) == []


def archive(store: ObjectStore, uri: str, request: pytest.FixtureRequest) -> None:
    """Create an archived object, which cannot be read."""
    if isinstance(store, MemoryObjectStore):
        store.put(uri, b"cold")
        store.archive(uri)
    else:
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        clients: AwsClients = request.getfixturevalue("ministack_clients")
        clients.s3.put_object(Bucket=bucket, Key=key, Body=b"cold", StorageClass="GLACIER")


def test_an_archived_object_is_reported_and_cannot_be_read(
    store: ObjectStore, bucket: str, request: pytest.FixtureRequest
) -> None:
    uri = f"s3://{bucket}/cold"
    archive(store, uri, request)
    store.put(f"s3://{bucket}/warm", b"1")

    assert [info.archived for info in store.list(f"s3://{bucket}/")] == [True, False]
    assert store.head(uri).archived and not store.head(f"s3://{bucket}/warm").archived
    with pytest.raises(ObjectForbiddenError, match="cold is archived: restore it"):
        store.get(uri)


def test_a_bucket_of_the_own_region_has_no_foreign_region(store: ObjectStore, bucket: str) -> None:
    assert store.foreign_region(f"s3://{bucket}/any/key") == ""
    with pytest.raises(ObjectNotFoundError, match=f"there is no bucket {bucket}-missing"):
        store.foreign_region(f"s3://{bucket}-missing/x")


@pytest.mark.stack
def test_the_region_of_a_bucket_elsewhere_is_returned(ministack_clients: AwsClients, bucket: str) -> None:
    ministack_clients.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert S3ObjectStore(ministack_clients).foreign_region(f"s3://{bucket}/") == "eu-west-1"


@pytest.mark.stack
def test_a_role_and_requester_pays_read_the_same_objects(ministack_clients: AwsClients, bucket: str) -> None:
    ministack_clients.s3.create_bucket(Bucket=bucket)
    S3ObjectStore(ministack_clients).put(f"s3://{bucket}/a", b"1")
    stores = input_stores(ministack_clients)

    as_role = stores(Access(requester_pays=True, role_arn="arn:aws:iam::000000000000:role/reader"))

    assert as_role.get(f"s3://{bucket}/a") == b"1"
    assert [info.uri for info in as_role.list(f"s3://{bucket}/")] == [f"s3://{bucket}/a"]
    assert stores(Access(requester_pays=True, role_arn="arn:aws:iam::000000000000:role/reader")) is as_role


def test_many_objects_are_read_in_the_order_asked_for(store: ObjectStore, bucket: str) -> None:
    uris = [f"s3://{bucket}/{n}" for n in range(50)]
    for uri in uris:
        store.put(uri, uri.encode())

    assert list(store.get_all(iter(uris[::-1]))) == [uri.encode() for uri in uris[::-1]]
    assert list(store.get_all([])) == []
    with pytest.raises(ObjectNotFoundError):
        list(store.get_all([uris[0], f"s3://{bucket}/none"]))
