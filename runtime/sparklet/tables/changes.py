"""The rows of an upsert: one for each key, as Spark compares and sorts values (NaN is the greatest, -0.0 is 0.0)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from pyspark.sql import DataFrame, Window, functions

from sparklet.job.errors import TableError
from sparklet.job.session import backquoted
from sparklet.tables.declaration import Commit, shard_name

FILE, ROW, FILES, COUNT, RANK = (f"_sparklet_{name}" for name in ("file", "row", "files", "count", "rank"))


def last_rows(commit: Commit, rows: DataFrame, whole_run: DataFrame | None = None) -> DataFrame:
    """Of the rows with one key the one with the greatest ``order_by``; ``rows`` are read from the staged files.

    Of equal ones the later wins, where columns FILE and ROW say where each was.

    TableError if a part of a key is null, or if without ``order_by`` a key comes twice, ``whole_run``: in the run.
    """
    names = {name.lower() for name in rows.columns}
    if missing := [name for name in (*commit.keys, commit.order_by) if name and name.lower() not in names]:
        raise TableError(f"{commit.table}: keys or order_by name {missing[0]!r}, a column that no shard has")
    keys = [functions.col(backquoted(name)) for name in commit.keys]
    nulls = [functions.count(functions.when(key.isNull(), 1)).alias(str(number)) for number, key in enumerate(keys)]
    for name, count in zip(commit.keys, rows.agg(*nulls).first() or ()):  # noqa: B905 - Python 3.9
        if count:
            raise TableError(f"{commit.table}: the key {name!r} is null in {count} rows: leave them out, or fill it")
    if commit.order_by is None:
        file = functions.col(FILE) if FILE in rows.columns else functions.input_file_name().alias(FILE)
        read = (rows if whole_run is None else whole_run).select(*keys, file)
        groups = read.groupBy(*keys).agg(functions.count("*").alias(COUNT), functions.collect_set(FILE).alias(FILES))
        if twice := groups.where(f"{COUNT} > 1").first():
            raise TableError(_twice(commit, twice))
        return rows
    order = [functions.desc_nulls_last(backquoted(commit.order_by))]
    order += [functions.desc(name) for name in (FILE, ROW) if name in rows.columns]
    latest = Window.partitionBy(*keys).orderBy(*order)
    return rows.withColumn(RANK, functions.row_number().over(latest)).where(f"{RANK} = 1").drop(RANK)


def _twice(commit: Commit, row: Any) -> str:
    """What is wrong with a key; the row has its files, as Spark names them."""
    of = {_path(f"{w.folder}/{name}"): w.shard for w in (*commit.earlier, *commit.writes) for name, _ in w.files}
    shards = sorted({of[_path(unquote(uri))] for uri in row[FILES]})
    key = ", ".join(f"{name}={row[name]!r}" for name in commit.keys)
    where = " and ".join(map(shard_name, shards))
    return f"{commit.table}: the key {key} is twice in {where}: pass order_by=, the greatest wins"


def _path(uri: str) -> str:
    return re.sub("^[a-z0-9]+:", "", uri).lstrip("/")
