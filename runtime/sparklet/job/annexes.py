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
    """``job.table``: the name of the job's table, "" if it has none. A call reads a table of Glue's Data Catalog."""

    job: JobFields

    def __reduce__(self) -> Any:
        """Pickle the name alone."""
        return str, (str(self),)

    def __call__(self, name: str, where: str = "") -> DataFrame:
        """Return the rows of ``DATABASE.TABLE``.

        ``where`` chooses partitions: ``where="day >= '2026-01-01' AND region <> 'us'"``. In a shard of a run over this
        table (``--input glue:DATABASE.TABLE``) only the rows of the shard's objects are returned.

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
        """Return the event's records: of Kinesis, Kafka (MSK) or DynamoDB Streams, or the bodies of SQS messages.

        Spark decodes them when the frame is used. Aggregates of the Kinesis Producer Library are split into records.

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
            With ``PERMISSIVE``: add a column ``_cause``, which says why a record cannot be read, or is null.
        options
            Options of Spark's reader of that format, such as ``timestampFormat`` or ``sep``.
        table
            Leave out the records that this script's writes without a label have put into this table. Needed for rows
            of aggregates and joins; for rows of single records ``append`` does it by itself. An ``upsert`` of rows that
            were computed from the table's rows succeeds only if no other write has replaced rows since this call.

        Raises
        ------
        EventError
            If the event is not such a batch, or if spark-avro is needed and missing.
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

    In a run the rows are staged, and one commit at the run's end adds the rows of all shards. Outside a run each write
    commits at once. Columns are matched by name; a type that does not fit the table's type without loss is an error.
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
        """Add the rows to a table. Return their number, for ``report``.

        Parameters
        ----------
        table
            ``iceberg:DATABASE.TABLE``, ``delta:URI``, ``hudi:URI`` or ``parquet:URI``. Default: the job's table.
        merge_schema
            Add new columns to the table; without this option new columns are an error.
        partition_by
            Columns that partition the table, if this write creates it.
        label
            A name for this write, the same in every attempt. Default: the write's number in the script, from 1.
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
            Columns. Without ``order_by`` no two rows of all shards together are allowed to have the same keys.
        order_by
            A column. Of the rows with the same keys, in the shards and in the table, the one with the greatest value
            in this column wins.
        delete
            A condition in SQL, such as ``"op = 'd'"``: a row that meets it deletes the table's row with the same keys,
            and is not added. A column that only the condition uses need not be in the table, and is not written then.
            A Hudi table needs the column ``_hoodie_is_deleted``: a new table gets it, an existing one gets it with
            ``merge_schema``.
        table, merge_schema, partition_by, label, commit
            As for ``append``. The result and the errors are the same, too.
        """
        options = {"merge_schema": merge_schema, "partition_by": partition_by, "keys": keys, "order_by": order_by}
        options["delete"] = delete
        return self._write(df, table, "upsert", label, commit, **options)

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
        """Replace each partition that a row of any shard belongs to: afterwards it has only these rows.

        A later commit of the same run, as after a redrive, keeps the rows that the run has written before.
        Parameters, result and errors are the same as for ``append``.
        """
        options = {"merge_schema": merge_schema, "partition_by": partition_by}
        return self._write(df, table, "overwrite_partitions", label, commit, **options)

    def _write(
        self, df: DataFrame, table: str | None, mode: str, label: str | None, commit: str | None, **options: Any
    ) -> int:
        self.refuse_inferring()
        return cast(int, import_module(TABLES).write(self, df, table, mode, label, commit, **options))


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
        """Add the rows and the write's id in one transaction. Return the number of rows.

        Nothing is added if the database has the id already. For a batch of a stream or of SQS messages, rows whose
        records the database already has are left out.

        Parameters
        ----------
        keys
            Columns with a unique index: rows with the same keys are replaced.
        order_by
            A column: of the rows with the same keys, the one with the greatest value in this column wins.
        label
            A name for this write, the same in every attempt. Default: the write's number in the script, from 1.
        commit_id
            The write's id. Default: an id that Sparklet makes.
        database
            ``url``: ``jdbc:postgresql://HOST:PORT/NAME``. ``credentials``: where JSON with ``username`` and
            ``password`` is stored, ``secretsmanager:NAME`` or ``ssm:/PATH``. ``timeout_s``: the time limit of a
            statement (default: 30).

        Raises
        ------
        TableError
            If a retry would not help.
        DatabaseError
            If a retry might help.
        """
        self.refuse_inferring()
        jdbc, key_columns = import_module(DATABASES), [keys] if isinstance(keys, str) else keys
        rows = jdbc.write(jdbc.Database(self, **database), df, table, key_columns, order_by, label, commit_id)
        return cast(int, rows)

    def jdbc_read(
        self, spark: SparkSession, table: str, *, split_by: str | None = None, connections: int = 1, **database: Any
    ) -> DataFrame:
        """Return the rows of a table, or of ``(SELECT …) AS name``. They are read at once, and kept by Spark.

        Parameters
        ----------
        split_by
            A column of numbers, dates or timestamps, by which the rows are divided among several connections.
        connections
            The greatest number of connections that read at the same time.
        database
            As for ``jdbc_write``. The errors are the same, too.
        """
        jdbc = import_module(DATABASES)
        frame: DataFrame = jdbc.read(jdbc.Database(self, **database), spark, table, split_by, connections)
        return frame
