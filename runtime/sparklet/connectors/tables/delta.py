"""Writes to Delta tables by Delta's own library, in the JVM: ``stage`` in a shard, ``DeltaLakeTable`` at the commit.

A shard writes its rows into a transaction that it never commits; Delta describes the files and the state that they
were written for. The commit adds them as they are if the table's state still has the same columns; else Delta reads
them by that state and writes their rows anew. It calls the parts of Delta's MERGE one by one, because a statement could
set one name only, and not refuse a table that has changed since it was looked at.

A commit's id, or the heads of chains, are transactions of applications in the table's log. Delta refuses the commit if
another one has set one of them since the table was loaded.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructField, StructType

from sparklet.connectors.tables.changes import (
    FILE,
    ROW,
    kept_rows,
    merging,
    overwriting_rows,
    read_all,
    staged_columns,
    staged_rows,
    upserted_rows,
)
from sparklet.connectors.tables.columns import FILLED, agreed
from sparklet.connectors.tables.declaration import PARQUET, Commit, Declaration, refuse, shard_name
from sparklet.job.catalogs import catalog_properties
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.fields import Table
from sparklet.job.session import backquoted, scala_object, session_options

OF_CATALOGS = {"catalogManaged", "catalogOwned-preview"}  # features of tables to which a catalog alone may commit
RETENTION = "delta.setTransactionRetentionDuration"  # unless it is set, Delta forgets no transaction
PHYSICAL_NAME = "delta.columnMapping.physicalName"  # in the metadata of a column: its name in files
DEMANDS = ("delta.constraints.", "delta.columnMapping.mode", "delta.enableIcebergCompat")  # on files, of a table
OF_DELTA = {**PARQUET, "spark.databricks.delta.stats.collect": "true"}  # which have the number of rows
AUTO_MERGE = "spark.databricks.delta.schema.autoMerge.enabled"
CONFLICTS = {  # the first is what Delta's own are
    "java.util.ConcurrentModificationException",
    "java.nio.file.FileAlreadyExistsException",
    "org.apache.hadoop.fs.FileAlreadyExistsException",
}
ANALYSIS = "org.apache.spark.sql.AnalysisException"
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"  # what people see of a version in the history
_PACKAGE = "org.apache.spark.sql.delta"
_HIVE, _HADOOP = "org.apache.hadoop.hive", "org.apache.hadoop.mapred"


# --- in a shard ---


def wanted(schema: StructType, frame: DataFrame) -> StructType:
    """The table's columns that the frame must have; of those that Delta itself can fill the frame's own."""
    names = {name.lower() for name in frame.columns}
    return StructType([f for f in schema.fields if f.name.lower() in names or not any(m in f.metadata for m in FILLED)])


def is_described(schema: StructType | None, frame: DataFrame) -> bool:
    """Whether a shard itself may make the table's files: it must draw no number and no name that others draw, too."""
    fields = schema.fields if schema else []
    numbered, mapped = (any(key in f.metadata for f in fields) for key in ("delta.identity.start", PHYSICAL_NAME))
    new = {name.lower() for name in frame.columns}.difference(field.name.lower() for field in fields)
    return not numbered and not (mapped and new)


def stage(frame: DataFrame, draft: Declaration) -> Declaration:
    """Append rows in a transaction of the table that nobody commits: the files, and the state that they fit."""
    delta = _Delta(frame.sparkSession)
    log, path = delta.log(draft.table.place), draft.table.place.rstrip("/")
    transaction = log.startTransaction()
    with session_options(frame.sparkSession, OF_DELTA):
        options = {"mergeSchema": str(draft.merge_schema).lower()}
        actions = delta.write(log, transaction, frame._jdf, "Append", options, draft.partition_by)
    # Of its actions only the files count: new columns and a new table are one change for all shards (``_grow``).
    described = [text for action in actions if (text := str(action.json())).startswith('{"add"')]
    added = [json.loads(text)["add"] for text in described]
    return replace(
        draft,
        folder=path,
        files=tuple((unquote(file["path"]), int(file["size"])) for file in added),
        rows=sum(json.loads(file["stats"])["numRecords"] for file in added),
        described=tuple(described),
        seen=f"{transaction.protocol().json()}\n{transaction.metadata().json()}",
    )


