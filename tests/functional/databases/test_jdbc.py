"""Reads and writes of a real PostgreSQL: values come back unchanged and once, and no log has the password.

Batches of streams, too, are written once.
"""

import datetime
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession, functions

from sparklet.connectors import databases
from sparklet.job import Job
from sparklet.job.errors import DatabaseError, TableError
from tests.stand_ins.postgresql import PASSWORD, PostgreSQL
from tests.unit.events import samples

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("account")]
NOW = datetime.datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=datetime.UTC)
ODD = "tab\t, line\nand\r, back\\slash, \\N, quote\" ' and {ü, 🦆} \\."
FIRST = 49590338271490256608559692538361571095921575989136588898
Rows = Callable[..., DataFrame]


@pytest.fixture
def database(server: PostgreSQL) -> dict[str, Any]:
    return {"url": server.url, "credentials": "secretsmanager:owner"}


@pytest.fixture
def table(server: PostgreSQL, request: pytest.FixtureRequest) -> str:
    """An empty table for this test, in a schema whose name needs quotes."""
    name = request.node.name[:40]
    server.ask('CREATE SCHEMA IF NOT EXISTS "a b"')
    server.ask(f'CREATE TABLE "a b"."{name}" (id bigint UNIQUE, text text, changed int)')
    return f"a b.{name}"


@pytest.fixture
def rows(spark: SparkSession) -> Rows:
    return lambda *values: spark.createDataFrame(list(values), "id long, text string, changed int")


@pytest.fixture
def quoted(table: str) -> str:
    return ".".join(f'"{part}"' for part in table.split("."))


@pytest.fixture
def stored(server: PostgreSQL, quoted: str) -> Callable[[], list[tuple[Any, ...]]]:
    return lambda: server.ask(f"SELECT id, text, changed FROM {quoted} ORDER BY id")


def job_of_run(shard: int = 3, attempt: int = 1) -> Job:
    return Job(run_id="r", shard=shard, attempt=str(attempt), event={"sparklet": {"identity": "r@1"}})


def test_every_value_comes_back_unchanged(spark: SparkSession, server: PostgreSQL, database: dict[str, Any]) -> None:
    types = (
        "i int, d double precision, n numeric(20,6), b boolean, t text, day date, at timestamptz, raw bytea, j jsonb"
    )
    server.ask(f"CREATE TABLE typed ({types}, missing int DEFAULT 7)")
    row = (1, float("-inf"), Decimal("0.000001"), True, ODD, NOW.date(), NOW, bytearray(b"\0\\x\n"), [{"a": ODD}])
    nothing = (None, None, None, None, "", None, None, None, None)
    schema = "i int, d double, n decimal(20,6), b boolean, t string, day date, at timestamp, raw binary"
    frame = spark.createDataFrame([row, nothing], f"{schema}, j array<struct<a:string>>")

    assert Job().jdbc_write(frame, "typed", **database) == 2

    query = "(SELECT i, d, n, b, t, day, at, raw, missing FROM typed) AS q"
    found = Job().jdbc_read(spark, query, **{**database, "credentials": "ssm:/db/owner"})
    arrived = map(tuple, found.withColumn("at", found.at.cast("string")).collect())
    expected = [(*row[:6], "2026-03-29 01:30:00.123456", row[7], 7), (*nothing[:8], 7)]
    assert sorted(arrived, key=str) == sorted(expected, key=str)
    assert server.ask("SELECT j->0->>'a' FROM typed WHERE i = 1") == [(ODD,)]


def test_a_write_is_made_once(rows: Rows, table: str, stored: Any, database: dict[str, Any]) -> None:
    assert job_of_run().jdbc_write(rows((1, "a", 0)), table, **database) == 1
    assert job_of_run(attempt=2).jdbc_write(rows((1, "a", 0), (2, "b", 0)), table, **database) == 1
    assert stored() == [(1, "a", 0)]

    job_of_run(shard=4).jdbc_write(rows((4, "other shard", 0)), table, **database)
    job_of_run().jdbc_write(rows((5, "other label", 0)), table, label="b", **database)
    for _ in range(2):
        Job().jdbc_write(rows((6, "own id", 0)), table, commit_id="mine", **database)
        Job(event=samples.sns("{}")).jdbc_write(rows((7, "event", 0)), table, **database)
    assert [row[0] for row in stored()] == [1, 4, 5, 6, 7]


def test_an_upsert_keeps_the_newest_row_of_each_key(
    rows: Rows, table: str, stored: Any, database: dict[str, Any]
) -> None:
    Job().jdbc_write(rows((1, "old", 1), (2, "newer", 9), (3, "no time", None)), table, **database)

    new = rows((1, "second", 3), (1, "third", 4), (2, "late", 5), (3, "x", 0), (4, "y", None))
    Job().jdbc_write(new, table, keys="id", order_by="changed", **database)
    Job().jdbc_write(rows((4, "z", 1)).select("id", "text"), table, keys=["id"], **database)

    assert stored() == [(1, "third", 4), (2, "newer", 9), (3, "x", 0), (4, "z", None)]


