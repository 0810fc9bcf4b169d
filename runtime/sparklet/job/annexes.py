"""The methods of ``Job`` whose code lies outside of this package, in annexes that are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from sparklet.job.fields import JobFields, Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

TABLES = "sparklet.connectors.tables.staging"
STREAMS = "sparklet.connectors.streams"
DATABASES = "sparklet.connectors.databases"
CATALOG = "sparklet.connectors.data_catalog.frames"


class CatalogTables(str):
    """``job.table``: the name of the job's table, "" without one; called, it reads a table of Glue's Data Catalog."""

    job: JobFields

    def __reduce__(self) -> Any:
        """Pickle the name alone."""
        return str, (str(self),)

    def __call__(self, name: str, where: str = "") -> DataFrame:
        """The rows of ``DATABASE.TABLE`` in partitions that match, ``where="day >= '2026-01-01' AND region <> 'us'"``.

        In a shard of a run over this table (``--input glue:DATABASE.TABLE``) they are those of the shard's objects.

        Raises
        ------
        TableError
            If the table or the condition cannot be read.
        DatabaseError
            If the catalog does not answer.
        """
        frame: DataFrame = import_module(CATALOG).read(self.job, name, where)[0]
        return frame


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
        """The records of the event: a batch of Kinesis, Kafka (MSK) or DynamoDB Streams, or bodies of messages of SQS.

        Spark decodes them when the frame is used. Aggregates of the Kinesis Producer Library are opened.

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
            Add a column ``_record``: a struct with sequence number, partition key and more, see the guide.
        cause
            With ``PERMISSIVE``: add a column ``_cause``, which says why a record cannot be read; else it is null.
        options
            Options of Spark's reader of that format, such as ``timestampFormat`` or ``sep``.
        table
            Leave out the records that this script's writes without a label have put into this table. Aggregates and
            joins need it; ``append`` itself leaves out rows of single records. An ``upsert`` of rows that are made of
            the table's succeeds only if no other write has replaced rows since this call.

        Raises
        ------
        EventError
            If the event is no such batch, or spark-avro is needed and missing.
        ValueError
            If format, schema and mode do not fit each other.
        """
        batch = import_module(TABLES).batch_for(self, Table.parse(table), None, spark, is_read=True) if table else None
        # A script that has read the whole batch once can write all of its rows to any other table.
        self.outcome.has_read_all |= not table
        read = import_module(STREAMS).stream_records
        left_out = batch.old if batch else ()
        frame: DataFrame = read(spark, self.event, format, schema, mode, metadata, options, cause, left_out)
        return frame


class TableWrites(JobFields):
    """Writes to tables: each row exactly once, even if a worker is killed or an event is delivered twice.

    In a run the rows are staged, and one commit at its end adds those of all shards; elsewhere each write commits at
    once. Columns are matched by name; a type that does not fit the table's without loss is an error.
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
        """Add the rows; their number, for ``report``.

        Parameters
        ----------
        table
            ``iceberg:DATABASE.TABLE``, ``delta:URI``, ``hudi:URI`` or ``parquet:URI``; default: the job's.
        merge_schema
            Add new columns to the table; without it they are an error.
        partition_by
            Columns that partition the table, if this write makes it.
        label
            Names a write of the script, the same in every attempt; default: its number, from 1.
        commit
            ``"direct"``: commit at once, also in a run.

        Raises
        ------
        EventError
            If no table is named.
        TableError
            If the rows do not fit the table, or a direct commit lacks a library.
        """
        return self._write(df, table, "append", label, commit, merge_schema=merge_schema, partition_by=partition_by)

    def upsert(
        self,
        df: DataFrame,
        table: str | None = None,
        *,
        keys: str | Sequence[str],
        order_by: str | None = None,
        delete: str | None = None,
        merge_schema: bool = False,
        partition_by: str | Sequence[str] = (),
        label: str | None = None,
        commit: str | None = None,
    ) -> int:
        """Replace the rows that have the same keys, and add the others.

        Parameters
        ----------
        keys
            Columns. A key may come once in all shards together, unless there is an ``order_by``.
        order_by
            A column: the row with its greatest value wins, which may be the table's.
        delete
            A condition in SQL, such as ``"op = 'd'"``: a row that meets it deletes the row with its keys, and is not
            added. Columns that it names and the table lacks are not written. Hudi needs ``_hoodie_is_deleted``, a
            column that a new table gets, and another with ``merge_schema``.
        table, merge_schema, partition_by, label, commit
            As for ``append``, and so are the result and the errors.
        """
        more = {"merge_schema": merge_schema, "partition_by": partition_by, "keys": keys, "order_by": order_by}
        more["delete"] = delete
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
        """Replace the partitions in which the rows of all shards lie by these rows.

        A later commit of the run, such as a redrive's, keeps the rows that the run has written there before.
        Parameters, result and errors are those of ``append``.
        """
        more = {"merge_schema": merge_schema, "partition_by": partition_by}
        return self._write(df, table, "overwrite_partitions", label, commit, **more)

    def _write(
        self, df: DataFrame, table: str | None, mode: str, label: str | None, commit: str | None, **how: Any
    ) -> int:
        self.refuse_inferring()
        return cast(int, import_module(TABLES).write(self, df, table, mode, label, commit, **how))


class DatabaseAccess(JobFields):
    """Reads and writes of PostgreSQL, see ``docs/guide/databases.md``."""

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
        """Add the rows and the write's id in one transaction, or nothing if the id is there; return the number of rows.

        Of a batch of a stream or of messages, rows of records that the database has are left out.

        Parameters
        ----------
        keys
            Columns with a unique index: rows with the same keys are replaced.
        order_by
            A column: of rows with the same keys the one with its greatest value wins.
        label
            Names a write of the script, the same in every attempt; default: its number, from 1.
        commit_id
            Replaces the write's id.
        database
            ``url``, as ``jdbc:postgresql://HOST:PORT/NAME``; ``credentials``, which names JSON with ``username`` and
            ``password``: ``secretsmanager:NAME`` or ``ssm:/PATH``; ``timeout_s`` (30) of a statement.

        Raises
        ------
        TableError
            If a retry is of no use.
        DatabaseError
            If it may help.
        """
        self.refuse_inferring()
        jdbc, unique = import_module(DATABASES), [keys] if isinstance(keys, str) else keys
        rows = jdbc.write(jdbc.Database(self, **database), df, table, unique, order_by, label, commit_id)
        return cast(int, rows)

    def jdbc_read(
        self, spark: SparkSession, table: str, *, split_by: str | None = None, connections: int = 1, **database: Any
    ) -> DataFrame:
        """The rows of a table, or of ``(SELECT …) AS name``, read now and kept by Spark.

        Parameters
        ----------
        split_by
            A column of numbers, dates or timestamps, by which several connections share the rows.
        connections
            As many read together, at most.
        database
            As for ``jdbc_write``, and so are the errors.
        """
        jdbc = import_module(DATABASES)
        frame: DataFrame = jdbc.read(jdbc.Database(self, **database), spark, table, split_by, connections)
        return frame
