"""The columns of staged files in an Iceberg table that has changed its columns since, by field ids as readers do it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyarrow import types
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table.metadata import TableMetadata

from sparklet.job.errors import TableError
from sparklet.tables.declaration import ColumnPath, Commit
from sparklet.tables.staged_files import StagedFile, shard_name

FIELD_ID = b"PARQUET:field_id"


def as_read(file: StagedFile, metadata: TableMetadata) -> StagedFile:
    """The file with the columns that readers find: by ids of this table under their present names, others by name."""
    uuid, last = file.ids_of
    if uuid != str(metadata.table_uuid):
        return file
    return replace(file, schema=pa.schema(_fields(file.schema, schema_to_pyarrow(metadata.schema()), last)))


def _fields(fields: Iterable[Any], table: Iterable[Any], last: int, is_inner: bool = False) -> list[Any]:
    """The fields of one level; fields that a struct lacks are null."""
    known = {_id(field): field for field in fields if (_id(field) or last + 1) <= last}
    found = [
        now.with_type(_type(known[_id(now)].type, now.type, last)) if _id(now) in known else now
        for now in table
        if is_inner or _id(now) in known
    ]
    return found + [field for field in fields if (_id(field) or last + 1) > last]


def _type(type_: Any, table: Any, last: int) -> Any:
    inner = _fields(_inside(type_), _inside(table), last, is_inner=True)
    if types.is_struct(type_):
        return pa.struct(inner)
    if types.is_map(type_):
        return pa.map_(*inner)
    return pa.list_(*inner) if inner else type_


def _inside(type_: Any) -> list[Any]:
    """The fields of a struct, the element of a list, key and value of a map."""
    if types.is_map(type_):
        return [type_.key_field.with_name("key"), type_.item_field.with_name("value")]
    if types.is_list(type_) or types.is_large_list(type_):
        return [type_.value_field.with_name("element")]
    return list(type_) if types.is_struct(type_) else []


def _id(field: Any) -> int | None:
    found = (field.metadata or {}).get(FIELD_ID)
    return None if found is None else int(found)


def paths_of(fields: Iterable[Any], at: ColumnPath = ()) -> dict[ColumnPath, int | None]:
    """All columns of a pyarrow.Schema with their ids."""
    found = dict[ColumnPath, "int | None"]()
    for field in fields:
        path = (*at, field.name)
        found |= {path: _id(field), **paths_of(_inside(field.type), path)}
    return found


def check_names(commit: Commit, staged: Iterable[StagedFile]) -> None:
    """TableError if rows that a commit must write anew have columns that were renamed or dropped since."""
    for file in staged:
        written = paths_of(file.footer.schema.to_arrow_schema())
        if changed := paths_of(file.schema).keys() ^ written.keys():
            raise TableError(
                f"{commit.table}: the column {'.'.join(min(changed))!r} was changed after {shard_name(file.shard)} "
                f"had staged its rows, which the commit must write anew: start a new run ({file.uri})"
            )
