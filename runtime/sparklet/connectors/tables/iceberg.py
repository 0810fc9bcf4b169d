"""Commits to Iceberg tables, by Iceberg in the JVM; ``iceberg_history`` knows which of them a table has.

All that a commit changes, columns, files and properties, is changed in a draft. Then one call replaces the state in
which the table was loaded by the draft, or fails because the table has another state by now. Iceberg's own ``commit()``
would look for the new state and try again, on top of snapshots that were not searched for the commit's id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import reduce
from typing import Any
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession, functions

from sparklet.connectors.tables.changes import (
    FILE,
    MERGE_OPTIONS,
    ROW,
    kept_rows,
    key_bounds,
    last_rows,
    merge_deletes,
    staged_rows,
)
from sparklet.connectors.tables.columns import aligned
from sparklet.connectors.tables.declaration import Commit, Declaration, shard_name
from sparklet.connectors.tables.iceberg_draft import (
    Draft,
    Seen,
    catalog_of,
    fields_of,
    is_in_bucket,
    load_table,
    partition_spec,
    root_of,
    spark_columns,
    type_text,
)
from sparklet.connectors.tables.iceberg_history import COMMIT_ID, MAKER, History
from sparklet.job.catalogs import ICEBERG_CATALOG
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.session import backquoted, java_class, session_options

NOT_MADE = ("CommitFailedException", "AlreadyExistsException")  # another writer was faster
UNKNOWN = (  # the answer was lost, or the catalog is busy
    *("CommitStateUnknownException", "ServiceUnavailableException", "ServiceFailureException", "RESTException"),
    *("UncheckedSQLException", "UncheckedInterruptedException", "RuntimeIOException", "UncheckedIOException"),
)
FUNCTIONS = {"year": "years", "month": "months", "day": "days", "hour": "hours"}  # Iceberg's own, in its catalog


class IcebergTable:
    """A table of the catalog ``iceberg``, as it was when this was made."""

    def __init__(self, name: str, spark: SparkSession) -> None:
        self._name, self._spark = name, spark
        self._iceberg: Any = spark._jvm.org.apache.iceberg
        self._catalog = catalog_of(spark, name)
        self._table = load_table(spark, self._catalog, name)
        self._state = self._table.operations().current() if self._table else None
        self._history = self._history_of(self._state) if self._table else None
        self.root = root_of(self._table) if self._table else None

    def made(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the number of a chain is its last link."""
        return self._history.made(name) if self._history else None

    def holds(self, name: str, number: int) -> bool:
        """See ``OpenTable``."""
        return self._history is not None and self._history.holds(number)

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Make all of it one snapshot; see ``OpenTable``."""
        if self._history:
            self._history.check_age(commit)
        writes, earlier = (tuple(write for write in some if write.files) for some in (commit.writes, commit.earlier))
        commit = replace(commit, writes=writes, earlier=earlier)  # a shard without rows has no say in the columns
        draft = self._draft(commit)
        merge_columns(draft, commit)
        before = draft.metadata
        with ExitStack() as stack:
            {"append": append, "upsert": upsert, "overwrite_partitions": overwrite}[commit.mode](draft, commit, stack)
        # A REST catalog compares the snapshot of main alone: a commit without a snapshot would conflict with none.
        if draft.metadata.currentSnapshot() == before.currentSnapshot():
            draft.table.newAppend().commit()  # the table is to keep the id of a commit that changed no row
        snapshot, number = draft.table.currentSnapshot(), next(iter(names.values()))  # all links of a batch have one
        document = json.loads(self._iceberg.SnapshotParser.toJson(snapshot))
        # Here for all modes: Spark's MERGE makes its snapshot by itself, and takes no summary from us.
        document["summary"] |= {COMMIT_ID: commit.commit_id, MAKER: str(number)}
        heads = {f"sparklet.{name}": str(number) for name, number in names.items() if commit.records}
        history = self._history or self._history_of(before)
        properties = {**heads, **history.properties(commit, number, snapshot.snapshotId())}
        builder = self._iceberg.TableMetadata.buildFrom(before)
        named = self._iceberg.SnapshotParser.fromJson(json.dumps(document))
        after = builder.setBranchSnapshot(named, "main").setProperties(properties).build()
        try:
            draft.operations.commit(draft.start, after)
        except Py4JJavaError as error:
            if (name := java_class(error)) not in (*NOT_MADE, *UNKNOWN):
                raise
            # A catalog that hears a try twice refuses the second, so the table is asked before files are deleted. Of an
            # unknown end all files stay: the table may have them.
            now = draft.operations.refresh() if name in NOT_MADE else None
            if now is not None and now.snapshot(snapshot.snapshotId()) is None:
                sweep(draft, snapshot, commit.writes)
            raise CommitConflictError(f"{commit.table}: {error.java_exception.getMessage()}") from error
        return str(snapshot.snapshotId())

    def _history_of(self, metadata: Any) -> History:
        return History(self._name, json.loads(self._iceberg.TableMetadataParser.toJson(metadata)))

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


def sweep(draft: Draft, snapshot: Any, writes: Iterable[Declaration]) -> None:
    """Delete the files of a snapshot that was not committed, without those that shards have staged."""
    io, staged = draft.table.io(), {json.loads(text)["file-path"] for write in writes for text in write.described}
    # What cannot be deleted is no harm: no snapshot names it, so Iceberg's own cleaner removes it.
    with suppress(Py4JJavaError):
        for file in (*snapshot.addedDataFiles(io), *snapshot.addedDeleteFiles(io)):
            # The next try adds what the shards have staged.
            if file.location() not in staged:
                io.deleteFile(file.location())
        for manifest in snapshot.allManifests(io):
            if manifest.snapshotId() == snapshot.snapshotId():
                io.deleteFile(manifest.path())
        io.deleteFile(snapshot.manifestListLocation())


# --- columns ---


def merge_columns(draft: Draft, commit: Commit) -> None:
    """Add the columns that the shards have beyond the table's, once; TableError if they do not agree on them.

    A column that the table had when a shard looked is known by its id, whatever its name is now.
    """
    first = f"the table {commit.table}" if draft.start else shard_name(commit.writes[0].shard)
    table = json.loads(draft.iceberg.SchemaParser.toJson(draft.table.schema()))["fields"]
    columns = {field["name"].lower(): (type_text(field["type"]), first) for field in table}
    is_exact = draft.start is None and not commit.merge_schema
    firsts: dict[str, Declaration] = {}
    for write in (*commit.writes, *commit.earlier):
        firsts.setdefault(write.seen, write)
    for text, write in firsts.items():
        seen, shard, new = Seen.parse(text), shard_name(write.shard), list[str]()
        last = seen.last if _is_of(draft, seen) else 0
        names = {field["name"].lower() for field in seen.schema["fields"]}
        for field in seen.schema["fields"]:
            name, type_ = field["name"], type_text(field["type"])
            existing_type, whose = columns.get(name.lower(), ("", ""))
            if field["id"] <= last or existing_type == type_:
                continue
            if existing_type:
                differ = f"as {type_}, {whose} as {existing_type}: cast it in the script"
                raise TableError(f"{shard} has the column {name!r} {differ}")
            if not commit.merge_schema:
                raise TableError(
                    f"{shard} has the column {name!r} ({type_}), which {first} has not: select the table's columns, or "
                    "write with merge_schema=True"
                )
            columns[name.lower()] = type_, shard
            new.append(name)
        for field in table:
            is_needed = field["id"] > last and (is_exact or field["required"])
            if is_needed and field["name"].lower() not in names:
                raise TableError(f"{shard} lacks the column {field['name']!r}")
        draft.add_columns(draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)), new)


def _is_of(draft: Draft, seen: Seen) -> bool:
    """Whether a shard has seen the very table that the commit changes."""
    return draft.start is not None and seen.uuid == str(draft.start.uuid())


def fits(draft: Draft, seen: Seen) -> bool:
    """Whether files that were made for a table are files of the draft: by the ids and partitions that they have."""
    last = seen.last if _is_of(draft, seen) else 0
    spec = draft.table.specs().get(seen.spec["spec-id"])
    if spec is None or json.loads(draft.iceberg.PartitionSpecParser.toJson(spec)) != seen.spec:
        return False
    table = fields_of(json.loads(draft.iceberg.SchemaParser.toJson(draft.table.schema())))
    for id_, field in fields_of(seen.schema).items():
        # Readers go by ids: a column that the table had already fits, though it was renamed or dropped since.
        if id_ <= last:
            continue
        table_field = table.get(id_)
        if table_field is None or table_field.type != field.type or _lower(table_field.path) != _lower(field.path):
            return False
    return True


def _lower(path: Iterable[str]) -> list[str]:
    return [name.lower() for name in path]


def check_names(draft: Draft, commit: Commit, write: Declaration, seen: Seen) -> None:
    """TableError if rows that a commit must write anew have columns that were renamed or dropped since."""
    if not _is_of(draft, seen):
        return
    now = fields_of(json.loads(draft.iceberg.SchemaParser.toJson(draft.table.schema())))
    for id_, field in fields_of(seen.schema).items():
        if id_ <= seen.last and (id_ not in now or now[id_].path != field.path):
            raise TableError(
                f"{commit.table}: the column {'.'.join(field.path)!r} was changed after {shard_name(write.shard)} had "
                f"staged its rows, which the commit must write anew: start a new run ({write.folder})"
            )


# --- rows that shards have staged ---


def rows_of(draft: Draft, commit: Commit, writes: Sequence[Declaration], stack: ExitStack) -> Iterator[DataFrame]:
    """The staged rows with the draft's columns; a frame for all shards that have seen the same table."""
    groups: dict[tuple[str, bool], list[Declaration]] = {}
    for write in writes:
        groups.setdefault((write.seen, bool(write.described)), []).append(write)
    for (text, is_described), group in groups.items():
        seen = Seen.parse(text)
        check_names(draft, commit, group[0], seen)
        yield _described_rows(draft, seen, group, stack) if is_described else _parquet_rows(draft, seen, group)


