"""Tables for the committer's tests: what shards stage, what other writers do, and what a reader finds."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from deltalake import DeltaTable, Schema, write_deltalake
from pyarrow import fs, parquet
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.table import Table as IcebergTable

from sparklet.connectors.tables import staging
from sparklet.connectors.tables.declaration import Commit, Declaration
from sparklet.connectors.tables.layout import layout_of
from sparklet.job.fields import Table
from tests.functional.tables.sessions import frame_of

STAGED = "staged[1]"  # a folder's name that Hadoop could read as a pattern
_numbers = count()


def rows_of(**columns: Sequence[Any]) -> pa.Table:
    return pa.table({name: list(values) for name, values in columns.items()})


def table_of(schema: pa.Schema, *rows: tuple[Any, ...]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


@dataclass
class Lake:
    """A table of a format, below a place; the reader that is independent of Sparklet uses ``place`` and ``options``."""

    format: str
    place: str
    options: dict[str, str]

    @property
    def table(self) -> Table:
        return Table("iceberg", "db.t") if self.format == "iceberg" else Table(self.format, f"{self.place}/t")

    @property
    def delta(self) -> str:
        """The table's place as delta-rs needs it."""
        return self.table.place.removeprefix("file://")

    def stage(
        self, shard: int, rows: pa.Table, by: Sequence[str] = (), files: int = 1, mode: str = "append"
    ) -> Declaration:
        """Write what an attempt at a shard stages, with ``files`` files for each partition; return its declaration.

        Files in a Delta table's own folder, which become part of the table, are described as in Delta's log.
        """
        if self.format == "iceberg":
            return self._stage_iceberg(shard, rows, by, files, mode)
        in_table = mode == "append" and self.format == "delta"
        folder = f"{self.place}/{'t/sparklet' if in_table else STAGED}/run/{shard:06d}-{next(_numbers)}/1"
        sizes, log_lines = list[tuple[str, int]](), list[str]()
        for path, values, part in _parts(rows, by, drop=in_table):
            for number in range(files):
                share = part.take(list(range(number, part.num_rows, files)))
                name = f"{path}part-{number}.parquet"
                size_bytes = _write(share, f"{folder}/{name}")
                sizes.append((name, size_bytes))
                # As Spark escapes it; delta-rs compacts no file whose path has an escaped "=".
                path_in_table = quote(f"{folder}/{name}".removeprefix(f"{self.table.place}/"), safe="/=")
                log_lines.append(
                    _add_action(path_in_table, size_bytes, dict(zip(by, values, strict=True)), share.num_rows)
                )
        schema = json.loads(Schema.from_arrow(rows.schema).to_json())
        seen = _delta_state(schema, by) if in_table else json.dumps(schema)
        described = tuple(log_lines) if in_table and rows.num_rows else ()
        staged = tuple(sizes) if rows.num_rows else ()
        return Declaration(
            self.table, mode, folder, folder, staged, rows=rows.num_rows, shard=shard, described=described, seen=seen
        )

    def _stage_iceberg(self, shard: int, rows: pa.Table, by: Sequence[str], files: int, mode: str) -> Declaration:
        """Stage as ``staging`` does: by Iceberg's own writer if the files become part of the table, else by Spark."""
        frame = frame_of(rows, files)
        partition_by = () if self._exists() else tuple(by)
        draft = Declaration(self.table, mode, "", "", (), merge_schema=True, partition_by=partition_by)
        layout = layout_of(frame, draft)
        frame = staging._fit_to_table(frame, layout, draft)
        in_table = mode == "append" and layout.root != ""
        owner = f"run/{shard:06d}-{next(_numbers)}/1"
        folder = f"{layout.root}/sparklet/{owner}" if in_table else f"{self.place}/{STAGED}/{owner}"
        described: tuple[str, ...] = ()
        if in_table and layout.draft:
            row_count, staged, described = layout.draft.stage(frame, folder)
        else:
            row_count, staged = staging._store(frame, [], folder, "error")
        options = {"rows": row_count, "shard": shard, "described": described, "seen": layout.seen}
        return Declaration(self.table, mode, folder, folder, staged, **options)  # type: ignore[arg-type]

    def _exists(self) -> bool:
        with suppress(ValueError):  # only a commit's parameter names the catalog
            return self.catalog().table_exists("db.t")
        return False

    def commit(self, commit_id: str, *writes: Declaration, **options: Any) -> Commit:
        return replace(Commit(commit_id, self.table, "append", writes), **options)

    def planned(self, *shards: pa.Table, number: int = 0, **options: Any) -> Commit:
        """Stage the rows of each shard of a run; return the run's commit with this number."""
        mode = options.get("mode", "append")
        writes = [self.stage(shard, rows, mode=mode) for shard, rows in enumerate(shards)]
        return self.commit(f"run/commit-{number}", *writes, **options)

    def create(self, rows: pa.Table, by: Sequence[str] = ()) -> None:
        """Create the table with the library of its format."""
        if self.format == "delta":
            write_deltalake(self.delta, rows, partition_by=list(by) or None, storage_options=self.options)
            return
        catalog = self.catalog()
        catalog.create_namespace_if_not_exists("db")
        with catalog.create_table_transaction("db.t", rows.schema) as creation, creation.update_spec() as spec:
            for column in by:
                spec.add_identity(column)
        catalog.load_table("db.t").append(rows)

    def append(self, rows: pa.Table) -> None:
        """Append rows as another writer does, with the library of the format."""
        if self.format == "delta":
            write_deltalake(self.delta, rows, mode="append", storage_options=self.options)
        else:
            self.iceberg().append(rows)

    def read(self) -> pa.Table:
        """Return all rows that a reader finds now."""
        if self.format == "delta":
            return DeltaTable(self.delta, storage_options=self.options).to_pyarrow_table()
        return self.iceberg().scan().to_arrow()

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """Return the rows in order, nulls first; only these columns if any are named."""
        table = self.read()
        tuples = zip(*(table[name].to_pylist() for name in columns or table.column_names), strict=True)
        return sorted(tuples, key=lambda row: [(value is not None, value) for value in row])

    def versions(self) -> int:
        """Return how often the table was changed."""
        if self.format == "delta":
            return self.version() + 1
        return len(self.iceberg().metadata.snapshots)

    def version(self) -> int:
        """Return Delta's version or Iceberg's snapshot id; 0 for an Iceberg table without a snapshot."""
        if self.format == "delta":
            return int(DeltaTable(self.delta, storage_options=self.options).version())
        return int(self.iceberg().metadata.current_snapshot_id or 0)

    def restore(self, version: int) -> None:
        """Set the table to an earlier or later version."""
        if self.format == "delta":
            DeltaTable(self.delta, storage_options=self.options).restore(version)
        else:
            with self.iceberg().manage_snapshots() as manage:
                manage.set_current_snapshot(version)

    def expire(self, *, full: bool = False) -> None:
        """Forget all states but the last. Delta deletes the files of those states; if ``full``, unknown files, too."""
        if self.format == "delta":
            table = DeltaTable(self.delta)
            table.vacuum(0, dry_run=False, enforce_retention_duration=False, full=full)
            table.create_checkpoint()
        else:
            iceberg = self.iceberg()
            old = [each.snapshot_id for each in iceberg.snapshots() if each != iceberg.current_snapshot()]
            iceberg.maintenance.expire_snapshots().by_ids(old).commit()

    def catalog(self) -> Catalog:
        return load_catalog("iceberg", **self.options)

    def iceberg(self) -> IcebergTable:
        return self.catalog().load_table("db.t")


