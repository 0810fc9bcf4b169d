"""Commits to Delta tables, with delta-rs; a commit's id is the transaction of an application in the table's log."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, exceptions, write_deltalake
from deltalake.transaction import AddAction, create_table_with_add_actions

from sparklet.job.catalogs import catalog_properties
from sparklet.job.errors import CommitConflictError, CommitStateUnknownError, TableError
from sparklet.job.fields import Table
from sparklet.job.session import backquoted
from sparklet.tables.declaration import Commit, refuse_delta
from sparklet.tables.staged_files import (
    MAX_READERS,
    Staged,
    StagedFile,
    agreed_schema,
    batches,
    delta_place,
    hive_type,
    read_changes,
    read_footers,
    read_rows,
    read_text,
    shard_name,
    within,
)

MAX_BOUND_CHARACTERS = 64  # of a text's minimum and maximum in the log
AFTER_ALL = "\U0010ffff"
RETENTION = "delta.setTransactionRetentionDuration"  # unless it is set, Delta forgets no transaction
UNITS_S = {"week": 604_800, "day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
MAX_SKEW_S = 3600.0  # of other writers' clocks
CATALOG_MANAGED = "catalog-managed table"  # in what delta-rs says as it opens one
APPEND_ONLY = "table is append-only"  # delta-rs says so as of a conflict
NEW_TABLE = {"delta.checkpointInterval": "10"}  # Spark's default; delta-rs would have readers fetch up to 100 versions
_HIVE, _HADOOP = "org.apache.hadoop.hive", "org.apache.hadoop.mapred"


class DeltaLakeTable:
    """A table at a URI, as it was when this was made."""

    def __init__(self, uri: str) -> None:
        self._uri = self.root = uri
        self._place, self._options = delta_place(uri)
        try:
            self._table: Any = DeltaTable(self._place, storage_options=self._options)
        except exceptions.TableNotFoundError:
            self._table = None
        except exceptions.DeltaError as error:
            if CATALOG_MANAGED not in str(error):
                raise
            refuse_delta(Table("delta", uri), "", ["catalogManaged"], {}, ())

    def check(self, mode: str) -> None:
        """See ``OpenTable``."""
        if self._table is not None:
            columns = [field.metadata for field in self._table.schema().fields]
            features, settings = self._table.protocol().writer_features or (), self._table.metadata().configuration
            refuse_delta(Table("delta", self._uri), mode, features, settings, columns)

    def made(self, name: str) -> tuple[str, int] | None:
        """The table's version if it holds a name, and the name's number."""
        number = None if self._table is None else self._table.transaction_version(name)
        return None if number is None else (str(self._table.version()), number)

    def holds(self, name: str, number: int) -> bool:
        """Follow the log back over each RESTORE, which leaves transactions as they are; see ``OpenTable``.

        A RESTORE that is no longer in the log is ignored.
        """
        state, restored = int(self._table.version()), None  # the newest version before which nothing was taken out
        for version, names, info in self._log():
            if (name, number) in names:
                return version <= state
            if version == state:
                state = version - 1
                if info.get("operation") == "RESTORE":
                    restored, to = version, str(info["operationParameters"].get("version"))
                    if not to.isdigit():
                        break
                    state = int(to)
        if restored is None:
            return True  # set before the log's first version
        raise CommitStateUnknownError(
            f"{self._uri} was restored by version {restored}, and its log does not show whether that removed rows that "
            "are to be written now: RESTORE it by a version's number that the log has; or, if these rows are missing, "
            "write them with another label, or those of a run by a new run"
        )

    def _check_forgotten(self, commit: Commit, names: Mapping[str, int]) -> None:
        """CommitStateUnknownError if the table may hold the commit, and has forgotten its name; see RETENTION."""
        if self._table is None or not (kept := self._table.metadata().configuration.get(RETENTION)):
            return
        kept_s = sum(
            int(number) * UNITS_S[unit]
            for number, unit in re.findall(r"(?<!\d)(\d+) (week|day|hour|minute|second)", kept)
        )
        since_s, gone = commit.fixed_at_s or 0.0, {name for name in names if self.made(name) is None}
        if commit.commit_id.startswith("once/"):
            return  # such an id is used once
        is_old = commit.fixed_at_s is not None and time.time() - since_s > kept_s
        for _, known, info in () if is_old else self._log():
            if is_old := not gone.isdisjoint(name for name, _ in known):
                break
            if info.get("timestamp", math.inf) < 1000 * (since_s - MAX_SKEW_S):
                return
        if is_old:
            raise CommitStateUnknownError(
                f"{commit.table} forgets commits ({RETENTION} = {kept}), and may hold {commit.commit_id} already: if "
                "it lacks these rows, unset the property and try again"
            )

    def _log(self) -> Iterator[tuple[int, set[tuple[str, int]], dict[str, Any]]]:
        """The versions, newest first, as far back as the log goes: the names that each has set, and its commitInfo."""
        with ThreadPoolExecutor(MAX_READERS) as readers:
            for newest in range(self._table.version(), -1, -MAX_READERS):
                versions = range(newest, max(newest - MAX_READERS, -1), -1)
                for version, actions in zip(versions, readers.map(self._actions, versions)):  # noqa: B905 - Python 3.9
                    if not actions:
                        return
                    names = {(each["txn"]["appId"], each["txn"]["version"]) for each in actions if "txn" in each}
                    yield version, names, next((each["commitInfo"] for each in actions if "commitInfo" in each), {})

    def _actions(self, version: int) -> list[dict[str, Any]]:
        try:
            lines = read_text(f"{self._uri}/_delta_log/{version:020d}.json").splitlines()
        except FileNotFoundError:
            return []  # a checkpoint has it
        return [json.loads(line) for line in lines if line.startswith(('{"txn"', '{"commitInfo"'))] or [{}]

    def write(self, commit: Commit, staged: Staged, names: Mapping[str, int]) -> str:
        """Commit the files in one version; see ``OpenTable``."""
        self._check_forgotten(commit, names)
        schema, partition_by = self._columns(commit, staged)
        change = {"append": self._append, "upsert": self._upsert, "overwrite_partitions": self._overwrite}[commit.mode]
        try:
            change(commit, staged, schema, partition_by, _properties(commit, names))
        except exceptions.CommitFailedError as error:
            if APPEND_ONLY in str(error):
                raise TableError(f"{commit.table}: {error}: unset delta.appendOnly, or append") from error
            raise CommitConflictError(f"{commit.table}: {error}") from error
        except (exceptions.DeltaProtocolError, exceptions.SchemaMismatchError) as error:
            raise TableError(f"{commit.table}: {error}") from error
        except exceptions.DeltaError as error:
            if self._table is None and type(self)(self._uri)._table is not None:
                raise CommitConflictError(f"{commit.table} was made by another writer meanwhile") from error
            raise
        if self._table is None:
            self._table = type(self)(self._uri)._table
        else:
            self._table.update_incremental()
        return str(self._table.version())

    def _columns(self, commit: Commit, staged: Staged) -> tuple[Any, list[str]]:
        """The table's columns with the files in it, and those it is partitioned by."""
        if self._table is not None:
            partition_by = self._table.metadata().partition_columns
            return agreed_schema(commit, staged, pa.schema(self._table.schema())), partition_by
        schema, partition_by = agreed_schema(commit, staged, None), list(commit.partition_by)
        fields = [
            {"name": partition_by[number], "type": type_, "nullable": True, "metadata": {}}
            for number, type_ in enumerate(commit.partition_types)
            if partition_by[number] not in schema.names
        ]
        schema = pa.schema([*schema, *pa.schema(Schema.from_json(json.dumps({"type": "struct", "fields": fields})))])
        if unknown := [name for name in partition_by if name not in schema.names]:
            raise TableError(f"{commit.table} cannot be partitioned by {unknown[0]!r}, whose type is unknown")
        return schema, partition_by

    def _append(self, commit: Commit, staged: Staged, schema: Any, by: list[str], properties: Any) -> None:
        """Add the staged files themselves."""
        place, now_ms, actions = f"{commit.table.place}/", int(time.time() * 1000), list[AddAction]()
        for file in staged:
            if not file.uri.startswith(place):
                raise TableError(f"{shard_name(file.shard)} staged {file.uri}, which is not below {commit.table}")
            if missing := set(by) - set(file.partition_values):
                raise TableError(
                    f"{shard_name(file.shard)} staged {file.uri}, which has no {missing.pop()!r} in its path"
                )
            if file.rows:
                path, values = file.uri[len(place) :], {name: file.partition_values[name] for name in by}
                stats = json.dumps(_statistics(file, by))
                actions.append(AddAction(path, file.size_bytes, values, now_ms, data_change=True, stats=stats))
        how = {"partition_by": by, "commit_properties": properties}
        if self._table is None:
            new = {"mode": "error", "configuration": NEW_TABLE, "storage_options": self._options}
            create_table_with_add_actions(self._place, Schema.from_arrow(schema), actions, **new, **how)
            return
        self._add_columns(schema)
        self._table.create_write_transaction(actions, "append", self._table.schema(), **how)

    def _upsert(self, commit: Commit, staged: Staged, schema: Any, by: list[str], properties: Any) -> None:
        """Merge the staged rows, one for each key."""
        changes = read_changes(commit, staged, schema)
        if self._table is None:
            self._write(changes, "error", by, properties)
            return
        same = " AND ".join(f"target.{key} = source.{key}" for key in map(backquoted, commit.keys))
        how = {"merge_schema": commit.merge_schema, "commit_properties": properties}
        merge = self._table.merge(changes, same, source_alias="source", target_alias="target", **how)
        order, newer = backquoted(commit.order_by or ""), None
        if commit.order_by in [field.name for field in self._table.schema().fields]:  # else it is null in all rows
            newer = f"target.{order} IS NULL OR source.{order} >= target.{order}"
        merge.when_matched_update_all(newer).when_not_matched_insert_all().execute()

    def _overwrite(self, commit: Commit, staged: Staged, schema: Any, by: list[str], properties: Any) -> None:
        """Replace the partitions of the staged rows by these, and by those that the run wrote there before."""
        if not by:
            raise TableError(f"{commit.table} has no partitions that could be overwritten")
        touched = read_rows(staged, schema, by).group_by(by).aggregate([])
        fresh = (read_rows(group, schema) for group in batches(staged))
        before = (within(read_rows(group, schema), touched) for group in batches(read_footers(commit.earlier)))
        read = (batch for part in chain(fresh, before) for batch in part.to_batches())
        rows = pa.RecordBatchReader.from_batches(schema, read)
        if self._table is None:
            self._write(rows, "error", by, properties)
            return
        values = touched.to_pylist()
        each = (" AND ".join(f"`{name}` {_equals(value)}" for name, value in row.items()) for row in values)
        predicate = " OR ".join(f"({one})" for one in each)
        grown = {"schema_mode": "merge"} if commit.merge_schema else {}
        self._write(rows, "overwrite", by, properties, predicate=predicate, **grown)

    def _write(self, rows: Any, mode: str, partition_by: list[str], properties: Any, **options: Any) -> None:
        target = self._place if self._table is None else self._table
        storage = {"storage_options": self._options, "configuration": NEW_TABLE} if self._table is None else {}
        given = {"partition_by": partition_by or None, "commit_properties": properties, **storage, **options}
        write_deltalake(target, rows, mode=mode, **given)

    def _add_columns(self, schema: Any) -> None:
        """Add new columns, in a version of their own: delta-rs cannot change the schema while it adds files."""
        names = {field.name for field in self._table.schema().fields}
        if new := [field for field in Schema.from_arrow(schema).fields if field.name not in names]:
            self._table.alter.add_columns(new)
            raise CommitConflictError(f"{self._uri} has new columns, in a version that is not searched for the commit")


