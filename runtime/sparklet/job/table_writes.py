"""The methods of ``Job`` that write to tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from sparklet.job.annexes import TABLES, annex
from sparklet.job.fields import JobFields

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class TableWrites(JobFields):
    """Writes to tables, each row exactly once, whatever is killed, retried or delivered twice.

    In a run the rows are staged, and one commit at its end takes those of all shards; elsewhere they are committed at
    once. Columns are matched by name; a type that does not fit the table's without loss is an error. Each method
    returns the number of rows, for ``report``.

    ``table`` is ``iceberg:DATABASE.TABLE``, ``delta:URI``, ``hudi:URI`` or ``parquet:URI``; default: the job's.
    ``merge_schema`` adds columns to the table that it does not have; without it they are an error. ``partition_by``
    names columns that partition the table, if this write makes it. ``label`` tells the writes of one script apart, in
    every attempt; default: their numbers, from 1. ``commit="direct"`` commits at once, also in a run.

    EventError if no table is named; TableError if the rows do not fit it, or a direct commit lacks a library.
    """

    def append(
        self,
        df: DataFrame,
        table: str | None = None,
        *,
        merge_schema: bool = False,
        partition_by: str | Sequence[str] = (),
        label: str | None = None,
        commit: str | None = None,
    ) -> int:
        """Add the rows."""
        return self._write(df, table, "append", label, commit, merge_schema=merge_schema, partition_by=partition_by)

    def upsert(
        self,
        df: DataFrame,
        table: str | None = None,
        *,
        keys: str | Sequence[str],
        order_by: str | None = None,
        merge_schema: bool = False,
        partition_by: str | Sequence[str] = (),
        label: str | None = None,
        commit: str | None = None,
    ) -> int:
        """Replace the rows that have the same ``keys``, and add the others.

        A key may come once, in all shards together, unless ``order_by`` names a column: then its greatest value wins,
        also over the row that the table holds.
        """
        more = {"merge_schema": merge_schema, "partition_by": partition_by, "keys": keys, "order_by": order_by}
        return self._write(df, table, "upsert", label, commit, **more)

    def overwrite_partitions(
        self,
        df: DataFrame,
        table: str | None = None,
        *,
        merge_schema: bool = False,
        partition_by: str | Sequence[str] = (),
        label: str | None = None,
        commit: str | None = None,
    ) -> int:
        """Replace the partitions that the rows of all shards touch by these rows.

        A later commit of the run (a redrive's, say) replaces those that its own shards touch, and keeps there what the
        run wrote before.
        """
        more = {"merge_schema": merge_schema, "partition_by": partition_by}
        return self._write(df, table, "overwrite_partitions", label, commit, **more)

    def _write(
        self, df: DataFrame, table: str | None, mode: str, label: str | None, commit: str | None, **how: Any
    ) -> int:
        return cast(int, annex(TABLES).write(self, df, table, mode, label, commit, **how))