def test_a_refused_write_changes_nothing(rows: Rows, table: str, stored: Any, database: dict[str, Any]) -> None:
    twice = rows((1, "a", 0), (1, "b", 0))

    with pytest.raises(TableError, match="23505"):
        job_of_run(shard=5).jdbc_write(twice, table, **database)
    with pytest.raises(TableError, match="21000"):
        job_of_run(shard=5).jdbc_write(twice, table, keys="id", **database)
    with pytest.raises(TableError, match="42P01"):
        job_of_run(shard=5).jdbc_write(twice, "a b.nowhere", **database)
    with pytest.raises(TableError, match="no column day"):
        job_of_run(shard=5).jdbc_write(twice, table, keys="day", **database)
    assert stored() == []
    assert job_of_run(shard=5).jdbc_write(rows((1, "a", 0)), table, **database) == 1, "no id was left"


def test_a_read_shares_its_rows_over_connections(
    spark: SparkSession, quoted: str, server: PostgreSQL, database: Any
) -> None:
    server.ask(f"INSERT INTO {quoted} SELECT n, 'row', 0 FROM generate_series(1, 1000) AS n")

    frame = Job().jdbc_read(spark, quoted, split_by="id", connections=4, **database)

    assert frame.rdd.getNumPartitions() == 4
    assert sorted(row.id for row in frame.collect()) == list(range(1, 1001))
    server.ask(f"DELETE FROM {quoted}")
    assert frame.count() == 1000, "it was read at once"
    assert Job().jdbc_read(spark, quoted, split_by="id", connections=4, **database).count() == 0
    server.ask(f"INSERT INTO {quoted} VALUES (1, 'row', 0), (9, 'row', 0)")
    assert Job().jdbc_read(spark, quoted, split_by="id", connections=4, **database).count() == 2


@pytest.mark.usefixtures("spark")
def test_the_server_gets_the_time_limits_of_a_session(database: Any) -> None:
    with databases.Database(Job(), **database, timeout_s=2).connection() as connection:
        limits = ("statement_timeout", "idle_session_timeout", *(f"tcp_keepalives_{n}" for n in ("idle", "interval")))
        settings = ", ".join(f"current_setting('{name}')" for name in limits)
        # One query for all of them: an idle session would be ended.
        result = connection.createStatement().executeQuery(f"SELECT {settings}")
        assert result.next() and [result.getString(column) for column in (1, 2, 3, 4)] == ["2s", "2s", "2", "2"]


