"""Reads and writes of PostgreSQL by the JVM's driver.

A write first puts its rows into files, then the files' rows and its commit id into the database, in one transaction.
For a batch of a stream the numbers of the batch's records are stored instead of the id. A read keeps its rows in Spark.
So no connection stays open after a call, or waits while the script computes.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from py4j.java_gateway import is_instance_of
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - its usual name
from pyspark.sql.types import ArrayType, BinaryType, MapType, StringType, StructField, StructType, TimestampType

from sparklet.connectors.streams import without_records
from sparklet.job.commit_ids import KEPT_DAYS, MESSAGES, commit_id, failed_numbers, labels, records_by_chain
from sparklet.job.errors import DatabaseError, TableError
from sparklet.job.fields import CHANGES, JobFields
from sparklet.job.session import backquoted, hadoop_path, has_class

DRIVER, PREFIX = "org.postgresql.Driver", "jdbc:postgresql:"
TRIES = 6
RETRYABLE = ("08", "25P03", "28P", "40", "53", "55P03", "57")
"""SQLSTATEs worth a retry: connections, rotated passwords, conflicts, resources, time limits, restarts."""
# Only the limits that the server knows are set: idle_session_timeout came with PostgreSQL 14.
LIMITS = """SELECT set_config(name, CASE name WHEN 'tcp_keepalives_count' THEN '1' ELSE '{:.3f}s' END, false)
    FROM pg_settings WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
    'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count')"""
READ_COMMITTED = 2
BATCH_ROWS = 200_000  # of one COPY, which must end within a statement's time limit
FETCH_ROWS = 10_000
LEAKING_LOGGER = "org.apache.spark.sql.execution.datasources.jdbc.connection"  # at DEBUG it logs passwords
COMMITS = """CREATE TABLE IF NOT EXISTS sparklet_commits (commit_id text PRIMARY KEY, written_to text NOT NULL,
    row_count bigint NOT NULL, committed_at timestamptz NOT NULL DEFAULT now())"""
# Sequence numbers of Kinesis, and numbers of messages, are too large for a bigint.
RECORDS = """CREATE TABLE IF NOT EXISTS sparklet_records (chain text, first numeric, last numeric,
    numbers numeric[] NOT NULL, written_to text NOT NULL, committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain, last))"""
FIND_RECORDS = """SELECT string_agg(number::text, ',') FROM sparklet_records, unnest(numbers) AS number
    WHERE chain = ? AND last >= ?::numeric AND first <= ?::numeric AND number = ANY (?::numeric[])"""
ADD_RECORDS = "INSERT INTO sparklet_records VALUES (?, ?::numeric, ?::numeric, ?::numeric[], ?)"
FORGET_RECORDS = f"DELETE FROM sparklet_records WHERE chain = ? AND committed_at < now() - interval '{KEPT_DAYS} days'"
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))"
_logging_lock = threading.Lock()


@dataclass(frozen=True)
class Database:
    """A database, with the parameters that a script names for it."""

    job: JobFields
    url: str
    credentials: str | None = None
    timeout_s: float = 30

    def __post_init__(self) -> None:
        if not self.url.startswith(PREFIX) or re.search("passw", self.url, re.IGNORECASE):
            raise ValueError(f"the url must be {PREFIX}//HOST:PORT/NAME, without a password: see credentials")

    @contextmanager
    def properties(self) -> Iterator[dict[str, str]]:
        """Yield the driver's properties, with the password. DEBUG is off, since py4j and botocore would log it."""
        # The level is the whole process's, so two blocks at the same time would restore each other's level.
        with _logging_lock:
            before = logging.root.manager.disable
            logging.disable(max(before, logging.DEBUG))
            try:
                # The server itself ends a statement after ``timeout_s``; the client waits longer, for a silent server.
                limits = {"connectTimeout": "10", "socketTimeout": f"{2 * self.timeout_s:.0f}"}
                yield {**limits, **(_login(self.credentials) if self.credentials else {})}
            finally:
                logging.disable(before)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Yield a connection, whose statements are one transaction until it is committed."""
        jvm = SparkContext._jvm
        with self.properties() as properties:
            info = jvm.java.util.Properties()
            for name, value in properties.items():
                info.setProperty(name, value)
            connection = jvm.org.postgresql.Driver().connect(self.url, info)
        with closing(connection):
            # First of all, since without these limits a frozen worker would keep its connection.
            _execute(connection, LIMITS.format(self.timeout_s))
            connection.setTransactionIsolation(READ_COMMITTED)  # a read after a lock must return the newest rows
            connection.setAutoCommit(False)
            yield connection

    def with_retries(self, action: Callable[[], Any]) -> Any:
        """Return the action's result after up to six tries. TableError if a retry cannot help, else DatabaseError."""
        if not has_class(SparkContext._jvm, DRIVER):
            raise TableError(
                f"there is no {DRIVER}: build the image with EXTRAS=postgresql, or name the driver's jar in "
                "SPARKLET_JARS"
            )
        for number in range(TRIES):
            time.sleep(random.uniform(0, 0.25 * 2**number) if number else 0)
            try:
                return action()
            except Py4JJavaError as error:
                exception = error.java_exception
                # Spark wraps errors that the driver raises in Spark's tasks.
                while not is_instance_of(SparkContext._gateway, exception, "java.sql.SQLException"):
                    if (exception := exception.getCause()) is None:
                        raise
                state, cause = exception.getSQLState() or "", f"{exception.getSQLState()}: {exception.getMessage()}"
            if not state.startswith(RETRYABLE):
                raise TableError(cause)
        raise DatabaseError(cause)


