"""PostgreSQL by JDBC: each row once, and no more connections than the database can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from sparklet.job.annexes import DATABASES, annex
from sparklet.job.fields import JobFields

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


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
