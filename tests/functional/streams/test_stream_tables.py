"""Batches of streams are written to tables with real Spark, by ``job.append`` and by the example scripts."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from sparklet.job import Job
from sparklet.job.errors import TableError
from tests.aggregated import AWS_MADE, AWS_MADE_OF
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.job.warm_jvm import SCRIPTS
from tests.functional.streams.conftest import kinesis, rows_of

pytestmark = SESSION_HERE
NUMBERS = "n INT, key STRING"
HUDI = pytest.param("hudi", marks=pytest.mark.nightly)


def event(first: int, *data: bytes) -> dict[str, Any]:
    """The event of a Kinesis batch, all of whose records arrived at two o'clock."""
    batch: dict[str, Any] = kinesis(*data, first=10**55 + first).event
    for record in batch["Records"]:
        record["kinesis"]["approximateArrivalTimestamp"] = 1545141600.0  # 2018-12-18T14:00:00Z
    return batch


def numbers(first: int, last: int) -> dict[str, Any]:
    return event(first, *(f'{{"n": {n}, "key": "{n % 2}"}}'.encode() for n in range(first, last + 1)))


def run(script: str, event_: dict[str, Any], table: str, **params: str) -> None:
    words = [word for name, value in params.items() for word in ("--param", f"{name}={value}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [script, "--event", json.dumps(event_), "--table", table, *words])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")


READINGS = [
    AWS_MADE,
    b'{"sensor": "x", "celsius": 1.5}',
    b"\xff no reading",
    b'{"sensor": "y", "celsius": 2}',
    b'{"sensor": "z", "celsius": 7}',
]


@pytest.mark.parametrize("format_", ["delta", "iceberg", HUDI])
def test_a_table_of_each_format_has_each_record_once(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    table = "iceberg:db.readings" if format_ == "iceberg" else f"{format_}:{tmp_path}/readings"

    for begin, end in ((0, 2), (1, 4), (0, 5)):  # overlapping batches, and the whole stream
        run("stream_to_table.py", event(begin, *READINGS[begin:end]), table)

    deaggregated = [tuple(json.loads(data).values()) for _, data in AWS_MADE_OF]
    assert rows_of(spark, table, "sensor", "celsius") == sorted([*deaggregated, ("x", 1.5), ("y", 2.0), ("z", 7.0)])
    ((cause, value, record),) = rows_of(spark, f"{table}_dead_letters", "cause", "value", "record")
    assert (cause, bytes(value)) == ("it is not UTF-8", b"\xff no reading")
    assert json.loads(record)["sequence_number"] == str(10**55 + 2)


def test_exploded_and_filtered_records_are_appended_once(spark: SparkSession, table: str) -> None:
    """The frame has no column that names the records of its rows; Spark's plan knows them."""
    for ids in ((1, 2), (2, 3)):
        records = Job(event=numbers(*ids)).records(spark, "json", NUMBERS)
        twice = records.where("n > 0").selectExpr("explode(array(n, n * 10)) AS m").withColumnRenamed("m", "n")
        Job(event=numbers(*ids)).append(twice, table)

    assert rows_of(spark, table, "n") == [(1,), (2,), (3,), (10,), (20,), (30,)]


def test_aggregates_need_records_that_were_read_for_their_table(spark: SparkSession, table: str) -> None:
    def append(first: int, last: int, read_for: str | None) -> None:
        job = Job(event=numbers(first, last))
        job.append(job.records(spark, "json", NUMBERS, table=read_for).groupBy("key").count(), table)

    append(1, 3, None)
    with pytest.raises(TableError, match=r"job\.records"):
        append(3, 5, None)
    append(3, 5, table)
    append(3, 5, table)

    assert rows_of(spark, table, "key", "`count`") == [("0", 1), ("0", 1), ("1", 1), ("1", 2)]


def reading(sensor: str, taken: str, celsius: float) -> bytes:
    return json.dumps({"sensor": sensor, "taken": f"2018-12-18T{taken}Z", "celsius": celsius}).encode()


@pytest.mark.parametrize("format_", ["delta", HUDI])
def test_windows_count_each_record_once(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    stream = [
        reading("a", "13:10:00", 1),
        reading("b", "13:20:00", 2),
        reading("a", "13:40:00", 3),
        b"{",
        reading("a", "11:00:00", 99),
        reading("a", "13:30:00", 5),
        reading("a", "14:00:00", 7),
    ]
    table, dead = f"{format_}:{tmp_path}/hours", f"delta:{tmp_path}/dead"

    for begin, end in ((0, 3), (1, 5), (0, 7)):
        run("stream_windows.py", event(begin, *stream[begin:end]), table, dead_letters=dead)

    found = rows_of(spark, table, "sensor", "hour(hour)", "readings", "celsius", "newest")
    assert found == [("a", 13, 3, 9.0, 3.0), ("a", 14, 1, 7.0, 7.0), ("b", 13, 1, 2.0, 2.0)]
    assert [cause for (cause,) in rows_of(spark, dead, "cause")] == ["it is not one JSON document", "late"]