class _Delta:
    """Delta's classes in a session's JVM, of Delta 3 and 4."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark, self.session = spark, spark._jsparkSession
        self.jvm: Any = spark._jvm
        self.none = self.jvm.scala.Option.empty()
        self.parsed = (
            self.jvm.org.apache.spark.sql.delta.actions.Action.fromJson
        )  # looked up once: a commit parses many

    def log(self, uri: str) -> Any:
        return self.jvm.org.apache.spark.sql.delta.DeltaLog.forTable(self.session, uri)

    def action(self, kind: str, document: Mapping[str, Any]) -> Any:
        return self.parsed(json.dumps({kind: document}))

    def set_name(self, name: str, number: int) -> Any:
        """The transaction of an application, by which the table knows a commit or a chain."""
        return self.action("txn", {"appId": name, "version": number, "lastUpdated": int(time.time() * 1000)})

    def seq(self, values: Iterable[Any]) -> Any:
        return self.jvm.PythonUtils.toSeq(list(values))

    def parameters(self, name: str) -> int:
        """The number of parameters of a class's widest constructor: Delta 4 has more, with defaults."""
        loader = self.jvm.java.lang.Thread.currentThread().getContextClassLoader()
        constructors = self.jvm.java.lang.Class.forName(name, False, loader).getConstructors()
        return max(len(constructor.getParameterTypes()) for constructor in constructors)

    def write(
        self, log: Any, transaction: Any, frame: Any, mode: str, options: Mapping[str, str], by: Sequence[str]
    ) -> list[Any]:
        """The actions of a write as ``DataFrameWriter.save`` does it, in a transaction that stays open."""
        commands, java_map = self.jvm.org.apache.spark.sql.delta.commands, self.jvm.PythonUtils.toScalaMap
        how = self.jvm.org.apache.spark.sql.delta.DeltaOptions(java_map(options), self.session.sessionState().conf())
        more = [False] * (self.parameters(f"{_PACKAGE}.commands.WriteIntoDelta") - 8)
        save_mode = getattr(self.jvm.org.apache.spark.sql.SaveMode, mode)
        arguments = (log, save_mode, how, self.seq(by), java_map({}), frame, self.none, self.none)
        done = commands.WriteIntoDelta(*arguments, *more).writeAndReturnCommitData(
            transaction, self.session, self.none, False
        )
        return list(_items(done.actions()))

    def rows(self, log: Any, seen: str, described: Iterable[str]) -> DataFrame:
        """The rows of described files, which may be in no version of the table, by the state they were written for."""
        protocol, metadata = map(self.parsed, seen.split("\n"))
        more = [self.none] * (self.parameters(f"{_PACKAGE}.DummySnapshot") - 4)
        some = self.jvm.scala.Option.apply(protocol)
        state = self.jvm.org.apache.spark.sql.delta.DummySnapshot(log.logPath(), log, metadata, *more, some)
        frame = log.createDataFrame(state, self.seq(map(self.parsed, described)), False, self.none)
        return DataFrame(frame, self.spark)


def _items(scala: Any) -> Iterator[Any]:
    items = scala.iterator()
    while items.hasNext():
        yield items.next()


# --- what files fit ---


def _metadata(seen: str) -> Any:
    """The table's metadata that a shard has seen, as Delta's log has it."""
    return json.loads(seen.split("\n")[1])["metaData"]


def _columns(write: Declaration) -> StructType:
    if not write.described:
        return staged_columns(write)
    return StructType.fromJson(json.loads(_metadata(write.seen)["schemaString"]))


def _fits(metadata: Any, now: Any) -> bool:
    """Whether files that were written for one state of a table are right in another as they are.

    Columns are compared by their names in files: with column mapping they may have been renamed, or dropped.
    """
    (old, *old_demands), (new, *new_demands) = map(_demands, (metadata, now))
    is_mapped = now["configuration"].get("delta.columnMapping.mode", "none") != "none"
    if old_demands != new_demands or (old.keys() - new.keys() and not is_mapped):
        return False
    for name in new.keys() - old.keys():  # null in the files
        if not new[name]["nullable"] or any(key in new[name]["metadata"] for key in FILLED):
            return False
    return all({**old[name], "name": ""} == {**new[name], "name": ""} for name in old.keys() & new.keys())


def _demands(metadata: Any) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """What a file must fit: a table's columns by their names in files, its partition columns and some properties."""
    fields = json.loads(metadata["schemaString"])["fields"]
    names = {field["name"]: field["metadata"].get(PHYSICAL_NAME, field["name"]) for field in fields}
    demands = {key: value for key, value in metadata["configuration"].items() if key.startswith(DEMANDS)}
    return {names[f["name"]]: f for f in fields}, [names[column] for column in metadata["partitionColumns"]], demands


