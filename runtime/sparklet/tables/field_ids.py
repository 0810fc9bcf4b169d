"""Iceberg's field ids: readers find a column in a file by its id, whatever it was called when the file was written.

A column is named by its path: ``("address", "zip")``, ``("tags", "element")``, ``("prices", "key")``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sparklet.job.errors import TableError

ColumnPath = tuple[str, ...]
NAME_MAPPING = "schema.name-mapping.default"  # the property that gives ids to files without
_INSIDE = {"list": ("element",), "map": ("key", "value")}


def column_ids(schema: Mapping[str, Any], at: ColumnPath = ()) -> dict[ColumnPath, int]:
    """The ids in a schema, or in a type, as Iceberg's JSON has them."""
    kind, found = schema["type"], dict[ColumnPath, int]()
    inner = [(field["name"], field["id"], field["type"]) for field in schema["fields"]] if kind == "struct" else []
    inner += [(name, schema[f"{name}-id"], schema[name]) for name in _INSIDE.get(kind, ())]
    for name, id_, type_ in inner:
        found[(*at, name)] = id_
        if isinstance(type_, Mapping):
            found |= column_ids(type_, (*at, name))
    return found


def check_name_mapping(table: str, mapping: str | None, ids: Collection[int]) -> None:
    """TableError if a table's NAME_MAPPING lacks columns: files without ids then have values that nobody reads."""
    if mapping is not None and (missing := set(ids).difference(_mapped(json.loads(mapping)))):
        raise TableError(
            f"the property {NAME_MAPPING} of {table} lacks the columns with the ids {sorted(missing)}: add them with "
            f"ALTER TABLE {table} SET TBLPROPERTIES, or unset the property if all files of the table have ids"
        )


def _mapped(fields: list[Any]) -> Iterator[int]:
    for field in fields:
        if "field-id" in field:
            yield field["field-id"]
        yield from _mapped(field.get("fields", []))