def _login(credentials: str) -> dict[str, str]:
    """Return user and password, read from AWS's store of secrets or parameters."""
    store, _, name = credentials.partition(":")
    if store not in ("secretsmanager", "ssm"):
        raise ValueError("credentials must be secretsmanager:NAME or ssm:/PATH")
    import boto3  # every AWS platform on which scripts run has it

    make_client: Any = boto3.client
    client = make_client(store, region_name=os.environ.get("AWS_REGION"))  # boto3 itself reads AWS_DEFAULT_REGION
    if store == "ssm":
        text = client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    else:
        text = client.get_secret_value(SecretId=name)["SecretString"]
    try:
        secret = json.loads(text)
        return {"user": str(secret["username"]), "password": str(secret["password"])}
    # Raised without its cause, which contains the secret's text.
    except (ValueError, KeyError, TypeError):
        raise TableError(f"{credentials} does not hold JSON with username and password") from None


def _execute(connection: Any, statement: str, *values: Any) -> Any:
    """Execute a statement; return the first value of its result, if it has one."""
    with closing(connection.prepareStatement(statement)) as prepared:
        for position, value in enumerate(values, 1):
            prepared.setObject(position, value)
        result = prepared.getResultSet() if prepared.execute() else None
        return result.getObject(1) if result and result.next() else None


def write(
    to: Database, frame: DataFrame, table: str, keys: Sequence[str], order_by: str | None, label: str | None, id_: Any
) -> int:
    """See ``Job.jdbc_write``. Attempts at one write wait for each other: the first writes, later ones find its id."""
    if missing := [name for name in (*keys, order_by) if name and name not in frame.columns]:
        raise TableError(f"the frame has no column {', '.join(missing)}, which keys or order_by names")
    target, columns = ".".join(map(_quoted, table.split("."))), ", ".join(map(_quoted, frame.columns))
    copy_target = "sparklet_rows" if keys else target  # COPY itself knows no ON CONFLICT

    def commit_files() -> int | None:
        """Return the number of rows; None if the database has got records of the batch since the files were made."""
        with to.connection() as connection:
            if (earlier_rows := _begin(connection, write_id, batch)) is not None:
                return int(earlier_rows)
            if not batch.is_unchanged(connection):
                return None
            if keys:
                definition = f"SELECT {columns} FROM {target} WITH NO DATA"
                _execute(connection, f"CREATE TEMP TABLE {copy_target} ON COMMIT DROP AS {definition}")
            rows = 0
            for path in paths:
                with closing(file_system.open(path)) as stream:
                    rows += int(connection.getCopyAPI().copyIn(f"COPY {copy_target} ({columns}) FROM STDIN", stream))
            if keys:
                _execute(connection, _upsert(target, copy_target, frame.columns, keys, order_by))
            if batch.chains:
                batch.add(connection, target)
            else:
                _execute(connection, "INSERT INTO sparklet_commits VALUES (?, ?, ?)", write_id, target, rows)
            connection.commit()
        return rows

    with to.job.outcome.reserve_label(label) as write_label:
        # Called even if the script names an id: it refuses a write whose rows may be there, and informs the worker.
        default_id = commit_id(to.job, write_label)
        write_id, batch = id_ or default_id, Batch(to.job, None if id_ else write_label)
        rows = None
        while rows is None:  # each round makes files without the rows whose records the database has got meanwhile
            with _staged_files(to.job, batch.new_rows(frame)) as (file_system, paths):
                rows = to.with_retries(commit_files)
        return int(rows)


