"""A full disk of the state folder is reported before anything is written."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.emulator import RESERVE_BYTES, refusal
from sparklet.local.emulator_packages import emulator_python, ensure_emulator
from sparklet.local.stack import LocalStack, StackOptions
from sparklet.local.state import MIN_START_BYTES
from sparklet.model import MIB
from tests.waiting import deadline_s

UPLOADS = """
import asyncio, re
from ministack.services import s3
from sparklet.local.ministack_patches import refuse_writes, uploaded_bytes

def ask(method, path, body=b"", **query):
    headers = {"x-amz-copy-source": query.pop("source")} if "source" in query else {}
    query = {name: [value] for name, value in query.items()}
    return asyncio.run(s3.handle_request(method, path, headers, body, query))

ask("PUT", "/bucket")
upload = re.search(b"<UploadId>(.+)</UploadId>", ask("POST", "/bucket/k", uploads="")[2])[1].decode()
part = {"partNumber": "1", "uploadId": upload}
ask("PUT", "/bucket/k", bytes(1000), **part)
print(uploaded_bytes())
full = "<Error><Code>DiskFull</Code></Error>"
ask("PUT", "/bucket/large one", bytes(501))
refuse_writes(lambda size: full if size > 500 else "")
print(*(ask("PUT", "/bucket/o", bytes(size))[0] for size in (501, 500)))
print(*(ask("PUT", "/bucket/copy", source=f"/bucket/{name}")[0] for name in ("large%20one", "o", "gone")))
print(ask("DELETE", "/bucket/o")[0], ask("DELETE", "/bucket/k", uploadId=upload)[0], uploaded_bytes())
"""


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A fake disk; a test sets its free bytes."""
    has = {"free": 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1000 * MIB, 0, has["free"]))
    return has


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
    disk["free"] = RESERVE_BYTES + 1000

    assert not refusal(tmp_path / "s3", 1000)
    message = refusal(tmp_path / "s3", 1001)
    assert f"the disk of the state folder {tmp_path} is full (64 MiB free); make room there" in message
    assert message.startswith("<Error><Code>DiskFull</Code>")


def test_s3_refuses_writes_and_copies_and_counts_parts() -> None:
    """Parts of uploads are in memory until they are completed, so the disk's free space does not show them."""
    command = emulator_python(ensure_emulator(print), UPLOADS)
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s())

    assert done.stdout.splitlines() == ["1000", "400 200", "400 200 404", "204 204 0"], done.stderr
