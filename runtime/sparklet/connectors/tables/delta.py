"""Writes to Delta tables by Delta's own library, in the JVM: ``stage`` in a shard, ``DeltaLakeTable`` at the commit.

A shard writes its rows in a transaction that it never commits. Delta describes the files, and the state of the table
that they were written for. If the table still has the same columns, the commit adds the files as they are; otherwise
Delta reads the files by the old state, and writes their rows anew. For an upsert the commit calls the parts of Delta's
MERGE one by one: the statement itself could set only one name, and would not refuse a table that has changed since it
was loaded.

A commit's id, and the last links of ``chains``, are stored in the table's log as ``txn`` actions, which Delta keeps for
applications. Delta refuses the commit if another commit has set one of them since the table was loaded.
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
    merge_clauses,
    overwriting_rows,
    read_all,
    rows_of_new_table,
    staged_columns,
    staged_rows,
    upserted_rows,
)
from sparklet.connectors.tables.columns import FILLED, agreed_columns
from sparklet.connectors.tables.declaration import PARQUET, Commit, Declaration, refuse, shard_name
from sparklet.job.catalogs import catalog_properties
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.fields import Table
from sparklet.job.session import backquoted, scala_object, session_options

CATALOG_FEATURES = {"catalogManaged", "catalogOwned-preview"}  # of tables to which only a catalog can commit
RETENTION = "delta.setTransactionRetentionDuration"  # unless this is set, Delta forgets no transaction
PHYSICAL_NAME = "delta.columnMapping.physicalName"  # in the metadata of a column: its name in files
FILE_PROPERTIES = ("delta.constraints.", "delta.columnMapping.mode", "delta.enableIcebergCompat")  # they restrict files
WRITE_OPTIONS = {**PARQUET, "spark.databricks.delta.stats.collect": "true"}  # statistics have the number of rows
AUTO_MERGE = "spark.databricks.delta.schema.autoMerge.enabled"
CONFLICTS = {  # the first one is the base class of Delta's own conflicts
    "java.util.ConcurrentModificationException",
    "java.nio.file.FileAlreadyExistsException",
    "org.apache.hadoop.fs.FileAlreadyExistsException",
}
ANALYSIS = "org.apache.spark.sql.AnalysisException"
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"  # a text that people see in the table's history
_PACKAGE = "org.apache.spark.sql.delta"
_HIVE, _HADOOP = "org.apache.hadoop.hive", "org.apache.hadoop.mapred"


# --- in a shard ---


def _is_filled(field: StructField) -> bool:
    """Whether Delta itself can fill the column."""
    return any(key in field.metadata for key in FILLED)


def required_columns(schema: StructType, frame: DataFrame) -> StructType:
    """Return the table's columns except those that the frame lacks and that Delta itself fills: see ``FILLED``."""
    names = {name.lower() for name in frame.columns}
    return StructType([field for field in schema.fields if field.name.lower() in names or not _is_filled(field)])


def can_describe(schema: StructType | None, frame: DataFrame) -> bool:
    """Whether a shard itself can make the table's files.

    It cannot if Delta would choose identity numbers, or names for new columns: other shards would get the same ones.
    """
    fields = schema.fields if schema else []
    has_identity = any("delta.identity.start" in field.metadata for field in fields)
    is_mapped = any(PHYSICAL_NAME in field.metadata for field in fields)
    new = {name.lower() for name in frame.columns}.difference(field.name.lower() for field in fields)
    return not has_identity and not (is_mapped and new)


