"""The turn to write to a table: a file that says who has it and until when, replaced only if nobody else has done so.

In S3 by conditional PUTs, in a folder of this machine under a lock of its file system.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from sparklet.job.errors import CommitConflictError
from sparklet.job.session import s3_environment, write_encryption

LEASE_S, MAX_WAIT_S = 30.0, 300.0
OF_OTHERS = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}  # why S3 refuses a conditional PUT
_in_turn = threading.Lock()  # the file system's lock is the process's


@contextmanager
def lease(uri: str) -> Iterator[None]:
    """Hold the lease in the file at a URI for the block.

    CommitConflictError if others hold it for five minutes, or if it was lost within the block.
    """
    held = _Lease(uri)
    end_s = time.monotonic() + MAX_WAIT_S
    while not held.take():
        if time.monotonic() > end_s:
            raise CommitConflictError(f"the lease {uri} was held by others for {MAX_WAIT_S:.0f} s")
        time.sleep(random.uniform(0.1, 0.5))
    ended = threading.Event()

    def renew() -> None:
        # Every third of the lease, so that one renewal without an answer does not lose it
        while not ended.wait(LEASE_S / 3):
            with suppress(Exception):  # the store may answer the next time; a lease that was lost is told at the end
                held.extend(LEASE_S)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        # A renewal that is still under way would take the lease again once it is released.
        renewing.join()
        released = held.extend(0)
    # Not reached if the block has failed: its own error says more.
    if not released:
        raise CommitConflictError(f"the lease {uri} was lost")


class _Lease:
    """A writer's side of a lease."""

    def __init__(self, uri: str) -> None:
        self._file = file_at(uri)
        self._holder, self._version = uuid.uuid4().hex, ""

    def take(self) -> bool:
        """Whether the lease was free, and is this writer's now."""
        self._version, stored_body = self._file.read()
        # By this machine's clock: a wrong one may give two writers the lease, of which Hudi's look for others' instants
        # refuses one.
        return json.loads(stored_body or '{"until_ms": 0}')["until_ms"] <= time.time() * 1000 and self.extend(LEASE_S)

    def extend(self, duration_s: float) -> bool:
        """Hold the lease from now for so long, 0: release it; False if another writer has it."""
        body = json.dumps({"holder": self._holder, "until_ms": int((time.time() + duration_s) * 1000)}).encode()
        if version := self._file.replace(self._version, body):
            self._version = version
            return True
        version, stored_body = self._file.read()
        if not stored_body or json.loads(stored_body)["holder"] != self._holder:
            return False  # and so is each later try, since it names the version that this writer has known
        self._version = version
        # A PUT of this writer went through, but its answer was lost; this may have been the one for another duration.
        return stored_body == body or bool(self._file.replace(self._version, body))


class LeaseFile(Protocol):
    """A small file whose version changes with its content."""

    def read(self) -> tuple[str, bytes]:
        """The version and the content; "" and b"" if there is none."""

    def replace(self, version: str, body: bytes) -> str:
        """The new version; "" if another one than ``version`` is there."""


def file_at(uri: str) -> LeaseFile:
    """The file at an address in S3, or on this machine."""
    scheme, separator, path = uri.partition("://")
    return _InS3(path) if scheme in ("s3", "s3a") else _OnDisk(Path(path if separator else uri))


class _InS3:
    def __init__(self, path: str) -> None:
        import boto3
        from botocore.config import Config

        endpoint, region = s3_environment(os.environ)
        algorithm, key = write_encryption()
        s3: Any = {"addressing_style": "path"} if endpoint else None
        # A renewal that gets no answer must not outlast the lease.
        config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3}, s3=s3)
        self._client: Any = boto3.client("s3", region_name=region or None, config=config)
        bucket, key_of_file = path.split("/", 1)
        self._place = {"Bucket": bucket, "Key": key_of_file}
        self._encryption: dict[str, Any] = {"ServerSideEncryption": algorithm} if algorithm else {}
        self._encryption |= {"SSEKMSKeyId": key, "BucketKeyEnabled": True} if key else {}

    def read(self) -> tuple[str, bytes]:
        try:
            answer = self._client.get_object(**self._place)
        except self._client.exceptions.NoSuchKey:
            return "", b""
        return answer["ETag"], answer["Body"].read()

    def replace(self, version: str, body: bytes) -> str:
        # Of two writers that have read one version, S3 lets one replace it.
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            return str(self._client.put_object(**self._place, **self._encryption, **condition, Body=body)["ETag"])
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in OF_OTHERS:
                raise
            return ""


class _OnDisk:
    """Its content is its version."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str, bytes]:
        stored_body = self._swap(None, b"")
        return stored_body.decode(), stored_body

    def replace(self, version: str, body: bytes) -> str:
        return body.decode() if self._swap(version.encode(), body) == version.encode() else ""

    def _swap(self, expected_body: bytes | None, body: bytes) -> bytes:
        """What is there; it is replaced if it is what is expected."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _in_turn, self._path.open("a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)  # until it is closed
            file.seek(0)
            stored_body = file.read()
            if stored_body == expected_body:
                # A kill between the two leaves an empty file, which is a free lease.
                file.truncate(0)
                file.write(body)
            return stored_body
