"""Commits to Iceberg tables, with pyiceberg; ``iceberg_history`` knows which of them a table has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types
from pyiceberg import exceptions
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual
from pyiceberg.io import pyarrow as io
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import assign_fresh_schema_ids
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import IdentityTransform
from requests import RequestException

from sparklet.job.catalogs import ICEBERG_CATALOG, catalog_properties
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.fields import CHANGES
from sparklet.job.fields import Table as Named
from sparklet.job.session import s3_environment
from sparklet.tables.declaration import NAME_MAPPING, ColumnPath, Commit, check_name_mapping, refuse_iceberg, shard_name
from sparklet.tables.iceberg_history import COMMIT_ID, MAKER, History
from sparklet.tables.staged_files import (
    Staged,
    StagedFile,
    agreed_schema,
    batches,
    not_older,
    read_changes,
    read_footers,
    read_rows,
    without,
)

FIELD_ID = b"PARQUET:field_id"
Replaced = tuple[list[DataFile], list[DataFile]]  # the new files, and those that are no longer in the table
LOOK_AGAIN = (
    RequestException,  # of a REST catalog whose answer was lost
    exceptions.CommitFailedException,
    exceptions.CommitStateUnknownException,
    exceptions.ServiceUnavailableError,
)


class IcebergTable:
    """A table of the catalog ``iceberg``, as it was when this was made."""

    def __init__(self, name: str, warehouse: str | None = None) -> None:
        self._name = name
        self._catalog = load(warehouse)
        self._table: Table | None = None
        self._history: History | None = None
        self.root: str | None = None  # where the table's data files are
        with suppress(exceptions.NoSuchTableError):
            self._table = table = self._catalog.load_table(name)
            self._history = History(table)
            self.root = table.properties.get("write.data.path") or f"{table.location().rstrip('/')}/data"

    def check(self, mode: str) -> None:
        """See ``OpenTable``."""
        if self._table is not None:
            refuse_iceberg(Named("iceberg", self._name), self._table.metadata.format_version)
            check_name_mapping(self._name, self._table.properties.get(NAME_MAPPING), self._table.schema().field_ids)

    def made(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the number of a chain is its last link."""
        return self._history.made(name) if self._history else None

    def holds(self, name: str, number: int) -> bool:
        """See ``OpenTable``."""
        return self._history is not None and self._history.holds(number)

    def write(self, commit: Commit, read: Callable[[], Staged], names: Mapping[str, int]) -> str:
        """Add the files in one snapshot; see ``OpenTable``."""
        if self._history:
            self._history.check_age(commit)
        staged = [as_read(file, self._table.metadata) for file in read()] if self._table else read()
        if commit.mode != "append":
            check_names(commit, staged)
        schema = agreed_schema(commit, staged, self._table.schema().as_arrow() if self._table else None)
        table = self._table or self._create(commit, schema)
        _check_partitioning(commit, table)
        # Without this pyiceberg retries a refused append on top of snapshots that were not searched for the id. Only
        # this copy of the metadata has the property: a commit sends changes alone.
        properties = {**table.metadata.properties, "commit.retry.num-retries": "0"}
        table.metadata = table.metadata.model_copy(update={"properties": properties})
        try:
            with _Changes(table) as transaction:
                if not set(schema.names) <= set(table.schema().column_names):
                    with transaction.update_schema() as update:
                        update.union_by_name(schema)
                number = next(iter(names.values()))  # all links of a batch have one number
                made = add_snapshot(transaction, commit, staged, {COMMIT_ID: commit.commit_id, MAKER: str(number)})
                heads = {f"sparklet.{name}": str(number) for name, number in names.items() if commit.records}
                history = self._history or History(table)
                transaction.set_properties({**heads, **history.properties(commit, number, made)})
        except LOOK_AGAIN as error:
            raise CommitConflictError(f"{commit.table}: {error}") from error
        snapshot = table.current_snapshot()
        return str(snapshot.snapshot_id) if snapshot else ""

    def _create(self, commit: Commit, schema: Any) -> Table:
        """Make the table, without rows; or load the one that another writer has made meanwhile."""
        columns = assign_fresh_schema_ids(self._catalog._convert_schema_if_needed(schema))
        if unknown := [name for name in commit.partition_by if name not in schema.names]:
            raise TableError(f"{commit.table} cannot be partitioned by {unknown[0]!r}: the files have no such column")
        fields = [
            PartitionField(columns.find_field(name).field_id, 1000 + number, IdentityTransform(), name)
            for number, name in enumerate(commit.partition_by)
        ]
        try:
            try:
                return self._catalog.create_table(self._name, columns, partition_spec=PartitionSpec(*fields))
            except exceptions.NoSuchNamespaceError:
                self._create_namespace(self._name.rpartition(".")[0])
                return self._catalog.create_table(self._name, columns, partition_spec=PartitionSpec(*fields))
        except exceptions.TableAlreadyExistsError as error:
            raise CommitConflictError(f"{commit.table} was made by another writer meanwhile") from error

    def _create_namespace(self, name: str) -> None:
        try:
            self._catalog.create_namespace_if_not_exists(name)
        except Exception:
            if not self._catalog.namespace_exists(name):  # else another writer was faster; catalogs' errors differ
                raise


