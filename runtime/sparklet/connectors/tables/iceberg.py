"""Commits to Iceberg tables, by Iceberg in the JVM.

All that a commit changes, columns, files and properties, is changed in a draft. Then one call replaces the state in
which the table was loaded by the draft, or fails because the table has another state by now. Iceberg's own ``commit()``
would look for the new state and try again, on top of a state that was not searched for the commit's id.

The table's properties have the ids of commits, and the heads of chains: they outlive snapshots that expire.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparklet.connectors.tables.changes import (
    FILE,
    ROW,
    Rows,
    kept_rows,
    merging,
    overwriting_rows,
    read_all,
    staged_rows,
    upserted_rows,
)
from sparklet.connectors.tables.columns import agreed
from sparklet.connectors.tables.declaration import Commit, Declaration, shard_name
from sparklet.connectors.tables.iceberg_draft import (
    Draft,
    Seen,
    catalog_of,
    iceberg_columns,
    is_in_bucket,
    load_table,
    partition_spec,
    root_of,
    spark_columns,
)
from sparklet.job.catalogs import ICEBERG_CATALOG
from sparklet.job.errors import CommitConflictError, CommitStateUnknownError, TableError
from sparklet.job.session import backquoted, java_class

NOT_MADE = ("CommitFailedException", "AlreadyExistsException")  # another writer was faster
UNKNOWN = (  # the answer was lost, or the catalog is busy
    *("CommitStateUnknownException", "ServiceUnavailableException", "ServiceFailureException", "RESTException"),
    *("UncheckedSQLException", "UncheckedInterruptedException", "RuntimeIOException", "UncheckedIOException"),
)
COMMIT_ID = "sparklet.commit-id"  # in a snapshot's summary, for people
COMMITS = "sparklet.commits"  # a property: of each commit by its id the number and the time; since when all are there
KEPT_S, MAX_KEPT = 15 * 86400, 2000  # of COMMITS; a queue of SQS keeps its messages for 14 days
FUNCTIONS = {"year": "years", "month": "months", "day": "days", "hour": "hours"}  # Iceberg's own, in its catalog


class IcebergTable:
    """A table of the catalog ``iceberg``, as it was when this was made."""

    def __init__(self, name: str, spark: SparkSession) -> None:
        self._name, self._spark = name, spark
        self._iceberg: Any = spark._jvm.org.apache.iceberg
        self._catalog = catalog_of(spark, name)
        self._table = load_table(spark, self._catalog, name)
        self._state = self._table.operations().current() if self._table else None
        self._properties = dict(self._table.properties()) if self._table else {}
        stored = json.loads(self._properties.get(COMMITS, '{"since": 0, "ids": {}}'))
        self._since_s, self._ids = stored["since"], stored["ids"]
        self.root = root_of(self._table) if self._table else None

    def made(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the number of a chain is its last link."""
        if number := self._properties.get(f"sparklet.{name}"):
            return "", int(number)
        stored = self._ids.get(_short(name))
        return stored and ("", stored[0])

    def _check_age(self, commit: Commit) -> None:
        """CommitStateUnknownError for a commit that this table lacks, but may have forgotten."""
        if not commit.records and (commit.fixed_at_s or self._since_s) < self._since_s:
            due, known = ((time.time() - at_s) / 86400 for at_s in (commit.fixed_at_s or 0, self._since_s))
            raise CommitStateUnknownError(
                f"{commit.table} does not hold the commit {commit.commit_id}, but it was due {due:.0f} days ago, and "
                f"the table knows its commits of the last {known:.1f} days: if it lacks the rows, start a new run, or "
                "send the event anew"
            )

    def _named(self, commit: Commit, names: Mapping[str, int]) -> dict[str, str]:
        """The properties by which the table knows the commit."""
        if commit.records:
            return {f"sparklet.{name}": str(number) for name, number in names.items()}
        now_s = round(time.time())
        ids = {**self._ids, _short(commit.commit_id): (names[commit.commit_id], now_s)}
        ended_s = max([now_s - KEPT_S, *sorted(at_s for _, at_s in ids.values())[:-MAX_KEPT]])
        kept = {name: entry for name, entry in ids.items() if entry[1] > ended_s}
        since_s = self._since_s if len(kept) == len(ids) else max(self._since_s, ended_s)
        return {COMMITS: json.dumps({"since": since_s, "ids": kept}, separators=(",", ":"))}

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Make all of it one snapshot; see ``OpenTable``."""
        self._check_age(commit)
        draft = self._draft(commit)
        merge_columns(draft, commit)
        before = draft.metadata
        {"append": append, "upsert": upsert, "overwrite_partitions": overwrite}[commit.mode](draft, commit)
        # A REST catalog compares the snapshot of main alone: a commit without a snapshot would conflict with none.
        if draft.metadata.currentSnapshot() == before.currentSnapshot():
            draft.table.newAppend().commit()  # the table is to keep the id of a commit that changed no row
        snapshot = draft.table.currentSnapshot()
        document = json.loads(self._iceberg.SnapshotParser.toJson(snapshot))
        # Here for all modes: Spark's MERGE makes its snapshot by itself, and takes no summary from us.
        document["summary"][COMMIT_ID] = commit.commit_id
        builder = self._iceberg.TableMetadata.buildFrom(before)
        named = self._iceberg.SnapshotParser.fromJson(json.dumps(document))
        after = builder.setBranchSnapshot(named, "main").setProperties(self._named(commit, names)).build()
        try:
            draft.operations.commit(draft.start, after)
        except Py4JJavaError as error:
            if java_class(error) not in (*NOT_MADE, *UNKNOWN):
                raise
            # What was written stays: after a lost answer it may be the table's, else Iceberg's cleaner removes it.
            raise CommitConflictError(f"{commit.table}: {error.java_exception.getMessage()}") from error
        return str(snapshot.snapshotId())

    def _draft(self, commit: Commit) -> Draft:
        """What the commit is to change: the table, or the one that its first shard has seen, which is to be made."""
        if self._table is not None:
            return Draft.of_state(self._spark, self._name, self._table.operations(), self._state)
        schema = self._iceberg.SchemaParser.fromJson(json.dumps(Seen.parse(commit.writes[0].seen).schema))
        by = commit.partition_by
        if unknown := [name for name in by if schema.findField(name) is None]:
            raise TableError(f"{commit.table} cannot be partitioned by {unknown[0]!r}: the files have no such column")
        identifier = self._iceberg.catalog.TableIdentifier.parse(self._name)
        self._make_namespace(identifier.namespace())
        try:
            if is_in_bucket(self._spark):  # its tables are made before they get rows
                table = self._catalog.createTable(identifier, schema, partition_spec(self._iceberg, schema, by))
                return Draft.of_state(self._spark, self._name, table.operations(), table.operations().current())
            return Draft.of_new_table(self._spark, self._catalog, self._name, schema, by)
        except Py4JJavaError as error:
            if java_class(error) not in NOT_MADE:
                raise
            raise CommitConflictError(f"{commit.table} was made by another writer meanwhile") from error

    def _make_namespace(self, namespace: Any) -> None:
        if self._catalog.namespaceExists(namespace):
            return
        try:
            self._catalog.createNamespace(namespace)
        except Py4JJavaError:
            if not self._catalog.namespaceExists(namespace):  # else another writer was faster; catalogs' errors differ
                raise


def _short(name: str) -> str:
    # Each version of the metadata repeats up to MAX_KEPT of them.
    return hashlib.sha256(name.encode()).hexdigest()[:16]


# --- columns ---


def merge_columns(draft: Draft, commit: Commit) -> None:
    """Add the columns that the shards have beyond the table's; TableError if they do not agree on them."""
    table, writes = draft.columns, [*commit.writes, *commit.earlier]
    columns = agreed(commit, writes, table if draft.start else None, lambda write: columns_of(draft, write))
    new = StructType([field for field in columns.fields if field.name not in table.names])
    draft.add_columns(iceberg_columns(draft.spark, new.json()), new.names)


