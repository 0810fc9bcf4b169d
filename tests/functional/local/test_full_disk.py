"""A state folder whose disk fills up: writers are told which folder it is, and nothing is there by halves."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparklet.errors import ObjectStoreError
from sparklet.local.stack import LocalStack, StackOptions

pytestmark = pytest.mark.stack

DISK_MB = 160


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_an_object_too_large_for_the_disk_is_refused_whole(small_disk: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"y" * (110 << 20))
    root = small_disk / "state"
    told = rf"DiskFull.*the disk of the state folder {root} is full \(\d+ MiB free\); make room there, or name another"
    with LocalStack.attach(StackOptions(state_dir=root, workers=1, timeout_s=20, processing=False)) as stack:
        store, folder = stack.deployment().store, f"s3://{stack.info.bucket}/a/"

        for write in (
            lambda: store.put(f"{folder}put", big.read_bytes()),
            lambda: store.upload(big, f"{folder}upload"),
        ):
            with pytest.raises(ObjectStoreError, match=told):
                write()

        assert list(store.list(folder)) == []
        store.put(f"{folder}small", b"x" * 1000)
        assert [info.uri for info in store.list(folder)] == [f"{folder}small"]
    assert not list(root.rglob("put")) + list(root.rglob("upload"))
