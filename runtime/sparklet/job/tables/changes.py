"""The changes of an upsert: the rows of all shards, one for each key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyarrow import compute

from sparklet.job.errors import TableError
from sparklet.job.tables.declaration import Commit
from sparklet.job.tables.files import StagedFile, read_rows, shard_name

SHARD, POSITION = "_sparklet_shard", "_sparklet_position"  # columns of our own, in memory only


def read_changes(commit: Commit, staged: Sequence[StagedFile], schema: Any) -> Any:
    """The staged rows as a pyarrow.Table; of several with one key the one whose ``order_by`` is the greatest.

    Raises TableError, naming key and shards, if a key is there twice without ``order_by``, or if a part of it is null.
    """
    if missing := [name for name in (*commit.keys, commit.order_by) if name and name not in schema.names]:
        raise TableError(f"{commit.table}: keys or order_by name {missing[0]!r}, which no shard has")
    rows = read_rows(staged, schema)
    for name in commit.keys:
        if nulls := rows[name].null_count:
            raise TableError(f"{commit.table}: the key {name!r} is null in {nulls} rows: leave them out, or fill it")
    shards = pa.array([file.shard for file in staged for _ in range(file.rows)], pa.int32())
    keys = list(commit.keys)
    found = rows.select(keys).append_column(SHARD, shards).append_column(POSITION, pa.array(range(len(rows))))
    if commit.order_by is None:
        counted = found.group_by(keys).aggregate([(SHARD, "count"), (SHARD, "distinct")])
        twice = counted.filter(compute.greater(counted[f"{SHARD}_count"], 1)).slice(0, 1).to_pylist()
        if twice:
            key = ", ".join(f"{name}={twice[0][name]!r}" for name in keys)
            where = " and ".join(map(shard_name, sorted(twice[0][f"{SHARD}_distinct"])))
            raise TableError(f"{commit.table}: the key {key} is twice in {where}: pass order_by=, the greatest wins")
        return rows
    order = pa.table({"given": rows[commit.order_by].is_valid(), "order": rows[commit.order_by], "at": found[POSITION]})
    by = [(name, "ascending") for name in order.column_names]  # so a null is the least
    found = found.take(compute.sort_indices(order, sort_keys=by))
    last = found.group_by(keys, use_threads=False).aggregate([(POSITION, "last")])
    return rows.take(last[f"{POSITION}_last"])


def without(rows: Any, keys: Sequence[str], changes: Any) -> Any:
    """The rows whose key is in no change."""
    names = list(keys)
    targets = pa.schema([rows.schema.field(name) for name in names])
    found = rows.select(names).append_column(POSITION, pa.array(range(len(rows))))
    kept = found.join(changes.select(names).cast(targets), keys=names, join_type="left anti")
    return rows if len(kept) == len(rows) else rows.take(kept[POSITION].sort())
