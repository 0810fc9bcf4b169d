"""Room on the state folder's disk: told before anything is written."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.disk import RESERVE_BYTES, DiskQuota
from sparklet.local.stack import LocalStack, StackOptions
from sparklet.local.state import MIN_START_BYTES
from sparklet.model import MIB

S3 = {"authorization": "AWS4-HMAC-SHA256 Credential=test/20261120/us-east-1/s3/aws4_request, SignedHeaders=host"}
LEDGER = {"authorization": "AWS4-HMAC-SHA256 Credential=test/20261120/us-east-1/dynamodb/aws4_request"}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A disk that has as much free as is written here."""
    has = {"free": 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1000 * MIB, 0, has["free"]))
    return has


def put(quota: DiskQuota, size_bytes: int, query: str = "", method: str = "PUT") -> bool:
    """Whether a request of that size is taken."""
    return not quota.refusal(method, query, {**S3, "content-length": str(size_bytes)})


def test_no_stack_is_started_on_a_full_disk(disk: dict[str, int], tmp_path: Path) -> None:
    disk["free"] = MIN_START_BYTES - 1
    root = tmp_path / "deep" / "state"

    with pytest.raises(LocalStackError, match=rf"state folder {root} is full: 127 MiB of 1000 .*; make room there, or"):
        LocalStack.attach(StackOptions(state_dir=root))

    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(LocalStackError, match="file/state cannot be used: Not a directory; name another with"):
        LocalStack.attach(StackOptions(state_dir=tmp_path / "file" / "state"))


def test_an_object_beyond_the_disk_is_refused_with_the_remedy(disk: dict[str, int], tmp_path: Path) -> None:
    quota = DiskQuota(tmp_path / "s3")
    disk["free"] = RESERVE_BYTES + 1000

    assert put(quota, 1000)
    assert not put(quota, 1001)
    told = quota.refusal("PUT", "", {**S3, "x-amz-decoded-content-length": "1001", "content-length": "5"})
    assert f"the disk of the state folder {tmp_path} is full (64 MiB free); make room there" in told
    assert told.startswith("<Error><Code>DiskFull</Code>")


def test_a_copy_needs_as_much_as_what_it_copies(disk: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "000000000000" / "b" / "a b").mkdir(parents=True)
    (tmp_path / "000000000000" / "b" / "a b" / "k").write_bytes(bytes(2000))
    quota = DiskQuota(tmp_path)
    disk["free"] = RESERVE_BYTES + 1999

    assert quota.refusal("PUT", "", {**S3, "x-amz-copy-source": "/b/a%20b/k"})
    assert not quota.refusal("PUT", "", {**S3, "x-amz-copy-source": "b/gone"})
    disk["free"] += 1
    assert not quota.refusal("PUT", "", {**S3, "x-amz-copy-source": "b/a%20b/k"})


def test_parts_count_until_their_upload_ends(disk: dict[str, int], tmp_path: Path) -> None:
    """They are in memory until then, so that the disk does not show them."""
    quota = DiskQuota(tmp_path)
    disk["free"] = RESERVE_BYTES + 1000

    assert put(quota, 600, "partNumber=1&uploadId=a")
    assert not put(quota, 600, "partNumber=2&uploadId=a")
    assert not put(quota, 600, "partNumber=1&uploadId=b")
    assert put(quota, 300, "partNumber=2&uploadId=a")
    assert put(quota, 90, "uploadId=a", "POST")
    assert put(quota, 900, "partNumber=1&uploadId=b")
    assert not put(quota, 900)
    assert put(quota, 0, "uploadId=b", "DELETE")
    assert put(quota, 900)


def test_reading_deleting_and_the_ledger_go_on_on_a_full_disk(disk: dict[str, int], tmp_path: Path) -> None:
    quota = DiskQuota(tmp_path)

    assert not quota.refusal("GET", "", S3)
    assert not quota.refusal("DELETE", "", S3)
    assert not quota.refusal("POST", "", {**LEDGER, "content-length": "1000"})
    assert quota.refusal("PUT", "", S3)
