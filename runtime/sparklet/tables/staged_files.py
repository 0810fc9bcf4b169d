"""Files beside Spark: whether those that shards have staged are there, and small ones, by pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from pyarrow import fs

from sparklet.job.errors import TableError
from sparklet.job.session import s3_environment, write_encryption
from sparklet.tables.declaration import Declaration, shard_name

MAX_READERS = 16  # files asked for at a time: each waits for the store, not for the processor


def delta_place(uri: str) -> tuple[str, dict[str, str]]:
    """A table's place for delta-rs, which would decode ``file://``, and options that it does not read by itself."""
    options = {"aws_allow_http": str(s3_environment(os.environ)[0].startswith("http://")).lower()}
    algorithm, key = write_encryption()
    options |= {"aws_server_side_encryption": algorithm} if algorithm else {}
    options |= {"aws_sse_kms_key_id": key, "aws_sse_bucket_key_enabled": "true"} if key else {}
    return uri[len("file://") :] if uri.startswith("file://") else uri, options


def file_system(uri: str) -> tuple[Any, str]:
    """The file system for ``file://`` and ``s3://``, and the path in it; as Hadoop, it decodes nothing."""
    scheme, separator, path = uri.partition("://")
    if not separator or scheme == "file":
        return fs.LocalFileSystem(), path if separator else uri.partition(":")[2] or uri
    if scheme not in ("s3", "s3a"):
        raise TableError(f"{uri}: staged files lie at s3:// or file://")
    return _s3(*s3_environment(os.environ)), path


@cache
def _s3(endpoint: str, region: str) -> Any:
    """One for all files: each has connections of its own."""
    return fs.S3FileSystem(endpoint_override=endpoint or None, region=region or None)


def read_text(uri: str) -> str:
    """A small file's text."""
    system, path = file_system(uri)
    with system.open_input_stream(path) as stream:
        return str(stream.read().decode())


def check_stored(writes: Iterable[Declaration]) -> None:
    """TableError if a staged file is missing, or has another size; files are asked for, and not read."""
    named = [(write, path, size_bytes) for write in writes for path, size_bytes in write.files]
    with ThreadPoolExecutor(MAX_READERS) as readers:
        for _ in readers.map(lambda file: _check_stored(*file), named):
            pass


def _check_stored(write: Declaration, path: str, size_bytes: int) -> None:
    uri = path if ":/" in path else f"{write.folder.rstrip('/')}/{path}"
    system, place = file_system(uri)
    (info,) = system.get_file_info([place])
    if info.type == fs.FileType.NotFound:
        raise TableError(f"{shard_name(write.shard)} staged {uri}, which is not there any more")
    if info.size != size_bytes:
        raise TableError(f"{shard_name(write.shard)} staged {uri} with {size_bytes} bytes; now it has {info.size}")