def _described_rows(draft: Draft, seen: Seen, writes: Iterable[Declaration], stack: ExitStack) -> DataFrame:
    """Rows of files of Iceberg's, as a table of their own, which lives in memory."""
    last_part = max([999, *(field["field-id"] for field in seen.spec["fields"])])
    document = {"format-version": max(2, seen.version), "table-uuid": str(uuid4()), "location": draft.table.location()}
    document |= {"last-sequence-number": 0, "last-updated-ms": 0, "next-row-id": 0, "properties": {}}
    document |= {"schemas": [seen.schema], "current-schema-id": seen.schema["schema-id"]}
    document |= {"last-column-id": max(fields_of(seen.schema)), "last-partition-id": last_part}
    document |= {"partition-specs": [seen.spec], "default-spec-id": seen.spec["spec-id"]}
    document |= {"sort-orders": [{"order-id": 0, "fields": []}], "default-sort-order-id": 0}
    start = draft.iceberg.TableMetadataParser.fromJson(json.dumps(document))
    of_files = Draft.of_state(draft.spark, "staged", draft.operations, start)
    append_files(of_files, of_files.table.newFastAppend(), writes).commit()
    stack.callback(sweep, of_files, of_files.table.currentSnapshot(), writes)
    return aligned(of_files.rows(), draft.columns, merge_schema=False)


