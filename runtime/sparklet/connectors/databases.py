"""Reads and writes of PostgreSQL by the JVM's driver.

A write puts its rows into files, then files and commit id into the database, in one transaction; for a batch of a
stream the numbers of its records take the id's place. A read keeps its rows in Spark. So no connection outlasts a call,
or waits while the script computes.
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
PASSING = ("08", "25P03", "28P", "40", "53", "55P03", "57")
"""SQLSTATEs worth a retry: connections, rotated passwords, conflicts, resources, limits of time, restarts."""
# Sets only those limits that the server knows: idle_session_timeout came with PostgreSQL 14.
LIMITS = """SELECT set_config(name, CASE name WHEN 'tcp_keepalives_count' THEN '1' ELSE '{:.3f}s' END, false)
    FROM pg_settings WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
    'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count')"""
READ_COMMITTED = 2
BATCH_ROWS = 200_000  # one COPY, which must end in time
FETCH_ROWS = 10_000
TELLTALE = "org.apache.spark.sql.execution.datasources.jdbc.connection"  # at DEBUG it logs passwords
COMMITS = """CREATE TABLE IF NOT EXISTS sparklet_commits (commit_id text PRIMARY KEY, written_to text NOT NULL,
    row_count bigint NOT NULL, committed_at timestamptz NOT NULL DEFAULT now())"""
# Sequence numbers of Kinesis, and numbers of messages, are too large for a bigint.
RECORDS = """CREATE TABLE IF NOT EXISTS sparklet_records (chain text, first numeric, last numeric,
    numbers numeric[] NOT NULL, written_to text NOT NULL, committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain, last))"""
FOUND = """SELECT string_agg(number::text, ',') FROM sparklet_records, unnest(numbers) AS number
    WHERE chain = ? AND last >= ?::numeric AND first <= ?::numeric AND number = ANY (?::numeric[])"""
ADD = "INSERT INTO sparklet_records VALUES (?, ?::numeric, ?::numeric, ?::numeric[], ?)"
FORGET = f"DELETE FROM sparklet_records WHERE chain = ? AND committed_at < now() - interval '{KEPT_DAYS} days'"
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))"
_quiet = threading.Lock()


@dataclass(frozen=True)
class Database:
    """A database, as a script names it."""

    job: JobFields
    url: str
    credentials: str | None = None
    timeout_s: float = 30

    def __post_init__(self) -> None:
        if not self.url.startswith(PREFIX) or re.search("passw", self.url, re.IGNORECASE):
            raise ValueError(f"the url must be {PREFIX}//HOST:PORT/NAME, without a password: see credentials")

    @contextmanager
    def properties(self) -> Iterator[dict[str, str]]:
        """The driver's properties, with the password; no DEBUG line in the block, since py4j and botocore log it."""
        # The level is the process's: two blocks at once would put back each other's.
        with _quiet:
            before = logging.root.manager.disable
            logging.disable(max(before, logging.DEBUG))
            try:
                # The server itself ends a statement after ``timeout_s``; the client gives up only one that is silent.
                limits = {"connectTimeout": "10", "socketTimeout": f"{2 * self.timeout_s:.0f}"}
                yield {**limits, **(_login(self.credentials) if self.credentials else {})}
            finally:
                logging.disable(before)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection; its statements are one transaction, until that is committed."""
        jvm = SparkContext._jvm
        with self.properties() as properties:
            info = jvm.java.util.Properties()
            for name, value in properties.items():
                info.setProperty(name, value)
            made = jvm.org.postgresql.Driver().connect(self.url, info)
        with closing(made):
            _execute(made, LIMITS.format(self.timeout_s))  # first: until then a frozen worker keeps its connection
            made.setTransactionIsolation(READ_COMMITTED)  # what is read after a lock must be the newest
            made.setAutoCommit(False)
            yield made

    def tried(self, action: Callable[[], Any]) -> Any:
        """The action's result, after up to six tries; TableError if a retry is of no use, else DatabaseError."""
        if not has_class(SparkContext._jvm, DRIVER):
            raise TableError(f"there is no {DRIVER}: EXTRAS=postgresql of the image, else its jar in SPARKLET_JARS")
        for number in range(TRIES):
            time.sleep(random.uniform(0, 0.25 * 2**number) if number else 0)
            try:
                return action()
            except Py4JJavaError as error:
                exception = error.java_exception
                # Spark wraps what the driver raises in its tasks.
                while not is_instance_of(SparkContext._gateway, exception, "java.sql.SQLException"):
                    if (exception := exception.getCause()) is None:
                        raise
                state, cause = exception.getSQLState() or "", f"{exception.getSQLState()}: {exception.getMessage()}"
            if not state.startswith(PASSING):
                raise TableError(cause)
        raise DatabaseError(cause)