def _begin(connection: Any, write_id: str, batch: Batch) -> Any:
    """Begin a write's transaction once other attempts at it have ended.

    Return the number of rows if an earlier attempt has committed the write; None if none has, and for a stream's batch.
    Makes the table of ids or records if it is missing.
    """
    name, definition = ("sparklet_records", RECORDS) if batch.chains else ("sparklet_commits", COMMITS)
    # The table is looked for first, since the role may have no right to create tables. The lock is needed since IF NOT
    # EXISTS fails if two sessions create the same table.
    if _execute(connection, "SELECT to_regclass(?)::text", name) is None:
        _execute(connection, LOCK, name)
        _execute(connection, definition)
        connection.commit()
    # All writes lock in the same order, so that no two batches wait for each other.
    for lock_name in sorted(batch.chains or [write_id]):
        _execute(connection, LOCK, lock_name)
    if batch.chains:
        return None
    return _execute(connection, "SELECT row_count FROM sparklet_commits WHERE commit_id = ?", write_id)


class Batch:
    """The stream records of which a write's rows are made, by chain; a write of other rows has no chains.

    ``label`` is None if the script names the write's id, which then identifies the write instead.
    """

    def __init__(self, job: JobFields, label: str | None) -> None:
        by_chain, self._failed = {} if label is None else records_by_chain(job, label), failed_numbers(job)
        self._job = job
        self.chains = {chain: (name, numbers - self._failed) for chain, (name, numbers) in by_chain.items()}
        self._old: dict[str, set[int]] = {chain: set() for chain in self.chains}  # records that the database has

    def new_rows(self, frame: DataFrame) -> DataFrame:
        """Return the rows whose records the database did not have at the last check.

        TableError if Spark cannot tell which records the rows are made of, or if the script has left out records.
        """
        if self.chains and self._job.outcome.has_left_out:
            raise TableError(
                "job.records(…, table=…) has left out the records that this table has: to write elsewhere, read "
                "without table="
            )
        if self.chains and all(self._old[chain] == numbers for chain, (_, numbers) in self.chains.items()):
            return frame.limit(0)
        event = self._job.event
        old = [label for chain, (name, _) in self.chains.items() for label in labels(event, name, self._old[chain])]
        try:
            return without_records(frame, event, [*old, *labels(event, "", self._failed)])
        except AnalysisException as error:
            if not old:  # the script itself leaves out messages that it reports as failed
                return frame
            self._job.outcome.give("committed", old)
            raise TableError(
                f"the database has {len(old)} records of this batch, and rows of aggregates or joins do not show "
                "their records: write a row for each record, or name the write by commit_id"
            ) from error

    def is_unchanged(self, connection: Any) -> bool:
        """Read which records the database has, and return whether they are the same as before."""
        before, self._old = self._old, {}
        for chain, (_, numbers) in self.chains.items():
            least, greatest = str(min(numbers, default=0)), str(max(numbers, default=0))
            stored_numbers = _execute(connection, FIND_RECORDS, chain, least, greatest, _array(numbers))
            self._old[chain] = set(map(int, stored_numbers.split(","))) if stored_numbers else set()
        return before == self._old

    def add(self, connection: Any, target: str) -> None:
        """Add the numbers of the records that the database does not have; delete those of old messages."""
        for chain, (_, numbers) in self.chains.items():
            if new := numbers - self._old[chain]:
                _execute(connection, ADD_RECORDS, chain, str(min(new)), str(max(new)), _array(new), target)
            if chain.startswith(MESSAGES):
                _execute(connection, FORGET_RECORDS, chain)


