"""Staged Parquet files: their footers, the schema that they and the table agree on, and their rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs, parquet, types

from sparklet.job.errors import TableError
from sparklet.job.session import s3_environment, write_encryption
from sparklet.tables.declaration import Commit, Declaration, shard_name

MAX_READERS = 16  # footers read at a time: each waits for the store, not for the processor
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
HIVE_TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint", "bool": "boolean"}
HIVE_TYPES |= {"date32[day]": "date", **{name: name for name in ("float", "double", "string", "binary")}}


@dataclass(frozen=True)
class StagedFile:
    """A file that a shard staged, as its footer describes it."""

    shard: int
    uri: str
    path: str  # below the write's folder
    size_bytes: int
    footer: Any  # pyarrow.parquet.FileMetaData
    schema: Any  # pyarrow.Schema, without metadata

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return int(self.footer.num_rows)

    @property
    def partition_values(self) -> dict[str, str | None]:
        """The values in the file's path: ``day=2013-01-01/part-0.parquet``."""
        named = (folder.partition("=") for folder in self.path.split("/")[:-1])
        return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, equals, value in named}


Staged = Sequence[StagedFile]


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


def read_footers(writes: Iterable[Declaration]) -> list[StagedFile]:
    """Read the footer of each staged file; TableError if one is missing, or is not the file that was staged."""
    writes = list(writes)
    named = [(write, path, size_bytes) for write in writes for path, size_bytes in write.files]
    with ThreadPoolExecutor(MAX_READERS) as readers:
        found = list(readers.map(lambda file: _read_footer(*file), named))
    footers = iter(found)
    for write in writes:
        if (rows := sum(next(footers).rows for _ in write.files)) != write.rows >= 0:
            raise TableError(
                f"{shard_name(write.shard)} staged {write.rows} rows at {write.folder}; now its files have {rows}: a "
                "lost task has written there since; start a new run"
            )
    return found


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


def _read_footer(write: Declaration, path: str, size_bytes: int) -> StagedFile:
    uri = f"{write.folder.rstrip('/')}/{path}"
    system, place = file_system(uri)
    try:
        with system.open_input_file(place) as file:
            found_bytes = file.size()
            footer = parquet.read_metadata(file) if found_bytes == size_bytes else None
    except FileNotFoundError as error:
        raise TableError(f"{shard_name(write.shard)} staged {uri}, which is not there any more") from error
    except pa.ArrowInvalid as error:
        raise TableError(f"{shard_name(write.shard)} staged {uri}, which is no Parquet file: {error}") from error
    if footer is None:
        raise TableError(f"{shard_name(write.shard)} staged {uri} with {size_bytes} bytes; now it has {found_bytes}")
    schema = footer.schema.to_arrow_schema().remove_metadata()
    return StagedFile(write.shard, uri, path, size_bytes, footer, schema)


def agreed_schema(commit: Commit, staged: Staged, table: Any | None) -> Any:
    """The pyarrow schema of the table with these files, all nullable; ``table``: its columns, if it exists.

    TableError if types of a column differ, or if only some files have a column and ``merge_schema`` is off.
    """
    if commit.mode == "overwrite_partitions":  # which writes the earlier files' rows again
        staged = [*staged, *read_footers(commit.earlier)]
    fields = {} if table is None else {field.name.lower(): field for field in table}
    origin = dict.fromkeys(fields, f"the table {commit.table}")
    grows = table is None or commit.merge_schema
    for number, file in enumerate(staged):
        for field in file.schema:
            if type_name(field.type) == "timestamp[ns]":
                raise TableError(
                    f"{shard_name(file.shard)} has the column {field.name!r} with nanoseconds, as Spark's INT96: set "
                    f"spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS ({file.uri})"
                )
            if (key := field.name.lower()) not in fields:
                if not grows or (number and not commit.merge_schema):
                    raise TableError(_additional(commit, file, field, staged[0] if table is None else None))
                fields[key], origin[key] = field.with_nullable(True), shard_name(file.shard)
            elif (have := type_name(field.type)) != (want := type_name(fields[key].type)):
                differ = f"as {have}, {origin[key]} as {want}: cast it in the script ({file.uri})"
                raise TableError(f"{shard_name(file.shard)} has the column {field.name!r} {differ}")
        held = {name.lower() for name in (*file.schema.names, *file.partition_values)}
        is_exact = table is None and not commit.merge_schema
        needed = (field.name for field in fields.values() if is_exact or not field.nullable)
        if missing := [name for name in needed if name.lower() not in held]:
            raise TableError(f"{shard_name(file.shard)} lacks the column {missing[0]!r} ({file.uri})")
    return pa.schema(list(fields.values()))


def _additional(commit: Commit, file: StagedFile, field: Any, first: StagedFile | None) -> str:
    other = f"the table {commit.table}" if first is None else shard_name(first.shard)
    return (
        f"{shard_name(file.shard)} has the column {field.name!r} ({type_name(field.type)}), which {other} has not: "
        f"select the table's columns, or write with merge_schema=True ({file.uri})"
    )


def type_name(type_: Any, plain: Callable[[Any], str] = str) -> str:
    """A type's name, the same for all types in memory that hold the same values."""
    if types.is_dictionary(type_):
        return type_name(type_.value_type, plain)
    if types.is_struct(type_):
        return f"struct<{','.join(f'{field.name}:{type_name(field.type, plain)}' for field in type_)}>"
    if types.is_map(type_):
        return f"map<{type_name(type_.key_type, plain)},{type_name(type_.item_type, plain)}>"
    if types.is_list(type_) or types.is_large_list(type_) or types.is_list_view(type_):
        return f"array<{type_name(type_.value_type, plain)}>"
    return plain(type_).replace("large_", "").replace("_view", "")


def hive_type(type_: Any) -> str:
    """What Athena and Glue's catalog call a type; TableError if they have none."""
    return type_name(type_, _hive_name)


def _hive_name(type_: Any) -> str:
    if types.is_decimal(type_):
        return f"decimal({type_.precision},{type_.scale})"
    name = "timestamp" if types.is_timestamp(type_) else HIVE_TYPES.get(type_name(type_))
    if name is None:
        raise TableError(f"Athena has no type for {type_}: cast the column in the script")
    return name
