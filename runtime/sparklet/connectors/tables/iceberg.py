"""Commits to Iceberg tables, by Iceberg in the JVM.

All changes of a commit, to columns, files and properties, are made in a draft. Then one call replaces the table's state
with the draft. It fails if the table has changed since it was loaded. Iceberg's own ``commit()`` would then load the
new state and try again, without looking for the commit's id in that state.

The ids of commits, and the last links of ``chains``, are in the table's properties, since snapshots expire.
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
    merge_clauses,
    overwriting_rows,
    read_all,
    rows_of_new_table,
    staged_rows,
    upserted_rows,
)
from sparklet.connectors.tables.columns import agreed_columns
from sparklet.connectors.tables.declaration import Commit, Declaration, shard_name
from sparklet.connectors.tables.iceberg_draft import (
    Draft,
    SeenTable,
    catalog_of,
    data_folder,
    iceberg_columns,
    is_in_bucket,
    load_table,
    partition_spec,
    spark_columns,
)
from sparklet.job.catalogs import ICEBERG_CATALOG
from sparklet.job.errors import CommitConflictError, CommitStateUnknownError, TableError
from sparklet.job.session import backquoted, java_class

NOT_MADE = ("CommitFailedException", "AlreadyExistsException")  # another writer was faster
UNKNOWN = (  # the catalog's answer was lost, or the catalog was busy
    *("CommitStateUnknownException", "ServiceUnavailableException", "ServiceFailureException", "RESTException"),
    *("UncheckedSQLException", "UncheckedInterruptedException", "RuntimeIOException", "UncheckedIOException"),
)
COMMIT_ID = "sparklet.commit-id"  # in a snapshot's summary, for people
COMMITS = "sparklet.commits"  # a property: each commit's number and time, by its id; and since when no id is missing
KEPT_S, MAX_KEPT = 15 * 86400, 2000  # how long and how many commits are kept; SQS keeps messages for 14 days
FUNCTIONS = {"year": "years", "month": "months", "day": "days", "hour": "hours"}  # by transform, in Iceberg's catalog


class IcebergTable:
    """A table of the catalog ``iceberg``, in the state of the time when this object was made."""

    def __init__(self, name: str, spark: SparkSession) -> None:
        self._name, self._spark = name, spark
        self._iceberg: Any = spark._jvm.org.apache.iceberg
        self._catalog = catalog_of(spark, name)
        self._table = load_table(spark, self._catalog, name)
        self._state = self._table.operations().current() if self._table else None
        self._properties = dict(self._table.properties()) if self._table else {}
        stored = json.loads(self._properties.get(COMMITS, '{"since": 0, "ids": {}}'))
        self._since_s, self._ids = stored["since"], stored["ids"]
        self.root = data_folder(self._table) if self._table else None

    def find_name(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the number of a chain is that of its last link. The version is always ""."""
        if number := self._properties.get(f"sparklet.{name}"):
            return "", int(number)
        stored = self._ids.get(_short_id(name))
        return stored and ("", stored[0])

    def _check_age(self, commit: Commit) -> None:
        """Raise CommitStateUnknownError for a commit that this table does not have, but may have forgotten."""
        if not commit.records and (commit.fixed_at_s or self._since_s) < self._since_s:
            due_days, known_days = ((time.time() - at_s) / 86400 for at_s in (commit.fixed_at_s or 0, self._since_s))
            raise CommitStateUnknownError(
                f"{commit.table} does not hold the commit {commit.commit_id}, but it was due {due_days:.0f} days ago, "
                f"and the table knows its commits of the last {known_days:.1f} days: if it lacks the rows, start a new "
                "run, or send the event anew"
            )

    def _properties_of(self, commit: Commit, names: Mapping[str, int]) -> dict[str, str]:
        """Return the properties in which the table keeps the commit's names."""
        if commit.records:
            return {f"sparklet.{name}": str(number) for name, number in names.items()}
        now_s = round(time.time())
        ids = {**self._ids, _short_id(commit.commit_id): (names[commit.commit_id], now_s)}
        newest_dropped_s = max([now_s - KEPT_S, *sorted(at_s for _, at_s in ids.values())[:-MAX_KEPT]])
        kept_ids = {name: (number, at_s) for name, (number, at_s) in ids.items() if at_s > newest_dropped_s}
        since_s = self._since_s if len(kept_ids) == len(ids) else max(self._since_s, newest_dropped_s)
        return {COMMITS: json.dumps({"since": since_s, "ids": kept_ids}, separators=(",", ":"))}

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Make one snapshot of the whole commit; see ``OpenTable``."""
        self._check_age(commit)
        draft = self._draft(commit)
        merge_columns(draft, commit)
        before = draft.metadata
        {"append": append, "upsert": upsert, "overwrite_partitions": overwrite}[commit.mode](draft, commit)
        # A commit that changed no row gets an empty snapshot, so that the table keeps its id: a REST catalog compares
        # only main's snapshot, and would find no conflict with a commit that has no snapshot.
        if draft.metadata.currentSnapshot() == before.currentSnapshot():
            draft.table.newAppend().commit()
        snapshot = draft.table.currentSnapshot()
        document = json.loads(self._iceberg.SnapshotParser.toJson(snapshot))
        # Set here for all modes, since Spark's MERGE makes its snapshot by itself, and allows no summary.
        document["summary"][COMMIT_ID] = commit.commit_id
        builder = self._iceberg.TableMetadata.buildFrom(before)
        with_id = self._iceberg.SnapshotParser.fromJson(json.dumps(document))
        after = builder.setBranchSnapshot(with_id, "main").setProperties(self._properties_of(commit, names)).build()
        try:
            draft.operations.commit(draft.start, after)
        except Py4JJavaError as error:
            if java_class(error) not in (*NOT_MADE, *UNKNOWN):
                raise
            # The new files are not deleted: if only the answer was lost, they are the table's; otherwise Iceberg's own
            # cleaner removes them.
            raise CommitConflictError(f"{commit.table}: {error.java_exception.getMessage()}") from error
        return str(snapshot.snapshotId())

    def _draft(self, commit: Commit) -> Draft:
        """Return a draft of the table; without a table, a draft of a new one with the columns of the first write.

        For a new table this makes the namespace, and in S3 Tables the table itself. CommitConflictError if another
        writer has just made the table.
        """
        if self._table is not None:
            return Draft.of_state(self._spark, self._name, self._table.operations(), self._state)
        schema = self._iceberg.SchemaParser.fromJson(json.dumps(SeenTable.parse(commit.writes[0].seen).schema))
        by = commit.partition_by
        if unknown := [name for name in by if schema.findField(name) is None]:
            raise TableError(f"{commit.table} cannot be partitioned by {unknown[0]!r}: the files have no such column")
        identifier = self._iceberg.catalog.TableIdentifier.parse(self._name)
        self._make_namespace(identifier.namespace())
        try:
            if is_in_bucket(self._spark):  # such a catalog makes a table before the table gets rows
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
            # If it exists now, another writer was faster. Each catalog has another error for this.
            if not self._catalog.namespaceExists(namespace):
                raise


def _short_id(name: str) -> str:
    # Short, since each version of the metadata repeats up to MAX_KEPT ids.
    return hashlib.sha256(name.encode()).hexdigest()[:16]


# --- columns ---


def merge_columns(draft: Draft, commit: Commit) -> None:
    """Add the columns that the shards have and the table lacks; TableError if the shards do not agree on them."""
    table, writes = draft.columns, [*commit.writes, *commit.earlier]
    columns = agreed_columns(commit, writes, table if draft.start else None, lambda write: columns_of(draft, write))
    new = StructType([field for field in columns.fields if field.name not in table.names])
    draft.add_columns(iceberg_columns(draft.spark, new.json()), new.names)


def columns_of(draft: Draft, write: Declaration) -> StructType:
    """Return a shard's columns. Columns that the table had are returned as they are now, or left out if dropped."""
    seen = SeenTable.parse(write.seen)
    last_id, ids = last_known_id(draft, seen), [field["id"] for field in draft.fields]
    column_by_id = dict(zip(ids, draft.columns.fields))  # noqa: B905 - Python 3.9
    schema = spark_columns(draft.iceberg, draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)))
    columns = [
        column_by_id.get(field["id"]) if field["id"] <= last_id else new_column
        for field, new_column in zip(seen.schema["fields"], schema.fields)  # noqa: B905 - Python 3.9
    ]
    return StructType([column for column in columns if column is not None])