def columns_of(draft: Draft, write: Declaration) -> StructType:
    """A shard's columns; one that the table had when the shard looked is the table's own, whatever its name is now."""
    seen = Seen.parse(write.seen)
    last, ids = last_known(draft, seen), [field["id"] for field in draft.fields]
    own = dict(zip(ids, draft.columns.fields))  # noqa: B905 - Python 3.9
    schema = spark_columns(draft.iceberg, draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)))
    columns = [
        own.get(field["id"]) if field["id"] <= last else as_in_spark
        for field, as_in_spark in zip(seen.schema["fields"], schema.fields)  # noqa: B905 - Python 3.9
    ]
    return StructType([column for column in columns if column is not None])


def last_known(draft: Draft, seen: Seen) -> int:
    """The last column id that means the same in the draft; 0 if the shard has seen another table, or none."""
    return seen.last if draft.start is not None and seen.uuid == str(draft.start.uuid()) else 0


def fits(draft: Draft, seen: Seen) -> bool:
    """Whether files that were made for a table are files of the draft: by the ids and partitions that they have."""
    spec = draft.table.specs().get(seen.spec["spec-id"])
    if spec is None or json.loads(draft.iceberg.PartitionSpecParser.toJson(spec)) != seen.spec:
        return False
    last, now = last_known(draft, seen), {field["id"]: _named(field) for field in draft.fields}
    # Readers go by ids: a column that the table had already fits, though it was renamed or dropped since.
    return all(_named(field) == now.get(field["id"]) for field in seen.schema["fields"] if field["id"] > last)


def check_unchanged(draft: Draft, commit: Commit, write: Declaration, seen: Seen) -> None:
    """TableError if rows that a commit must write anew have columns of the table that were changed since."""
    last, now = last_known(draft, seen), {field["id"]: _named(field) for field in draft.fields}
    for field in seen.schema["fields"]:
        if field["id"] <= last and _named(field) != now.get(field["id"]):
            raise TableError(
                f"{commit.table}: the column {field['name']!r} was changed after {shard_name(write.shard)} had "
                f"staged its rows, which the commit must write anew: start a new run ({write.folder})"
            )