def _parquet_rows(draft: Draft, seen: Seen, writes: Sequence[Declaration]) -> DataFrame:
    """Rows of Spark's Parquet files; what ``staged_rows`` has beyond the columns is behind them."""
    schema = spark_columns(draft.iceberg, draft.iceberg.SchemaParser.fromJson(json.dumps(seen.schema)))
    return aligned(staged_rows(draft.spark, writes, schema), draft.columns, merge_schema=True)


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


def append(draft: Draft, commit: Commit, stack: ExitStack) -> None:
    """Add the staged files themselves; write their rows anew if they are not files of the table as it is now."""
    fit = {text: fits(draft, Seen.parse(text)) for text in {write.seen for write in commit.writes if write.described}}
    fitting_writes = [write for write in commit.writes if write.described and fit[write.seen]]
    update = append_files(draft, draft.table.newAppend(), fitting_writes)
    others = [write for write in commit.writes if not (write.described and fit[write.seen])]
    for frame in rows_of(draft, commit, others, stack):
        for file in draft.data_files(frame.drop(FILE, ROW)):
            update = update.appendFile(file)
    update.commit()


def upsert(draft: Draft, commit: Commit, stack: ExitStack) -> None:
    """Merge the staged rows, one for each key."""
    staged = _union(rows_of(draft, commit, commit.writes, stack))
    whole_run = staged.unionByName(_union(rows_of(draft, commit, commit.earlier, stack))) if commit.earlier else None
    rows = last_rows(commit, staged, whole_run)
    if draft.start is None:
        update = draft.table.newAppend()
        for file in draft.data_files(kept_rows(rows)):
            update = update.appendFile(file)
        update.commit()
        return
    same = " AND ".join(f"t.{key} = s.{key}" for key in map(backquoted, commit.keys))
    newer = ""
    if commit.order_by:
        order = backquoted(commit.order_by)
        newer = f"AND (t.{order} IS NULL OR s.{order} >= t.{order})"
    deleted, new = merge_deletes(commit, newer)
    near = "".join(f" AND {bound}" for bound in key_bounds(rows, commit.keys, rows.schema))
    view = f"sparklet_{uuid4().hex}"
    rows.createOrReplaceTempView(view)
    try:
        with session_options(draft.spark, MERGE_OPTIONS):
            draft.merge(
                f"USING {view} s ON {same}{near} {deleted}WHEN MATCHED {newer} THEN UPDATE SET * "
                f"WHEN NOT MATCHED{new} THEN INSERT *"
            )
    finally:
        draft.spark.catalog.dropTempView(view)