def stage(frame: DataFrame, draft: Declaration) -> Declaration:
    """Write the rows in a transaction that nobody commits. Return the declaration with the files and ``seen``."""
    delta = _Delta(frame.sparkSession)
    log, path = delta.log(draft.table.place), draft.table.place.rstrip("/")
    transaction = log.startTransaction()
    with session_options(frame.sparkSession, WRITE_OPTIONS):
        options = {"mergeSchema": str(draft.merge_schema).lower()}
        actions = delta.write(log, transaction, frame._jdf, "Append", options, draft.partition_by)
    # Only the files of its actions are used: new columns, or a new table, are one change for all shards
    # (``_add_columns``).
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
    """Delta's classes in a session's JVM, for Delta 3 and 4."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark, self.session = spark, spark._jsparkSession
        self.jvm: Any = spark._jvm
        self.none = self.jvm.scala.Option.empty()
        # Looked up in the JVM only once, since a commit parses many actions.
        self.parse_action = self.jvm.org.apache.spark.sql.delta.actions.Action.fromJson

    def log(self, uri: str) -> Any:
        return self.jvm.org.apache.spark.sql.delta.DeltaLog.forTable(self.session, uri)

    def set_name(self, name: str, number: int) -> Any:
        """Return the action that sets the name of a commit or chain: the transaction of an application."""
        transaction = {"appId": name, "version": number, "lastUpdated": int(time.time() * 1000)}
        return self.parse_action(json.dumps({"txn": transaction}))

    def seq(self, values: Iterable[Any]) -> Any:
        return self.jvm.PythonUtils.toSeq(list(values))

    def parameters(self, name: str) -> int:
        """Return the number of parameters of a class's longest constructor: in Delta 4 it has more, with defaults."""
        loader = self.jvm.java.lang.Thread.currentThread().getContextClassLoader()
        constructors = self.jvm.java.lang.Class.forName(name, False, loader).getConstructors()
        return max(len(constructor.getParameterTypes()) for constructor in constructors)

    def write(
        self, log: Any, transaction: Any, frame: Any, mode: str, options: Mapping[str, str], by: Sequence[str]
    ) -> list[Any]:
        """Write as ``DataFrameWriter.save`` does, in a transaction that stays open. Return the actions of the write."""
        commands, to_scala = self.jvm.org.apache.spark.sql.delta.commands, self.jvm.PythonUtils.toScalaMap
        session_conf = self.session.sessionState().conf()
        delta_options = self.jvm.org.apache.spark.sql.delta.DeltaOptions(to_scala(options), session_conf)
        delta_4_defaults = [False] * (self.parameters(f"{_PACKAGE}.commands.WriteIntoDelta") - 8)
        save_mode = getattr(self.jvm.org.apache.spark.sql.SaveMode, mode)
        arguments = (log, save_mode, delta_options, self.seq(by), to_scala({}), frame, self.none, self.none)
        commit_data = commands.WriteIntoDelta(*arguments, *delta_4_defaults).writeAndReturnCommitData(
            transaction, self.session, self.none, False
        )
        return list(_items(commit_data.actions()))

    def rows(self, log: Any, seen: str, described: Iterable[str]) -> DataFrame:
        """Return the rows of described files, which need not be in the table, read with the schema of their writer.

        ``seen``: the protocol and the metadata that the writer saw, a line each, and ``described``: the action that
        adds each file, all as JSON in the form of Delta's log.
        """
        protocol, metadata = map(self.parse_action, seen.split("\n"))
        # In Delta 3 a DummySnapshot has four parameters.
        delta_4_defaults = [self.none] * (self.parameters(f"{_PACKAGE}.DummySnapshot") - 4)
        some_protocol = self.jvm.scala.Option.apply(protocol)
        snapshot_class = self.jvm.org.apache.spark.sql.delta.DummySnapshot
        state = snapshot_class(log.logPath(), log, metadata, *delta_4_defaults, some_protocol)
        frame = log.createDataFrame(state, self.seq(map(self.parse_action, described)), False, self.none)
        return DataFrame(frame, self.spark)


def _items(scala: Any) -> Iterator[Any]:
    items = scala.iterator()
    while items.hasNext():
        yield items.next()


# --- whether files fit a table ---


def _metadata(seen: str) -> Any:
    """Return the table's metadata as a shard saw them, in the form of Delta's log; ``seen``: see ``Declaration``."""
    return json.loads(seen.split("\n")[1])["metaData"]


def _columns_at_write(write: Declaration) -> StructType:
    """Return the table's columns as a shard saw them, with its new ones; without ``described`` its rows' columns."""
    if not write.described:
        return staged_columns(write)
    return StructType.fromJson(json.loads(_metadata(write.seen)["schemaString"]))