def _add_action(path: str, size_bytes: int, values: Mapping[str, str | None], rows: int) -> str:
    """Return the line of Delta's log that adds a file."""
    action: dict[str, Any] = {
        "path": path,
        "partitionValues": values,
        "size": size_bytes,
        "modificationTime": 0,
        "dataChange": True,
    }
    return json.dumps({"add": {**action, "stats": json.dumps({"numRecords": rows})}})


def _delta_state(schema: Any, by: Sequence[str]) -> str:
    """Return the protocol and metadata lines of a Delta log."""
    metadata: dict[str, Any] = {
        "id": "1",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(schema),
    }
    metadata |= {"partitionColumns": list(by), "configuration": {}, "createdTime": 0}
    return f'{{"protocol":{{"minReaderVersion":1,"minWriterVersion":2}}}}\n{json.dumps({"metaData": metadata})}'


def _parts(rows: pa.Table, by: Sequence[str], drop: bool) -> Iterator[tuple[str, Sequence[Any], pa.Table]]:
    """Yield the folder, the values as texts and the rows of each partition; if ``drop``, without the columns ``by``."""
    keys = list(zip(*(rows[name].to_pylist() for name in by), strict=True)) if by else [()] * rows.num_rows
    for key in dict.fromkeys(keys):
        part = rows.take([number for number, row_key in enumerate(keys) if row_key == key])
        values = ["__HIVE_DEFAULT_PARTITION__" if value is None else quote(str(value), safe=" ") for value in key]
        path = "".join(f"{name}={value}/" for name, value in zip(by, values, strict=True))
        texts = [value if value is None else str(value) for value in key]
        yield path, texts, part.drop_columns(list(by)) if drop and by else part


def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """Return pyarrow's file system, which is independent of Sparklet and Spark, and the path in it."""
    if uri.startswith("s3://"):
        return fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"]), uri.removeprefix("s3://")
    return fs.LocalFileSystem(), uri.removeprefix("file://")


def _write(rows: pa.Table, uri: str) -> int:
    system, path = file_system(uri)
    system.create_dir(path.rpartition("/")[0], recursive=True)
    parquet.write_table(rows, path, filesystem=system)
    return int(system.get_file_info(path).size)