def _named(field: Mapping[str, Any]) -> tuple[str, Any]:
    return field["name"].lower(), field["type"]


# --- rows that shards have staged ---


def reader(draft: Draft, commit: Commit) -> Rows:
    """See ``read_all``."""

    def read(alike: Sequence[Declaration]) -> DataFrame:
        seen = Seen.parse(alike[0].seen)
        check_unchanged(draft, commit, alike[0], seen)
        if alike[0].described:
            return _described_rows(draft, seen, alike)
        schema = spark_columns(draft.iceberg, draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)))
        return staged_rows(draft.spark, alike, schema)

    return read


def _described_rows(draft: Draft, seen: Seen, writes: Sequence[Declaration]) -> DataFrame:
    """Rows of files of Iceberg's, as a table of their own, which lives in memory."""
    last_part = max([999, *(field["field-id"] for field in seen.spec["fields"])])
    document = {"format-version": max(2, seen.version), "table-uuid": str(uuid4()), "location": draft.table.location()}
    document |= {"last-sequence-number": 0, "last-updated-ms": 0, "next-row-id": 0, "properties": {}}
    document |= {"schemas": [seen.schema], "current-schema-id": seen.schema["schema-id"]}
    last_column = draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)).highestFieldId()
    document |= {"last-column-id": last_column, "last-partition-id": last_part}
    document |= {"partition-specs": [seen.spec], "default-spec-id": seen.spec["spec-id"]}
    document |= {"sort-orders": [{"order-id": 0, "fields": []}], "default-sort-order-id": 0}
    start = draft.iceberg.TableMetadataParser.fromJson(json.dumps(document))
    of_files = Draft.of_state(draft.spark, "staged", draft.operations, start)
    append_files(of_files, of_files.table.newFastAppend(), writes).commit()
    return of_files.rows()


# --- the changes of each mode ---


def append_files(draft: Draft, update: Any, writes: Iterable[Declaration]) -> Any:
    """Have an update of Iceberg's add the files as they were described."""
    features: Any = getattr(draft.iceberg.shaded.com.fasterxml.jackson.core, "JsonParser$Feature")
    # ``Draft.described`` has NaN and infinity as bare words, which JSON's parsers refuse unless they are told.
    mapper = draft.iceberg.util.JsonUtil.mapper().copy().configure(features.ALLOW_NON_NUMERIC_NUMBERS, True)
    parser, specs = draft.iceberg.ContentFileParser, draft.table.specs()
    for write in writes:
        for text in write.described:
            update = update.appendFile(parser.fromJson(mapper.readTree(text), specs))
    return update


def append(draft: Draft, commit: Commit) -> None:
    """Add the staged files themselves; write their rows anew if they are not files of the table as it is now."""
    fit = {text: fits(draft, Seen.parse(text)) for text in {write.seen for write in commit.writes if write.described}}
    fitting_writes = [write for write in commit.writes if write.described and fit[write.seen]]
    update = append_files(draft, draft.table.newAppend(), fitting_writes)
    if others := [write for write in commit.writes if not (write.described and fit[write.seen])]:
        for file in draft.data_files(read_all(others, draft.columns, reader(draft, commit)).drop(FILE, ROW)):
            update = update.appendFile(file)
    update.commit()


def upsert(draft: Draft, commit: Commit) -> None:
    """Merge the staged rows, one for each key."""
    rows = upserted_rows(commit, draft.columns, reader(draft, commit))
    if draft.start is None:
        update = draft.table.newAppend()
        for file in draft.data_files(kept_rows(rows)):
            update = update.appendFile(file)
        update.commit()
        return
    with merging(commit, rows, draft.columns) as clauses:
        draft.merge(clauses)


def overwrite(draft: Draft, commit: Commit) -> None:
    """Replace the partitions of the staged rows, see ``overwriting_rows``."""
    # Spark replaces partitions of the present spec alone: rows in files of earlier ones would stay.
    snapshot, spec_id = draft.table.currentSnapshot(), draft.table.spec().specId()
    for manifest in snapshot.dataManifests(draft.table.io()) if snapshot else ():
        if manifest.partitionSpecId() != spec_id and (manifest.hasAddedFiles() or manifest.hasExistingFiles()):
            raise TableError(f"{commit.table} has files of an earlier partitioning: rewrite them, then overwrite again")
    values = [_value(*partition) for partition in draft.partitions]
    draft.overwrite_partitions(overwriting_rows(commit, draft.columns, reader(draft, commit), values))


def _value(column: str, transform: str) -> str:
    """A partition's value in Spark's SQL."""
    name, _, width = transform.rstrip("]").partition("[")
    of = ".".join(map(backquoted, column.split(".")))
    if name == "identity":
        return of
    return f"{ICEBERG_CATALOG}.system.{FUNCTIONS.get(name, name)}({width}{', ' if width else ''}{of})"
