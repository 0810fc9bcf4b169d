"""Files beside Spark: whether those that shards have staged are there, and small ones, by pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from pyarrow import fs

from sparklet.connectors.tables.declaration import Declaration, shard_name
from sparklet.job.errors import TableError
from sparklet.job.session import s3_environment

MAX_READERS = 16  # files asked for at a time: each waits for the store, not for the processor


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


def read_lines(uri: str) -> list[str]:
    """A small file's lines but empty ones; JSON may have what ``splitlines`` takes for further ends of lines."""
    return [line for line in read_text(uri).split("\n") if line]


def read_column(uri: str, column: str) -> list[dict[str, Any]]:
    """The values of one column of a Parquet file that are not null."""
    from pyarrow import parquet

    system, path = file_system(uri)
    table = parquet.read_table(path, columns=[column], filesystem=system)
    values: list[dict[str, Any]] = table.column(0).drop_null().to_pylist()
    return values


def files_in(folder: str) -> list[str]:
    """The addresses of a folder's files; none if there is no folder."""
    system, path = file_system(folder)
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [f"{folder}/{info.base_name}" for info in infos if info.is_file]


def check_stored(writes: Iterable[Declaration]) -> None:
    """TableError if a staged file is missing, or has another size; files are asked for, and not read."""
    named = [(write, path, size_bytes) for write in writes for path, size_bytes in write.files]
    with ThreadPoolExecutor(MAX_READERS) as readers:
        for _ in readers.map(lambda file: _check_stored(*file), named):
            pass


def _check_stored(write: Declaration, path: str, size_bytes: int) -> None:
    uri = path if ":/" in path else f"{write.folder.rstrip('/')}/{path}"
    system, system_path = file_system(uri)
    (info,) = system.get_file_info([system_path])
    if info.type == fs.FileType.NotFound:
        raise TableError(f"{shard_name(write.shard)} staged {uri}, which is not there any more")
    if info.size != size_bytes:
        raise TableError(f"{shard_name(write.shard)} staged {uri} with {size_bytes} bytes; now it has {info.size}")
