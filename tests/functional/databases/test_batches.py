"""Batches of streams in a real PostgreSQL: each record once, however batches are cut, repeated and mixed."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession, functions

from sparklet.databases import jdbc
from sparklet.job import Job
from sparklet.job.commit_ids import commit_id
from sparklet.job.errors import TableError
from tests.stand_ins.postgresql import PostgreSQL
from tests.unit.events import samples

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("account")]
FIRST = 49590338271490256608559692538361571095921575989136588898


class Orders:
    """A table, and the script that writes a row for each record to it."""

    def __init__(self, spark: SparkSession, server: PostgreSQL, name: str) -> None:
        self.spark, self.server, self.name = spark, server, name
        server.ask(f"CREATE TABLE {name} (id numeric)")
        self.database = {"url": server.url, "credentials": "secretsmanager:owner"}

    def deliver(self, event: dict[str, Any]) -> int:
        job = Job(event=event)
        number = "offset" if "records" in event else "sequence_number"
        rows = job.records(self.spark, "raw", metadata=True).selectExpr(f"CAST(_record.{number} AS string) AS id")
        return job.jdbc_write(rows, self.name, **self.database)

    def deliver_sum(self, event: dict[str, Any]) -> int:
        """A row of which nobody knows of which records it is made."""
        job = Job(event=event)
        rows = job.records(self.spark, "raw", metadata=True).agg(functions.sum("_record.offset").alias("id"))
        return job.jdbc_write(rows, self.name, **self.database)

    def ids(self) -> list[int]:
        return [int(id_) for (id_,) in self.server.ask(f"SELECT id FROM {self.name} ORDER BY id")]


@pytest.fixture
def orders(spark: SparkSession, server: PostgreSQL, request: pytest.FixtureRequest) -> Orders:
    server.ask("DROP TABLE IF EXISTS sparklet_commits, sparklet_records")
    return Orders(spark, server, f"t{abs(hash(request.node.name))}")


def kafka(*offsets: int) -> dict[str, Any]:
    return samples.kafka({"orders-0": list(offsets)})


def kinesis(*numbers: int) -> dict[str, Any]:
    return {"Records": [samples.kinesis(str(FIRST + number)) for number in numbers]}


def test_batches_of_kafka_that_are_cut_anew(orders: Orders) -> None:
    """All were written, the answer was lost; the batch comes again in two parts, the second with more behind it."""
    assert orders.deliver(kafka(*range(10))) == 10
    assert orders.deliver(kafka(*range(6))) == 0
    assert orders.deliver(kafka(*range(6, 13))) == 3

    assert orders.ids() == list(range(13))


def test_lanes_of_kinesis_that_overlap(orders: Orders) -> None:
    for numbers in [(1, 5, 9), (2, 6), (1, 5), (1, 2, 3), (9,), (4, 5, 7, 9)]:
        orders.deliver(kinesis(*numbers))

    assert [id_ - FIRST for id_ in orders.ids()] == [1, 2, 3, 4, 5, 6, 7, 9]


def test_two_deliveries_at_once(orders: Orders) -> None:
    batches = [kafka(*range(6)), kafka(*range(3, 9)), kafka(*range(6)), kafka(8, 9)]
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(orders.deliver, batches))

    assert orders.ids() == list(range(10))


def test_a_batch_that_an_earlier_version_wrote(orders: Orders) -> None:
    """It knew batches by their first and last record, and had no table of records."""
    orders.server.ask(jdbc.COMMITS)
    written = commit_id(Job(event=kafka(0, 1, 2)), "1")
    orders.server.ask(f"INSERT INTO sparklet_commits VALUES ('{written}', '{orders.name}', 3)")

    assert orders.deliver(kafka(0, 1, 2)) == 3
    assert orders.ids() == []
    assert orders.deliver(kafka(3, 4)) == 2
    assert orders.deliver(kafka(4, 5)) == 1
    assert orders.ids() == [3, 4, 5]


def test_sums_of_records_that_are_there_in_part(orders: Orders) -> None:
    assert orders.deliver_sum(kafka(1, 2, 3)) == 1
    assert orders.deliver_sum(kafka(2, 3)) == 0

    with pytest.raises(TableError, match=r"2 records of this batch.*commit_id"):
        orders.deliver_sum(kafka(2, 3, 4))
    assert orders.ids() == [6]


def test_records_that_were_read_for_a_table(orders: Orders) -> None:
    """What that table has was left out, and would count as written here."""
    job = Job(event=kafka(1, 2))
    job.outcome.batches["delta:/t", ""] = SimpleNamespace(is_read=True, old=["orders-0:1"])

    with pytest.raises(TableError, match="read without a table"):
        job.jdbc_write(orders.spark.createDataFrame([("2",)], "id string"), orders.name, **orders.database)