def last_known_id(draft: Draft, seen: SeenTable) -> int:
    """Return the last column id that means the same in the draft; 0 if the shard has seen another table, or none."""
    return seen.last if draft.start is not None and seen.uuid == str(draft.start.uuid()) else 0


def fits(draft: Draft, seen: SeenTable) -> bool:
    """Whether files that were made for a state of a table fit the draft, by their column ids and partitions."""
    spec = draft.table.specs().get(seen.spec["spec-id"])
    if spec is None or json.loads(draft.iceberg.PartitionSpecParser.toJson(spec)) != seen.spec:
        return False
    last_id, present = last_known_id(draft, seen), {field["id"]: _name_and_type(field) for field in draft.fields}
    new_fields = (field for field in seen.schema["fields"] if field["id"] > last_id)
    # Readers use the ids: a column that the table had already fits, even if it was renamed or dropped since.
    return all(_name_and_type(field) == present.get(field["id"]) for field in new_fields)


def check_unchanged(draft: Draft, commit: Commit, write: Declaration, seen: SeenTable) -> None:
    """Raise TableError if the table's columns changed after a shard wrote rows that the commit must write anew."""
    last_id, present = last_known_id(draft, seen), {field["id"]: _name_and_type(field) for field in draft.fields}
    for field in seen.schema["fields"]:
        if field["id"] <= last_id and _name_and_type(field) != present.get(field["id"]):
            raise TableError(
                f"{commit.table}: the column {field['name']!r} was changed after {shard_name(write.shard)} had "
                f"staged its rows, which the commit must write anew: start a new run ({write.folder})"
            )


def _name_and_type(field: Mapping[str, Any]) -> tuple[str, Any]:
    return field["name"].lower(), field["type"]