def check_writable(uri: str, log: Any, state: Any) -> None:
    """TableError if Delta, by itself, cannot write to the table, or if the table forgets commits.

    ``state``: its snapshot, or a transaction.
    """
    table, protocol = Table("delta", uri), state.protocol()
    log.protocolWrite(protocol)
    for name in OF_CATALOGS.intersection(json.loads(protocol.json())["protocol"].get("writerFeatures") or ()):
        refuse(table, name, f"ALTER TABLE … DROP FEATURE {name}")
    if state.metadata().configuration().contains(RETENTION):  # its checkpoints would drop the ids of commits
        refuse(table, RETENTION, f"ALTER TABLE … UNSET TBLPROPERTIES ('{RETENTION}')")


@contextmanager
def refusals(context: str) -> Iterator[None]:
    """What Delta refuses as TableError, and what another writer was faster with as CommitConflictError."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        causes = list(_causes(getattr(error, "java_exception", None) or getattr(error, "_origin", None)))
        # Conflicts first: some of their classes are Delta's, too, and would pass for a refusal.
        for _, message, names in causes:
            if not CONFLICTS.isdisjoint(names):
                raise CommitConflictError(f"{context}: {message}") from error
        for name, message, names in reversed(causes):
            if name.startswith(("org.apache.spark.sql.delta.", "io.delta.")) or ANALYSIS in names:
                raise TableError(f"{context}: {message}") from error
        raise


def _causes(java: Any) -> Iterator[tuple[str, str, set[str]]]:
    """An exception and its causes: the class, the message, and the names of the class and those above it."""
    while java is not None:
        names, class_ = list[str](), java.getClass()
        while class_ is not None:
            names.append(str(class_.getName()))
            class_ = class_.getSuperclass()
        yield names[0], str(java.getMessage()), set(names)
        java = java.getCause()


# --- at the commit ---


class DeltaLakeTable:
    """A table at a URI, as it was when this was made, and a transaction that begins there."""

    def __init__(self, uri: str, spark: SparkSession) -> None:
        self._uri = self.root = uri
        self._spark, self._delta = spark, _Delta(spark)
        with refusals(f"delta:{uri}"):
            self._log = self._delta.log(uri)
            # One transaction for look and commit: a name that another writer sets in between is a conflict of Delta's.
            self._transaction = self._log.startTransaction()
            self._version = int(self._transaction.readVersion())  # -1: there is no table
            if self._version >= 0:
                check_writable(uri, self._log, self._transaction)
        self._now = json.loads(self._transaction.metadata().json())["metaData"] if self._version >= 0 else None

    def made(self, name: str) -> tuple[str, int] | None:
        """The table's version if it holds a name, and the name's number."""
        number = self._transaction.snapshot().transactions().get(name) if self._now else self._delta.none
        return (str(self._version), int(number.get())) if number.isDefined() else None

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Commit the rows in one version; see ``OpenTable``. Delta tries again by itself if others only added rows."""
        change = {"append": self._append, "upsert": self._upsert, "overwrite_partitions": self._overwrite}[commit.mode]
        options = {**OF_DELTA, USER_METADATA: commit.commit_id}
        with refusals(str(commit.table)), session_options(self._spark, options):
            for name in names:
                self._transaction.txnVersion(name)  # now another commit that sets it is a conflict
            if self._now is None:
                self._log.createLogDirectoriesIfNotExists()
            actions = [*change(commit), *(self._delta.set_name(*entry) for entry in names.items())]
            operation = scala_object(self._spark, f"{_PACKAGE}.DeltaOperations$ManualUpdate")
            tracking, no_tags = (
                scala_object(self._spark, f"{_PACKAGE}.RowTracking"),
                self._delta.jvm.PythonUtils.toScalaMap({}),
            )
            tags = tracking.addPreservedRowTrackingTagIfNotSet(self._transaction.snapshot(), no_tags)
            return str(self._transaction.commit(self._delta.seq(actions), operation, tags))

    def _table_columns(self) -> StructType | None:
        return StructType.fromJson(json.loads(self._now["schemaString"])) if self._now else None

    def _append(self, commit: Commit) -> list[Any]:
        """Add the files that fit the table; write the rows of others by Delta's writer, into the same commit."""
        late = [
            write
            for write in commit.writes
            if not write.described or not self._now or not _fits(_metadata(write.seen), self._now)
        ]
        columns = self._grow(commit, late) if late else None
        now = json.loads(self._transaction.metadata().json())["metaData"]
        # Now that the table is made, or has the columns of all shards, some of these files may fit after all.
        others = [write for write in late if not write.described or not _fits(_metadata(write.seen), now)]
        fitting = (text for write in commit.writes if write not in others for text in write.described)
        actions = [self._delta.parsed(text) for text in fitting]
        if others and columns:
            rows = read_all(others, self._readable(others, columns), self._rows).drop(FILE, ROW)
            try:
                actions += _items(self._transaction.writeFiles(rows._jdf))
            except (Py4JJavaError, PySparkException) as error:
                shards = " and ".join(shard_name(write.shard) for write in others)
                with refusals(f"{commit.table}, rows of {shards} that were staged for another state of the table"):
                    raise error
        return actions

    def _grow(self, commit: Commit, writes: Sequence[Declaration]) -> StructType:
        """Have Delta make the table in this transaction, or add the columns that it lacks; its columns then."""
        schema = self._table_columns()
        columns = agreed(commit, writes, schema, _columns)
        if schema is None or len(columns) > len(schema):
            plain = [
                StructField(f.name, f.dataType) for f in columns.fields if not any(key in f.metadata for key in FILLED)
            ]
            types, nothing = self._delta.jvm.org.apache.spark.sql.types.DataType, self._delta.jvm.java.util.ArrayList()
            empty = self._delta.session.createDataFrame(nothing, types.fromJson(StructType(plain).json()))
            by = () if schema else commit.partition_by
            self._delta.write(self._log, self._transaction, empty, "Append", {"mergeSchema": "true"}, by)
        return columns

    def _readable(self, writes: Sequence[Declaration], columns: StructType) -> StructType:
        """The columns that rows are to have: without those that Delta fills, if all writes lack them."""
        held = {name.lower() for write in writes for name in _columns(write).names}
        return StructType(
            [f for f in columns.fields if f.name.lower() in held or not any(k in f.metadata for k in FILLED)]
        )

    def _rows(self, alike: Sequence[Declaration]) -> DataFrame:
        """See ``read_all``."""
        if not alike[0].described:
            return staged_rows(self._spark, alike)
        return self._delta.rows(self._log, alike[0].seen, (text for write in alike for text in write.described))

    def _upsert(self, commit: Commit) -> list[Any]:
        table, writes = self._table_columns(), commit.writes
        columns = self._readable(writes, agreed(commit, writes, table, _columns))
        changes = upserted_rows(commit, columns, self._rows)
        if table is None:
            self._grow(commit, commit.writes)
            return list(_items(self._transaction.writeFiles(kept_rows(changes)._jdf)))
        with merging(commit, changes, table) as clauses:
            return self._merge(commit, f"MERGE INTO delta.{backquoted(self._uri)} t {clauses}")

    def _merge(self, commit: Commit, statement: str) -> list[Any]:
        """What ``MERGE INTO`` does between the start of its transaction and its commit."""
        state, modes = (
            self._delta.session.sessionState(),
            scala_object(self._spark, "org.apache.spark.sql.execution.CommandExecutionMode"),
        )
        with session_options(self._spark, {AUTO_MERGE: str(commit.merge_schema).lower()}):
            # Only analyzed: its execution would begin a transaction of its own, at the newest state of the table.
            merge = state.executePlan(state.sqlParser().parsePlan(statement), modes.SKIP()).analyzed()
        session, transaction, metadata = self._delta.session, self._transaction, self._transaction.metadata()
        # The analysis has taken the newest columns, the transaction has those of the state that was looked at.
        if merge.targetFileIndex().metadata().schemaString() != metadata.schemaString():
            raise CommitConflictError(f"{commit.table}: another writer has changed its columns meanwhile")
        if merge.canMergeSchema() and merge.migratedSchema().isDefined():
            by, settings = metadata.partitionColumns(), metadata.configuration()
            merge.updateMetadata(session, transaction, merge.migratedSchema().get(), by, settings, False, False)
        merge.checkIdentityColumnHighWaterMarks(transaction)
        transaction.setTrackHighWaterMarks(merge.trackHighWaterMarks())
        clauses = merge.matchedClauses(), merge.notMatchedClauses()
        merge.prepareMergeSource(session, merge.source(), merge.condition(), *clauses, False)
        touched = merge.findTouchedFiles(session, transaction)
        if touched._1().isEmpty():
            return list(_items(merge.writeOnlyInserts(session, transaction, False, "numSourceRowsInSecondScan")))
        has_vectors = merge.shouldWritePersistentDeletionVectors(session, transaction)
        written = merge.writeAllChanges(session, transaction, touched._1(), touched._2(), not has_vectors)
        if has_vectors:
            return [*_items(written), *_items(merge.writeDVs(session, transaction, touched._1()))]
        return [*_items(written), *(file.remove() for file in _items(touched._1()))]

    def _overwrite(self, commit: Commit) -> list[Any]:
        """Replace the partitions of the staged rows, see ``overwriting_rows``."""
        by = self._now["partitionColumns"] if self._now else list(commit.partition_by)
        writes = [*commit.writes, *commit.earlier]
        columns = self._readable(writes, agreed(commit, writes, self._table_columns(), _columns))
        rows = overwriting_rows(commit, columns, self._rows, list(map(backquoted, by)))
        options = {"partitionOverwriteMode": "dynamic", "mergeSchema": str(commit.merge_schema).lower()}
        return self._delta.write(self._log, self._transaction, rows._jdf, "Overwrite", options, by)


