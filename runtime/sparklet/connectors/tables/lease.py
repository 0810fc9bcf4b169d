"""The lease of a table: a file that names the one writer who may write, and until when.

A writer replaces the file only if no other writer has done so since it was read: in S3 by conditional PUTs, in a folder
of this machine under a lock of the file system.
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
REPLACED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}  # S3 refuses a PUT: another was faster
_thread_lock = (
    threading.Lock()
)  # the file system's lock holds off other processes, but not other threads of this process


@contextmanager
def lease(uri: str) -> Iterator[None]:
    """Hold the lease in the file at a URI within the block.

    CommitConflictError if others hold it for five minutes, or if it was lost within the block.
    """
    own_lease = _Lease(uri)
    end_s = time.monotonic() + MAX_WAIT_S
    while not own_lease.take():
        if time.monotonic() > end_s:
            raise CommitConflictError(f"the lease {uri} was held by others for {MAX_WAIT_S:.0f} s")
        time.sleep(random.uniform(0.1, 0.5))
    ended = threading.Event()

    def renew() -> None:
        # After each third of the lease's time, so that one failed renewal does not lose the lease.
        while not ended.wait(LEASE_S / 3):
            # The next renewal may succeed; whether the lease was lost is checked at the end.
            with suppress(Exception):
                own_lease.extend(LEASE_S)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        # A renewal that is still under way would take the lease again after its release.
        renewing.join()
        is_released = own_lease.extend(0)
    # This is not reached if the block has failed: the block's own error says more.
    if not is_released:
        raise CommitConflictError(f"the lease {uri} was lost")


class _Lease:
    """A writer's side of a lease."""

    def __init__(self, uri: str) -> None:
        self._file = file_at(uri)
        self._holder, self._version = uuid.uuid4().hex, ""

    def take(self) -> bool:
        """Take the lease if it is free, and return whether this writer has it now."""
        self._version, stored_body = self._file.read()
        # By this machine's clock. If it is wrong, two writers might have the lease; ``HudiTable.accept`` refuses one.
        is_free = json.loads(stored_body or '{"until_ms": 0}')["until_ms"] <= time.time() * 1000
        return is_free and self.extend(LEASE_S)

    def extend(self, duration_s: float) -> bool:
        """Hold the lease for ``duration_s`` from now, or release it if this is 0. False if another writer has it."""
        body = json.dumps({"holder": self._holder, "until_ms": int((time.time() + duration_s) * 1000)}).encode()
        if version := self._file.replace(self._version, body):
            self._version = version
            return True
        version, stored_body = self._file.read()
        if not stored_body or json.loads(stored_body)["holder"] != self._holder:
            return False  # and each later call fails, too, since this writer's version is not the file's any more
        self._version = version
        # An earlier PUT of this writer succeeded, but its answer was lost. It may have been for another duration.
        return stored_body == body or bool(self._file.replace(self._version, body))


class LeaseFile(Protocol):
    """A small file whose version changes with its content."""

    def read(self) -> tuple[str, bytes]:
        """Return the version and the content; "" and b"" if the file does not exist."""

    def replace(self, version: str, body: bytes) -> str:
        """Replace the content if it still has this version. Return the new version, or "" if it has another version."""


def file_at(uri: str) -> LeaseFile:
    """Return the file at an address in S3, or on this machine."""
    scheme, separator, path = uri.partition("://")
    return _InS3(path) if scheme in ("s3", "s3a") else _OnDisk(Path(path if separator else uri))


class _InS3:
    def __init__(self, path: str) -> None:
        import boto3
        from botocore.config import Config

        endpoint, region = s3_environment(os.environ)
        algorithm, key = write_encryption()
        s3: Any = {"addressing_style": "path"} if endpoint else None
        # A renewal that gets no answer must not take longer than the lease lasts.
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
        # If two writers have read the same version, S3 lets only one of them replace it.
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            return str(self._client.put_object(**self._place, **self._encryption, **condition, Body=body)["ETag"])
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in REPLACED:
                raise
            return ""


class _OnDisk:
    """A file whose content is its version."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str, bytes]:
        stored_body = self._swap(None, b"")
        return stored_body.decode(), stored_body

    def replace(self, version: str, body: bytes) -> str:
        return body.decode() if self._swap(version.encode(), body) == version.encode() else ""

    def _swap(self, expected_body: bytes | None, body: bytes) -> bytes:
        """Return the content before this call, which replaces it if it equals ``expected_body``."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _thread_lock, self._path.open("a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)  # until the file is closed
            file.seek(0)
            stored_body = file.read()
            if stored_body == expected_body:
                # A kill between these two calls leaves an empty file, which is a free lease.
                file.truncate(0)
                file.write(body)
            return stored_body
