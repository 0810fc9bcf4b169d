"""What every object store promises."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparklet.aws import object_store
from sparklet.errors import (
    LeaseLostError,
    ObjectChangedError,
    ObjectNotFoundError,
    ObjectStoreError,
)
from sparklet.ports import ObjectInfo, ObjectStore

ODD_KEYS = [
    "plain.csv",
    "with space.csv",
    "plus+plus.csv",
    "100%.csv",
    "a%20b.csv",  # not the same as "a b.csv"
    "a b.csv",
    "hash#tag?query=1&x=2",
    "semi;colon,comma=equals@at:colon",
    "ünïcode/日本語/🎈.csv",
    "u\u0308 of two characters.csv",
    "longest" + "k" * 1017,
    "new\nline",
    "tab\tand\rreturn",
    "quote\"and'apostrophe",
    "<xml>&amp;</xml>",
    "back\\slash",
    "trailing/",
    "double//slash",
    "./dot/../dots",
    "~tilde!(parens)*star",
    "date=2013-01-01/hour=05/part-0.csv",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_is_taken_literally(store: ObjectStore, bucket: str, key: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/{key}"
    etag = store.put(uri, key.encode())

    assert store.get(uri) == key.encode()
    assert store.head(uri).etag == etag
    (listed,) = store.list(f"s3://{bucket}/")
    assert (listed.uri, listed.size_bytes, listed.etag) == (uri, len(key.encode()), etag)
    (below,) = store.list(f"s3://{bucket}/{key[:3]}")
    assert below == listed
    store.download(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == key.encode()
    store.upload(tmp_path / "copy", uri)
    assert store.get(uri) == key.encode()
    assert list(store.list(f"s3://{bucket}/", start_after=key)) == []
    store.delete_all([uri], uri)
    assert list(store.list(f"s3://{bucket}/")) == []


def test_keys_are_listed_in_the_order_of_their_bytes(store: ObjectStore, bucket: str) -> None:
    for key in ODD_KEYS:
        store.put(f"s3://{bucket}/{key}", b"")

    listed = [info.uri.removeprefix(f"s3://{bucket}/") for info in store.list(f"s3://{bucket}/")]

    assert listed == sorted(ODD_KEYS, key=str.encode)
    assert listed == [info.uri.removeprefix(f"s3://{bucket}/") for info in store.list(f"s3://{bucket}")]
    for key in ODD_KEYS:
        after = [info.uri.removeprefix(f"s3://{bucket}/") for info in store.list(f"s3://{bucket}", start_after=key)]
        assert after == listed[listed.index(key) + 1 :]


def test_a_listing_goes_over_all_pages(store: ObjectStore, bucket: str) -> None:
    keys = [f"in/{number:05d}.csv" for number in range(2_001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(f"s3://{bucket}/{key}", b"x"), [*keys, "io/other", "imore"]))

    assert [info.uri.split("/", 3)[3] for info in store.list(f"s3://{bucket}/in/")] == keys
    assert [i.uri.split("/", 3)[3] for i in store.list(f"s3://{bucket}/in/", "in/01500.csv")] == keys[1_501:]
    assert [i.uri.split("/", 3)[3] for i in store.list(f"s3://{bucket}/in/", "in/01500")] == keys[1_500:]


def test_a_listing_has_size_etag_and_time(store: ObjectStore, bucket: str) -> None:
    before_s = time.time()
    etag = store.put(f"s3://{bucket}/a", b"12345")

    (info,) = store.list(f"s3://{bucket}/")

    assert info.size_bytes == 5
    assert info.etag == etag == "827ccb0eea8a706c4c34a16891f84e7b"
    assert before_s - 1 <= info.modified_s <= time.time() + 1  # S3's times are whole seconds
    assert store.head(f"s3://{bucket}/a").size_bytes == 5


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (0, 1, b"0"),
        (8, 100, b"89"),
        (9, 1, b"9"),
        (10, 1, b""),
        (50, None, b""),
        (2, 0, b""),
    ],
)
def test_a_range_has_the_bytes_of_a_slice(
    store: ObjectStore, bucket: str, offset: int, length: int | None, expected: bytes
) -> None:
    store.put(f"s3://{bucket}/digits", b"0123456789")

    assert store.get(f"s3://{bucket}/digits", offset, length) == expected


def test_an_object_is_read_only_in_the_requested_version(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/script.py"
    old = store.put(uri, b"old")
    assert store.get(uri, etag=old) == b"old"
    store.download(uri, tmp_path / "old.py", etag=old)
    new = store.put(uri, b"new")

    with pytest.raises(ObjectChangedError, match="script"):
        store.get(uri, etag=old)
    with pytest.raises(ObjectChangedError, match="script"):
        store.download(uri, tmp_path / "script.py", etag=old)

    assert store.get(uri, 1, 1, etag=new) == b"e"
    assert [path.name for path in tmp_path.iterdir()] == ["old.py"]


def test_one_of_eight_creates_an_object(store: ObjectStore, bucket: str) -> None:
    for number in range(10):
        uri = f"s3://{bucket}/part-{number}"

        def create(writer: int, uri: str = uri) -> int | None:
            try:
                store.put(uri, b"%d" % writer, create_only=True)
            except ObjectChangedError:
                return None
            return writer

        with ThreadPoolExecutor(8) as pool:
            (winner,) = [writer for writer in pool.map(create, range(8)) if writer is not None]
        assert store.get(uri) == b"%d" % winner


def test_a_missing_object_is_named(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/no/such key"
    calls: list[Callable[[], object]] = [
        lambda: store.get(uri),
        lambda: store.get(uri, 5, 0),
        lambda: store.get(uri, etag="abc"),
        lambda: store.head(uri),
        lambda: store.download(uri, tmp_path / "copy"),
    ]
    for call in calls:
        with pytest.raises(ObjectNotFoundError, match="no/such key"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there_is_named(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}-missing/key"
    (tmp_path / "file").write_bytes(b"x")
    calls: list[Callable[[], object]] = [
        lambda: store.get(uri),
        lambda: store.head(uri),
        lambda: store.put(uri, b"x"),
        lambda: store.upload(tmp_path / "file", uri),
        lambda: store.delete_all([uri], uri),
        lambda: list(store.list(uri)),
    ]
    for call in calls:
        with pytest.raises(ObjectNotFoundError, match=f"{bucket}-missing"):
            call()


@pytest.mark.parametrize("uri", ["", "s3://", "s3:///key", "/local/path", "bucket/key", "https://bucket/key"])
def test_an_invalid_address_is_named(store: ObjectStore, uri: str) -> None:
    with pytest.raises(ObjectNotFoundError, match="must look like s3://bucket/key"):
        store.get(uri)


def test_nothing_outside_the_prefix_is_deleted(store: ObjectStore, bucket: str) -> None:
    for key in ("runs/1/x", "runs/10/x"):
        store.put(f"s3://{bucket}/{key}", b"x")

    for within in (f"s3://{bucket}/runs/1/", f"s3://{bucket}/", f"s3://{bucket}", ""):
        with pytest.raises(ValueError, match=r"is not below|is not a prefix"):
            store.delete_all([f"s3://{bucket}/runs/10/x"], within)

    assert len(list(store.list(f"s3://{bucket}/"))) == 2


def test_many_objects_are_copied_and_deleted(store: ObjectStore, bucket: str) -> None:
    names = [f"a ü+{number:04d}.csv" for number in range(1100)]
    for name in names:
        store.put(f"s3://{bucket}/from/{name}", name.encode())
    store.put(f"s3://{bucket}/to/{names[0]}", b"what was there before")

    store.copy_all((_staged(bucket, name), f"s3://{bucket}/to/{name}") for name in names)
    store.delete_all((info.uri for info in store.list(f"s3://{bucket}/from/")), f"s3://{bucket}/from/")

    assert list(store.list(f"s3://{bucket}/from/")) == []
    assert [info.uri.rpartition("/")[2] for info in store.list(f"s3://{bucket}/to/")] == names
    assert all(store.get(f"s3://{bucket}/to/{name}") == name.encode() for name in names[:3])
    store.delete_all([], f"s3://{bucket}/to/")


def test_copying_stops_with_the_error_of_its_input(store: ObjectStore, bucket: str) -> None:
    def pairs() -> Iterator[tuple[ObjectInfo, str]]:
        for number in range(50):
            if number == 20:
                raise LeaseLostError("not mine any more")
            store.put(f"s3://{bucket}/from/{number}", b"x")
            yield _staged(bucket, str(number)), f"s3://{bucket}/to/{number}"

    with pytest.raises(LeaseLostError):
        store.copy_all(pairs())

    assert len(list(store.list(f"s3://{bucket}/to/"))) <= 20


def test_copying_a_missing_object_names_the_object(store: ObjectStore, bucket: str) -> None:
    with pytest.raises(ObjectNotFoundError, match="from/gone"):
        store.copy_all([(_staged(bucket, "gone"), f"s3://{bucket}/to/gone")])


def test_a_copy_replaces_only_files_of_owners_that_it_names(store: ObjectStore, bucket: str) -> None:
    def copied(name: str, target: str, owner: str, *older: str) -> None:
        """Copy a file for an owner, who is allowed to replace files of the ``older`` owners."""
        store.put(uri := f"s3://{bucket}/from/{name}", name.encode())
        store.copy_all([(store.head(uri), f"s3://{bucket}/to/{target}")], owner, lambda earlier: earlier in older)

    copied("first", "a.csv.gz", "one")
    copied("first", "a.csv.gz", "one")  # again, as after a lost answer
    store.put(f"s3://{bucket}/to/b", b"theirs")
    for target in ("a.csv.gz", "b"):
        with pytest.raises(ObjectChangedError, match=f"to/{target} is there already"):
            copied("second", target, "two")
    assert (store.get(f"s3://{bucket}/to/a.csv.gz"), store.get(f"s3://{bucket}/to/b")) == (b"first", b"theirs")

    copied("second", "a.csv.gz", "two", "one")

    info = store.head(f"s3://{bucket}/to/a.csv.gz")
    assert (store.get(info.uri), info.owner) == (b"second", "two")
    assert not any(listed.owner for listed in store.list(f"s3://{bucket}/to/"))
    with pytest.raises(ObjectNotFoundError, match="from/gone"):
        store.copy_all([(_staged(bucket, "gone"), f"s3://{bucket}/to/gone")], "one")


def test_one_of_eight_copies_onto_a_name(store: ObjectStore, bucket: str) -> None:
    for number in range(8):
        store.put(f"s3://{bucket}/from/{number}", str(number).encode())

    def copied(number: int) -> bool:
        try:
            store.copy_all([(_staged(bucket, str(number)), f"s3://{bucket}/to/x")], f"owner-{number}")
        except ObjectChangedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number, won in enumerate(pool.map(copied, range(8))) if won]

    assert [str(number).encode() for number in winners] == [store.get(f"s3://{bucket}/to/x")]


def test_a_large_object_is_copied_in_parts(store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "MAX_ONE_COPY_BYTES", 6 * 2**20)
    monkeypatch.setattr(object_store, "COPIED_PART_BYTES", 5 * 2**20)
    body = bytes(range(256)) * (12 * 2**12)
    store.put(f"s3://{bucket}/from/large", body)

    store.copy_all([(store.head(f"s3://{bucket}/from/large"), f"s3://{bucket}/to/large")])

    assert store.get(f"s3://{bucket}/to/large") == body


def _staged(bucket: str, name: str) -> ObjectInfo:
    return ObjectInfo(f"s3://{bucket}/from/{name}", 1, "", 0.0)


def test_a_download_replaces_a_file_whole(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"what was there before, and longer")
    store.put(f"s3://{bucket}/x", b"short")

    store.download(f"s3://{bucket}/x", target)

    assert target.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_cannot_be_written_is_named(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    store.put(f"s3://{bucket}/x", b"short")

    with pytest.raises(ObjectStoreError, match="could not be written"):
        store.download(f"s3://{bucket}/x", tmp_path / "no" / "such" / "folder")


def test_a_file_that_is_not_there_is_named(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectStoreError, match="could not be read"):
        store.upload(tmp_path / "missing", f"s3://{bucket}/x")


def test_a_large_file_comes_back_unchanged(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    body = bytes(range(256)) * (20 * 4096)  # 20 MiB: several parts
    (tmp_path / "large").write_bytes(body)

    store.upload(tmp_path / "large", f"s3://{bucket}/large")
    store.download(f"s3://{bucket}/large", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == body
    assert store.head(f"s3://{bucket}/large").size_bytes == len(body)
    assert store.get(f"s3://{bucket}/large", 5_000_000, 3) == body[5_000_000:5_000_003]