# --- Glue's Data Catalog, where Athena finds tables by name ---


def register(uri: str, warehouse: str | None, spark: SparkSession) -> None:
    """Enter a Delta table at ``WAREHOUSE/DATABASE.db/TABLE`` as ``DATABASE.TABLE``, or update its entry.

    Nothing happens if the table lies elsewhere. TableError if another table has the name.
    """
    root = catalog_properties(os.environ, warehouse).get("warehouse", "").rstrip("/")
    named = re.fullmatch(re.escape(root) + r"/([^/]+)\.db/([^/]+)", uri)
    if named is None:
        return
    database, name = named.groups()
    from sparklet.connectors.tables.pyiceberg_catalog import load  # which needs pyiceberg

    catalog: Any = load(warehouse)
    try:
        old = catalog.glue.get_table(DatabaseName=database, Name=name)["Table"]
    except catalog.glue.exceptions.EntityNotFoundException:
        old = None
    new = _entry(name, uri, spark, old or {})  # read after the entry, so that an old schema replaces no newer one
    if old is None:
        if not catalog.namespace_exists(database):  # many who may make tables may make no database
            catalog.create_namespace_if_not_exists(database)
        catalog.glue.create_table(DatabaseName=database, TableInput=new)
    elif (stored_uri := old["StorageDescriptor"].get("Location", "").rstrip("/")) != uri:
        raise TableError(f"{uri} is written, but Glue's catalog has {database}.{name} at {stored_uri}")
    elif _columns_in(old) != _columns_in(new):
        version = {key: old[key] for key in ("VersionId",) if key in old}  # else another's change is lost
        catalog.glue.update_table(DatabaseName=database, TableInput=new, **version)


