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

STAGED = "staged[1]"  # which Hadoop takes for a pattern
_numbers = count()


def rows_of(**columns: Sequence[Any]) -> pa.Table:
    return pa.table({name: list(values) for name, values in columns.items()})


def table_of(schema: pa.Schema, *rows: tuple[Any, ...]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


@dataclass
class Lake:
    """A table of a format, below a place; ``place`` and ``options`` are for its independent reader."""

    format: str
    place: str
    options: dict[str, str]

    @property
    def table(self) -> Table:
        return Table("iceberg", "db.t") if self.format == "iceberg" else Table(self.format, f"{self.place}/t")

    @property
    def delta(self) -> str:
        """The table's place, for delta-rs."""
        return self.table.place.removeprefix("file://")

    def stage(
        self, shard: int, rows: pa.Table, by: Sequence[str] = (), files: int = 1, mode: str = "append"
    ) -> Declaration:
        """What an attempt at a shard leaves: ``files`` files for each partition.

        Delta's are described as Delta itself would, if they become the table's own.
        """
        if self.format == "iceberg":
            return self._stage_iceberg(shard, rows, by, files, mode)
        inside = mode == "append" and self.format == "delta"
        folder = f"{self.place}/{'t/sparklet' if inside else STAGED}/run/{shard:06d}-{next(_numbers)}/1"
        named, described = list[tuple[str, int]](), list[str]()
        for path, values, part in _parts(rows, by, drop=inside):
            for number in range(files):
                share = part.take(list(range(number, part.num_rows, files)))
                name = f"{path}part-{number}.parquet"
                named.append((name, _write(share, f"{folder}/{name}")))
                below = quote(f"{folder}/{name}".removeprefix(f"{self.table.place}/"))
                described.append(_added(below, named[-1][1], dict(zip(by, values, strict=True)), share.num_rows))
        schema = json.loads(Schema.from_arrow(rows.schema).to_json())
        seen = _seen(schema, by) if inside else json.dumps(schema)
        described = described if inside and rows.num_rows else []
        files_of, counted = tuple(named) if rows.num_rows else (), {"rows": rows.num_rows}
        return Declaration(
            self.table, mode, folder, folder, files_of, **counted, shard=shard, described=tuple(described), seen=seen
        )

    def _stage_iceberg(self, shard: int, rows: pa.Table, by: Sequence[str], files: int, mode: str) -> Declaration:
        """As ``staging`` does it: by Spark, and Iceberg's own writer where the files are to be the table's."""
        frame = frame_of(rows, files)
        partition_by = () if self._exists() else tuple(by)
        draft = Declaration(self.table, mode, "", "", (), merge_schema=True, partition_by=partition_by)
        layout = layout_of(frame, draft)
        frame = staging._fit_to_table(frame, layout, draft)
        inside = mode == "append" and layout.root != ""
        owner = f"run/{shard:06d}-{next(_numbers)}/1"
        folder = f"{layout.root}/sparklet/{owner}" if inside else f"{self.place}/{STAGED}/{owner}"
        described: tuple[str, ...] = ()
        if inside and layout.draft:
            counted, named, described = layout.draft.stage(frame, folder)
        else:
            counted, named = staging._store(frame, [], folder, "error")
        how = {"rows": counted, "shard": shard, "described": described, "seen": layout.seen}
        return Declaration(self.table, mode, folder, folder, named, **how)  # type: ignore[arg-type]

    def _exists(self) -> bool:
        with suppress(ValueError):  # only a commit's parameter names the catalog
            return self.catalog().table_exists("db.t")
        return False

    def commit(self, commit_id: str, *writes: Declaration, **options: Any) -> Commit:
        return replace(Commit(commit_id, self.table, "append", writes), **options)

    def planned(self, *shards: pa.Table, number: int = 0, **options: Any) -> Commit:
        """The commit of this number of a run whose shards have staged these rows."""
        mode = options.get("mode", "append")
        writes = [self.stage(shard, rows, mode=mode) for shard, rows in enumerate(shards)]
        return self.commit(f"run/commit-{number}", *writes, **options)

    def create(self, rows: pa.Table, by: Sequence[str] = ()) -> None:
        """Make the table, by its own library."""
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
        """What another writer does, with its own library."""
        if self.format == "delta":
            write_deltalake(self.delta, rows, mode="append", storage_options=self.options)
        else:
            self.iceberg().append(rows)

    def read(self) -> pa.Table:
        """What a reader finds now."""
        if self.format == "delta":
            return DeltaTable(self.delta, storage_options=self.options).to_pyarrow_table()
        return self.iceberg().scan().to_arrow()

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """The rows, in order; nulls first."""
        found = self.read()
        tuples = zip(*(found[name].to_pylist() for name in columns or found.column_names), strict=True)
        return sorted(tuples, key=lambda row: [(value is not None, value) for value in row])

    def versions(self) -> int:
        """How often the table was changed."""
        if self.format == "delta":
            return self.version() + 1
        return len(self.iceberg().metadata.snapshots)

    def version(self) -> int:
        """What the table calls its state; an Iceberg table without rows is in none."""
        if self.format == "delta":
            return int(DeltaTable(self.delta, storage_options=self.options).version())
        return int(self.iceberg().metadata.current_snapshot_id or 0)

    def restore(self, version: int) -> None:
        """Go back to a state, or forward again."""
        if self.format == "delta":
            DeltaTable(self.delta, storage_options=self.options).restore(version)
        else:
            with self.iceberg().manage_snapshots() as manage:
                manage.set_current_snapshot(version)

    def expire(self, *, full: bool = False) -> None:
        """Forget all states but the last; Delta deletes their files, ``full``: and all that it does not know."""
        if self.format == "delta":
            table = DeltaTable(self.delta)
            table.vacuum(0, dry_run=False, enforce_retention_duration=False, full=full)
            table.create_checkpoint()
        else:
            of_iceberg = self.iceberg()
            old = [each.snapshot_id for each in of_iceberg.snapshots() if each != of_iceberg.current_snapshot()]
            of_iceberg.maintenance.expire_snapshots().by_ids(old).commit()

    def catalog(self) -> Catalog:
        return load_catalog("iceberg", **self.options)

    def iceberg(self) -> IcebergTable:
        return self.catalog().load_table("db.t")


def _added(path: str, size_bytes: int, values: Mapping[str, str | None], rows: int) -> str:
    """A file in Delta's log."""
    added: dict[str, Any] = {
        "path": path,
        "partitionValues": values,
        "size": size_bytes,
        "modificationTime": 0,
        "dataChange": True,
    }
    return json.dumps({"add": {**added, "stats": json.dumps({"numRecords": rows})}})


def _seen(schema: Any, by: Sequence[str]) -> str:
    """A state of a Delta table, as its log has it."""
    metadata: dict[str, Any] = {
        "id": "1",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(schema),
    }
    metadata |= {"partitionColumns": list(by), "configuration": {}, "createdTime": 0}
    return f'{{"protocol":{{"minReaderVersion":1,"minWriterVersion":2}}}}\n{json.dumps({"metaData": metadata})}'


def _parts(rows: pa.Table, by: Sequence[str], drop: bool) -> Iterator[tuple[str, Sequence[Any], pa.Table]]:
    """By partition: its folder, its values as texts, and its rows, ``drop``: without them."""
    keys = list(zip(*(rows[name].to_pylist() for name in by), strict=True)) if by else [()] * rows.num_rows
    for key in dict.fromkeys(keys):
        part = rows.take([number for number, found in enumerate(keys) if found == key])
        values = ["__HIVE_DEFAULT_PARTITION__" if value is None else quote(str(value), safe=" ") for value in key]
        path = "".join(f"{name}={value}/" for name, value in zip(by, values, strict=True))
        texts = [value if value is None else str(value) for value in key]
        yield path, texts, part.drop_columns(list(by)) if drop and by else part


def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """An independent one."""
    if uri.startswith("s3://"):
        return fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"]), uri.removeprefix("s3://")
    return fs.LocalFileSystem(), uri.removeprefix("file://")


def _write(rows: pa.Table, uri: str) -> int:
    system, path = file_system(uri)
    system.create_dir(path.rpartition("/")[0], recursive=True)
    parquet.write_table(rows, path, filesystem=system)
    return int(system.get_file_info(path).size)
