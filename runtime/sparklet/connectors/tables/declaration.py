"""What a write consists of: each script's declaration, and the commit of all shards. Also refuses unfit tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, NoReturn

from sparklet.job.errors import EventError, TableError
from sparklet.job.fields import Table

MODES = ("append", "upsert", "overwrite_partitions")
PARQUET = {
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # Spark's default, INT96, is not Iceberg's
    "spark.sql.parquet.writeLegacyFormat": "false",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
}
"""The session's options for files of tables."""
HUDI_FIELDS = ("recordkey", "partition")  # in the names of a Hudi table's properties
DELETED, HUDI_DELETED = "_sparklet_deleted", "_hoodie_is_deleted"  # columns: whether a row deletes the row of its key
CHAINS = "_sparklet_records"  # below a table's root: readers and VACUUM leave out folders with such a name


class Partition(NamedTuple):
    """A part of a table's partitioning: ``identity``, ``day``, ``bucket[4]``, … of a column."""

    column: str
    transform: str = "identity"


@dataclass(frozen=True)
class Declaration:
    """One write of one attempt: the files that it has staged, and how they become part of a table.

    ``files``: the files' paths below ``folder``, and their sizes in bytes. ``label`` distinguishes the writes of one
    script. ``rows``: the number of rows, counted while they were written, or -1. ``shard``: the number of the write's
    shard, -1 outside a run. ``described``: the files' descriptions by the format's own library, which the commit uses
    unchanged; empty if Spark itself wrote the files. ``seen``: the state of the table as the shard saw it, in the
    format's own text; for Delta's and Hudi's files that Spark itself wrote, the rows' schema. ``deletes``: whether the
    rows have the column DELETED.
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
    deletes: bool = False
    rows: int = -1
    shard: int = -1
    described: tuple[str, ...] = ()
    seen: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return this declaration as JSON, without the shard."""
        document = {**asdict(self), "table": str(self.table)}
        del document["shard"]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any], shard: int = -1) -> Declaration:
        """Return the declaration in a document that ``to_document`` has made; EventError if it is malformed."""
        try:
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
            }
            fields["table"] = Table.parse(document["table"])
            fields["files"] = tuple((str(path), int(size_bytes)) for path, size_bytes in document["files"])
            if fields["mode"] not in MODES:
                raise ValueError(fields["mode"])
            return cls(**fields, shard=shard)
        except (KeyError, TypeError, ValueError) as error:
            raise EventError(f"a declared write is not what sparklet.job writes: {error!r}") from error


@dataclass(frozen=True)
class Commit:
    """All staged writes to one table that become one atomic commit, whose id the table keeps.

    ``fixed_at_s``: when the set of writes was fixed, in seconds since 1970; None if just now. ``warehouse`` names the
    catalog, unless the environment does. ``records``: the numbers of the stream records that the rows are made of, by
    chain; they then identify the commit, see ``chains``. ``chains_folder``: where the chains' files are. ``earlier``:
    writes that the same run has committed before, if they matter: overwritten partitions keep their rows, and an upsert
    must not repeat their keys.
    """

    commit_id: str
    table: Table
    mode: str
    writes: tuple[Declaration, ...]
    keys: tuple[str, ...] = ()
    order_by: str | None = None
    merge_schema: bool = False
    partition_by: tuple[str, ...] = ()
    deletes: bool = False
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


def refuse_hudi(table: Table, write: Declaration | Commit, properties: Mapping[str, str]) -> None:
    """Raise TableError if the table's hoodie.properties would make Hudi upsert by other rules than the write's."""
    if write.mode != "upsert":
        return
    order_fields = (properties.get(f"hoodie.table.{name}") for name in ("ordering.fields", "precombine.field"))
    order = next(filter(None, order_fields), "")
    if order and order != write.order_by and properties.get("hoodie.record.merge.mode") != "COMMIT_TIME_ORDERING":
        raise TableError(
            f"{table} has the precombine field {order}, by which Hudi may drop the new row of a key: pass "
            f"order_by={order!r}, or make a table with the merge mode COMMIT_TIME_ORDERING"
        )
    keys, by = (set(filter(None, properties.get(f"hoodie.table.{name}.fields", "").split(","))) for name in HUDI_FIELDS)
    if keys and keys - by != set(write.keys) - by:
        raise TableError(f"{table} has the record key {', '.join(sorted(keys))}: pass keys={sorted(keys)!r}")


def refuse(table: Table, name: str, remedy: str) -> NoReturn:
    """Raise TableError: no commit of Sparklet can write to a table with this feature or property."""
    raise TableError(f"{table} has {name}, which Sparklet cannot write: {remedy}, or write to another table")


def shard_name(number: int) -> str:
    """Return the name of a shard in messages; -1 is a script outside a run."""
    return f"shard {number}" if number >= 0 else "the script"