def _properties(commit: Commit, names: Mapping[str, int]) -> Any:
    now_ms = int(time.time() * 1000)  # a checkpoint drops what is older than RETENTION, or has no date
    set_names = [Transaction(*each, now_ms) for each in names.items()]  # Spark's streams count with the number
    return CommitProperties(app_transactions=set_names, custom_metadata={"sparklet.commit-id": commit.commit_id})


def _equals(value: Any) -> str:
    """A comparison with a partition's value, in SQL."""
    if value is None:
        return "IS NULL"
    if isinstance(value, (bool, int, float, Decimal)):
        return f"= {value}".lower()
    if isinstance(value, (str, date)):  # a datetime is a date, too
        return "= '{}'".format(str(value).replace("'", "''"))
    raise TableError(f"a partition's value is {value!r}, which cannot be overwritten")


def _statistics(file: StagedFile, partition_by: Sequence[str]) -> dict[str, Any]:
    """The statistics of a file in the log, by which readers skip it.

    If one column has no bounds, there are none: delta-rs 1.6 would skip the file for any condition on that column.
    """
    statistics: dict[str, Any] = {"numRecords": file.rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for number in range(file.footer.num_columns):
        column = file.footer.schema.column(number)
        if column.path not in file.schema.names or column.path in partition_by:
            continue  # a nested column, or one that readers take from the path
        if pa.types.is_binary(file.schema.field(column.path).type):
            continue  # without an order
        groups = [file.footer.row_group(group).column(number).statistics for group in range(file.footer.num_row_groups)]
        if not all(group is not None and group.has_null_count for group in groups):
            return {"numRecords": file.rows}
        statistics["nullCount"][column.path] = nulls = sum(group.null_count for group in groups)
        if nulls == file.rows:
            continue
        valued = [group for group in groups if group.num_values]  # others hold nulls alone
        try:
            statistics["minValues"][column.path] = _bound(min(group.min for group in valued), "")
            statistics["maxValues"][column.path] = _bound(max(group.max for group in valued), AFTER_ALL)
        except (TypeError, ValueError):  # without bounds, or with one that JSON cannot hold exactly
            return {"numRecords": file.rows}
    return statistics


def _bound(value: Any, end: str) -> Any:
    """A minimum or maximum as JSON; ``end`` follows where a long text is cut."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= MAX_BOUND_CHARACTERS else value[:MAX_BOUND_CHARACTERS] + end
    if isinstance(value, Decimal) and len(value.as_tuple().digits) <= sys.float_info.dig:
        return float(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(value)
    return value


# --- Glue's Data Catalog, where Athena finds tables by name ---


def register(place: str, warehouse: str | None) -> None:
    """Enter a Delta table at ``WAREHOUSE/DATABASE.db/TABLE`` as ``DATABASE.TABLE``, or update its entry.

    Nothing happens if the table lies elsewhere. TableError if another table has the name.
    """
    root = catalog_properties(os.environ, warehouse).get("warehouse", "").rstrip("/")
    found = re.fullmatch(re.escape(root) + r"/([^/]+)\.db/([^/]+)", place)
    if found is None:
        return
    database, name = found.groups()
    from sparklet.tables.iceberg import load  # which needs pyiceberg

    catalog: Any = load(warehouse)
    try:
        old = catalog.glue.get_table(DatabaseName=database, Name=name)["Table"]
    except catalog.glue.exceptions.EntityNotFoundException:
        old = None
    new = _entry(name, place)  # read after the entry, so that an old schema replaces no newer one
    if old is None:
        if not catalog.namespace_exists(database):  # many who may make tables may make no database
            catalog.create_namespace_if_not_exists(database)
        catalog.glue.create_table(DatabaseName=database, TableInput=new)
    elif (there := old["StorageDescriptor"].get("Location", "").rstrip("/")) != place:
        raise TableError(f"{place} is written, but Glue's catalog has {database}.{name} at {there}")
    elif _columns(old) != _columns(new):
        new["Parameters"] = {**old["Parameters"], **new["Parameters"]}
        catalog.glue.update_table(DatabaseName=database, TableInput=new, VersionId=old["VersionId"])


def _entry(name: str, place: str) -> dict[str, Any]:
    """A Delta table's entry, as Glue's own crawlers write it."""
    uri, options = delta_place(place)
    table = DeltaTable(uri, storage_options=options)
    columns = {each.name: {"Name": each.name, "Type": hive_type(each.type)} for each in pa.schema(table.schema())}
    serde = {"serialization.format": "1", "path": place}
    return {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "table_type": "DELTA", "spark.sql.sources.provider": "delta"},
        "PartitionKeys": [columns.pop(key) for key in table.metadata().partition_columns],
        "StorageDescriptor": {
            "Columns": list(columns.values()),
            "Location": place,
            "InputFormat": f"{_HADOOP}.SequenceFileInputFormat",
            "OutputFormat": f"{_HIVE}.ql.io.HiveSequenceFileOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_HIVE}.serde2.lazy.LazySimpleSerDe", "Parameters": serde},
        },
    }


def _columns(entry: dict[str, Any]) -> list[Any]:
    return [entry["StorageDescriptor"]["Columns"], entry["PartitionKeys"]]