def _entry(name: str, uri: str, spark: SparkSession, old: Mapping[str, Any]) -> dict[str, Any]:
    """A Delta table's entry, as Glue's own crawlers write it, with what others have put into the old one."""
    metadata = json.loads(_Delta(spark).log(uri).startTransaction().metadata().json())["metaData"]
    fields = StructType.fromJson(json.loads(metadata["schemaString"])).fields
    types = {field.name: field.dataType.simpleString().replace("timestamp_ntz", "timestamp") for field in fields}
    old_columns = {column["Name"]: column for columns in _columns_in(old) for column in columns}  # with comments
    columns = {
        column: {**old_columns.get(column, {}), "Name": column, "Type": type_} for column, type_ in types.items()
    }
    serde = {"serialization.format": "1", "path": uri}
    own = {"EXTERNAL": "TRUE", "table_type": "DELTA", "spark.sql.sources.provider": "delta"}
    return {
        **{key: old[key] for key in ("Description", "Owner", "Retention") if old.get(key)},
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {**old.get("Parameters", {}), **own},
        "PartitionKeys": [columns.pop(key) for key in metadata["partitionColumns"]],
        "StorageDescriptor": {
            "Columns": list(columns.values()),
            "Location": uri,
            "InputFormat": f"{_HADOOP}.SequenceFileInputFormat",
            "OutputFormat": f"{_HIVE}.ql.io.HiveSequenceFileOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_HIVE}.serde2.lazy.LazySimpleSerDe", "Parameters": serde},
        },
    }


def _columns_in(entry: Mapping[str, Any]) -> list[Any]:
    return [entry.get("StorageDescriptor", {}).get("Columns", []), entry.get("PartitionKeys", [])]