# --- rows that shards have staged ---


def reader(draft: Draft, commit: Commit) -> Rows:
    """Return the function by which ``read_all`` reads writes that have seen the same state."""

    def read(writes: Sequence[Declaration]) -> DataFrame:
        first, *_ = writes
        seen = SeenTable.parse(first.seen)
        check_unchanged(draft, commit, first, seen)
        if first.described:
            return _described_rows(draft, seen, writes)
        schema = spark_columns(draft.iceberg, draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)))
        return staged_rows(draft.spark, writes, schema)

    return read


def _described_rows(draft: Draft, seen: SeenTable, writes: Sequence[Declaration]) -> DataFrame:
    """Return the rows of files that Iceberg's writer made: Spark reads them as a table of their own, in memory."""
    last_partition = max([999, *(field["field-id"] for field in seen.spec["fields"])])
    document = {"format-version": max(2, seen.version), "table-uuid": str(uuid4()), "location": draft.table.location()}
    document |= {"last-sequence-number": 0, "last-updated-ms": 0, "next-row-id": 0, "properties": {}}
    document |= {"schemas": [seen.schema], "current-schema-id": seen.schema["schema-id"]}
    last_column = draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)).highestFieldId()
    document |= {"last-column-id": last_column, "last-partition-id": last_partition}
    document |= {"partition-specs": [seen.spec], "default-spec-id": seen.spec["spec-id"]}
    document |= {"sort-orders": [{"order-id": 0, "fields": []}], "default-sort-order-id": 0}
    start = draft.iceberg.TableMetadataParser.fromJson(json.dumps(document))
    staged = Draft.of_state(draft.spark, "staged", draft.operations, start)
    append_files(staged, staged.table.newFastAppend(), writes).commit()
    return staged.rows()


# --- the changes of each mode ---


def append_files(draft: Draft, update: Any, writes: Iterable[Declaration]) -> Any:
    """Add the files that shards have described to an update, which is Iceberg's pending change. Return the update."""
    features: Any = getattr(draft.iceberg.shaded.com.fasterxml.jackson.core, "JsonParser$Feature")
    # ``Draft.described`` writes NaN and infinity as bare words, which JSON's parsers refuse by default.
    mapper = draft.iceberg.util.JsonUtil.mapper().copy().configure(features.ALLOW_NON_NUMERIC_NUMBERS, True)
    parser, specs = draft.iceberg.ContentFileParser, draft.table.specs()
    for write in writes:
        for text in write.described:
            update = update.appendFile(parser.fromJson(mapper.readTree(text), specs))
    return update


def append(draft: Draft, commit: Commit) -> None:
    """Add the staged files that fit the table as it is now; write the rows of all other files anew."""
    states = {write.seen for write in commit.writes if write.described}
    state_fits = {state: fits(draft, SeenTable.parse(state)) for state in states}
    fitting_writes = [write for write in commit.writes if write.described and state_fits[write.seen]]
    update = append_files(draft, draft.table.newAppend(), fitting_writes)
    if unfit_writes := [write for write in commit.writes if not (write.described and state_fits[write.seen])]:
        for file in draft.data_files(read_all(unfit_writes, draft.columns, reader(draft, commit)).drop(FILE, ROW)):
            update = update.appendFile(file)
    update.commit()


def upsert(draft: Draft, commit: Commit) -> None:
    """Merge the staged rows, one for each key, into the table; a new table gets them all."""
    rows = upserted_rows(commit, draft.columns, reader(draft, commit))
    if draft.start is None:
        update = draft.table.newAppend()
        for file in draft.data_files(rows_of_new_table(rows)):
            update = update.appendFile(file)
        update.commit()
        return
    with merge_clauses(commit, rows, draft.columns) as clauses:
        draft.merge(clauses)


def overwrite(draft: Draft, commit: Commit) -> None:
    """Replace the partitions of the staged rows, see ``overwriting_rows``."""
    # Spark replaces only partitions of the present spec: rows in files of an earlier spec would stay.
    snapshot, spec_id = draft.table.currentSnapshot(), draft.table.spec().specId()
    for manifest in snapshot.dataManifests(draft.table.io()) if snapshot else ():
        if manifest.partitionSpecId() != spec_id and (manifest.hasAddedFiles() or manifest.hasExistingFiles()):
            raise TableError(f"{commit.table} has files of an earlier partitioning: rewrite them, then overwrite again")
    values = [_partition_value(*partition) for partition in draft.partitions]
    draft.overwrite_partitions(overwriting_rows(commit, draft.columns, reader(draft, commit), values))


def _partition_value(column: str, transform: str) -> str:
    """Return SQL for a partition's value: ``iceberg.system.bucket(4, `id`)`` for ``id`` and ``bucket[4]``."""
    name, _, width = transform.rstrip("]").partition("[")
    quoted_column = ".".join(map(backquoted, column.split(".")))
    if name == "identity":
        return quoted_column
    arguments = f"{width}, {quoted_column}" if width else quoted_column
    return f"{ICEBERG_CATALOG}.system.{FUNCTIONS.get(name, name)}({arguments})"