def _fits(metadata: Any, now: Any) -> bool:
    """Whether files that were written for one state of a table can be added unchanged to another state, ``now``.

    Columns are compared by their names in files: with column mapping they may have been renamed, or dropped.
    """
    (old, *old_requirements), (new, *new_requirements) = map(_file_requirements, (metadata, now))
    is_mapped = now["configuration"].get("delta.columnMapping.mode", "none") != "none"
    if old_requirements != new_requirements or (old.keys() - new.keys() and not is_mapped):
        return False
    for name in new.keys() - old.keys():  # such columns would be null in the files' rows
        if not new[name]["nullable"] or any(key in new[name]["metadata"] for key in FILLED):
            return False
    return all({**old[name], "name": ""} == {**new[name], "name": ""} for name in old.keys() & new.keys())


def _file_requirements(metadata: Any) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """Return what files must fit: the columns by their names in files, the partition columns, and some properties."""
    fields = json.loads(metadata["schemaString"])["fields"]
    names = {field["name"]: field["metadata"].get(PHYSICAL_NAME, field["name"]) for field in fields}
    partition_names = [names[column] for column in metadata["partitionColumns"]]
    properties = {key: value for key, value in metadata["configuration"].items() if key.startswith(FILE_PROPERTIES)}
    return {names[field["name"]]: field for field in fields}, partition_names, properties


def check_writable(uri: str, log: Any, state: Any) -> None:
    """Raise TableError if Delta by itself cannot write to the table, or if the table forgets commits.

    ``state``: the table's snapshot, or a transaction.
    """
    table, protocol = Table("delta", uri), state.protocol()
    log.protocolWrite(protocol)
    for name in CATALOG_FEATURES.intersection(json.loads(protocol.json())["protocol"].get("writerFeatures") or ()):
        refuse(table, name, f"ALTER TABLE … DROP FEATURE {name}")
    if state.metadata().configuration().contains(RETENTION):  # the table's checkpoints would drop the ids of commits
        refuse(table, RETENTION, f"ALTER TABLE … UNSET TBLPROPERTIES ('{RETENTION}')")