def load(warehouse: str | None = None) -> Catalog:
    """The catalog that the environment names, or else the warehouse.

    The region is that of catalogs in AWS, too: boto3 does not read ``AWS_REGION``.
    """
    endpoint, region = s3_environment(os.environ)
    found = {name: value for name, value in (("s3.endpoint", endpoint), ("client.region", region)) if value}
    return load_catalog(ICEBERG_CATALOG, **{**found, **catalog_properties(os.environ, warehouse)})


class _Changes(Transaction):
    """A transaction that keeps its metadata until the next change; pyiceberg's copies all snapshots at each look."""

    _cached: tuple[Any, Any, Any] = (None, None, None)

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's, with the changes so far."""
        found, updates, metadata = self._cached
        if found is not self._table.metadata or updates is not self._updates:
            metadata = super().table_metadata
            self._cached = self._table.metadata, self._updates, metadata
        return cast(TableMetadata, metadata)


def add_snapshot(transaction: Transaction, commit: Commit, staged: Staged, summary: dict[str, str]) -> int:
    """Add one snapshot to the transaction; its id."""
    update = transaction.update_snapshot(snapshot_properties=summary)
    change = {"append": _appended, "upsert": _upserted, "overwrite_partitions": _overwritten}[commit.mode]
    added, removed = change(transaction, commit, staged)
    with update.overwrite() if removed else update.fast_append() as snapshot:
        for file in removed:
            snapshot.delete_data_file(file)
        for file in added:
            snapshot.append_data_file(file)
    return snapshot.snapshot_id


def _appended(transaction: Transaction, commit: Commit, staged: Staged) -> Replaced:
    """The staged files as the table's own, as ``add_files`` does it, by footers that are read already.

    Rows are written anew if their files were staged elsewhere, for S3 Tables, or have other column ids than the table.
    """
    metadata = transaction.table_metadata
    ids = paths_of(io.schema_to_pyarrow(metadata.schema())).items()
    added, foreign = [], list[StagedFile]()
    for file in (file for file in staged if file.rows):
        if paths_of(file.schema).items() <= ids and f"/{CHANGES}/" not in file.uri:
            added.append(_data_file(metadata, file))
        else:
            foreign.append(file)
    check_names(commit, foreign)
    return added + [file for group in batches(foreign) for file in _new_files(transaction, _rows(metadata, group))], []


def _upserted(transaction: Transaction, commit: Commit, staged: Staged) -> Replaced:
    """Files with the changes and with the other rows of the files that they replace; and these files."""
    table, metadata = transaction._table, transaction.table_metadata
    changes = read_changes(commit, staged, _arrow_schema(metadata))
    at_least, at_most, near = cast(Any, GreaterThanOrEqual), cast(Any, LessThanOrEqual), cast(Any, AlwaysTrue())
    for name in commit.keys:
        least, greatest = pc.min_max(changes[name]).as_py().values()
        near = And(near, at_least(name, least), at_most(name, greatest))
    tasks = list(table.scan(row_filter=near).plan_files())
    for task in tasks if commit.order_by else ():
        columns = metadata.schema().select(*commit.keys, str(commit.order_by))
        changes = not_older(changes, commit, _read_task(metadata, table, task, columns))
    added, removed = _new_files(transaction, changes), []
    for task in tasks if added else ():
        rows = _read_task(metadata, table, task, metadata.schema())
        kept = without(rows, commit.keys, changes)
        if len(kept) < len(rows):
            removed.append(task.file)
            added += _new_files(transaction, kept)
    return added, removed


def _read_task(metadata: Any, table: Table, task: Any, columns: Any) -> Any:
    return io.ArrowScan(metadata, table.io, columns, AlwaysTrue()).to_table([task])


def _overwritten(transaction: Transaction, commit: Commit, staged: Staged) -> Replaced:
    """Files with the staged rows, and with the run's earlier rows in their partitions; and the replaced files."""
    metadata = transaction.table_metadata
    if metadata.spec().is_unpartitioned():
        raise TableError(f"{commit.table} has no partitions that could be overwritten")
    added = [file for group in batches(staged) for file in _new_files(transaction, _rows(metadata, group))]
    partitions, removed = {file.partition for file in added}, []
    earlier = [as_read(file, metadata) for file in read_footers(commit.earlier)]
    check_names(commit, earlier)
    for group in batches(earlier):
        for part in io._determine_partitions(metadata.spec(), metadata.schema(), _rows(metadata, group)):
            if part.partition_key.partition in partitions:
                added += _new_files(transaction, part.arrow_table_partition)
    for task in transaction._table.scan().plan_files():
        if task.file.spec_id != metadata.default_spec_id:
            raise TableError(f"{commit.table} has files of an earlier partitioning: rewrite them, then overwrite again")
        if task.file.partition in partitions:
            removed.append(task.file)
    return added, removed