def _login(credentials: str) -> dict[str, str]:
    store, _, name = credentials.partition(":")
    if store not in ("secretsmanager", "ssm"):
        raise ValueError("credentials must be secretsmanager:NAME or ssm:/PATH")
    import boto3  # wherever a script runs on AWS, it is there

    make: Any = boto3.client
    client = make(store, region_name=os.environ.get("AWS_REGION"))  # boto3 itself reads AWS_DEFAULT_REGION
    if store == "ssm":
        text = client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    else:
        text = client.get_secret_value(SecretId=name)["SecretString"]
    try:
        secret = json.loads(text)
        return {"user": str(secret["username"]), "password": str(secret["password"])}
    # The cause would hold the text of the secret.
    except (ValueError, KeyError, TypeError):
        raise TableError(f"{credentials} holds no JSON with username and password") from None


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
    """See ``Job.jdbc_write``. Attempts at the same write take turns, so that all but the first find its rows."""
    if missing := [name for name in (*keys, order_by) if name and name not in frame.columns]:
        raise TableError(f"the frame has no column {', '.join(missing)}, which keys or order_by names")
    target, names = ".".join(map(_quoted, table.split("."))), ", ".join(map(_quoted, frame.columns))
    into = "sparklet_rows" if keys else target

    def transaction() -> int | None:
        with to.connection() as at:
            if (made := _begun(at, identity, batch)) is not None:
                return int(made)
            # Under the lock: the rows in the files were made for the records that were missing at the last look.
            if not batch.is_unchanged(at):
                return None
            if keys:
                # COPY knows no ON CONFLICT.
                _execute(at, f"CREATE TEMP TABLE {into} ON COMMIT DROP AS SELECT {names} FROM {target} WITH NO DATA")
            rows = 0
            for path in paths:
                with closing(files.open(path)) as stream:
                    rows += int(at.getCopyAPI().copyIn(f"COPY {into} ({names}) FROM STDIN", stream))
            if keys:
                _execute(at, _upsert(target, into, frame.columns, keys, order_by))
            if batch.chains:
                batch.add(at, target)
            else:
                _execute(at, "INSERT INTO sparklet_commits VALUES (?, ?, ?)", identity, target, rows)
            at.commit()
        return rows

    with to.job.outcome.reserve_label(label) as named:
        # Also where the script names an id: it refuses what may be there already, and tells the worker of this write.
        default_identity = commit_id(to.job, named)
        identity, batch = id_ or default_identity, Batch(to.job, None if id_ else named)
        rows = None
        while rows is None:  # the database has got records meanwhile: make the rows of the others
            with _staged(to.job, batch.new_rows(frame)) as (files, paths):
                rows = to.tried(transaction)
        return int(rows)


def _begun(connection: Any, identity: str, batch: Batch) -> Any:
    """Begin a write's transaction once others have ended; return its number of rows if the database has its id."""
    name, definition = ("sparklet_records", RECORDS) if batch.chains else ("sparklet_commits", COMMITS)
    # The look comes first, since the role may lack the right to make tables; the lock, since IF NOT EXISTS fails where
    # two sessions make one table.
    if _execute(connection, "SELECT to_regclass(?)::text", name) is None:
        _execute(connection, LOCK, name)
        _execute(connection, definition)
        connection.commit()
    # In one order, so that no two batches wait for each other
    for lock_name in sorted(batch.chains or [identity]):
        _execute(connection, LOCK, lock_name)
    if batch.chains:
        return None
    return _execute(connection, "SELECT row_count FROM sparklet_commits WHERE commit_id = ?", identity)


class Batch:
    """The stream records from which a write makes its rows, as the database counts them; none for other writes."""

    def __init__(self, job: JobFields, label: str | None) -> None:
        counted, self._failed = {} if label is None else records_by_chain(job, label), failed_numbers(job)
        self._job = job
        self.chains = {chain: (name, numbers - self._failed) for chain, (name, numbers) in counted.items()}
        self._old: dict[str, set[int]] = {chain: set() for chain in self.chains}

    def new_rows(self, frame: DataFrame) -> DataFrame:
        """The rows whose records the database lacked last time; TableError if rows do not show their records."""
        if self.chains and self._job.outcome.has_left_out:
            raise TableError("job.records(…, table=…) has left out what that table has: read without a table")
        if self.chains and all(self._old[chain] == numbers for chain, (_, numbers) in self.chains.items()):
            return frame.limit(0)
        old = [label for c, (name, _) in self.chains.items() for label in labels(self._job.event, name, self._old[c])]
        try:
            return without_records(frame, self._job.event, [*old, *labels(self._job.event, "", self._failed)])
        except AnalysisException as error:
            if not old:  # the script has left out what it has failed
                return frame
            self._job.outcome.give("committed", old)
            raise TableError(
                f"the database has {len(old)} records of this batch, and rows of aggregates or joins do not show "
                "their records: write a row for each record, or name the write by commit_id"
            ) from error

    def is_unchanged(self, connection: Any) -> bool:
        """Look up the records that the database has, and return whether they are the same as last time."""
        before, self._old = self._old, {}
        for chain, (_, numbers) in self.chains.items():
            bounds = (str(find(numbers, default=0)) for find in (min, max))
            stored_numbers = _execute(connection, FOUND, chain, *bounds, _array(numbers))
            self._old[chain] = set(map(int, stored_numbers.split(","))) if stored_numbers else set()
        return before == self._old

    def add(self, connection: Any, target: str) -> None:
        """Add the records that are new."""
        for chain, (_, numbers) in self.chains.items():
            if new := numbers - self._old[chain]:
                _execute(connection, ADD, chain, str(min(new)), str(max(new)), _array(new), target)
            if chain.startswith(MESSAGES):
                _execute(connection, FORGET, chain)