@contextmanager
def own_errors(context: str) -> Iterator[None]:
    """Raise CommitConflictError if another writer was faster, and TableError for anything else that Delta refuses."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        causes = list(_causes(getattr(error, "java_exception", None) or getattr(error, "_origin", None)))
        # Conflicts come first: some of their classes are Delta's, too, and would count as refusals.
        for _, message, names in causes:
            if not CONFLICTS.isdisjoint(names):
                raise CommitConflictError(f"{context}: {message}") from error
        for name, message, names in reversed(causes):
            if name.startswith(("org.apache.spark.sql.delta.", "io.delta.")) or ANALYSIS in names:
                raise TableError(f"{context}: {message}") from error
        raise


def _causes(java: Any) -> Iterator[tuple[str, str, set[str]]]:
    """Yield for an exception and each of its causes the class, the message, and the names of all superclasses."""
    while java is not None:
        names, class_ = list[str](), java.getClass()
        while class_ is not None:
            names.append(str(class_.getName()))
            class_ = class_.getSuperclass()
        yield names[0], str(java.getMessage()), set(names)
        java = java.getCause()


# --- at the commit ---


class DeltaLakeTable:
    """A table at a URI in the state of the time when this object was made, and a transaction that begins with it."""

    def __init__(self, uri: str, spark: SparkSession) -> None:
        self._uri = self.root = uri
        self._spark, self._delta = spark, _Delta(spark)
        with own_errors(f"delta:{uri}"):
            self._log = self._delta.log(uri)
            # ``find_name`` and the commit use one transaction: if another writer sets a name in between, it conflicts.
            self._transaction = self._log.startTransaction()
            self._version = int(self._transaction.readVersion())  # -1 if the table does not exist
            if self._version >= 0:
                check_writable(uri, self._log, self._transaction)
        self._metadata = json.loads(self._transaction.metadata().json())["metaData"] if self._version >= 0 else None

    def find_name(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the version is the table's present version."""
        number = self._transaction.snapshot().transactions().get(name) if self._metadata else self._delta.none
        return (str(self._version), int(number.get())) if number.isDefined() else None

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Commit the rows in one version; see ``OpenTable``. Delta tries again by itself if others only added rows."""
        modes = {"append": self._append, "upsert": self._upsert, "overwrite_partitions": self._overwrite}
        change = modes[commit.mode]
        options = {**WRITE_OPTIONS, USER_METADATA: commit.commit_id}
        with own_errors(str(commit.table)), session_options(self._spark, options):
            for name in names:
                self._transaction.txnVersion(name)  # from now on another commit that sets the name is a conflict
            if self._metadata is None:
                self._log.createLogDirectoriesIfNotExists()
            actions = [*change(commit), *(self._delta.set_name(*entry) for entry in names.items())]
            operation = scala_object(self._spark, f"{_PACKAGE}.DeltaOperations$ManualUpdate")
            tracking = scala_object(self._spark, f"{_PACKAGE}.RowTracking")
            no_tags = self._delta.jvm.PythonUtils.toScalaMap({})
            tags = tracking.addPreservedRowTrackingTagIfNotSet(self._transaction.snapshot(), no_tags)
            return str(self._transaction.commit(self._delta.seq(actions), operation, tags))

    def _table_columns(self) -> StructType | None:
        return StructType.fromJson(json.loads(self._metadata["schemaString"])) if self._metadata else None

    def _append(self, commit: Commit) -> list[Any]:
        """Add the files that fit the table; in the same commit Delta's writer writes the rows of all other files."""
        unfit = [
            write
            for write in commit.writes
            if not write.described or not self._metadata or not _fits(_metadata(write.seen), self._metadata)
        ]
        columns = self._add_columns(commit, unfit) if unfit else None
        new_metadata = json.loads(self._transaction.metadata().json())["metaData"]
        # The table is made now, or has the columns of all shards, so that some of these files may fit after all.
        rewritten = [write for write in unfit if not write.described or not _fits(_metadata(write.seen), new_metadata)]
        fitting = (text for write in commit.writes if write not in rewritten for text in write.described)
        actions = [self._delta.parse_action(text) for text in fitting]
        if rewritten and columns:
            rows = read_all(rewritten, self._row_columns(rewritten, columns), self._rows).drop(FILE, ROW)
            try:
                actions += _items(self._transaction.writeFiles(rows._jdf))
            except (Py4JJavaError, PySparkException) as error:
                shards = " and ".join(shard_name(write.shard) for write in rewritten)
                with own_errors(f"{commit.table}, rows of {shards} that were staged for another state of the table"):
                    raise error
        return actions

    def _add_columns(self, commit: Commit, writes: Sequence[Declaration]) -> StructType:
        """Let Delta make the table, or add the columns that it lacks, in this transaction. Return all its columns."""
        schema = self._table_columns()
        columns = agreed_columns(commit, writes, schema, _columns_at_write)
        if schema is None or len(columns) > len(schema):
            plain = [StructField(field.name, field.dataType) for field in columns.fields if not _is_filled(field)]
            types, nothing = self._delta.jvm.org.apache.spark.sql.types.DataType, self._delta.jvm.java.util.ArrayList()
            empty = self._delta.session.createDataFrame(nothing, types.fromJson(StructType(plain).json()))
            by = () if schema else commit.partition_by
            self._delta.write(self._log, self._transaction, empty, "Append", {"mergeSchema": "true"}, by)
        return columns

    def _row_columns(self, writes: Sequence[Declaration], columns: StructType) -> StructType:
        """Return the columns except those that no write has and Delta itself fills."""
        names = {name.lower() for write in writes for name in _columns_at_write(write).names}
        return StructType([field for field in columns.fields if field.name.lower() in names or not _is_filled(field)])

    def _rows(self, alike: Sequence[Declaration]) -> DataFrame:
        """See ``read_all``."""
        if not alike[0].described:
            return staged_rows(self._spark, alike)
        return self._delta.rows(self._log, alike[0].seen, (text for write in alike for text in write.described))

    def _upsert(self, commit: Commit) -> list[Any]:
        table, writes = self._table_columns(), commit.writes
        columns = self._row_columns(writes, agreed_columns(commit, writes, table, _columns_at_write))
        changes = upserted_rows(commit, columns, self._rows)
        if table is None:
            self._add_columns(commit, commit.writes)
            return list(_items(self._transaction.writeFiles(rows_of_new_table(changes)._jdf)))
        with merge_clauses(commit, changes, table) as clauses:
            return self._merge(commit, f"MERGE INTO delta.{backquoted(self._uri)} t {clauses}")

    def _merge(self, commit: Commit, statement: str) -> list[Any]:
        """Do what ``MERGE INTO`` does between the start of its transaction and its commit. Return the actions."""
        state = self._delta.session.sessionState()
        modes = scala_object(self._spark, "org.apache.spark.sql.execution.CommandExecutionMode")
        with session_options(self._spark, {AUTO_MERGE: str(commit.merge_schema).lower()}):
            # The statement is only analyzed: its execution would begin a transaction at the table's newest state.
            merge = state.executePlan(state.sqlParser().parsePlan(statement), modes.SKIP()).analyzed()
        session, transaction, metadata = self._delta.session, self._transaction, self._transaction.metadata()
        # The analysis has read the newest columns; the transaction has the columns of the state that was loaded.
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
        by = self._metadata["partitionColumns"] if self._metadata else list(commit.partition_by)
        writes = [*commit.writes, *commit.earlier]
        columns = self._row_columns(writes, agreed_columns(commit, writes, self._table_columns(), _columns_at_write))
        rows = overwriting_rows(commit, columns, self._rows, list(map(backquoted, by)))
        options = {"partitionOverwriteMode": "dynamic", "mergeSchema": str(commit.merge_schema).lower()}
        return self._delta.write(self._log, self._transaction, rows._jdf, "Overwrite", options, by)


