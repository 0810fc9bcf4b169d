"""Pages of a listing, with a fake bucket that responds as S3 does."""

from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.aws import object_store

PAGE = 3
keys_of_buckets = st.sets(
    st.lists(st.sampled_from(["a", "b", "b0", "/", "é", "\U0001f600", "~"]), min_size=1, max_size=5).map("".join)
)


class Bucket:
    """Keys, a few a page; ``asked`` has each request's prefix and further parameters."""

    def __init__(self, keys: set[str]) -> None:
        self.keys = sorted(keys)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, prefix: str, start_after: str = "", **more: Any) -> object_store.Page:
        self.asked.append((prefix, more))
        after, delimiter = more.get("ContinuationToken", start_after), more.get("Delimiter")
        entries = list[tuple[str, str]]()  # what is named, and the last key that it stands for
        for key in (key for key in self.keys if key.startswith(prefix) and key > after):
            end = key.find("/", len(prefix)) + 1 if delimiter else 0
            name = key[:end] if end else key
            if entries and entries[-1][0] == name:
                entries[-1] = name, key
            else:
                entries.append((name, key))
        page = entries[:PAGE]
        return {
            "Contents": [{"Key": name} for name, key in page if name == key and not (delimiter and name != key)],
            "CommonPrefixes": [{"Prefix": name} for name, key in page if name != key],
            "IsTruncated": len(entries) > PAGE,
            "NextContinuationToken": page[-1][1] if page else "",
        }


def listed(bucket: Bucket, prefix: str, start_after: str) -> list[str]:
    return [
        each["Key"] for page in object_store.pages(bucket, prefix, start_after) for each in page.get("Contents", ())
    ]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "MANY_KEYS", PAGE)
    monkeypatch.setattr(object_store, "MIN_KEYS_A_FOLDER", 2)
    monkeypatch.setattr(object_store, "MANY_FOLDERS", 2)


@given(keys=keys_of_buckets, prefix=st.sampled_from(["", "a", "b/", "b0/a"]), after=st.sampled_from(["", "a/b", "b"]))
def test_each_key_is_listed_once_in_order(keys: set[str], prefix: str, after: str) -> None:
    bucket = Bucket(keys)

    expected = [key for key in sorted(keys, key=str.encode) if key.startswith(prefix) and key > after]

    assert listed(bucket, prefix, after) == expected


def test_large_folders_are_listed_by_requests_of_their_own() -> None:
    bucket = Bucket({f"in/day={day}/{number}" for day in range(5) for number in range(3)} | {"in/z", "io"})

    assert listed(bucket, "in/", "") == [*bucket.keys[:-1]]

    prefixes = [prefix for prefix, _ in bucket.asked]
    assert prefixes[0] == "in/" and {f"in/day={day}/" for day in range(1, 5)} <= set(prefixes)


def test_folders_of_few_keys_are_listed_page_by_page() -> None:
    bucket = Bucket({f"in/{number:02}/one" for number in range(20)})

    assert listed(bucket, "in/", "") == bucket.keys

    assert [prefix for prefix, _ in bucket.asked] == ["in/"] * 7


def test_small_folders_behind_a_large_one_share_requests() -> None:
    bucket = Bucket({f"in/a/{number}" for number in range(9)} | {f"in/u{number:03}/one" for number in range(90)})

    assert listed(bucket, "in/", "") == bucket.keys

    assert len(bucket.asked) < 2 * len(bucket.keys) / PAGE


def test_a_key_that_arrives_meanwhile_doubles_no_other() -> None:
    """The bucket, unlike AWS's, names the folder that a listing starts within."""
    bucket = Bucket({f"in/{folder}/{number}" for folder in "ab" for number in range(5)})
    keys = [*bucket.keys]

    found = list[str]()
    for page in object_store.pages(bucket, "in/"):
        found += [entry["Key"] for entry in page["Contents"]]
        if found[-1] == "in/a/4":
            bucket.keys.insert(5, "in/a/5")

    assert found == keys


def test_pages_are_requested_only_when_they_are_needed() -> None:
    bucket = Bucket({f"in/{number:02}" for number in range(20)})

    names = (each["Key"] for page in object_store.pages(bucket, "in/") for each in page["Contents"])

    assert list(takewhile(lambda name: name < "in/04", names)) == bucket.keys[:4]
    assert len(bucket.asked) == 2