def overwrite(draft: Draft, commit: Commit, stack: ExitStack) -> None:
    """Replace the partitions of the staged rows by these, and by those that the run wrote there before."""
    if not draft.partitions:
        raise TableError(f"{commit.table} has no partitions that could be overwritten")
    # Spark replaces partitions of the present spec alone: rows in files of earlier ones would stay.
    snapshot, spec_id = draft.table.currentSnapshot(), draft.table.spec().specId()
    for manifest in snapshot.dataManifests(draft.table.io()) if snapshot else ():
        if manifest.partitionSpecId() != spec_id and (manifest.hasAddedFiles() or manifest.hasExistingFiles()):
            raise TableError(f"{commit.table} has files of an earlier partitioning: rewrite them, then overwrite again")
    rows = _union(rows_of(draft, commit, commit.writes, stack))
    if commit.earlier:
        before = _union(rows_of(draft, commit, commit.earlier, stack))
        values = [functions.expr(_value(*partition)) for partition in draft.partitions]
        touched = rows.select(*(value.alias(f"p{n}") for n, value in enumerate(values))).distinct()
        same = reduce(lambda one, two: one & two, (v.eqNullSafe(touched[f"p{n}"]) for n, v in enumerate(values)))
        rows = rows.unionByName(before.join(functions.broadcast(touched), same, "left_semi"))
    draft.overwrite_partitions(rows.drop(FILE, ROW))


def _value(column: str, transform: str) -> str:
    """A partition's value in Spark's SQL."""
    name, _, width = transform.rstrip("]").partition("[")
    of = ".".join(map(backquoted, column.split(".")))
    if name == "identity":
        return of
    return f"{ICEBERG_CATALOG}.system.{FUNCTIONS.get(name, name)}({width}{', ' if width else ''}{of})"


def _union(frames: Iterable[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)
