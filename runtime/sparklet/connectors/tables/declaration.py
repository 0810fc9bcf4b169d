"""The values of a write: the declaration of a script, the commit of all shards; and the tables that are refused."""

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
"""Options of the session for files of tables."""
HUDI_FIELDS = ("recordkey", "partition")  # in names of a Hudi table's properties
DELETED, HUDI_DELETED = "_sparklet_deleted", "_hoodie_is_deleted"  # columns: whether a row deletes that of its key
CHAINS = "_sparklet_records"  # below a table's root: no reader, and no VACUUM, looks into folders of such names


class Partition(NamedTuple):
    """A part of a table's partitioning: ``identity``, ``day``, ``bucket[4]``, … of a column."""

    column: str
    transform: str = "identity"


@dataclass(frozen=True)
class Declaration:
    """One write of one attempt: the files that it has staged, and how they become part of a table.

    ``files``: their paths below ``folder``, and their sizes in bytes. ``label`` distinguishes the writes of one script.
    ``rows``: as counted while they were written, or -1. ``shard``: whose write it is, as the run knows it; -1 outside
    of runs. ``described``: the files as the format's own library describes them; the commit takes these texts as they
    are. ``seen``: the state of the table that the shard wrote for, in the format's own text; where Spark staged the
    rows, their schema. ``deletes``: whether they have the column DELETED.
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
        """This declaration as JSON, without the shard."""
        document = {**asdict(self), "table": str(self.table)}
        del document["shard"]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any], shard: int = -1) -> Declaration:
        """Read ``to_document``'s JSON; EventError if it is none."""
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
    """TableError if Hudi would not do what an upsert asks for, by the table's hoodie.properties."""
    if write.mode != "upsert":
        return
    named = (properties.get(f"hoodie.table.{name}") for name in ("ordering.fields", "precombine.field"))
    order = next(filter(None, named), "")
    if order and order != write.order_by and properties.get("hoodie.record.merge.mode") != "COMMIT_TIME_ORDERING":
        raise TableError(
            f"{table} has the precombine field {order}, by which Hudi may drop the new row of a key: pass "
            f"order_by={order!r}, or make a table with the merge mode COMMIT_TIME_ORDERING"
        )
    keys, by = (set(filter(None, properties.get(f"hoodie.table.{name}.fields", "").split(","))) for name in HUDI_FIELDS)
    if keys and keys - by != set(write.keys) - by:
        raise TableError(f"{table} has the record key {', '.join(sorted(keys))}: pass keys={sorted(keys)!r}")


def refuse(table: Table, name: str, remedy: str) -> NoReturn:
    """TableError: no commit of ours can write to it."""
    raise TableError(f"{table} has {name}, which Sparklet cannot write: {remedy}, or write to another table")


def shard_name(number: int) -> str:
    """The name of a shard in messages."""
    return f"shard {number}" if number >= 0 else "the script"