def _array(numbers: set[int]) -> str:
    return f"{{{','.join(map(str, sorted(numbers)))}}}"


def _upsert(target: str, source: str, columns: Sequence[str], keys: Sequence[str], order_by: str | None) -> str:
    """Return one statement that upserts the rows in the order of their keys, so that two shards cannot deadlock."""
    column_list, key_list = (", ".join(map(_quoted, names)) for names in (columns, keys))
    changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in columns if name not in keys)
    action, distinct, order = f"UPDATE SET {changes}" if changes else "NOTHING", "", key_list
    if order_by and changes:
        by = _quoted(order_by)
        action += f" WHERE old.{by} IS NULL OR excluded.{by} >= old.{by}"
        distinct, order = f"DISTINCT ON ({key_list})", f"{key_list}, {by} DESC NULLS LAST"
    rows = f"SELECT {distinct} {column_list} FROM {source} ORDER BY {order}"
    return f"INSERT INTO {target} AS old ({column_list}) {rows} ON CONFLICT ({key_list}) DO {action}"


@contextmanager
def _staged_files(job: JobFields, frame: DataFrame) -> Iterator[tuple[Any, list[Any]]]:
    """Write the rows to files in COPY's text format. Yield the files' file system and paths; delete the files after."""
    spark = frame.sparkSession
    is_local = spark.sparkContext.master.startswith("local")
    # On a cluster executors have their own disks, so they write to the output, from where the driver can read.
    base = f"file://{tempfile.gettempdir()}" if is_local else f"{job.output}/{CHANGES}"
    folder, file_system = hadoop_path(spark, f"{base}/sparklet-rows-{uuid.uuid4().hex}")
    try:
        lines = frame.select(F.concat_ws("\t", *map(_copy_text, frame.schema)))
        lines.write.option("maxRecordsPerFile", BATCH_ROWS).text(folder.toString())
        paths = [status.getPath() for status in file_system.listStatus(folder)]
        yield file_system, [path for path in paths if path.getName().startswith("part-")]
    finally:
        file_system.delete(folder, True)


def _copy_text(field: StructField) -> Column:
    """Return a column's values in COPY's text format."""
    value, type_ = F.col(backquoted(field.name)), field.dataType
    if isinstance(type_, (ArrayType, MapType, StructType)):
        value, type_ = F.to_json(value), StringType()
    if isinstance(type_, StringType):
        value = F.regexp_replace(value, r"([\\\n\r\t])", r"\\$1")
    elif isinstance(type_, BinaryType):
        value = F.concat(F.lit("\\\\x"), F.hex(value))
    elif isinstance(type_, TimestampType):
        value = F.date_format(value, "yyyy-MM-dd HH:mm:ss.SSSSSSXXXXX")
    return F.coalesce(value.cast("string"), F.lit("\\N"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read(database: Database, spark: SparkSession, table: str, split_by: str | None, connections: int) -> DataFrame:
    """See ``Job.jdbc_read``. A local checkpoint cuts the rows from their source, so no plan has the password."""
    log4j = spark._jvm.org.apache.logging.log4j
    log4j.core.config.Configurator.setLevel(LEAKING_LOGGER, log4j.Level.INFO)

    def read_rows() -> DataFrame:
        with database.properties() as properties:
            options = {"url": database.url, "driver": DRIVER, "fetchsize": FETCH_ROWS}
            reader = spark.read.format("jdbc").options(**properties, **options)
        reader.option("sessionInitStatement", LIMITS.format(database.timeout_s))
        if split_by:
            by = _quoted(split_by)
            bounds = f"(SELECT min({by})::text AS low, max({by})::text AS high FROM {table}) AS bounds"
            low, high = reader.option("dbtable", bounds).load().collect()[0]
            if low is not None:
                reader.options(partitionColumn=by, lowerBound=low, upperBound=high, numPartitions=connections)
        return reader.option("dbtable", table).load().localCheckpoint()

    return database.with_retries(read_rows)