def _new_files(transaction: Transaction, rows: Any) -> list[DataFile]:
    """Write rows as files of the table."""
    metadata = transaction.table_metadata
    try:
        return list(io._dataframe_to_data_files(metadata, rows, transaction._table.io)) if rows else []
    except exceptions.NotInstalledError as error:  # a library that transforms need
        raise TableError(f"the table is partitioned by {metadata.spec()}: {error}") from error


def _rows(metadata: Any, staged: Staged) -> Any:
    return read_rows(staged, _arrow_schema(metadata))


def _arrow_schema(metadata: Any) -> Any:
    return io.schema_to_pyarrow(metadata.schema(), include_field_ids=False)


def _check_partitioning(commit: Commit, table: Table) -> None:
    for field in table.spec().fields:
        if not field.transform.preserves_order:
            raise TableError(
                f"{commit.table} is partitioned by {field.transform} ({field.name}), which Sparklet cannot commit to: "
                "partition by columns, or by year, month, day or hour"
            )


def _data_file(metadata: Any, file: StagedFile) -> DataFile:
    schema, spec = metadata.schema(), metadata.spec()
    try:
        own = io.pyarrow_to_schema(file.footer.schema.to_arrow_schema())  # with columns that were dropped since
        columns, ids = io.compute_statistics_plan(own, metadata.properties), io.parquet_path_to_id_mapping(own)
        statistics = io.data_file_statistics_from_parquet_metadata(file.footer, columns, ids)
        for field in spec.fields:
            absent = field.source_id not in statistics.column_sizes  # so all of it is null
            nulls = file.rows if absent else statistics.null_value_counts.get(field.source_id)
            values = statistics.column_aggregates.get(field.source_id)
            if nulls != (0 if values and values.current_min is not None else file.rows):
                raise ValueError(f"null and other values are mixed in {field.name}, or its statistics are missing")
        partition = statistics.partition(spec, schema)
    except (KeyError, ValueError) as error:  # of the pyiceberg functions, too
        raise TableError(f"shard {file.shard} staged {file.uri}, which Iceberg cannot add: {error}") from error
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=file.uri,
        file_format=FileFormat.PARQUET,
        partition=partition,
        file_size_in_bytes=file.size_bytes,
        spec_id=metadata.default_spec_id,
        **statistics.to_serialized_dict(),
    )


# --- the columns of staged files in a table that has changed its columns since, by field ids as readers do it ---


def as_read(file: StagedFile, metadata: TableMetadata) -> StagedFile:
    """The file with the columns that readers find: by ids of this table under their present names, others by name."""
    uuid, last = file.ids_of
    if uuid != str(metadata.table_uuid):
        return file
    return replace(file, schema=pa.schema(_fields(file.schema, io.schema_to_pyarrow(metadata.schema()), last)))


def _fields(fields: Iterable[Any], table: Iterable[Any], last: int, is_inner: bool = False) -> list[Any]:
    """The fields of one level; fields that a struct lacks are null."""
    known = {_id(field): field for field in fields if (_id(field) or last + 1) <= last}
    found = [
        now.with_type(_type(known[_id(now)].type, now.type, last)) if _id(now) in known else now
        for now in table
        if is_inner or _id(now) in known
    ]
    return found + [field for field in fields if (_id(field) or last + 1) > last]


def _type(type_: Any, table: Any, last: int) -> Any:
    inner = _fields(_inside(type_), _inside(table), last, is_inner=True)
    if types.is_struct(type_):
        return pa.struct(inner)
    if types.is_map(type_):
        return pa.map_(*inner)
    return pa.list_(*inner) if inner else type_


def _inside(type_: Any) -> list[Any]:
    """The fields of a struct, the element of a list, key and value of a map."""
    if types.is_map(type_):
        return [type_.key_field.with_name("key"), type_.item_field.with_name("value")]
    if types.is_list(type_) or types.is_large_list(type_):
        return [type_.value_field.with_name("element")]
    return list(type_) if types.is_struct(type_) else []


def _id(field: Any) -> int | None:
    found = (field.metadata or {}).get(FIELD_ID)
    return None if found is None else int(found)


def paths_of(fields: Iterable[Any], at: ColumnPath = ()) -> dict[ColumnPath, int | None]:
    """All columns of a pyarrow.Schema with their ids."""
    found = dict[ColumnPath, "int | None"]()
    for field in fields:
        path = (*at, field.name)
        found |= {path: _id(field), **paths_of(_inside(field.type), path)}
    return found


def check_names(commit: Commit, staged: Iterable[StagedFile]) -> None:
    """TableError if rows that a commit must write anew have columns that were renamed or dropped since."""
    for file in staged:
        written = paths_of(file.footer.schema.to_arrow_schema())
        if changed := paths_of(file.schema).keys() ^ written.keys():
            raise TableError(
                f"{commit.table}: the column {'.'.join(min(changed))!r} was changed after {shard_name(file.shard)} "
                f"had staged its rows, which the commit must write anew: start a new run ({file.uri})"
            )
