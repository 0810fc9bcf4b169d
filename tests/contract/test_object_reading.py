"""What every object store promises of versions, of many objects at once, and of what cannot be read."""

from pathlib import Path

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.errors import ObjectForbiddenError, ObjectNotFoundError
from sparklet.model import Access
from sparklet.ports import ObjectInfo, ObjectStore
from tests.stand_ins.memory import MemoryObjectStore

KEYS = ["a", "a b+%.csv", "z", "ü/1"]


def keys(infos: list[ObjectInfo]) -> list[tuple[str, str]]:
    return [(info.uri.split("/", 3)[3], info.version_id) for info in infos]


def test_versions_are_listed_by_key_newest_first(versioned: ObjectStore, bucket: str) -> None:
    for body in (b"1", b"22", b"333"):
        for key in KEYS:
            versioned.put(f"s3://{bucket}/{key}", body)
    versioned.delete_all([f"s3://{bucket}/ü/1"], f"s3://{bucket}/ü/")

    found = list(versioned.list_versions(f"s3://{bucket}/"))

    assert [key for key, _ in keys(found)] == [key for key in KEYS[:3] for _ in range(3)] + ["ü/1"] * 4
    assert [info.size_bytes for info in found[:3]] == [3, 2, 1]
    assert [info.deleted for info in found] == [False] * 9 + [True, False, False, False]
    assert len({info.version_id for info in found}) == len(found)
    assert list(versioned.list_versions(f"s3://{bucket}/z")) == found[6:9]


def test_a_listing_of_versions_goes_on_behind_any_version(versioned: ObjectStore, bucket: str) -> None:
    for body in (b"1", b"22"):
        for key in KEYS:
            versioned.put(f"s3://{bucket}/{key}", body)
    found = list(versioned.list_versions(f"s3://{bucket}/"))

    for index, (key, version_id) in enumerate(keys(found)):
        assert list(versioned.list_versions(f"s3://{bucket}/", key, version_id)) == found[index + 1 :]
    assert list(versioned.list_versions(f"s3://{bucket}/", "a")) == found[2:]


def test_a_version_is_read_whatever_is_current(versioned: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/a b"
    versioned.put(uri, b"old")
    versioned.put(uri, b"newer")
    newer, old = versioned.list_versions(f"s3://{bucket}/")

    assert versioned.get(uri, version_id=old.version_id) == b"old"
    assert versioned.get(uri, 1, 2, old.etag, old.version_id) == b"ld"
    headed = versioned.head(uri, old.version_id)
    assert (headed.version_id, headed.size_bytes, headed.etag) == (old.version_id, 3, old.etag)
    assert versioned.head(uri, newer.version_id).size_bytes == 5
    assert versioned.head(uri).version_id == ""
    versioned.download(uri, tmp_path / "copy", old.etag, old.version_id)
    assert (tmp_path / "copy").read_bytes() == b"old"
    versioned.delete_all([uri], uri)
    assert versioned.get(uri, version_id=old.version_id) == b"old"
    with pytest.raises(ObjectNotFoundError):
        versioned.get(uri)


def test_missing_versions_and_delete_markers_cannot_be_read(versioned: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a"
    versioned.put(uri, b"1")
    versioned.delete_all([uri], uri)
    marker = next(info for info in versioned.list_versions(uri) if info.deleted)

    for version_id in ("11111111-2222-3333-4444-555555555555", marker.version_id):
        with pytest.raises(ObjectNotFoundError, match=f"has no version {version_id}"):
            versioned.head(uri, version_id)
        with pytest.raises(ObjectNotFoundError, match=f"has no version {version_id}"):
            versioned.get(uri, version_id=version_id)


def test_without_versions_every_object_is_the_only_one(store: ObjectStore, bucket: str) -> None:
    for key in KEYS:
        store.put(f"s3://{bucket}/{key}", b"x")
        store.put(f"s3://{bucket}/{key}", b"xy")

    found = list(store.list_versions(f"s3://{bucket}/"))

    assert keys(found) == [(key, "null") for key in KEYS]
    assert store.get(found[1].uri, version_id="null") == b"xy"


def test_many_heads_come_in_order_with_none_for_the_missing(store: ObjectStore, bucket: str) -> None:
    uris = [f"s3://{bucket}/{n}" for n in range(40)]
    for uri in uris[::2]:
        store.put(uri, uri.encode())

    found = list(store.head_all([(uri, "") for uri in uris]))

    assert [info and info.uri for info in found] == [uri if n % 2 == 0 else None for n, uri in enumerate(uris)]
    assert list(store.head_all([])) == []


def archive(store: ObjectStore, uri: str, request: pytest.FixtureRequest) -> None:
    """Put an object where it cannot be read."""
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


def test_the_region_of_a_cross_region_bucket_is_reported(store: ObjectStore, bucket: str) -> None:
    assert store.foreign_region(f"s3://{bucket}/any/key") == ""
    with pytest.raises(ObjectNotFoundError, match=f"there is no bucket {bucket}-missing"):
        store.foreign_region(f"s3://{bucket}-missing/x")


@pytest.mark.stack
def test_a_bucket_of_another_region_is_known(ministack_clients: AwsClients, bucket: str) -> None:
    ministack_clients.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert S3ObjectStore(ministack_clients).foreign_region(f"s3://{bucket}/") == "eu-west-1"


@pytest.mark.stack
def test_a_role_and_requester_pays_read_the_same_objects(ministack_clients: AwsClients, bucket: str) -> None:
    ministack_clients.s3.create_bucket(Bucket=bucket)
    S3ObjectStore(ministack_clients).put(f"s3://{bucket}/a", b"1")
    stores = input_stores(ministack_clients)

    theirs = stores(Access(requester_pays=True, role_arn="arn:aws:iam::000000000000:role/reader"))

    assert theirs.get(f"s3://{bucket}/a") == b"1"
    assert [info.uri for info in theirs.list(f"s3://{bucket}/")] == [f"s3://{bucket}/a"]
    assert stores(Access(requester_pays=True, role_arn="arn:aws:iam::000000000000:role/reader")) is theirs


def test_many_objects_are_read_in_the_order_asked_for(store: ObjectStore, bucket: str) -> None:
    uris = [f"s3://{bucket}/{n}" for n in range(50)]
    for uri in uris:
        store.put(uri, uri.encode())

    assert list(store.get_all(iter(uris[::-1]))) == [uri.encode() for uri in uris[::-1]]
    assert list(store.get_all([])) == []
    with pytest.raises(ObjectNotFoundError):
        list(store.get_all([uris[0], f"s3://{bucket}/none"]))
