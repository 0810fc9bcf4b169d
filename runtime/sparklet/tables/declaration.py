"""The values of a write: the declaration of a script, the commit of all shards; and the tables that are refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sparklet.job.errors import EventError, TableError
from sparklet.job.fields import Table

MODES = ("append", "upsert", "overwrite_partitions")
IdsOf = tuple[str, int]
ColumnPath = tuple[str, ...]  # ("address", "zip"), ("tags", "element"), ("prices", "key")
DEMANDING = ("delta.invariants", "delta.generationExpression", "delta.identity.start")  # of columns
WRITABLE = (
    *("appendOnly", "changeDataFeed", "checkConstraints", "columnMapping", "deletionVectors", "generatedColumns"),
    *("invariants", "timestampNtz", "v2Checkpoint"),
)
"""Features of Delta that delta-rs 1.6 writes, of those that Spark 3.5 reads."""
ICEBERG_VERSION = 2  # the newest that pyiceberg writes
NAME_MAPPING = "schema.name-mapping.default"  # the property that gives ids to files without
CHAINS = "_sparklet_records"  # below a table's root: no reader, and no VACUUM, looks into folders of such names


@dataclass(frozen=True)
class Declaration:
    """One write of one attempt: the files that it has staged, and how they become part of a table.

    ``files``: their paths below ``folder``, and their sizes in bytes. ``label`` distinguishes the writes of one script.
    ``partition_types``: the types of ``partition_by`` in Spark's JSON, since Delta's files lack these columns.
    ``rows``: as counted while they were written, or -1. ``ids_of``: the UUID and the last column id of the Iceberg
    table whose field ids the files have; greater ids belong to new columns, as do all ids if there was no table.
    ``shard``: whose write it is, as the run knows it; -1 outside of runs.
    """

    table: Table
    mode: str
    label: str
    folder: str
    files: tuple[tuple[str, int], ...]
    keys: tuple[str, ...] = ()
    order_by: str | None = None
    merge_schema: bool = False
    partition_by: tuple[str, ...] = ()
    partition_types: tuple[str, ...] = ()
    rows: int = -1
    ids_of: IdsOf = ("", 0)
    shard: int = -1

    def to_document(self) -> dict[str, Any]:
        """This declaration as JSON, without the shard."""
        document = {**asdict(self), "table": str(self.table)}
        del document["shard"]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any], shard: int = -1) -> Declaration:
        """Read ``to_document``'s JSON; EventError if it is none."""
        try:
            table, mode = Table.parse(str(document["table"])), str(document["mode"])
            if mode not in MODES:
                raise ValueError(mode)
            label, folder = (str(document[name]) for name in ("label", "folder"))
            files = tuple((str(path), int(size_bytes)) for path, size_bytes in document["files"])
            keys, by = (tuple(map(str, document[name])) for name in ("keys", "partition_by"))
            order_by = None if document["order_by"] is None else str(document["order_by"])
            merge_schema, rows = bool(document["merge_schema"]), int(document.get("rows", -1))
            types = tuple(map(str, document.get("partition_types") or ()))
            uuid, last = document.get("ids_of", ("", 0))
            ids_of = (str(uuid), int(last))
            return cls(table, mode, label, folder, files, keys, order_by, merge_schema, by, types, rows, ids_of, shard)
        except (KeyError, TypeError, ValueError) as error:
            raise EventError(f"a declared write is not what sparklet.job writes: {error!r}") from error


@dataclass(frozen=True)
class Commit:
    """All staged writes to one table that become one atomic commit; the table keeps its id.

    ``fixed_at_s``: when its writes were fixed, in seconds since 1970; None: just now. ``warehouse`` names the catalog,
    unless the environment does. ``records``: by chain, the records of a stream of which the rows are made; ``chains``
    in ``chains_folder`` then identify the commit. ``earlier``: what the same run has committed before, where it
    matters: overwritten partitions keep these rows, and their keys must not come again.
    """

    commit_id: str
    table: Table
    mode: str
    writes: tuple[Declaration, ...]
    keys: tuple[str, ...] = ()
    order_by: str | None = None
    merge_schema: bool = False
    partition_by: tuple[str, ...] = ()
    partition_types: tuple[str, ...] = ()
    fixed_at_s: float | None = None
    warehouse: str | None = None
    records: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    chains_folder: str = ""
    earlier: tuple[Declaration, ...] = ()


@dataclass(frozen=True)
class Committed:
    """A commit that is in the table."""

    version: str  # the table's snapshot, version or instant
    rows: int
    files: int
    already: bool  # whether an earlier attempt had made it


def refuse_delta(
    table: Table, mode: str, features: Iterable[str], settings: Mapping[str, Any], columns: Iterable[Mapping[str, Any]]
) -> None:
    """TableError if a write of this mode cannot respect a Delta table; ``columns``: the metadata of its columns.

    delta-rs checks constraints on the rows that it writes itself, and an append only adds files.
    """
    for name in sorted(set(features).difference(WRITABLE)):
        _refuse(table, name, f"ALTER TABLE … DROP FEATURE {name}")
    demands = [name for name in settings if name.startswith("delta.constraints.")]
    if settings.get("delta.columnMapping.mode", "none") != "none":
        demands.append("delta.columnMapping.mode")
    demands += [name for metadata in columns for name in DEMANDING if name in metadata]
    if demands and mode == "append":
        raise TableError(f"{table} has {demands[0]}, which Sparklet's append does not support: use upsert")


def refuse_iceberg(table: Table, version: int) -> None:
    """TableError if a table of Iceberg has a format version that pyiceberg cannot write."""
    if version > ICEBERG_VERSION:
        _refuse(table, f"format version {version}", f"make it anew with 'format-version'='{ICEBERG_VERSION}'")


def check_name_mapping(table: str, mapping: str | None, ids: Collection[int]) -> None:
    """TableError if a table's NAME_MAPPING lacks columns: readers would not find them in files without ids."""
    if mapping is not None and (missing := set(ids).difference(_mapped(json.loads(mapping)))):
        raise TableError(
            f"the property {NAME_MAPPING} of {table} lacks the columns with the ids {sorted(missing)}: add them with "
            f"ALTER TABLE {table} SET TBLPROPERTIES, or unset the property if all files of the table have ids"
        )


def _mapped(fields: list[Any]) -> Iterator[int]:
    for each in fields:
        if "field-id" in each:
            yield each["field-id"]
        yield from _mapped(each.get("fields", []))


def _refuse(table: Table, name: str, remedy: str) -> None:
    raise TableError(f"{table} has {name}, which Sparklet cannot write: {remedy}, or write to another table")