def test_the_password_appears_in_no_log_or_plan(
    spark: SparkSession,
    spark_log: Path,
    rows: Rows,
    table: str,
    quoted: str,
    database: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("py4j", "py4j.clientserver", "py4j.java_gateway", "botocore", "botocore.parsers"):
        caplog.set_level(logging.DEBUG, name)
    spark.sparkContext.setLogLevel("DEBUG")
    Job().jdbc_write(rows((1, "a", 0)), table, **database)
    frame = Job().jdbc_read(spark, quoted, split_by="id", connections=2, **database)
    plan = frame._jdf.queryExecution().toString() + frame.rdd.toDebugString().decode()
    errors = []
    monkeypatch.setattr(databases, "TRIES", 2)
    for wrong in ({"credentials": "secretsmanager:odd"}, {"credentials": "secretsmanager:wrong"}):
        with pytest.raises((TableError, DatabaseError)) as raised:
            Job().jdbc_write(rows((1, "a", 0)), table, **{**database, **wrong})
        errors.append("".join(traceback.format_exception(raised.value)))
    with pytest.raises(TableError) as raised:
        Job().jdbc_read(spark, "nowhere", **database)
    spark.sparkContext.setLogLevel("OFF")

    texts = caplog.text + plan + "".join(errors) + str(raised.value) + spark_log.read_text()
    assert "Command to send" in texts and "JDBC" in texts, "all of them did log"
    assert PASSWORD not in texts and PASSWORD.replace("'", "''") not in texts


def test_an_invalid_url_or_credentials_are_refused(
    rows: Rows, table: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ({"url": database["url"] + "?password=x"}, {"url": "jdbc:mysql://h/d"}, {"credentials": "env:X"}):
        with pytest.raises(ValueError, match="must be"):
            Job().jdbc_write(rows(), table, **{**database, **wrong})
    monkeypatch.setattr(databases, "TRIES", 2)
    with pytest.raises(DatabaseError, match="08001"):
        Job().jdbc_write(rows(), table, **{**database, "url": "jdbc:postgresql://127.0.0.1:1/none"})


# Batches of streams: each record is written once, however batches are cut, repeated and mixed


class Orders:
    """A table, and a script that writes a row for each record of a batch to it."""

    def __init__(self, spark: SparkSession, server: PostgreSQL, name: str) -> None:
        self.spark, self.server, self.name = spark, server, name
        server.ask(f"CREATE TABLE {name} (id numeric)")
        self.database = {"url": server.url, "credentials": "secretsmanager:owner"}

    def deliver(self, job: Job, *, in_sum: bool = False) -> int:
        """Write a row for each record; ``in_sum`` one row of their sum, which does not show the records it is made of.

        Return the number of written rows.
        """
        records = job.records(self.spark, "raw", metadata=True)
        (number,) = {"offset", "sequence_number", "message_id"}.intersection(records.select("_record.*").columns)
        rows = records.selectExpr(f"CAST(_record.{number} AS string) AS id")
        if in_sum:
            rows = rows.agg(functions.expr("CAST(sum(id) AS bigint) AS id"))
        return job.jdbc_write(rows, self.name, **self.database)

    def ids(self) -> list[int]:
        return [int(id_) for (id_,) in self.server.ask(f"SELECT id FROM {self.name} ORDER BY id")]


@pytest.fixture
def orders(spark: SparkSession, server: PostgreSQL, request: pytest.FixtureRequest) -> Orders:
    server.ask("DROP TABLE IF EXISTS sparklet_commits, sparklet_records")
    return Orders(spark, server, f"t{abs(hash(request.node.name))}")


def kafka(*offsets: int) -> Job:
    return Job(event=samples.kafka({"orders-0": list(offsets)}))


def kinesis(*numbers: int) -> Job:
    return Job(event={"Records": [samples.kinesis(str(FIRST + number)) for number in numbers]})


def messages(*ids: int) -> Job:
    return Job(event={"Records": [samples.sqs(str(id_), "{}") for id_ in ids]})


def test_kafka_batches_that_are_cut_anew_write_each_record_once(orders: Orders) -> None:
    """All were written, but the response was lost; the batch comes again in two parts, the second with new records."""
    assert orders.deliver(kafka(*range(10))) == 10
    assert orders.deliver(kafka(*range(6))) == 0
    assert orders.deliver(kafka(*range(6, 13))) == 3

    assert orders.ids() == list(range(13))


def test_overlapping_kinesis_batches_write_each_record_once(orders: Orders) -> None:
    for numbers in [(1, 5, 9), (2, 6), (1, 5), (1, 2, 3), (9,), (4, 5, 7, 9)]:
        orders.deliver(kinesis(*numbers))

    assert [id_ - FIRST for id_ in orders.ids()] == [1, 2, 3, 4, 5, 6, 7, 9]


def test_concurrent_deliveries_write_each_record_once(orders: Orders) -> None:
    batches = [kafka(*range(6)), kafka(*range(3, 9)), kafka(*range(6)), kafka(8, 9)]
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(orders.deliver, batches))

    assert orders.ids() == list(range(10))


def test_a_sum_over_partly_written_records_is_refused(orders: Orders) -> None:
    assert orders.deliver(kafka(1, 2, 3), in_sum=True) == 1
    assert orders.deliver(kafka(2, 3), in_sum=True) == 0

    with pytest.raises(TableError, match=r"2 records of this batch.*commit_id"):
        orders.deliver(kafka(2, 3, 4), in_sum=True)
    assert orders.ids() == [6]


def test_messages_in_a_second_batch_are_written_once(orders: Orders) -> None:
    first, last = messages(1, 2, 3), messages(4)
    first.fail_message("2", "bad")
    last.fail_message("4", "bad")

    orders.deliver(first)
    assert orders.ids() == [1, 3]
    orders.deliver(messages(3, 2, 4))
    orders.deliver(last)
    orders.server.ask("UPDATE sparklet_records SET committed_at = now() - interval '16 days'")
    orders.deliver(messages(5))

    assert orders.ids() == [1, 2, 3, 4, 5]
    assert orders.server.ask("SELECT sum(array_length(numbers, 1)) FROM sparklet_records") == [(1,)], "old ids are gone"


def test_a_refused_sum_fails_only_the_written_messages(orders: Orders) -> None:
    orders.deliver(messages(1, 2), in_sum=True)

    mixed = messages(2, 3)
    with pytest.raises(TableError):
        orders.deliver(mixed, in_sum=True)
    assert mixed.outcome.totals["committed"] == ["2"]
    assert orders.ids() == [3]


def test_records_read_for_another_table_are_refused(orders: Orders) -> None:
    """Reading for one table leaves out the records that it has; another table would count them as written to it."""
    job = kafka(1, 2)
    # As if the records had been read for delta:/t, which already has the first one.
    job.outcome.batches["delta:/t", ""] = SimpleNamespace(is_read=True, old=["orders-0:1"])

    with pytest.raises(TableError, match="read without table="):
        job.jdbc_write(orders.spark.createDataFrame([("2",)], "id string"), orders.name, **orders.database)
