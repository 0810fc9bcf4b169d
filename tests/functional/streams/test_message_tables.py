"""Batches of SQS messages with real Spark: their bodies are a DataFrame, and each message is in a table once."""

import json

import pytest
from pyspark.sql import SparkSession

from sparklet.job import Job
from sparklet.job.errors import TableError
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.streams.conftest import JOB_FAILED, rows_of
from tests.unit.events import samples

pytestmark = SESSION_HERE
SALE = "n INT, shop STRING"


def job(*bodies: tuple[str, str]) -> Job:
    """A job with a batch of messages, each with an id and a body."""
    return Job(event={"Records": [samples.sqs(*each) for each in bodies]})


def sales(*numbers: int) -> Job:
    return job(*((f"m{n}", json.dumps({"n": n, "shop": str(n % 2)})) for n in numbers))


@pytest.mark.parametrize(
    ("format_", "bodies"), [("json", ['{"n": 1, "shop": "ä"}', '{"n": 2}']), ("csv", ["1,ä", "2,"])]
)
def test_bodies_are_records(spark: SparkSession, format_: str, bodies: list[str]) -> None:
    batch = job(("a", bodies[0]), ("b", bodies[1]))

    rows = batch.records(spark, format_, SALE, metadata=True).collect()

    assert [(row.n, row.shop, row._record.message_id) for row in rows] == [(1, "ä", "a"), (2, None, "b")]
    record = rows[0]._record
    assert (record.queue, record.receive_count) == ("arn:aws:sqs:us-east-2:123456789012:my-queue", 3)
    assert record.sent_time.isoformat() == "2018-12-17T21:37:29.183000"


def test_any_text_is_a_raw_record(spark: SparkSession) -> None:
    bodies = ["", "no JSON", '{"a": 1}\n{"b": 2}', "'\\ ä"]

    rows = job(*((str(n), body) for n, body in enumerate(bodies))).records(spark, "raw").collect()

    assert [bytes(row.value).decode() for row in rows] == bodies


def test_a_bad_message_is_named_or_kept(spark: SparkSession) -> None:
    batch = job(("good", '{"n": 1}'), ("bad", "{"))

    with pytest.raises(JOB_FAILED, match="SQS message bad is corrupt: it is not one JSON document"):
        batch.records(spark, "json", SALE).collect()
    kept = batch.records(spark, "json", SALE, mode="PERMISSIVE", cause=True, metadata=True)

    assert [row._record.message_id for row in kept.where("_cause IS NOT NULL").collect()] == ["bad"]


def test_a_failed_message_is_appended_once_it_is_good(spark: SparkSession, table: str) -> None:
    def deliver(batch: Job) -> None:
        rows = batch.records(spark, "json", SALE, mode="PERMISSIVE", metadata=True, cause=True)
        for bad in rows.where("_cause IS NOT NULL").collect():
            batch.fail_message(bad._record.message_id, bad._cause)
        batch.append(rows.select("n", "shop"), table)

    first = job(("a", '{"n": 1}'), ("b", "{"), ("c", '{"n": 3}'))
    deliver(first)
    assert first.outcome.totals["failed"] == {"b": "it is not one JSON document"}
    assert rows_of(spark, table, "n") == [(1,), (3,)]

    deliver(job(("b", '{"n": 2}'), ("c", '{"n": 3}')))

    assert rows_of(spark, table, "n") == [(1,), (2,), (3,)]


def test_rows_without_message_ids_are_refused_if_partly_written(spark: SparkSession, table: str) -> None:
    """Such rows come from a loop over the event, or from job.inputs; the worker then delivers the batch in parts."""

    def deliver(batch: Job) -> None:
        rows = [(json.loads(record["body"])["n"],) for record in batch.event["Records"]]
        batch.append(spark.createDataFrame(rows, "n INT"), table)

    deliver(sales(1, 2))
    mixed = sales(2, 3)
    with pytest.raises(TableError, match="has 1 records of this batch"):
        deliver(mixed)
    assert mixed.outcome.totals["committed"] == ["m2"]
    for part in (2, 3):
        deliver(sales(part))

    assert rows_of(spark, table, "n") == [(1,), (2,), (3,)]


def test_an_upsert_of_messages_keeps_each_once(spark: SparkSession, table: str) -> None:
    for numbers in ((1, 2), (2, 3), (1, 2, 3)):
        batch = sales(*numbers)
        batch.upsert(batch.records(spark, "json", SALE), table, keys="n")

    assert rows_of(spark, table, "n") == [(1,), (2,), (3,)]
