"""The methods of ``Job`` whose code lies outside of this package, in annexes that are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from sparklet.job.fields import JobFields
from sparklet.job.table import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

TABLES = "sparklet.tables.staging"
STREAMS = "sparklet.streams.records"
DATABASES = "sparklet.databases.jdbc"


def annex(name: str) -> Any:
    """Import one of the modules above."""
    return import_module(name)


class StreamRecords(JobFields):
    """Reads batches of streams."""

    def records(
        self,
        spark: SparkSession,
        format: str = "json",  # noqa: A002 - Spark's own word for it
        schema: str | StructType | None = None,
        *,
        mode: str = "FAILFAST",
        metadata: bool = False,
        cause: bool = False,
        options: Mapping[str, str] | None = None,
        table: str | None = None,
    ) -> DataFrame:
        """The records of the event: a batch of Kinesis, of Kafka (MSK) or of DynamoDB Streams.

        Lazy, as every DataFrame: Spark decodes the records when they are used. Aggregated Kinesis records (from the
        Kinesis Producer Library) are opened.

        Parameters
        ----------
        format
            ``json`` or ``csv``: each record is one document or line. ``avro``: each record is one datum without a
            header (needs spark-avro). ``raw``: the bytes, in the column ``value``.
        schema
            As DDL text or a StructType; for ``avro`` the writer's schema, as JSON text; for ``raw`` None.
        mode
            ``FAILFAST``: a record that cannot be read fails the job; the error has its sequence number or offset.
            ``PERMISSIVE``: its columns are null and its bytes are in an additional column, ``_corrupt_record``.
        metadata
            Add a column ``_record``: a struct with sequence number, partition key and so on, see the guide.
        cause
            With ``PERMISSIVE``: add a column ``_cause``, which says why a record cannot be read; else it is null.
        options
            Options of Spark's reader of that format, such as ``timestampFormat`` or ``sep``.
        table
            Leave out the records that this table has, by this script's writes without a label. Aggregates and joins
            need it; ``append`` leaves out rows of single records by itself. An ``upsert`` of rows that are made of the
            table's succeeds only if no other has replaced rows since this call.

        Raises
        ------
        EventError
            If the event is no batch of a stream, or spark-avro is needed and missing.
        ValueError
            If format, schema and mode do not fit each other.
        """
        left_out = self._records_in(table, spark)
        read = annex(STREAMS).stream_records
        frame: DataFrame = read(spark, self.event, format, schema, mode, metadata, options, cause, left_out)
        return frame

    def _records_in(self, table: str | None, spark: SparkSession) -> Sequence[str]:
        """The numbers of the records that a table has; without a table the batch is read as a whole."""
        if not table:
            self.outcome.has_read_all = True
            return ()

        batch = annex(TABLES).batch_for(self, Table.parse(table), None, spark, is_read=True)
        return batch.old if batch else ()


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


class DatabaseAccess(JobFields):
    """Reads and writes of PostgreSQL, see ``docs/guide/databases.md``.

    ``database``: ``url``, as ``jdbc:postgresql://HOST:PORT/NAME``; ``credentials``, the name of JSON with ``username``
    and ``password``: ``secretsmanager:NAME`` or ``ssm:/PATH``; ``max_connections`` of all workers with this ledger at
    once; ``timeout_s`` (30) of a statement. TableError if it refuses for good, DatabaseError if time may help.
    """

    def jdbc_write(
        self,
        df: DataFrame,
        table: str,
        *,
        keys: str | Sequence[str] = (),
        order_by: str | None = None,
        label: str | None = None,
        commit_id: str | None = None,
        **database: Any,
    ) -> int:
        """Add the rows in one transaction with the write's id, and nothing if the id is there; the number of rows.

        A batch of a stream is known by its records: rows of those that the database has are left out.

        With ``keys``, which need a unique index, rows that have the same keys are replaced; where ``order_by`` names a
        column, by the row with its greatest value. ``label`` tells the writes of one script apart; ``commit_id``
        replaces the id.
        """
        jdbc, unique = annex(DATABASES), [keys] if isinstance(keys, str) else keys
        rows = jdbc.write(jdbc.Database(self, **database), df, table, unique, order_by, label, commit_id)
        return cast(int, rows)

    def jdbc_read(
        self, spark: SparkSession, table: str, *, split_by: str | None = None, connections: int = 1, **database: Any
    ) -> DataFrame:
        """The rows of a table, or of ``(SELECT …) AS name``, read at once and kept by Spark.

        With ``split_by``, a column of numbers, dates or timestamps, up to ``connections`` read at the same time.
        """
        jdbc = annex(DATABASES)
        frame: DataFrame = jdbc.read(jdbc.Database(self, **database), spark, table, split_by, connections)
        return frame