# --- Glue's Data Catalog, in which Athena finds tables by name ---


def register(uri: str, warehouse: str | None, spark: SparkSession) -> None:
    """Enter a Delta table at ``WAREHOUSE/DATABASE.db/TABLE`` as ``DATABASE.TABLE``, or update its entry.

    Makes the database if it is missing. Does nothing if the table has another address. TableError if another table has
    the name.
    """
    root = catalog_properties(os.environ, warehouse).get("warehouse", "").rstrip("/")
    match = re.fullmatch(re.escape(root) + r"/([^/]+)\.db/([^/]+)", uri)
    if match is None:
        return
    database, name = match.groups()
    from sparklet.connectors.tables.pyiceberg_catalog import load  # which needs pyiceberg

    catalog: Any = load(warehouse)
    try:
        old = catalog.glue.get_table(DatabaseName=database, Name=name)["Table"]
    except catalog.glue.exceptions.EntityNotFoundException:
        old = None
    # The table is read after its entry, so that an old schema replaces no newer one.
    new = _entry(name, uri, spark, old or {})
    if old is None:
        # Looked up first, since many roles can create tables, but not databases.
        if not catalog.namespace_exists(database):
            catalog.create_namespace_if_not_exists(database)
        catalog.glue.create_table(DatabaseName=database, TableInput=new)
    elif (stored_uri := old["StorageDescriptor"].get("Location", "").rstrip("/")) != uri:
        raise TableError(f"{uri} is written, but Glue's catalog has {database}.{name} at {stored_uri}")
    elif _columns_in(old) != _columns_in(new):
        # With the version Glue refuses the update if another writer has changed the entry since it was read.
        version = {key: old[key] for key in ("VersionId",) if key in old}
        catalog.glue.update_table(DatabaseName=database, TableInput=new, **version)


def _entry(name: str, uri: str, spark: SparkSession, old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Delta table's entry as Glue's own crawlers write it, with what others have added to the old entry."""
    metadata = json.loads(_Delta(spark).log(uri).startTransaction().metadata().json())["metaData"]
    fields = StructType.fromJson(json.loads(metadata["schemaString"])).fields
    types = {field.name: field.dataType.simpleString().replace("timestamp_ntz", "timestamp") for field in fields}
    old_columns = {column["Name"]: column for columns in _columns_in(old) for column in columns}  # with comments
    columns = {
        column: {**old_columns.get(column, {}), "Name": column, "Type": type_} for column, type_ in types.items()
    }
    serde = {"serialization.format": "1", "path": uri}
    parameters = {"EXTERNAL": "TRUE", "table_type": "DELTA", "spark.sql.sources.provider": "delta"}
    return {
        **{key: old[key] for key in ("Description", "Owner", "Retention") if old.get(key)},
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {**old.get("Parameters", {}), **parameters},
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
    """Return the columns of a Glue entry, and its partition keys."""
    return [entry.get("StorageDescriptor", {}).get("Columns", []), entry.get("PartitionKeys", [])]