def _array(numbers: set[int]) -> str:
    return f"{{{','.join(map(str, sorted(numbers)))}}}"


def _upsert(target: str, source: str, columns: Sequence[str], keys: Sequence[str], order_by: str | None) -> str:
    """One statement in the order of the keys, so that two shards do not lock each other out."""
    names, of_keys = (", ".join(map(_quoted, column_names)) for column_names in (columns, keys))
    changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in columns if name not in keys)
    then, chosen, order = f"UPDATE SET {changes}" if changes else "NOTHING", "", of_keys
    if order_by and changes:
        by = _quoted(order_by)
        then += f" WHERE old.{by} IS NULL OR excluded.{by} >= old.{by}"
        chosen, order = f"DISTINCT ON ({of_keys})", f"{of_keys}, {by} DESC NULLS LAST"
    rows = f"SELECT {chosen} {names} FROM {source} ORDER BY {order}"
    return f"INSERT INTO {target} AS old ({names}) {rows} ON CONFLICT ({of_keys}) DO {then}"


@contextmanager
def _staged(job: JobFields, frame: DataFrame) -> Iterator[tuple[Any, list[Any]]]:
    """The rows in files, as the text that COPY reads, for the block: their file system, and their paths."""
    spark = frame.sparkSession
    is_local = spark.sparkContext.master.startswith("local")
    # On a cluster executors have disks of their own, so the driver reads their files from the output.
    base = f"file://{tempfile.gettempdir()}" if is_local else f"{job.output}/{CHANGES}"
    folder, files = hadoop_path(spark, f"{base}/sparklet-rows-{uuid.uuid4().hex}")
    try:
        lines = frame.select(F.concat_ws("\t", *map(_text, frame.schema)))
        lines.write.option("maxRecordsPerFile", BATCH_ROWS).text(folder.toString())
        paths = [status.getPath() for status in files.listStatus(folder)]
        yield files, [path for path in paths if path.getName().startswith("part-")]
    finally:
        files.delete(folder, True)


def _text(field: StructField) -> Column:
    """A column's values in COPY's text format."""
    value, kind = F.col(backquoted(field.name)), field.dataType
    if isinstance(kind, (ArrayType, MapType, StructType)):
        value, kind = F.to_json(value), StringType()
    if isinstance(kind, StringType):
        value = F.regexp_replace(value, r"([\\\n\r\t])", r"\\$1")
    elif isinstance(kind, BinaryType):
        value = F.concat(F.lit("\\\\x"), F.hex(value))
    elif isinstance(kind, TimestampType):
        value = F.date_format(value, "yyyy-MM-dd HH:mm:ss.SSSSSSXXXXX")
    return F.coalesce(value.cast("string"), F.lit("\\N"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read(of: Database, spark: SparkSession, table: str, split_by: str | None, connections: int) -> DataFrame:
    """See ``Job.jdbc_read``. A local checkpoint cuts the rows from their source, so no plan has the password."""
    log4j = spark._jvm.org.apache.logging.log4j
    log4j.core.config.Configurator.setLevel(TELLTALE, log4j.Level.INFO)

    def at_once() -> DataFrame:
        with of.properties() as properties:
            how = {"url": of.url, "driver": DRIVER, "fetchsize": FETCH_ROWS}
            reader = spark.read.format("jdbc").options(**properties, **how)
        reader.option("sessionInitStatement", LIMITS.format(of.timeout_s))
        if split_by:
            by = _quoted(split_by)
            bounds = f"(SELECT min({by})::text AS low, max({by})::text AS high FROM {table}) AS bounds"
            low, high = reader.option("dbtable", bounds).load().collect()[0]
            if low is not None:
                reader.options(partitionColumn=by, lowerBound=low, upperBound=high, numPartitions=connections)
        return reader.option("dbtable", table).load().localCheckpoint()

    return of.tried(at_once)
